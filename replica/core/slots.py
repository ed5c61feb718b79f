"""The truth about a replica's slots: free, promised by a token, or taken by a call that runs.

Plain synchronous code: the time and the tokens' random secrets are arguments, and nothing ever waits. Times are
seconds by one monotonic clock. Every operation first ends the leases that are over at its ``now``, so a lease that
nobody was woken for counts as ended all the same.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from replica.core.history import History
from replica.core.leases import LeaseQueue
from replica.core.refusals import Refusals, fenced_token_error, foreign_token_error, rejection_error
from serve_core.errors import InvariantViolation, SlotConsumedError, SlotExpiredError, SlotUnknownError
from serve_core.model.ids import OwnerId, ReplicaId, SlotToken
from serve_core.model.load import Load
from serve_core.model.slots import Lease, Rejection, SlotCounters

_STORY_LENGTH = 64
_SECRET_CHARS = 32


class _State(StrEnum):
    RESERVED = "reserved"
    ONGOING = "ongoing"
    OK = "dispatched-ok"
    ERROR = "dispatched-error"
    RELEASED = "released"
    EXPIRED = "expired"
    FENCED = "fenced"


@dataclass(eq=False, slots=True)
class Run:
    """Slots that the ledger granted. Whoever got it from ``dispatch`` or ``start`` hands it back to ``finish``."""

    slots: int
    secret: str = ""
    epoch: int = 0
    owner: OwnerId | None = None
    request_id: str = ""
    ttl_s: float = 0.0
    expires_at: float = 0.0
    state: _State = _State.ONGOING


class SlotLedger:
    """Counts a replica's slots, and mints, checks and ends the tokens that promise them.

    Args:
        replica_id: Whose slots these are.
        epoch: The replica's epoch; tokens of another one are refused with ``SlotFencedError``.
        capacity: Slots in all.
        history_limit: Ended tokens that are remembered, so that using one again is told from a forgery.
    """

    def __init__(self, *, replica_id: ReplicaId, epoch: int, capacity: int, history_limit: int = 10_000) -> None:
        self._replica_id = replica_id
        self._epoch = epoch
        self._issuer = _issuer(epoch, replica_id)
        self._capacity = capacity
        self.draining = False
        """Whether nothing new is taken."""
        self.suspended = False
        """Whether nothing new is taken for now, as if it drained; promises are kept, and can be prolonged."""
        self._live: dict[str, Run] = {}
        self._by_request: dict[str, Run] = {}
        self._owned: dict[OwnerId, dict[str, Run]] = {}
        self.leases = LeaseQueue()
        """When promises end."""
        self._refusals = Refusals()
        self.refused: Mapping[OwnerId, int] = self._refusals.wanted
        """The owners that are to be told once so many slots are free: nobody, most of the time."""
        self._history: History[_State] = History(history_limit)
        self._known = self._history.known
        self._reserved_slots = 0
        self._ongoing_slots = 0
        self._ongoing = 0
        self._issued = 0
        self._ended = dict.fromkeys((_State.OK, _State.ERROR, _State.RELEASED, _State.EXPIRED, _State.FENCED), 0)
        self._story: deque[tuple[float, _State, str]] = deque(maxlen=_STORY_LENGTH)

    @property
    def load(self) -> Load:
        """What is held, in slots."""
        return Load(self._ongoing_slots, self._reserved_slots, self._capacity)

    @property
    def idle(self) -> bool:
        """Whether nothing is held."""
        return not self.leases and not self._ongoing

    @property
    def counters(self) -> SlotCounters:
        """How promises ended so far."""
        return SlotCounters(
            issued=self._issued,
            dispatched_ok=self._ended[_State.OK],
            dispatched_error=self._ended[_State.ERROR],
            released=self._ended[_State.RELEASED],
            expired=self._ended[_State.EXPIRED],
            fenced=self._ended[_State.FENCED],
            reserved=len(self.leases),
            ongoing=self._ongoing,
        )

    def reserve(
        self,
        *,
        slots: int = 1,
        ttl_s: float,
        request_id: str = "",
        owner: OwnerId | None = None,
        now: float,
        secret: str,
    ) -> Lease | Rejection:
        """Promises ``slots`` for ``ttl_s`` seconds, all or none, or says why not. ``secret`` must never repeat.

        While the token of an earlier call with the same ``request_id`` is reserved or in use, that token is the
        answer again, its lease unchanged; from then on it ends with the new ``owner``. One that no owner ends stays so:
        the request may be a late copy of the one whose token was detached since, and given to somebody else.

        Raises:
            ValueError: ``slots`` or ``ttl_s`` is not positive.
            InvariantViolation: ``secret`` was used before.
        """
        if slots < 1 or not ttl_s > 0:
            _require_positive(slots=slots, ttl_s=ttl_s)
        if self.leases.soonest <= now:
            self.expire(now)
        known = self._by_request.get(request_id) if request_id else None
        if known is not None:
            if known.owner is not None:
                self._adopt(known, owner)
            return self._lease(known)
        if self.draining or self.suspended or slots > self._capacity - self._ongoing_slots - self._reserved_slots:
            return self._refusal(slots, owner)
        if secret in self._live or secret in self._known:
            raise InvariantViolation(f"replica {self._replica_id} minted a slot secret twice", story=self._told())
        run = Run(slots, secret, self._epoch, None, request_id, ttl_s, now + ttl_s, _State.RESERVED)
        self._live[secret] = run
        self.leases.set(secret, run.expires_at)
        if request_id:
            self._by_request[request_id] = run
        if owner is not None:
            self._adopt(run, owner)
        self._issued += 1
        self._reserved_slots += slots
        self._story.append((now, run.state, secret))
        return self._lease(run)

    def dispatch(self, token: str, *, now: float) -> Run:
        """Consumes a promise: its slots are the call's until ``finish``.

        Raises:
            SlotUnknownError: The token was never issued here, or is forgotten.
            SlotExpiredError, SlotConsumedError, SlotFencedError: It can be used no more.
        """
        if self.leases.soonest <= now:
            self.expire(now)
        run = self._reserved_run(token)
        self.leases.remove(run.secret)
        if run.owner is not None:
            self._adopt(run, None)
        self._reserved_slots -= run.slots
        self._start(run, now)
        return run

    def start(self, *, slots: int = 1, owner: OwnerId | None = None, now: float) -> Run:
        """Takes slots for a call without a token, at once.

        Raises:
            NoSlotError: Too few slots are free.
            DrainingError: Nothing new is taken.
            ConfigInvalidError: They are more than the replica has.
            ValueError: ``slots`` is not positive.
        """
        if slots < 1:
            _require_positive(slots=slots)
        if self.leases.soonest <= now:
            self.expire(now)
        if self.draining or self.suspended or slots > self._capacity - self._ongoing_slots - self._reserved_slots:
            refusal = self._refusal(slots, owner)
            raise rejection_error(refusal, replica_id=self._replica_id, slots=slots, load=self.load)
        run = Run(slots)
        self._issued += 1
        self._start(run, now)
        return run

    def finish(self, run: Run, *, ok: bool, now: float) -> bool:
        """Ends a call and frees its slots. False if it had ended before: then nothing happens."""
        if run.state is not _State.ONGOING:
            return False
        self._ongoing -= 1
        self._ongoing_slots -= run.slots
        self._settle(run, _State.OK if ok else _State.ERROR, now)
        return True

    def release(self, token: str, *, now: float) -> bool:
        """Gives a promise back. False if the token was not reserved any more: then nothing happens.

        Raises:
            SlotUnknownError: The text cannot be a token of this replica.
        """
        self.expire(now)
        parsed = self._parse(token)
        run = self._live.get(parsed.secret)
        if run is None or run.state is not _State.RESERVED or run.epoch != parsed.epoch:
            return False
        self._end(run, _State.RELEASED, now)
        return True

    def renew(self, token: str, *, ttl_s: float, detach: bool = False, now: float) -> Lease:
        """Starts a promise's time to live anew; ``detach`` frees it from its owner, so that only its lease ends it.

        While draining the lease keeps its end, as the answer tells.

        Raises:
            SlotUnknownError, SlotExpiredError, SlotConsumedError, SlotFencedError: As for ``dispatch``.
            ValueError: ``ttl_s`` is not positive.
        """
        _require_positive(ttl_s=ttl_s)
        self.expire(now)
        run = self._reserved_run(token)
        if detach:
            self._adopt(run, None)
        if not self.draining:
            run.ttl_s = ttl_s
            run.expires_at = now + ttl_s
            self.leases.set(run.secret, run.expires_at)
        return self._lease(run)

    def expire(self, now: float) -> int:
        """Ends the leases that are over. Returns how many."""
        over = self.leases.due(now) if self.leases.soonest <= now else ()
        for secret in over:
            self._end(self._live[secret], _State.EXPIRED, now)
        return len(over)

    def deadline(self) -> float | None:
        """When the next lease ends, or None if there is none: call ``expire`` then."""
        return self.leases.deadline() if self._reserved_slots else None

    def owner_came(self, owner: OwnerId) -> None:
        """``owner`` can be told of freed slots from now on."""
        self._refusals.came(owner)

    def owner_gone(self, owner: OwnerId, *, now: float) -> int:
        """Ends the promises of an owner whose connection is lost. Returns how many."""
        self._refusals.gone(owner)
        return self._end_all(list(self._owned.get(owner, {}).values()), _State.EXPIRED, now)

    def owners_to_tell(self) -> tuple[OwnerId, ...]:
        """The owners that were refused and whose call would now find room, in the order of their refusals.

        Each is named once per refusal: ask after every operation that can free slots, and tell them all.
        """
        if self.draining or self.suspended or not self.refused:
            return ()
        return self._refusals.to_tell(self.load.free)

    def resize(self, capacity: int) -> None:
        """Changes the slots in all, live. Lowered below what is held, nothing held is lost, and nothing new taken.

        Raises:
            ValueError: ``capacity`` is not positive.
        """
        _require_positive(capacity=capacity)
        self._capacity = capacity

    def drain(self) -> None:
        """Takes nothing new from now on. Promises hold until their lease ends, and are not prolonged."""
        self.draining = True

    def close(self, *, now: float) -> int:
        """Drains, and ends every promise that is not in use. Returns how many."""
        self.drain()
        return self._end_all(self._reserved_runs(), _State.EXPIRED, now)

    def fence(self, epoch: int, *, now: float) -> int:
        """Raises the epoch: the promises of earlier ones end. Returns how many. Calls that run go on.

        Raises:
            ValueError: ``epoch`` is not above the present one.
        """
        if epoch <= self._epoch:
            raise ValueError(f"epoch {epoch} is not above {self._epoch}")
        self._epoch = epoch
        self._issuer = _issuer(epoch, self._replica_id)
        return self._end_all(self._reserved_runs(), _State.FENCED, now)

    def check(self) -> None:
        """Compares every sum with what it sums up.

        Raises:
            InvariantViolation: They differ.
        """
        runs = list(self._live.values())
        reserved = self._reserved_runs()
        ongoing = [run for run in runs if run.state is _State.ONGOING]
        counters = self.counters
        claims = {
            "a live token is reserved or ongoing": len(runs) == len(reserved) + len(ongoing),
            "a reserved token has a lease": len(reserved) == len(self.leases),
            "reserved slots": sum(run.slots for run in reserved) == self._reserved_slots,
            "ongoing calls": len(ongoing) <= self._ongoing <= self._ongoing_slots,
            "ongoing slots": sum(run.slots for run in ongoing) <= self._ongoing_slots,
            "conservation": counters.issued == counters.ended + counters.reserved + counters.ongoing,
            "owners": sum(map(len, self._owned.values())) == sum(run.owner is not None for run in reserved),
            "request ids": all(self._live.get(run.secret) is run for run in self._by_request.values()),
            "history": len(self._history) <= self._history.limit,
        }
        broken = ", ".join(claim for claim, holds in claims.items() if not holds)
        if broken:
            message = f"the slot ledger of replica {self._replica_id} is wrong: {broken}: {counters}, {self.load}"
            raise InvariantViolation(message, story=self._told())

    def _refusal(self, slots: int, owner: OwnerId | None) -> Rejection:
        """Why not, where slots cannot be had now."""
        if self.draining or self.suspended:
            return Rejection.DRAINING
        if slots > self._capacity:
            return Rejection.TOO_MANY
        self._refusals.refuse(owner, slots)
        return Rejection.FULL

    def _start(self, run: Run, now: float) -> None:
        run.state = _State.ONGOING
        self._ongoing += 1
        self._ongoing_slots += run.slots
        self._story.append((now, run.state, run.secret))

    def _end_all(self, runs: list[Run], state: _State, now: float) -> int:
        for run in runs:
            self._end(run, state, now)
        return len(runs)

    def _end(self, run: Run, state: _State, now: float) -> None:
        self.leases.remove(run.secret)
        self._adopt(run, None)
        self._reserved_slots -= run.slots
        self._settle(run, state, now)

    def _settle(self, run: Run, state: _State, now: float) -> None:
        run.state = state
        self._ended[state] += 1
        self._story.append((now, state, run.secret))
        if not run.secret:
            return
        del self._live[run.secret]
        if run.request_id:
            del self._by_request[run.request_id]
        self._history.add(run.secret, run.epoch, state)

    def _adopt(self, run: Run, owner: OwnerId | None) -> None:
        if run.owner is not None:
            owned = self._owned[run.owner]
            del owned[run.secret]
            if not owned:
                del self._owned[run.owner]
        run.owner = owner
        if owner is not None:
            self._owned.setdefault(owner, {})[run.secret] = run

    def _reserved_runs(self) -> list[Run]:
        return [run for run in self._live.values() if run.state is _State.RESERVED]

    def _parse(self, token: str) -> SlotToken:
        parsed = SlotToken.parse(token)
        if parsed is None or parsed.replica_id != self._replica_id:
            raise foreign_token_error(token, replica_id=self._replica_id)
        return parsed

    def _reserved_run(self, token: str) -> Run:
        run = self._live.get(token[:_SECRET_CHARS])
        if run is not None and run.state is _State.RESERVED and token[_SECRET_CHARS:] == self._issuer:
            return run  # As nearly always.
        parsed = self._parse(token)
        if parsed.epoch != self._epoch:
            raise fenced_token_error(parsed.epoch, replica_id=self._replica_id, current_epoch=self._epoch)
        run = self._live.get(parsed.secret)
        if run is not None and run.state is _State.RESERVED and run.epoch == parsed.epoch:
            return run
        known = run or self._history.get(parsed.secret)
        details = {"replicaId": str(self._replica_id)}
        if known is None or known.epoch != parsed.epoch:
            message = f"the slot token was never issued by replica {self._replica_id}, or is forgotten: reserve again"
            raise SlotUnknownError(message, details=details)
        if known.state is _State.EXPIRED:
            message = "the slot token's lease is over, or its owner's connection is lost: reserve again"
            raise SlotExpiredError(message, details=details)
        used = "released" if known.state is _State.RELEASED else "dispatched"
        raise SlotConsumedError(f"the slot token was {used} before: reserve one for each request", details=details)

    def _lease(self, run: Run) -> Lease:
        return Lease(SlotToken(run.secret, run.epoch, self._replica_id), run.slots, run.ttl_s, run.expires_at)

    def _told(self) -> list[str]:
        return [f"{now:.3f} {state.value} {secret[:8] or '(no token)'}" for now, state, secret in self._story]


def _issuer(epoch: int, replica_id: ReplicaId) -> str:
    """What a token says beside its secret."""
    return str(SlotToken("", epoch, replica_id))


def _require_positive(**amounts: float) -> None:
    for name, amount in amounts.items():
        if not amount > 0:
            raise ValueError(f"{name} must be positive, not {amount}")
