"""Calls of every member of a gang at once, and a gang that was chosen for them."""

from __future__ import annotations

import warnings
from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from serve_core.wire.codec import decode_value

if TYPE_CHECKING:
    from router.python_calls import MemberReply
    from router.selection import GangSelection, Ticket
    from serve_core.call import Call
    from serve_core.handle import Dispatch
    from serve_core.model.ids import GangId
    from serve_core.model.replica import Replica
    from serve_core.model.slots import AnyLease


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberResult:
    """What one member of a gang answered: ``value``, or ``error`` where it has none.

    Attributes:
        replica: Who answered; ``replica.gang`` has its rank and role.
        value: What the method returned.
        error: A ServeError such as ApplicationError or ReplicaDiedError; or TimeoutError, when the time was over.
    """

    replica: Replica
    value: Any = None
    error: Exception | None = None

    @property
    def rank(self) -> int:
        """Its rank in the gang."""
        return self.replica.gang.rank

    def result(self) -> Any:
        """The value.

        Raises:
            Exception: Its ``error``, if it has one.
        """
        if self.error is not None:
            raise self.error
        return self.value


def member_result(reply: MemberReply, hint: Any) -> MemberResult:
    """What a member answered, its value as ``hint`` says."""
    if isinstance(reply.outcome, Exception):
        return MemberResult(replica=reply.replica, error=reply.outcome)
    return MemberResult(replica=reply.replica, value=decode_value(reply.outcome, hint))


class Broadcast:
    """One call of every member. ``await`` it for what each of them answered, by rank; once."""

    __slots__ = ("_name", "_send", "_used")

    def __init__(self, name: str, send: Callable[[], Awaitable[list[MemberResult]]]) -> None:
        self._name = name
        self._send = send
        self._used = False

    def __await__(self) -> Generator[Any, None, list[MemberResult]]:
        if self._used:
            raise RuntimeError(f"{self!r} was awaited before: make a new one for each request")
        self._used = True
        return self._send().__await__()

    def __repr__(self) -> str:
        return f"<broadcast of {self._name}>"

    def __del__(self) -> None:
        if not getattr(self, "_used", True):
            warnings.warn(f"{self!r} was never awaited: nothing was sent", RuntimeWarning, stacklevel=2)


class ChosenGang:
    """A gang that has promised slots on every member: good for one dispatch, one broadcast, or one ticket.

    Args:
        selection: The promise.
        dispatching: Calls on it.
    """

    __slots__ = ("_dispatching", "selection")

    def __init__(self, selection: GangSelection, dispatching: Dispatch) -> None:
        self.selection = selection
        self._dispatching = dispatching

    @property
    def members(self) -> tuple[Replica, ...]:
        """Who promised, by rank: the leader first. Each tells its rank, role and epoch in ``gang``."""
        return self.selection.members

    @property
    def leader(self) -> Replica:
        """The member of rank 0, which runs what is dispatched."""
        return self.selection.replica

    @property
    def gang_id(self) -> GangId:
        """The gang's id."""
        return self.selection.gang_id

    @property
    def epoch(self) -> int:
        """The gang's epoch: it is raised whenever a member is replaced."""
        return self.selection.epoch

    @property
    def size(self) -> int:
        """How many members it has."""
        return len(self.selection.members)

    @property
    def lease(self) -> AnyLease:
        """The promise as it was granted or renewed last; ``expires_at`` is in seconds since the Unix epoch."""
        return self.selection.lease

    def dispatch(self, method: str, *args: Any, **kwargs: Any) -> Call:
        """Calls a method on the leader; the slots of the other members are held until the call ends."""
        return self._dispatching.method(method)(*args, **kwargs)

    def broadcast(self, method: str, *args: Any, **kwargs: Any) -> Broadcast:
        """Calls a method on every member at once."""
        return self._dispatching.method(method).broadcast(*args, **kwargs)

    async def ticket(self) -> Ticket:
        """Turns the promise into a ticket, which outlives this process and may be used by any other.

        Raises:
            SlotConsumedError: It was used before.
            SlotError, ReplicaUnavailableError, GangChangedError: The promise was lost meanwhile.
        """
        return await self.selection.ticket()
