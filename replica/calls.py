"""The calls that run: each holds its slots to its real end, and all can be ended at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, NamedTuple, TypeVar

import grpc.aio

from replica.core.addressee import Addressee
from replica.desk import Occupancy, SlotDesk
from replica.stay import Stay
from serve_core.context import CancelFlag, RequestContext, bind_request_context
from serve_core.errors import ApplicationError, Code, ReplicaDiedError
from serve_core.model.ids import OwnerId
from serve_core.runtime import clock
from serve_core.wire.errors import from_exception
from serve_core.wire.metadata import INCARNATION_KEY

S = TypeVar("S", bound=Stay)

Context = grpc.aio.ServicerContext[Any, Any]


class Claim(NamedTuple):
    """What a call brings for its slots: a token, or how many it takes and whom to tell if there are none."""

    token: str = ""
    slots: int = 1
    owner: OwnerId | None = None


Admit = Callable[[Claim], Awaitable[Occupancy]]


class Calls:
    """Admits calls and knows those that run.

    Args:
        desk: Where the slots are.
    """

    def __init__(self, desk: SlotDesk) -> None:
        self._desk = desk
        self._addressee = Addressee(desk.replica_id)
        self._admit: Admit | None = None
        self._running: set[asyncio.Task[Any]] = set()
        self._killed: set[asyncio.Task[Any]] = set()

    def be_actor(self, incarnation: int, admit: Admit) -> None:
        """This life of an actor runs here. Its calls are admitted by ``admit``, which may have them wait for a slot."""
        self._addressee.incarnation = incarnation
        self._admit = admit

    def require_meant(self, metadata: Iterable[Any] | None) -> None:
        """Refuses a call that is meant for another life of an actor. Raises as ``Addressee.require``."""
        for key, value in metadata or ():
            if key == INCARNATION_KEY:
                self._addressee.require(key, str(value))

    async def call(self, claim: Claim, cancelled: CancelFlag) -> AbstractContextManager[Occupancy]:
        """Holds the claimed slots while the block runs in the present task; see ``hold``.

        Raises:
            ServeError: As ``SlotDesk.admit``; nothing was run.
        """
        if self._admit is not None:
            return self.hold(await self._admit(claim), cancelled)
        return self.call_now(claim, cancelled)

    @property
    def may_wait(self) -> bool:
        """Whether ``call`` may wait for a slot. If not, ``call_now`` does the same."""
        return self._admit is not None

    def call_now(self, claim: Claim, cancelled: CancelFlag) -> AbstractContextManager[Occupancy]:
        """As ``call``, where nothing waits."""
        return self.hold(self._desk.admit(token=claim.token, slots=claim.slots, owner=claim.owner), cancelled)

    def hold(self, stay: S, cancelled: CancelFlag) -> AbstractContextManager[S]:
        """Lasts while the block runs in the present task. An exception makes it a failed call.

        Raises:
            ReplicaDiedError: ``end_all`` cut the block off.
        """
        return _Hold(self, stay, cancelled)

    def came(self, task: asyncio.Task[Any]) -> None:
        """A call runs in this task."""
        self._running.add(task)

    def left(self, task: asyncio.Task[Any]) -> bool:
        """The call that ran in this task is over. Says whether ``end_all`` had cancelled it."""
        self._running.discard(task)
        killed = task in self._killed
        self._killed.discard(task)
        return killed

    def died(self) -> ReplicaDiedError:
        """What the caller of a call is told that ``end_all`` cancelled."""
        message = f"replica {self._desk.replica_id} ended while the request was inside"
        return ReplicaDiedError(message, details={"replicaId": str(self._desk.replica_id)})

    def end_all(self) -> int:
        """Cancels every call that runs; its caller is told that the replica died. Returns how many."""
        ending = self._running - self._killed
        for task in ending:
            self._killed.add(task)
            task.cancel("the replica ends")
        return len(ending)

    def bind(self, context: Context, *, method: str, request_id: str, cancelled: CancelFlag) -> None:
        """Makes the request known to the user code that runs in the present task from here on."""
        bind_request_context(_Request(self._desk, context, method, request_id, cancelled))

    def user_error(self, error: BaseException) -> ApplicationError:
        """What the caller is told of an exception of user code.

        Raises:
            CancelledError: It is one, because the call itself was cancelled.
        """
        if isinstance(error, asyncio.CancelledError):
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise error
            return ApplicationError(
                "the method was cancelled from inside", code=Code.CANCELLED, replica_id=self._desk.replica_id
            )
        return from_exception(error, replica_id=self._desk.replica_id)


class _Request:
    """A request, described when user code first asks for it."""

    __slots__ = ("_cancelled", "_context", "_described", "_desk", "_method", "_request_id")

    def __init__(self, desk: SlotDesk, context: Context, method: str, request_id: str, cancelled: CancelFlag) -> None:
        self._desk = desk
        self._context = context
        self._method = method
        self._request_id = request_id
        self._cancelled = cancelled
        self._described: RequestContext | None = None

    def __call__(self) -> RequestContext:
        if self._described is None:
            self._described = self._describe()
        return self._described

    def _describe(self) -> RequestContext:
        desk, remaining_s = self._desk, self._context.time_remaining()
        # grpcio says None, or a huge number of seconds, when there is no deadline.
        deadline = None if remaining_s is None or remaining_s > 1e9 else clock.monotonic() + remaining_s
        return RequestContext(
            request_id=self._request_id,
            method=self._method,
            metadata=_texts(self._context.invocation_metadata() or ()),
            cancelled=self._cancelled,
            remaining=lambda: None if deadline is None else deadline - clock.monotonic(),
            is_draining=lambda: desk.draining,
        )


class _Hold(AbstractContextManager[S]):
    """A call inside. A class, because every call has one and generators cost it more."""

    __slots__ = ("_calls", "_cancelled", "_stay", "_task")

    def __init__(self, calls: Calls, stay: S, cancelled: CancelFlag) -> None:
        self._calls = calls
        self._stay = stay
        self._cancelled = cancelled
        self._task: asyncio.Task[Any] | None = None

    def __enter__(self) -> S:
        self._task = asyncio.current_task()
        assert self._task is not None
        self._calls.came(self._task)
        return self._stay

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._task is not None
        killed = self._calls.left(self._task)
        try:
            if isinstance(error, asyncio.CancelledError):
                self._cancelled.set()
                if killed:
                    self._task.uncancel()
                    raise self._calls.died() from None
        finally:
            self._stay.finish(ok=error is None)


def _texts(metadata: Iterable[Any]) -> dict[str, str]:
    return {key: value for key, value in metadata if isinstance(value, str)}
