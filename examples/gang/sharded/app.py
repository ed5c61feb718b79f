"""Handwritten digits, trained and scored by a gang.

Its members train one model together, each on its share of the pictures: after every step they add up their gradients. Then
each scores with its share of the weights, and they add up the parts. Callers reach the leader, which has the others take part.

When a member is lost, the others keep what they have learned, and give it to the one that takes its place. Requests that are
under way wait for it.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

import serve_core
from serve_core.errors import GangChangedError, ReplicaDiedError, ReplicaUnavailableError
from sharded.mesh import Mesh
from sharded.pictures import DIGITS, FEATURES, halves

STEPS = 200
RATE = 1.0
MOMENTUM = 0.9


@dataclass
class Answer:
    """Which digits pictures show, and the epoch of the gang that found out."""

    digits: list[int]
    epoch: int


@serve_core.deployment(
    num_replicas=4,
    cpus=0.25,
    max_ongoing_requests=16,
    gang={"size": 4, "placement": "SPREAD", "route": "LEADER", "on_member_failure": "RESTART_REPLICA"},
)
class Digits:
    """One member."""

    def __init__(self) -> None:
        self._gang = serve_core.get_gang_context()
        self._weights: NDArray[np.float64] | None = None
        self._mesh = Mesh({}, epoch=0, leads=True)
        self._joined = asyncio.Event()
        self._turn = asyncio.Lock()
        self._join()
        self._joined.set()

    async def on_gang_changed(self, roster: serve_core.GangRoster) -> None:
        """Another member has taken a place: its constructor waits for the others to meet it."""
        self._joined.clear()
        await asyncio.to_thread(self._join)
        self._joined.set()

    def check_health(self) -> None:
        """A member that lost the others, and is not told of new ones, is ill."""
        if self._mesh.closed:
            raise ConnectionError("the connections of the gang are lost")

    async def classify(self, features: np.ndarray) -> Answer:
        """Classifies pictures: ``features`` has shape (n, 65). Only the leader is asked."""
        while True:
            await self._joined.wait()
            mesh = self._mesh
            try:
                # Not given up halfway when the caller leaves: the members must stay in step.
                logits = await asyncio.shield(asyncio.ensure_future(self._together(mesh, features)))
            except (OSError, ReplicaDiedError, ReplicaUnavailableError, GangChangedError):
                self._lost(mesh)
            else:
                return Answer([int(digit) for digit in logits.argmax(axis=1)], mesh.epoch)

    def take_part(self, epoch: int, features: np.ndarray) -> None:
        """Another member's part, which the leader asks for by the mesh that it uses itself."""
        if epoch != self._mesh.epoch:
            raise ConnectionError(f"the gang has met anew since epoch {epoch}")
        self._score(self._mesh, features)

    async def _together(self, mesh: Mesh, features: NDArray[np.float64]) -> NDArray[np.float64]:
        async with self._turn:
            peers = [self._gang.peer(rank) for rank in range(1, self._gang.size)]
            others = [peer.call(self.take_part, mesh.epoch, features) for peer in peers]
            logits, *done = await asyncio.gather(
                asyncio.to_thread(self._score, mesh, features), *others, return_exceptions=True
            )
        for one in (*done, logits):
            if isinstance(one, BaseException):
                raise one
        assert isinstance(logits, np.ndarray)
        return logits

    def _score(self, mesh: Mesh, features: NDArray[np.float64]) -> NDArray[np.float64]:
        """The sum of what each member makes of its share of the features."""
        assert self._weights is not None
        mine = np.array_split(np.arange(FEATURES), self._gang.size)[self._gang.rank]
        return mesh.all_reduce(features[:, mine] @ self._weights[mine])

    def _lost(self, mesh: Mesh) -> None:
        """Nobody can take part until the gang has changed; if it has, there is another mesh already."""
        mesh.close()
        if mesh is self._mesh:
            self._joined.clear()

    def _join(self) -> None:
        """Meets the others. Who has learned nothing yet is told by those who have; if nobody has, all learn together."""
        self._mesh.close()
        mesh = Mesh.join(self._gang)
        known = self._weights is not None
        teachers = mesh.all_reduce(np.array([float(known)]))[0]
        if teachers:
            mine = self._weights if self._weights is not None else np.zeros((FEATURES, DIGITS))
            self._weights = mesh.all_reduce(mine) / teachers
        else:
            self._weights = self._train(mesh)
        self._mesh = mesh
        # Nobody is asked to take part before everybody has got as far.
        self._gang.barrier_sync("joined")

    def _train(self, mesh: Mesh) -> NDArray[np.float64]:
        """Softmax regression by gradient descent, with every member's gradient in each step."""
        train, _ = halves()
        mine = slice(self._gang.rank, None, self._gang.size)
        features, wanted = train.features[mine], np.eye(DIGITS)[train.digits[mine]]
        weights, speed = np.zeros((FEATURES, DIGITS)), np.zeros((FEATURES, DIGITS))
        for _ in range(STEPS):
            scores = np.exp(features @ weights)
            gradient = features.T @ (scores / scores.sum(axis=1, keepdims=True) - wanted)
            speed = MOMENTUM * speed - RATE * mesh.all_reduce(gradient) / len(train.digits)
            weights += speed
        return weights


app = Digits.bind()
