"""A user's own gRPC service, as a replica serves it, and a wire to it that can be measured and cut."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import grpc.aio
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]

from serve_core.errors import DrainingError, NoSlotError, ServeError
from serve_core.model.load import Load
from serve_core.model.replica import Method, MethodKind, UserService
from serve_core.wire.errors import abort
from serve_core.wire.metadata import LOAD_KEY, REPLICA_KEY, format_load

SERVICE = "test.v1.Echo"
USER_SERVICE = UserService(
    SERVICE,
    (
        Method("Unary", MethodKind.UNARY),
        Method("Count", MethodKind.SERVER_STREAM),
        Method("Join", MethodKind.CLIENT_STREAM),
        Method("Chat", MethodKind.BIDI_STREAM),
    ),
)

Context = grpc.aio.ServicerContext[bytes, bytes]


class EchoService(grpc.GenericRpcHandler):
    """Echoes. The metadata key ``act`` says what else it does."""

    def __init__(self, replica_id: str = "r1") -> None:
        self.proof = ((REPLICA_KEY, replica_id), (LOAD_KEY, format_load(Load(0, 0, 8))))
        self.calls: list[dict[str, Any]] = []
        self.metadata: list[tuple[tuple[str, Any], ...]] = []
        self.remaining_s: list[float | None] = []
        self.refusals: list[ServeError] = []
        self.entered = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.sent = 0
        self.received = 0
        self.go_on = asyncio.Event()
        self.answer: Callable[[bytes], bytes] = lambda request: request

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes] | None:
        service, _, name = handler_call_details.method.removeprefix("/").partition("/")
        if service != SERVICE:
            return None
        if name == "Unary":
            return grpc.unary_unary_rpc_method_handler(self.unary)
        if name == "Count":
            return grpc.unary_stream_rpc_method_handler(self.count)
        if name == "Join":
            return grpc.stream_unary_rpc_method_handler(self.join)
        return grpc.stream_stream_rpc_method_handler(self.chat)

    async def unary(self, request: bytes, context: Context) -> bytes:
        await self.act(context)
        return self.answer(request)

    async def count(self, request: bytes, context: Context) -> None:
        await self.act(context)
        number, size = (int(part) for part in request.split(b","))
        for index in range(number):
            await context.write(b"%d:" % index + b"x" * size)
            self.sent += 1
        await self.act_late(context)

    async def join(self, requests: AsyncIterator[bytes], context: Context) -> bytes:
        await self.act(context)
        parts = []
        async for request in requests:
            self.received += 1
            parts.append(request)
        return b"|".join(parts)

    async def chat(self, requests: AsyncIterator[bytes], context: Context) -> None:
        await self.act(context)
        async for request in requests:
            self.received += 1
            await context.write(self.answer(request))
        await self.act_late(context)

    async def act(self, context: Context) -> None:
        pairs = tuple((key, value) for key, value in context.invocation_metadata() or ())
        self.metadata.append(pairs)
        self.calls.append(dict(pairs))
        self.remaining_s.append(context.time_remaining())
        context.set_trailing_metadata((*self.proof, ("seen", "yes"), ("seen", "twice"), ("data-bin", b"\0\xff")))
        if self.refusals:
            await abort(context, self.refusals.pop(0), extra_trailers=self.proof)
        match self.calls[-1].get("act"):
            case "initial":
                await context.send_initial_metadata((("first", "1"), ("first-bin", b"\0")))
            case "initial-then-wait":
                await context.send_initial_metadata((("first", "1"),))
                await self.hang()
            case "fail":
                await self.fail(context)
            case "fail-after-initial":
                await context.send_initial_metadata((("first", "1"),))
                await self.fail(context)
            case "hang":
                await self.hang()
            case "gzip":
                context.set_compression(grpc.Compression.Gzip)
                await context.send_initial_metadata(())
            case "cancel":
                await context.abort(grpc.StatusCode.CANCELLED, "changed my mind", self.proof)

    async def act_late(self, context: Context) -> None:
        match self.calls[-1].get("act"):
            case "fail-late":
                await self.fail(context)
            case "refuse-late":
                await abort(context, DrainingError("no time left"), extra_trailers=self.proof)
            case "hang-late":
                await self.hang()

    async def fail(self, context: Context) -> None:
        details = Status(code=grpc.StatusCode.ALREADY_EXISTS.value[0], message="mine").SerializeToString()
        trailers = (*self.proof, ("grpc-status-details-bin", details), ("own", "a"), ("own", "b"))
        await context.abort(grpc.StatusCode.ALREADY_EXISTS, "mine: \u00e9", trailers)

    async def hang(self) -> None:
        self.entered.set()
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise


def full(replica_id: str = "r1") -> NoSlotError:
    return NoSlotError(f"{replica_id} is full", details={"replicaId": replica_id})


class Wire:
    """A TCP relay: counts what passes towards the replica and back, and can be cut."""

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._server: asyncio.Server | None = None
        self._transports: set[asyncio.WriteTransport] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._is_cut = False
        self.sent = 0
        self.received = 0
        self.address = ""

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def cut(self) -> None:
        """Everything through it breaks, for good, as when the replica's process dies."""
        self._is_cut = True
        for transport in self._transports:
            transport.abort()

    async def close(self) -> None:
        self.cut()
        if self._server is not None:
            self._server.close()
        if self._tasks:
            await asyncio.wait(tuple(self._tasks))
        if self._server is not None:
            await self._server.wait_closed()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if self._is_cut:
            writer.transport.abort()
            return
        try:
            there = await asyncio.open_connection(*self._target)
        except OSError:
            writer.transport.abort()
            return
        self._transports |= {writer.transport, there[1].transport}
        await asyncio.gather(self._pump(reader, there[1], "sent"), self._pump(there[0], writer, "received"))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, counter: str) -> None:
        try:
            while data := await reader.read(65536):
                setattr(self, counter, getattr(self, counter) + len(data))
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.transport.abort()
