"""The router inside a caller's process: the same code as the router process, without servers and the extra hop."""

from __future__ import annotations

import asyncio
import os
import random
import uuid
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager

import grpc
import grpc.aio

from router.broadcast import Broadcasts
from router.calls import Calls
from router.choosing import Choice, Keeping
from router.forward import Router
from router.python_calls import (
    MemberReply,
    budget_of,
    deadline_of,
    encoded_items,
    make_request,
    raise_foreign,
    reply_of,
    request_for,
)
from router.selection import GangSelection, ReplicaSelection, Selection, Ticket
from router.watcher import Watcher
from serve_core.errors import DeploymentUnknownError, SlotUnknownError
from serve_core.model.endpoints import DeploymentRoute
from serve_core.model.ids import DeploymentKey, RouterId
from serve_core.model.payload import Payload
from serve_core.runtime.deadlines import Deadlines
from serve_core.runtime.limits import DEFAULT_MAX_MESSAGE_BYTES
from serve_core.runtime.log import get_logger
from serve_core.runtime.supervisor import Supervisor
from serve_core.v1 import replica_pb2
from serve_core.wire.payload import decode_payload

START_TIMEOUT_S = 10.0

_log = get_logger(__name__)


class EmbeddedRouter:
    """Calls deployments from inside a Python process. One per process and event loop is enough.

    Every ``timeout_s`` is for the whole call, waiting included; None means no end, which is to be said explicitly.

    Args:
        controller_address: ``host:port`` of the controller.
        max_message_bytes: The largest message that passes.
        router_id: Unique for this process; made up unless given.
        start_timeout_s: Seconds that ``start`` waits for the first table.
    """

    def __init__(
        self,
        controller_address: str,
        *,
        max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES,
        router_id: str = "",
        start_timeout_s: float = START_TIMEOUT_S,
    ) -> None:
        self._tasks = Supervisor("embedded router", on_crash=self._crashed)
        self._crash: BaseException | None = None
        self._deadlines: Deadlines | None = None
        self._start_timeout_s = start_timeout_s
        self.router = Router(
            router_id=RouterId(router_id or f"embedded-{os.getpid()}-{uuid.uuid4().hex[:8]}"),
            tasks=self._tasks,
            max_message_bytes=max_message_bytes,
        )
        self._watcher = Watcher(
            self.router,
            controller_address,
            unit_random=random.Random().random,
            max_message_bytes=max_message_bytes,
        )
        self._calls = Calls(self.router, self._tasks)
        self._broadcasts = Broadcasts(self.router, self._calls)

    async def start(self) -> None:
        """Subscribes to the controller and waits for the first table.

        Raises:
            ControllerUnreachableError: No table came in time. Nothing is left running.
        """
        self._tasks.open()
        self._tasks.spawn(self._watcher.run(), name="watch endpoints")
        try:
            await self._watcher.synced(self._start_timeout_s)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Ends everything, calls that run included."""
        try:
            await self.router.close()
        finally:
            await self._tasks.close()

    async def wait_for(self, application: str, deployment: str = "", *, timeout_s: float | None) -> DeploymentRoute:
        """Waits until a deployment is in the table, such as right after it was deployed.

        Raises:
            DeploymentUnknownError: It is not within ``timeout_s``.
            DeploymentUnavailableError: It is there, and has nothing ready and nothing coming.
        """
        deadline = deadline_of(timeout_s)
        while True:
            try:
                return self.router.resolve(application, deployment)
            except DeploymentUnknownError:
                if not await self.router.routes_changed(deadline):
                    raise

    async def call(
        self,
        application: str,
        deployment: str,
        method: str,
        arguments: Payload,
        *,
        timeout_s: float | None,
        slots: int = 1,
        request_id: str = "",
        slot_token: str = "",
    ) -> Payload:
        """Calls a method with one answer.

        Args:
            application: The application.
            deployment: The deployment; empty means the application's ingress.
            method: The method; empty means ``__call__``.
            arguments: Its arguments.
            timeout_s: Seconds for the whole call; None means no end.
            slots: What the call weighs.
            request_id: The caller's name for it, for logs and traces.
            slot_token: A token that was reserved for it.

        Raises:
            ServeError: As the catalogue has it; ApplicationError for what the user's code raised.
            TimeoutError: It ran when the time was over.
        """
        request = make_request(method, arguments, slots=slots, request_id=request_id, slot_token=slot_token)
        key = self.key_of(application, deployment)
        try:
            response, _ = await self._calls.unary(key, request, budget_of(timeout_s))
        except grpc.aio.AioRpcError as error:
            raise_foreign(error, timeout_s)
        return decode_payload(response.result, field="result")

    async def stream(
        self,
        application: str,
        deployment: str,
        method: str,
        arguments: Payload,
        *,
        timeout_s: float | None,
        items: AsyncIterable[Payload] | None = None,
        slots: int = 1,
        request_id: str = "",
        slot_token: str = "",
    ) -> AsyncGenerator[Payload, None]:
        """Calls a method that streams: ``items`` go to its stream parameter, and what it yields comes out.

        Leaving the iteration early cancels the call; ``contextlib.aclosing`` sees to it at once. Otherwise as ``call``.
        """
        request = make_request(method, arguments, slots=slots, request_id=request_id, slot_token=slot_token)
        budget = budget_of(timeout_s)
        answers = self._calls.stream(self.key_of(application, deployment), request, encoded_items(items), budget)
        try:
            async with aclosing(answers):
                async for answer in answers:
                    yield decode_payload(answer, field="item")
        except grpc.aio.AioRpcError as error:
            raise_foreign(error, timeout_s)

    def choose_replica(
        self,
        application: str,
        deployment: str,
        *,
        timeout_s: float | None,
        slots: int = 1,
        ttl_s: float | None = None,
        request_id: str = "",
    ) -> AbstractAsyncContextManager[ReplicaSelection]:
        """Waits until a replica has promised slots, and says which one, for a block.

        The lease is renewed inside the block, until ``timeout_s`` is over. Leaving without a dispatch or a ticket
        releases it.

        Args:
            application: The application.
            deployment: The deployment; empty means the application's ingress.
            timeout_s: Seconds until the dispatch has to be made; None means no end.
            slots: Slots to promise.
            ttl_s: The lease's time to live; None means the deployment's default.
            request_id: The same id again gets the same token while that lives.

        Raises:
            ServeError: As the catalogue has it.
        """
        return Choice(
            self,
            application,
            deployment,
            timeout_s=timeout_s,
            slots=slots,
            ttl_s=ttl_s,
            request_id=request_id,
        )

    @asynccontextmanager
    async def choose_gang(
        self,
        application: str,
        deployment: str,
        *,
        timeout_s: float | None,
        slots: int = 1,
        ttl_s: float | None = None,
        request_id: str = "",
    ) -> AsyncIterator[GangSelection]:
        """Waits until every member of a gang has promised slots, and says who they are; otherwise as ``choose_replica``.

        Raises:
            ServeError: As the catalogue has it.
        """
        deadline = deadline_of(timeout_s)
        key = self.key_of(application, deployment)
        gangs = self.router.gangs
        async with gangs.hold(key, slots=slots, ttl_s=ttl_s, request_id=request_id, deadline=deadline) as held:
            selection = GangSelection(held, self.router, ttl_s=ttl_s, renew_until=deadline)
            keeping = Keeping()
            self.keep(selection, keeping)
            try:
                yield selection
            finally:
                keeping.end()

    def keep(self, selection: Selection, keeping: Keeping) -> None:
        """Has a block that begins keep what was chosen for it: its lease is renewed until ``keeping.end()``."""
        if self._deadlines is None:
            self._deadlines = Deadlines(asyncio.get_running_loop())
        keeping.begin(selection, self._tasks, self._deadlines)

    def check_target(self, application: str, deployment: str, target: Selection | Ticket) -> None:
        """Refuses a selection or ticket of another deployment; it stays good for its own.

        Raises:
            SlotUnknownError: It was chosen for another deployment.
        """
        key = self.key_of(application, deployment)
        chosen = target.key
        if chosen != key:
            raise SlotUnknownError(
                f"the replica was chosen for {chosen}, not for {key}: dispatch with a handle of {chosen}",
                details={"replicaId": target.replica_id, "deployment": str(key)},
            )

    def dispatch(
        self,
        target: Selection | Ticket,
        method: str,
        arguments: Payload,
        *,
        timeout_s: float | None,
        request_id: str = "",
    ) -> Awaitable[Payload]:
        """Calls a method with one answer on the chosen replica.

        The selection is used up by this very call, also when what it returns is awaited later.

        Raises:
            SlotConsumedError: At once: the selection was used before.
            SlotError, ReplicaUnavailableError, ApplicationError, TimeoutError: Once awaited.
        """
        request = request_for(target, method, arguments, request_id)
        return self._dispatch(target, request, timeout_s)

    def dispatch_stream(
        self,
        target: Selection | Ticket,
        method: str,
        arguments: Payload,
        *,
        timeout_s: float | None,
        items: AsyncIterable[Payload] | None = None,
        request_id: str = "",
    ) -> AsyncGenerator[Payload, None]:
        """Calls a method that streams on the chosen replica; otherwise as ``dispatch`` and ``stream``."""
        request, key = request_for(target, method, arguments, request_id), target.key
        return self.stream(
            key.application,
            key.deployment,
            method,
            arguments,
            timeout_s=timeout_s,
            items=items,
            request_id=request_id,
            slot_token=request.slot_token,
        )

    async def broadcast(
        self,
        application: str,
        deployment: str,
        method: str,
        arguments: Payload,
        *,
        timeout_s: float | None,
        slots: int = 1,
        request_id: str = "",
    ) -> list[MemberReply]:
        """Calls a method on every member of a gang at once, once all of them have promised slots.

        Returns:
            What each member answered, by rank: a result or an error of its own.

        Raises:
            ServeError: No whole gang could be had, so nobody was called.
        """
        request = make_request(method, arguments, slots=slots, request_id=request_id, slot_token="")
        return await self._broadcast(self.key_of(application, deployment), request, timeout_s)

    def dispatch_broadcast(
        self,
        target: Selection | Ticket,
        method: str,
        arguments: Payload,
        *,
        timeout_s: float | None,
        request_id: str = "",
    ) -> Awaitable[list[MemberReply]]:
        """Calls a method on every member of the chosen gang; otherwise as ``dispatch`` and ``broadcast``."""
        if isinstance(target, ReplicaSelection) and target.gang.size > 1:
            raise SlotUnknownError(
                f"replica {target.replica_id} was chosen alone, not its gang: choose the gang",
                details={"replicaId": target.replica_id, "gangId": target.gang.gang_id},
            )
        request = request_for(target, method, arguments, request_id)
        return self._broadcast(target.key, request, timeout_s)

    async def _broadcast(
        self, key: DeploymentKey, request: replica_pb2.DispatchRequest, timeout_s: float | None
    ) -> list[MemberReply]:
        answers = await self._broadcasts.call(key, request, budget_of(timeout_s))
        return [reply_of(answer, timeout_s) for answer in answers]

    async def _dispatch(
        self, target: Selection | Ticket, request: replica_pb2.DispatchRequest, timeout_s: float | None
    ) -> Payload:
        budget = budget_of(timeout_s)
        upstream = None if isinstance(target, Ticket) else target.upstream
        try:
            if upstream is not None and self.router.is_current(upstream):
                response = await self._calls.dispatch_at_holder(upstream, request, budget)
            else:
                response, _ = await self._calls.unary(target.key, request, budget)
        except grpc.aio.AioRpcError as error:
            raise_foreign(error, timeout_s)
        return decode_payload(response.result, field="result")

    def key_of(self, application: str, deployment: str) -> DeploymentKey:
        """The deployment; without a name, the application's ingress. Raises as ``Router.resolve``."""
        if self._crash is not None:
            raise RuntimeError("the embedded router has crashed, see the log") from self._crash
        return self.router.resolve(application, deployment).key

    def _crashed(self, error: BaseException) -> None:
        self._crash = error
        _log.error("the embedded router has crashed", exc_info=error)
