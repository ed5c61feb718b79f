"""How a process ends in good order: the real drain, and the way it takes leave of routers."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from replica.core.drain import Drain, DrainPhase
from serve_core.errors import ReplicaDiedError
from serve_core.model.replica import ReplicaPhase
from tests.simulation.network import Stream
from tests.simulation.running import spec_budget

if TYPE_CHECKING:
    from tests.simulation.process import Process

GOODBYE_S = 1.0


class Leaving:
    """The end of one process.

    Attributes:
        disowned: Whether it was told that it is nobody's: then it goes, whatever its gang does.
    """

    def __init__(self, process: Process) -> None:
        self.disowned = False
        self._process = process
        self._drain: Drain | None = None
        self._since = 0.0
        self._routers: dict[int, Stream] | None = None

    @property
    def begun(self) -> bool:
        """Whether it drains."""
        return self._drain is not None

    @property
    def drained(self) -> bool:
        """Whether it holds nothing any more, and waits for its gang."""
        return self._drain is not None and self._drain.phase is DrainPhase.HELD

    @property
    def in_full(self) -> bool:
        """Whether it has had all the time that its deployment gives it."""
        process = self._process
        return self.begun and process.engine.now >= self._since + spec_budget(process.spec)

    def begin(self, budget_s: float | None, *, hold: bool = False, disowned: bool = False) -> None:
        """Finish what is there, and end; with ``hold``, wait for the rest of the gang before the end."""
        process, now = self._process, self._process.engine.now
        self.disowned = self.disowned or disowned
        if self._drain is None:
            self._drain = Drain(cleans_up=False)
            self._since = now
        given_s = spec_budget(process.spec) if budget_s is None else budget_s
        self._drain.begin(budget_s=given_s, now=now, hold=hold)
        if process.phase < ReplicaPhase.DRAINING:
            process.engine.note(f"{process.process_id} drains")
            process.slots.drain()
            process.phase = ReplicaPhase.DRAINING
            process.tell()
            if process.acting is not None:
                process.acting.finish()
        self.advance()

    def advance(self) -> None:
        """Goes on as far as it can."""
        process, drain = self._process, self._drain
        if drain is None or not process.alive:
            return
        now, was_drained = process.engine.now, self.drained
        idle = process.slots.ledger.idle and (process.acting is None or process.acting.settled)
        if drain.advance(idle=idle, now=now) is DrainPhase.DONE:
            self._end()
            return
        if self.drained and not was_drained:
            process.engine.note(f"{process.process_id} is drained")
            process.tell()
        deadline = drain.deadline()
        if deadline is not None:
            process.later(max(0.0, deadline - now), self.advance)

    def _end(self) -> None:
        process = self._process
        process.cluster.checks.gangs.leaves(process)
        for running in list(process.running):
            if self.in_full:
                running.call.excuses.append(f"{process.process_id} had no time left")
            process.finish(running, ReplicaDiedError("the drain's budget is over"))
        process.slots.close()
        self._say_goodbye()

    def _say_goodbye(self) -> None:
        """As a gRPC server does that stops in good order: what is on its way here is still refused properly."""
        if self._routers is not None:
            return
        process = self._process
        self._routers = {stream.number: stream for stream in process.watches()}
        for stream in list(self._routers.values()):
            router = process.cluster.routers.get(stream.client.name)
            if router is not None:
                stream.send(router, partial(router.goodbye, stream))
        process.later(GOODBYE_S if self._routers else 0.0, partial(self._left, None))

    def goodbye(self, stream: Stream) -> None:
        """A router sends nothing more on this connection."""
        self._left(stream.number)

    def _left(self, number: int | None) -> None:
        if self._routers is None or not self._process.alive:
            return
        if number is None:
            self._routers.clear()
        else:
            self._routers.pop(number, None)
        if not self._routers:
            self._process.end(0)
