"""What user code in a member of a gang may ask: who the others are; and how it meets them and calls them.

A replica that needs no others is a gang of one, and may ask all of it too. Outside of a replica, asking raises
``ConfigInvalidError``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, ParamSpec, Protocol, TypeVar, overload

from serve_core.bridge import LoopBridge
from serve_core.call_options import CallOptions
from serve_core.context import misplaced, request_id
from serve_core.errors import ConfigInvalidError, FieldViolation
from serve_core.hints import return_hint
from serve_core.model.gang import GangMember, GangRoster
from serve_core.model.ids import GangId
from serve_core.model.payload import Payload
from serve_core.wire.codec import decode_value, encode_arguments

P = ParamSpec("P")
T = TypeVar("T")


class GangPort(Protocol):
    """What a member's process does for its user code, on the process's event loop."""

    @property
    def roster(self) -> GangRoster:
        """Who is in the gang, as of now."""

    @property
    def rank(self) -> int:
        """This member's rank."""

    async def barrier(self, name: str, timeout_s: float | None) -> None:
        """See ``GangContext.barrier``."""

    async def call(self, rank: int, method: str, arguments: Payload, *, timeout_s: float, request_id: str) -> Payload:
        """Calls a method of a member."""


class GangContext:
    """The gang that this replica is a member of. It always tells of the present roster: keep it as long as you like.

    The coroutines may be awaited in any event loop; ``barrier_sync`` and ``call_sync`` are for threads, such as the one
    that a constructor runs in, and methods that are not asynchronous.

    Args:
        port: Does what is asked.
        loop: The event loop of the process.
    """

    def __init__(self, port: GangPort, loop: asyncio.AbstractEventLoop) -> None:
        self._port = port
        self._bridge = LoopBridge(loop)

    @property
    def roster(self) -> GangRoster:
        """Who is in the gang. It never changes: a gang that changes has another one."""
        return self._port.roster

    @property
    def gang_id(self) -> GangId:
        """The gang's id."""
        return self.roster.gang_id

    @property
    def epoch(self) -> int:
        """Raised whenever a member is replaced."""
        return self.roster.epoch

    @property
    def rank(self) -> int:
        """This member's place in the gang, from 0."""
        return self._port.rank

    @property
    def size(self) -> int:
        """How many members there are."""
        return len(self.roster.members)

    @property
    def role(self) -> str:
        """What the deployment calls this rank; empty if it gives ranks no names."""
        return self.me.role

    @property
    def members(self) -> Sequence[GangMember]:
        """All members by rank, this one included."""
        return self.roster.members

    @property
    def me(self) -> GangMember:
        """This member."""
        return self.roster.members[self.rank]

    @property
    def leader(self) -> GangMember:
        """The member of rank 0."""
        return self.roster.leader

    @property
    def is_leader(self) -> bool:
        """Whether this is the member of rank 0."""
        return self.rank == 0

    @property
    def rendezvous_host(self) -> str:
        """Where the leader may listen for the others."""
        return self.roster.rendezvous_host

    @property
    def rendezvous_port(self) -> int:
        """The port there that is kept free for the gang; 0 in a gang of one.

        Listen with ``SO_REUSEADDR``, as servers on Linux do by themselves.
        """
        return self.roster.rendezvous_port

    async def barrier(self, name: str = "", timeout_s: float | None = None) -> None:
        """Waits until every member has come to the barrier of this name as often as this one.

        Args:
            name: Which barrier: each counts for itself. It counts anew after a change of the gang.
            timeout_s: Seconds to wait at most; None means the gang's start deadline.

        Raises:
            TimeoutError: Some had not come; it names their ranks. To wait again is to come to the same round.
            GangChangedError: A member was replaced: this round will not be passed.
        """
        await self._bridge.run(lambda: self._port.barrier(name, timeout_s))

    def barrier_sync(self, name: str = "", timeout_s: float | None = None) -> None:
        """The same as ``barrier``, for threads: it blocks."""
        self._bridge.block("barrier", lambda: self._port.barrier(name, timeout_s))

    def peer(self, rank: int, *, timeout_s: float | None = None) -> GangPeer:
        """The member of this rank, to call methods of its object.

        Args:
            rank: Which member; this one's own is allowed.
            timeout_s: Seconds that a call may take; None means the rest of the current request's time, else as long as
                calls of handles may.

        Raises:
            ConfigInvalidError: There is no such rank, or ``timeout_s`` is no number.
        """
        if not 0 <= rank < self.size:
            violation = FieldViolation("rank", f"{rank} is not from 0 to {self.size - 1}, the ranks of the gang")
            raise ConfigInvalidError((violation,), what="the call")
        return GangPeer(self._port, self._bridge, rank, CallOptions(timeout_s=timeout_s))


