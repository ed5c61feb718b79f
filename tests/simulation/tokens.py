"""What a router does with the tokens that callers bring: of one replica, or of every member of a gang."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from serve_core.errors import GangChangedError, ReplicaUnavailableError, ServeError, SlotUnknownError
from serve_core.model.ids import GangToken, SlotToken
from serve_core.model.slots import Lease
from tests.simulation.calls import Call, Kind
from tests.simulation.upstream import Upstream
from tests.simulation.ways import Way

if TYPE_CHECKING:
    from tests.simulation.router import Router

Renewed = Callable[[ServeError | None], None]


def use(router: Router, call: Call) -> None:
    """Runs a call that brings a token."""
    token = GangToken.parse(call.token)
    if token is None:
        call.end(SlotUnknownError("no token"))
        return
    parts = [(one, router.upstreams.get(one.replica_id)) for one in token.members]
    missing = [one.replica_id for one, upstream in parts if upstream is None]
    found = [(one, upstream) for one, upstream in parts if upstream is not None]
    if len(parts) == 1:
        if missing:
            call.end(ReplicaUnavailableError(f"{missing} is not in this router's table"))
        else:
            _run_one(router, call, found[0][1])
        return
    replaced = [one.replica_id for one, upstream in found if upstream.replica.epoch != one.epoch]
    epochs = {upstream.replica.gang.epoch for _, upstream in found}
    if missing or replaced or len(epochs) > 1:
        release(router, call.token)
        call.end(GangChangedError(f"{missing or replaced or epochs} of the gang was lost or replaced"))
        return
    GangUse(router, call, found).begin()


def release(router: Router, text: str) -> None:
    """Gives a promise back, as far as its replicas are known."""
    token = GangToken.parse(text)
    for one in token.members if token is not None else ():
        upstream = router.upstreams.get(one.replica_id)
        if upstream is not None:
            upstream.release(str(one))


def _run_one(router: Router, call: Call, upstream: Upstream) -> None:
    way = router.ways[call.name] = Way(call, None, None)
    way.upstream = upstream
    upstream.run(way)


class GangUse:
    """A call that brings the token of a gang: it runs on the leader while the others hold, or on all of them.

    Before, every part that is not used up at once is renewed, so that nothing runs unless all of them hold.
    """

    def __init__(self, router: Router, call: Call, parts: Sequence[tuple[SlotToken, Upstream]]) -> None:
        self._router = router
        self._call = call
        self._parts = parts
        self._error: ServeError | None = None
        self._open = 0
        self._over = False

    def begin(self) -> None:
        """Renews, and then runs."""
        self._router.ways[self._call.name] = Way(self._call, None, None)
        self._renew(self._ready)

    @property
    def _held(self) -> Sequence[tuple[SlotToken, Upstream]]:
        """The parts that must hold: of all whom the call runs on, or of all but the leader."""
        return self._parts if self._call.broadcasts else self._parts[1:]

    def _renew(self, then: Renewed) -> None:
        held = self._held
        answers: list[ServeError | None] = []

        def answered(error: ServeError | None, lease: Lease | None) -> None:
            answers.append(error)
            if len(answers) == len(held):
                then(next((one for one in answers if one is not None), None))

        for token, upstream in held:
            upstream.renew(str(token), self._call.ttl_s, answered)

    def _ready(self, error: ServeError | None) -> None:
        if self._call.over or not self._router.alive:
            return
        if error is not None:
            release(self._router, self._call.token)
            self._end(error)
            return
        run_on = self._parts if self._call.broadcasts else self._parts[:1]
        self._open = len(run_on)
        for token, upstream in run_on:
            self._run(token, upstream)
        if not self._call.broadcasts:
            self._router.later(self._call.ttl_s / 2, self._keep)

    def _run(self, token: SlotToken, upstream: Upstream) -> None:
        call = self._call
        own = Call(
            name=f"{call.name}/{call.parts}",
            kind=Kind.TOKEN,
            key=call.key,
            duration_s=call.duration_s,
            token=str(token),
            arrived_at=self._router.engine.now,
            deadline=call.deadline,
            router=self._router.name,
            lease=call.part_leases.get(token.replica_id),
            lease_at=token.replica_id,
            done=self._ran,
        )
        call.parts += 1
        _run_one(self._router, own, upstream)

    def _ran(self, part: Call, error: ServeError | None) -> None:
        self._call.part_done(part, error)
        self._open -= 1
        # Of a broadcast, what a member answers is its own affair.
        self._error = self._error or (None if self._call.broadcasts else error)
        if self._open:
            return
        if not self._call.broadcasts:
            for token, upstream in self._held:
                upstream.release(str(token))
        self._end(self._error)

    def _end(self, error: ServeError | None) -> None:
        self._over = True
        self._router.ways.pop(self._call.name, None)
        self._call.end(error)

    def _keep(self) -> None:
        if not self._over:
            self._renew(self._kept)

    def _kept(self, error: ServeError | None) -> None:
        if error is None:
            self._router.later(self._call.ttl_s / 2, self._keep)
