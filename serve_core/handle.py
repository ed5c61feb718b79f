"""Handles: a deployment's methods, called as if it were here."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeAlias, TypeVar

from serve_core.broadcast import Broadcast, ChosenGang, MemberResult, member_result
from serve_core.call import Call
from serve_core.call_options import CallOptions
from serve_core.hints import result_hint
from serve_core.model.payload import Payload
from serve_core.wire.codec import HandleRef, encode_arguments

if TYPE_CHECKING:
    from router.selection import ReplicaSelection, Selection, Ticket
    from serve_core.connection import Connect

T = TypeVar("T")

Target: TypeAlias = "Selection | Ticket"


class DeploymentHandle(Generic[T]):
    """Calls a deployment: ``await handle.method(x)``, or ``async for item in handle.method(x)``.

    Any attribute that is not listed here is a method of the deployment; ``method(name)`` reaches those whose names
    are taken. A handle may be passed to other deployments and used in any task of any event loop.
    """

    __slots__ = ("_application", "_connect", "_deployment", "_options", "_target")

    def __init__(
        self,
        application: str,
        deployment: str = "",
        *,
        connect: Connect,
        target: type[T] | None = None,
        options: CallOptions | None = None,
    ) -> None:
        self._application = application
        self._deployment = deployment
        self._connect = connect
        self._target = target
        self._options = options or CallOptions()

    def __handle_reference__(self) -> HandleRef:
        """What the handle is sent as; where it arrives it is a handle again."""
        return HandleRef(self._application, self._deployment)

    def options(
        self, *, timeout_s: float | None = None, slots: int | None = None, request_id: str | None = None
    ) -> DeploymentHandle[T]:
        """The same handle with other ways to call.

        Args:
            timeout_s: Seconds that a call may take in all, its wait for a slot included.
            slots: Slots that a call takes.
            request_id: The name of the call in logs and traces.

        Raises:
            ConfigInvalidError: No call can have these.
        """
        options = self._options_with(timeout_s, slots)
        if request_id is not None:
            options = replace(options, request_id=request_id)
        return DeploymentHandle(
            self._application, self._deployment, connect=self._connect, target=self._target, options=options
        )

    def _options_with(self, timeout_s: float | None, slots: int | None) -> CallOptions:
        options = self._options
        if timeout_s is not None:
            options = replace(options, timeout_s=timeout_s)
        if slots is not None:
            options = replace(options, slots=slots)
        return options

    def typed(self, target: type[T]) -> DeploymentHandle[T]:
        """The same handle; results arrive as the annotations of ``target`` say: a class, decorated or not."""
        # The decorator leaves a Deployment where the type checker sees the class.
        target = getattr(target, "__serve_core_target__", target)
        return DeploymentHandle(
            self._application, self._deployment, connect=self._connect, target=target, options=self._options
        )

    def method(self, name: str) -> MethodProxy:
        """The method of this name."""
        return MethodProxy(self, name, None)

    def __getattr__(self, name: str) -> MethodProxy:
        if name.startswith("_"):
            raise AttributeError(f"{self!r} calls no private methods such as {name!r}")
        return MethodProxy(self, name, None)

    def __call__(self, *args: Any, **kwargs: Any) -> Call:
        """Calls the deployment itself: its ``__call__``, or the function that it is."""
        return MethodProxy(self, "", None)(*args, **kwargs)

    def choose_replica(
        self, *, ttl_s: float | None = None, timeout_s: float | None = None, slots: int | None = None
    ) -> AbstractAsyncContextManager[ReplicaSelection]:
        """Reserves slots on a replica and says which one it is; leaving without a dispatch gives them back.

        Args:
            ttl_s: Seconds that the promise holds; by default as the deployment says.
            timeout_s: Seconds to wait for a free slot.
            slots: Slots to reserve.

        Raises:
            NoSlotInTimeError: No replica had a free slot in time.
            QueueFullError: Too many wait already.
        """
        return _Choosing(self, self._options_with(timeout_s, slots), ttl_s)

    def choose_gang(
        self, *, ttl_s: float | None = None, timeout_s: float | None = None, slots: int | None = None
    ) -> AbstractAsyncContextManager[ChosenGang]:
        """Reserves slots on every member of one gang, or on none, and says who they are; as ``choose_replica``.

        ``await gang.dispatch("method", x)`` calls the leader, ``await gang.broadcast("method", x)`` every member.
        """
        return self._choose_gang(ttl_s, self._options_with(timeout_s, slots))

    @asynccontextmanager
    async def _choose_gang(self, ttl_s: float | None, options: CallOptions) -> AsyncIterator[ChosenGang]:
        router = await self._connect()
        choice = router.choose_gang(
            self._application,
            self._deployment,
            slots=options.slots,
            ttl_s=ttl_s,
            timeout_s=options.effective_timeout_s(),
            request_id=options.request_id,
        )
        async with choice as selection:
            yield ChosenGang(selection, Dispatch(self, selection))

    def dispatch(self, selection: Target | ChosenGang | str) -> Dispatch:
        """What calls on the replica that was chosen: ``await handle.dispatch(selection).method(x)``.

        With a gang that is its leader; ``await handle.dispatch(gang).method.broadcast(x)`` calls every member.

        Args:
            selection: From ``choose_replica`` or ``choose_gang``; or the ticket of one, as it is or as text, from
                whichever process.

        Raises:
            ConfigInvalidError: The text is no ticket.
        """
        if isinstance(selection, ChosenGang):
            return Dispatch(self, selection.selection)
        return Dispatch(self, _ticket(selection) if isinstance(selection, str) else selection)

    def __repr__(self) -> str:
        return f"DeploymentHandle({self._application}{'.' if self._deployment else ''}{self._deployment})"

    def __iter__(self) -> NoReturn:
        raise TypeError(f"{self!r} is not iterable: iterate over one of its methods with 'async for'")


class _Choosing(AbstractAsyncContextManager["ReplicaSelection"]):
    """A replica that is chosen for a block. A class, because a generator costs each block more."""

    __slots__ = ("_choice", "_handle", "_options", "_ttl_s")

    def __init__(self, handle: DeploymentHandle[Any], options: CallOptions, ttl_s: float | None) -> None:
        self._handle = handle
        self._options = options
        self._ttl_s = ttl_s

    async def __aenter__(self) -> ReplicaSelection:
        handle, options = self._handle, self._options
        router = await handle._connect()
        self._choice = router.choose_replica(
            handle._application,
            handle._deployment,
            slots=options.slots,
            ttl_s=self._ttl_s,
            timeout_s=options.effective_timeout_s(),
            request_id=options.request_id,
        )
        return await self._choice.__aenter__()

    def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> Coroutine[Any, Any, bool | None]:
        return self._choice.__aexit__(kind, error, traceback)


class Dispatch:
    """A replica that was chosen; its attributes are the deployment's methods, of which one may be called once."""

    __slots__ = ("_handle", "_selection")

    def __init__(self, handle: DeploymentHandle[Any], selection: Target) -> None:
        self._handle = handle
        self._selection = selection

    def method(self, name: str) -> MethodProxy:
        """The method of this name."""
        return MethodProxy(self._handle, name, self._selection)

    def __getattr__(self, name: str) -> MethodProxy:
        if name.startswith("_"):
            raise AttributeError(f"a dispatch calls no private methods such as {name!r}")
        return self.method(name)

    def __call__(self, *args: Any, **kwargs: Any) -> Call:
        """Calls the deployment itself."""
        return self.method("")(*args, **kwargs)


