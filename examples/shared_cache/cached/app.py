"""Handwritten digits, served by replicas that share a cache: an actor of the deployment.

A classifier that knows nothing yet asks its model. What it answers is put into the cache, where every replica finds it, also
those that are started later. The cache saves its state again and again; when it is killed, its next life begins from there.
"""

from __future__ import annotations

import asyncio
import json
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.svm import SVC

import serve_core

CACHE = "cache"


@dataclass
class Report:
    """What a cache did in this life of it."""

    incarnation: int
    restored: int
    entries: int
    hits: int
    misses: int

    @property
    def hit_rate(self) -> float:
        """The share of the questions that it knew the answer to."""
        return self.hits / max(1, self.hits + self.misses)


class Cache:
    """Remembers answers, the latest ones first.

    Args:
        entries_max: How many.
    """

    def __init__(self, entries_max: int) -> None:
        self._entries_max = entries_max
        self._entries: OrderedDict[str, int] = OrderedDict()
        self._restored = self._hits = self._misses = 0

    def restore_state(self, state: bytes) -> None:
        """Begins with what an earlier life knew."""
        self._entries.update(json.loads(state))
        self._restored = len(self._entries)

    async def save_state(self) -> bytes:
        """What a later life is to know. It runs on the event loop, so no call changes anything meanwhile."""
        return json.dumps(self._entries).encode()

    async def get(self, key: str) -> int | None:
        """The answer that was put under this key, if it is still known."""
        answer = self._entries.get(key)
        if answer is None:
            self._misses += 1
            return None
        self._entries.move_to_end(key)
        self._hits += 1
        return answer

    async def put(self, key: str, answer: int) -> None:
        """Remembers an answer, and forgets the one that was not asked for longest if there are too many."""
        self._entries[key] = answer
        if len(self._entries) > self._entries_max:
            self._entries.popitem(last=False)

    async def report(self) -> Report:
        """What it did so far."""
        incarnation = serve_core.get_deployment_actor_context().incarnation
        return Report(incarnation, self._restored, len(self._entries), self._hits, self._misses)


@dataclass
class Answer:
    """Which digit a picture shows, whether the cache knew it, and which life of the cache that was."""

    digit: int
    cached: bool
    incarnation: int


@serve_core.deployment(
    num_replicas=2,
    cpus=0.25,
    max_ongoing_requests=8,
    actors=[
        serve_core.DeploymentActor(
            CACHE, Cache, args=(10_000,), on_failure="RESTART_FROM_SNAPSHOT", snapshot_interval_s=0.5
        )
    ],
)
class Classifier:
    """A support vector machine, trained in the constructor on one half of the pictures."""

    def __init__(self) -> None:
        pixels, digits = load_digits(return_X_y=True)
        train, _, train_digits, _ = train_test_split(pixels, digits, test_size=0.5, random_state=0, stratify=digits)
        self._model = SVC(gamma=0.001).fit(train, train_digits)
        # To ask the cache twice does no harm, so a question that was inside when it ended is asked again.
        self._cache = serve_core.get_deployment_actor(CACHE, Cache).options(idempotent=True)
        self._restarts: list[int] = []

    def on_actor_restarted(self, name: str, incarnation: int) -> None:
        """Is called once for each new life of an actor."""
        self._restarts.append(incarnation)

    async def classify(self, pixels: list[int]) -> Answer:
        """Classifies one picture of 64 grey values from 0 to 16."""
        key = bytes(pixels).hex()
        known: int | None = await self._cache.get(key)
        if known is not None:
            return Answer(known, cached=True, incarnation=self._cache.incarnation)
        digit = await asyncio.to_thread(self._predict, pixels)
        await self._cache.put(key, digit)
        return Answer(digit, cached=False, incarnation=self._cache.incarnation)

    async def cache_report(self) -> Report:
        """What the cache did so far."""
        report: Report = await self._cache.report()
        return report

    async def restarts(self) -> list[int]:
        """The lives of the cache that this replica was told of since it began."""
        return self._restarts

    def _predict(self, pixels: list[int]) -> int:
        return int(self._model.predict(np.array([pixels]))[0])


app = Classifier.bind()
