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
        self.line: Admit | None = None
        """What has calls wait for a slot; None where they are admitted or refused at once, by the desk."""
        self.loop: asyncio.AbstractEventLoop | None = None
        """Where they run, if that is known: to look for it costs each call a system call."""
        self.running: set[asyncio.Task[Any]] = set()
        """The tasks that calls run in."""
        self._killed: set[asyncio.Task[Any]] = set()

    def be_actor(self, incarnation: int, admit: Admit) -> None:
        """This life of an actor runs here. Its calls are admitted by ``admit``, which may have them wait for a slot."""
        self._addressee.incarnation = incarnation
        self.line = admit

    def require_meant(self, metadata: Iterable[Any] | None) -> None:
        """Refuses a call that is meant for another life of an actor. Raises as ``Addressee.require``."""
        for key, value in metadata or ():
            if key == INCARNATION_KEY:
                self._addressee.require(key, str(value))

    async def admit(self, claim: Claim) -> Occupancy:
        """Takes the claimed slots, once they are there if this is an actor. Raises as ``SlotDesk.admit``: nothing was run."""
        if self.line is not None:
            return await self.line(claim)
        return self._desk.admit(token=claim.token, slots=claim.slots, owner=claim.owner)

    def inside(self, stay: S, context: Context, *, method: str, request_id: str) -> AbstractContextManager[S]:
        """A call, while a block runs it in the present task. It is known to the user code there, and an exception makes it a
        failed one.

        Raises:
            ReplicaDiedError: ``end_all`` cut the block off.
        """
        return _Inside(self, stay, context, method, request_id)

    def left(self, task: asyncio.Task[Any]) -> bool:
        """The call that ran in this task is over. Says whether ``end_all`` had cancelled it."""
        self.running.discard(task)
        if task not in self._killed:
            return False
        self._killed.discard(task)
        return True

    @property
    def draining(self) -> bool:
        """Whether the replica takes nothing new."""
        return self._desk.draining

    def died(self) -> ReplicaDiedError:
        """What the caller of a call is told that ``end_all`` cancelled."""
        message = f"replica {self._desk.replica_id} ended while the request was inside"
        return ReplicaDiedError(message, details={"replicaId": str(self._desk.replica_id)})

    def end_all(self) -> int:
        """Cancels every call that runs; its caller is told that the replica died. Returns how many."""
        ending = self.running - self._killed
        for task in ending:
            self._killed.add(task)
            task.cancel("the replica ends")
        return len(ending)

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


class _Inside(AbstractContextManager[S]):
    """A call inside, and its request, which is described when user code first asks. A class, because every call has one and
    generators cost it more.
    """

    __slots__ = ("_calls", "_cancelled", "_context", "_described", "_flag", "_method", "_request_id", "_stay", "_task")

    def __init__(self, calls: Calls, stay: S, context: Context, method: str, request_id: str) -> None:
        self._calls = calls
        self._stay = stay
        self._context = context
        self._method = method
        self._request_id = request_id
        self._task: asyncio.Task[Any] | None = None
        self._cancelled = False
        self._flag: CancelFlag | None = None
        self._described: RequestContext | None = None

    def __enter__(self) -> S:
        calls = self._calls
        task = self._task = asyncio.current_task(calls.loop)
        assert task is not None
        calls.running.add(task)
        bind_request_context(self)
        return self._stay

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # The task's context holds this: a cycle would have the garbage collector work for each call.
        task, self._task = self._task, None
        assert task is not None
        killed = self._calls.left(task)
        try:
            if isinstance(error, asyncio.CancelledError):
                self._cancel()
                if killed:
                    task.uncancel()
                    raise self._calls.died() from None
        finally:
            self._stay.finish(ok=error is None)

    def __call__(self) -> RequestContext:
        """The request. Is called in whichever thread asks first."""
        if self._described is None:
            self._described = self._describe()
        return self._described

    def _cancel(self) -> None:
        self._cancelled = True
        if self._flag is not None:
            self._flag.set()

    def _describe(self) -> RequestContext:
        calls, remaining_s = self._calls, self._context.time_remaining()
        # grpcio says None, or a huge number of seconds, when there is no deadline.
        deadline = None if remaining_s is None or remaining_s > 1e9 else clock.monotonic() + remaining_s
        flag = self._flag = CancelFlag()
        if self._cancelled:  # Looked at only now: whoever said so before has not seen the flag.
            flag.set()
        return RequestContext(
            request_id=self._request_id,
            method=self._method,
            metadata=_texts(self._context.invocation_metadata() or ()),
            cancelled=flag,
            remaining=lambda: None if deadline is None else deadline - clock.monotonic(),
            is_draining=lambda: calls.draining,
        )


def _texts(metadata: Iterable[Any]) -> dict[str, str]:
    return {key: value for key, value in metadata if isinstance(value, str)}