class GangPeer:
    """One member, as another member calls it: ``await gang.peer(1).call("step", batch)``.

    A method is named, or given as the caller's own bound method, since all members run the same class:
    ``call(self.step, batch)``; the result then has the type that its annotation says. It must have one answer: members do
    not stream to each other.

    Such a call takes no slot of the called member, because the request that it is made for holds one already: that is what
    keeps members that call each other from waiting for each other for ever. It may run beside the requests and calls that
    run there, so what needs to be alone must lock. It is taken as soon as the constructor has returned, and also by a
    member that drains, as long as any member of the gang has requests.
    """

    def __init__(self, port: GangPort, bridge: LoopBridge, rank: int, options: CallOptions) -> None:
        self._port = port
        self._bridge = bridge
        self._rank = rank
        self._options = options

    @overload
    async def call(self, method: str, /, *args: Any, **kwargs: Any) -> Any: ...

    @overload
    async def call(self, method: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs) -> T: ...

    @overload
    async def call(self, method: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T: ...

    async def call(self, method: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Calls a method of the member's object.

        Raises:
            ApplicationError: The method raised; of the type that it raised, where that is loaded here.
            ReplicaDiedError: The member ended with the call inside: it may have run.
            ReplicaUnavailableError: The member did not answer, or had not constructed its object in time: nothing was run.
            GangChangedError: A member was replaced since; nothing was run.
            DrainingError: The gang is told to end; nothing was run.
            TimeoutError: It took too long.
            MethodUnknownError: There is no such method, or it streams.
            ConfigInvalidError: The arguments do not fit, or cannot be sent.
        """
        made = self._made(method, args, kwargs)
        return decode_value(await self._bridge.run(made), _hint(method))

    @overload
    def call_sync(self, method: str, /, *args: Any, **kwargs: Any) -> Any: ...

    @overload
    def call_sync(self, method: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs) -> T: ...

    @overload
    def call_sync(self, method: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T: ...

    def call_sync(self, method: Any, /, *args: Any, **kwargs: Any) -> Any:
        """The same as ``call``, for threads: it blocks."""
        made = self._made(method, args, kwargs)
        return decode_value(self._bridge.block("call", made), _hint(method))

    def _made(self, method: Any, args: Any, kwargs: Any) -> Callable[[], Coroutine[Any, Any, Payload]]:
        name = method if isinstance(method, str) else method.__name__
        arguments = encode_arguments(args, kwargs)
        # Both are of the request that this is called for: not known on the process's event loop any more.
        timeout_s, ours = self._options.effective_timeout_s(), request_id()
        return lambda: self._port.call(self._rank, name, arguments, timeout_s=timeout_s, request_id=ours)


def _hint(method: Any) -> Any:
    return Any if isinstance(method, str) else return_hint(method)


_process_gang: list[GangContext] = []


def bind_gang_context(context: GangContext) -> None:
    """Makes ``context`` that of this process: a process runs one replica. The latest one holds."""
    _process_gang[:] = [context]


def get_gang_context() -> GangContext:
    """The gang that the replica which runs this code is a member of.

    Raises:
        ConfigInvalidError: This process is no replica.
    """
    if _process_gang:
        return _process_gang[-1]
    raise misplaced("get_gang_context()", "works only in a replica: call it from a deployment's code")
