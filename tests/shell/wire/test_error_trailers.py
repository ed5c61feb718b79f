"""Errors through a real gRPC connection."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest

from serve_core.errors import ApplicationError, NoSlotError, ServeError
from serve_core.wire.errors import abort, decode_error
from serve_core.wire.metadata import LOAD_KEY, REPLICA_KEY

METHOD = "/test.Service/Fail"


class Failing:
    """A service whose one method fails as it is told."""

    def __init__(self) -> None:
        self.error: ServeError = NoSlotError("full")

    async def fail(self, _request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        """Fails."""
        context.set_trailing_metadata((("x-user", "kept"),))
        await abort(context, self.error, extra_trailers=((REPLICA_KEY, "r-0"), (LOAD_KEY, "1,0,1")))

    def service(self, _details: Any) -> grpc.RpcMethodHandler[bytes, bytes]:
        """The handler of every method."""
        return grpc.unary_unary_rpc_method_handler(self.fail)


class Handler(grpc.GenericRpcHandler):
    """Sends every call to ``Failing``."""

    def __init__(self, failing: Failing) -> None:
        self._failing = failing

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any]:
        """The handler of a call."""
        return self._failing.service(handler_call_details)


@pytest.fixture
async def failing() -> AsyncIterator[tuple[Failing, grpc.aio.Channel]]:
    """A server that fails, and a channel to it."""
    server = grpc.aio.server()
    service = Failing()
    server.add_generic_rpc_handlers((Handler(service),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield service, channel
    await server.stop(None)


async def call(channel: grpc.aio.Channel) -> grpc.aio.AioRpcError:
    multicallable: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(METHOD)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await multicallable(b"", timeout=30)
    return caught.value


async def test_error_arrives_beside_the_trailers_of_user_and_replica(failing: tuple[Failing, grpc.aio.Channel]) -> None:
    service, channel = failing
    service.error = NoSlotError("füll %", details={"a": "b"}, retry_after_s=0.5)
    error = await call(channel)
    trailers = dict(error.trailing_metadata() or ())
    assert trailers["x-user"] == "kept"
    assert trailers[REPLICA_KEY] == "r-0"
    assert trailers[LOAD_KEY] == "1,0,1"
    assert trailers["grpc-retry-pushback-ms"] == "500"
    decoded = decode_error(error)
    assert type(decoded) is NoSlotError
    assert decoded.message == "füll %"
    assert decoded.details == {"a": "b"}


async def test_longest_error_is_never_refused_by_the_transport(failing: tuple[Failing, grpc.aio.Channel]) -> None:
    service, channel = failing
    service.error = ApplicationError(
        "ä" * 9999,
        details={str(index): "%" * 999 for index in range(99)},
        remote_type="builtins:ValueError",
        remote_traceback="\n" * 99_999,
        replica_id="r" * 999,
    )
    # gRPC refuses too long trailers at random, so that one call would prove little.
    for _ in range(100):
        error = decode_error(await call(channel))
        assert isinstance(error, ApplicationError)
        assert isinstance(error, ValueError)
