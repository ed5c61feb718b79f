"""The slot ledger with a clock, fresh secrets, a timer for leases, and somebody to tell when slots free."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable

from replica.core.fence import Fence
from replica.core.leases import LeasePolicy
from replica.core.slots import Run, SlotLedger
from replica.stay import Stay
from serve_core.errors import ReplicaUnavailableError
from serve_core.model.ids import OwnerId, ReplicaId
from serve_core.model.load import Load
from serve_core.model.slots import Lease, Rejection, SlotCounters
from serve_core.runtime import clock, log

_SECRET_BYTES = 16
_SECRETS_DRAWN = 64
_TIMER_SLACK_S = 0.001
_FENCE_LIMIT_S = 10.0
_log = log.get_logger(__name__)


class SlotDesk:
    """Where slots are asked for and given back. All of it runs on the event loop, and nothing in it waits.

    Args:
        replica_id: Whose slots these are.
        epoch: The replica's epoch.
    """

    def __init__(self, *, replica_id: ReplicaId, epoch: int) -> None:
        self.replica_id = replica_id
        """Whose slots these are."""
        self._ledger = SlotLedger(replica_id=replica_id, epoch=epoch, capacity=0)
        self._leases = LeasePolicy(default_s=10.0, max_s=60.0)
        self._fence = Fence(limit_s=_FENCE_LIMIT_S)
        self._secrets = _Secrets()
        self._open = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at: float | None = None
        self._tell: Callable[[OwnerId], None] = _tell_nobody
        self._listeners: list[Callable[[], None]] = []
        self._drained_listeners: list[Callable[[], None]] = []
        self._fence_listeners: list[Callable[[], None]] = []

    @property
    def load(self) -> Load:
        """What is held, in slots."""
        return self._ledger.load

    @property
    def counters(self) -> SlotCounters:
        """How promises ended so far."""
        return self._ledger.counters

    @property
    def draining(self) -> bool:
        """Whether nothing new is taken."""
        return self._ledger.draining

    @property
    def suspended(self) -> bool:
        """Whether nothing new is taken until the controller has acknowledged a heartbeat; see ``Fence``."""
        return self._fence.up

    @property
    def idle(self) -> bool:
        """Whether nothing is held."""
        return self._ledger.idle

    def on_freed(self, tell: Callable[[OwnerId], None]) -> None:
        """Calls ``tell`` for each owner that was refused, once a slot is free for it."""
        self._tell = tell

    def on_change(self, listener: Callable[[], None]) -> None:
        """Calls ``listener`` after each operation, also those of the lease timer."""
        self._listeners.append(listener)

    def on_drained(self, listener: Callable[[], None]) -> None:
        """Calls ``listener`` after each operation while it drains and holds nothing."""
        self._drained_listeners.append(listener)

    def on_fence(self, listener: Callable[[], None]) -> None:
        """Calls ``listener`` each time that ``suspended`` may have changed."""
        self._fence_listeners.append(listener)

    def open(self) -> None:
        """Grants slots from now on; before, every request is refused as undelivered."""
        self._open = True
        self._fence.arm(clock.monotonic())

    def configure(self, *, capacity: int, leases: LeasePolicy, fence_limit_s: float = _FENCE_LIMIT_S) -> None:
        """Takes a deployment's settings, live.

        Args:
            capacity: Slots in all.
            leases: How long promises hold.
            fence_limit_s: A process that stood still for longer takes nothing new until the controller is heard.
        """
        self._ledger.resize(capacity)
        self._leases = leases
        self._fence.limit(fence_limit_s)
        self._settle()

    def reserve(self, *, slots: int, ttl_s: float | None, request_id: str, owner: OwnerId | None) -> Lease | Rejection:
        """Promises slots, or says why not.

        Raises:
            ReplicaUnavailableError: The replica is not ready yet.
        """
        if not self._open:
            self.require_open()
        now = clock.monotonic()
        if self._fence.alive(now):
            self._stood_still()
        answer = self._ledger.reserve(
            slots=slots,
            ttl_s=self._leases.granted_s(ttl_s),
            request_id=request_id,
            owner=owner,
            now=now,
            secret=self._secrets.take(),
        )
        self._settle()
        return answer

    def release(self, token: str) -> bool:
        """Gives a promise back. False if it was not live any more. Raises as the ledger does."""
        released = self._ledger.release(token, now=clock.monotonic())
        self._settle()
        return released

    def renew(self, token: str, *, ttl_s: float | None, detach: bool) -> Lease:
        """Starts a promise's time to live anew. Raises as the ledger does."""
        ttl_s = self._leases.granted_s(ttl_s)
        lease = self._ledger.renew(token, ttl_s=ttl_s, detach=detach, now=clock.monotonic())
        self._settle()
        return lease

    def admit(self, *, token: str, slots: int, owner: OwnerId | None) -> Occupancy:
        """Takes slots for a call: those of ``token``, or free ones if it is empty. Raises as the ledger does.

        Raises:
            ReplicaUnavailableError: The replica is not ready yet.
        """
        if not self._open:
            self.require_open()
        now = clock.monotonic()
        if self._fence.alive(now):
            self._stood_still()
        ledger = self._ledger
        try:
            run = ledger.dispatch(token, now=now) if token else ledger.start(slots=slots, owner=owner, now=now)
        finally:
            if self._listeners or ledger.refused or ledger.draining:
                self._tell_all()
        return Occupancy(self, run)

    def owner_came(self, owner: OwnerId) -> None:
        """``owner`` can be told from now on."""
        self._ledger.owner_came(owner)

    def owner_gone(self, owner: OwnerId) -> int:
        """Ends the promises of an owner whose connection is lost. Returns how many."""
        ended = self._ledger.owner_gone(owner, now=clock.monotonic())
        self._settle()
        return ended

    def alive(self) -> None:
        """The process runs: call it now and then, so that it is noticed when it did not."""
        self._notice(clock.monotonic())

    def beat(self, sequence: int) -> None:
        """A heartbeat is sent."""
        self._notice(clock.monotonic())
        self._fence.beat(sequence)

    def acknowledged(self, sequence: int) -> None:
        """The controller has heard a heartbeat."""
        if self._fence.acknowledged(sequence):
            _log.info("the controller knows this replica: it takes requests again")
            self._ledger.suspended = False
            self._settle()
            self._tell_fence()

    def drain(self) -> None:
        """Takes nothing new from now on."""
        self._ledger.drain()
        self._settle()

    def close(self) -> int:
        """Ends every promise that is not in use, and grants none any more. Returns how many ended."""
        ended = self._ledger.close(now=clock.monotonic())
        self._settle()
        return ended

    def check(self) -> None:
        """Raises InvariantViolation if the sums are wrong; see ``SlotLedger.check``."""
        self._ledger.check()

    def finish(self, run: Run, *, ok: bool) -> None:
        """Ends a call; see ``Occupancy``."""
        ledger = self._ledger
        ledger.finish(run, ok=ok, now=clock.monotonic())
        if self._listeners or ledger.refused or ledger.draining:
            self._tell_all()

    def require_open(self) -> None:
        """Raises ReplicaUnavailableError unless slots are granted by now."""
        if not self._open:
            message = f"replica {self.replica_id} is not ready yet: nothing was run"
            raise ReplicaUnavailableError(message, details={"replicaId": str(self.replica_id)})

    def _notice(self, now: float) -> None:
        if self._fence.alive(now):
            self._stood_still()

    def _stood_still(self) -> None:
        _log.warning("stood still for too long: nothing new until the controller has acknowledged a heartbeat")
        self._ledger.suspended = True
        self._tell_fence()

    def _tell_fence(self) -> None:
        for listener in self._fence_listeners:
            listener()

    def _tell_all(self) -> None:
        """After each operation: tells whoever waits."""
        ledger = self._ledger
        for owner in ledger.owners_to_tell():
            self._tell(owner)
        for listener in self._listeners:
            listener()
        if ledger.draining and ledger.idle:
            for listener in self._drained_listeners:
                listener()

    def _settle(self) -> None:
        """After each operation that leases may begin or move with: sees to it that the next one's end is noticed, too."""
        ledger, timer_at = self._ledger, self._timer_at
        if self._listeners or ledger.refused or ledger.draining:
            self._tell_all()
        # A timer that rings early costs less than moving it at each reservation.
        if timer_at is not None and timer_at <= ledger.leases.soonest:
            return
        deadline = ledger.deadline()
        if deadline is None or (timer_at is not None and timer_at <= deadline):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = deadline
        delay_s = max(0.0, deadline - clock.monotonic()) + _TIMER_SLACK_S
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._lease_over)

    def _lease_over(self) -> None:
        self._timer = self._timer_at = None
        self._ledger.expire(clock.monotonic())
        self._settle()


class Occupancy(Stay):
    """The slots of one call: they are free once its stay is over."""

    __slots__ = ("_desk", "_run")

    def __init__(self, desk: SlotDesk, run: Run) -> None:
        super().__init__()
        self._desk = desk
        self._run = run

    def leave(self, *, ok: bool) -> None:
        """Is called once, when the stay is over."""
        self._desk.finish(self._run, ok=ok)


class _Secrets:
    """Fresh secrets, drawn from the system many at a time: each draw is a system call."""

    __slots__ = ("_drawn",)

    def __init__(self) -> None:
        self._drawn: list[str] = []

    def take(self) -> str:
        """One that nobody else has."""
        if not self._drawn:
            text = secrets.token_hex(_SECRET_BYTES * _SECRETS_DRAWN)
            self._drawn = [text[at : at + 2 * _SECRET_BYTES] for at in range(0, len(text), 2 * _SECRET_BYTES)]
        return self._drawn.pop()


def _tell_nobody(_: OwnerId) -> None:
    return None