class MethodProxy:
    """A method of a deployment. Calling it makes a ``Call``; nothing is sent before that is awaited or iterated."""

    __slots__ = ("_handle", "_name", "_selection")

    def __init__(self, handle: DeploymentHandle[Any], name: str, selection: Target | None) -> None:
        self._handle = handle
        self._name = name
        self._selection = selection

    def __call__(self, *args: Any, **kwargs: Any) -> Call:
        return Call(_RouterWay(self._handle, self._selection), self._name, args, kwargs)

    def broadcast(self, *args: Any, **kwargs: Any) -> Broadcast:
        """Calls the method on every member of one gang at once: nobody, unless every member has promised a slot.

        What each of them answers is a result or a failure of its own: ``[one.result() for one in await ...]``.
        """
        return Broadcast(repr(self), partial(self._broadcast, args, kwargs))

    async def _broadcast(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[MemberResult]:
        handle, options = self._handle, self._handle._options
        arguments = encode_arguments(list(args), kwargs)
        hint = result_hint(handle._target, self._name, item=False)
        router = await handle._connect()
        timeout_s = options.effective_timeout_s()
        if self._selection is None:
            replies = await router.broadcast(
                handle._application,
                handle._deployment,
                self._name,
                arguments,
                timeout_s=timeout_s,
                slots=options.slots,
                request_id=options.request_id,
            )
        else:
            router.check_target(handle._application, handle._deployment, self._selection)
            replies = await router.dispatch_broadcast(
                self._selection, self._name, arguments, timeout_s=timeout_s, request_id=options.request_id
            )
        return [member_result(reply, hint) for reply in replies]

    def __await__(self) -> NoReturn:
        raise TypeError(f"{self!r} is a method: call it, as in 'await handle.{self._name}(...)'")

    def __repr__(self) -> str:
        return f"<method {self._name or '__call__'} of {self._handle!r}>"


class _RouterWay:
    """The way to a deployment, by a router: to any of its replicas, or to one that was chosen."""

    __slots__ = ("_handle", "_selection")

    def __init__(self, handle: DeploymentHandle[Any], selection: Target | None) -> None:
        self._handle = handle
        self._selection = selection

    @property
    def target(self) -> type[Any] | None:
        return self._handle._target

    async def call(self, method: str, arguments: Payload) -> Payload:
        handle, options = self._handle, self._handle._options
        router = await handle._connect()
        timeout_s = options.effective_timeout_s()
        if self._selection is not None:
            router.check_target(handle._application, handle._deployment, self._selection)
            return await router.dispatch(
                self._selection, method, arguments, timeout_s=timeout_s, request_id=options.request_id
            )
        return await router.call(
            handle._application,
            handle._deployment,
            method,
            arguments,
            timeout_s=timeout_s,
            slots=options.slots,
            request_id=options.request_id,
        )

    async def stream(
        self, method: str, arguments: Payload, items: AsyncIterable[Payload] | None
    ) -> AsyncGenerator[Payload, None]:
        handle, options = self._handle, self._handle._options
        router = await handle._connect()
        timeout_s = options.effective_timeout_s()
        if self._selection is not None:
            router.check_target(handle._application, handle._deployment, self._selection)
            return router.dispatch_stream(
                self._selection, method, arguments, timeout_s=timeout_s, items=items, request_id=options.request_id
            )
        return router.stream(
            handle._application,
            handle._deployment,
            method,
            arguments,
            timeout_s=timeout_s,
            items=items,
            slots=options.slots,
            request_id=options.request_id,
        )

    def __repr__(self) -> str:
        return repr(self._handle)


def _ticket(text: str) -> Ticket:
    # Not before it is used: most processes that make handles dispatch no tickets.
    from router.selection import Ticket

    return Ticket.parse(text)
