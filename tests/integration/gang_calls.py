"""Calls of gangs as a client in any language makes them: plain gRPC, without anything of serve-core but the messages."""

from __future__ import annotations

from typing import Any

import msgspec

from bench.operating import APPLICATION
from serve_core.v1 import router_pb2, router_pb2_grpc
from serve_core.wire.codec import encode_arguments
from serve_core.wire.payload import encode_payload

TIMEOUT_S = 60.0
NOTHING = encode_payload(encode_arguments((), {}))


async def reserve(stub: router_pb2_grpc.RouterServiceAsyncStub) -> router_pb2.ReserveGangResponse:
    """A promise of a whole gang."""
    return await stub.ReserveGang(router_pb2.ReserveGangRequest(application=APPLICATION), timeout=TIMEOUT_S)


async def broadcast(
    stub: router_pb2_grpc.RouterServiceAsyncStub, method: str, *, token: str = ""
) -> list[dict[str, Any]]:
    """What every member of a gang answers, by rank."""
    request = router_pb2.BroadcastRequest(application=APPLICATION, method=method, arguments=NOTHING, slot_token=token)
    answer = await stub.Broadcast(request, timeout=TIMEOUT_S)
    assert [one.rank for one in answer.results] == list(range(len(answer.results)))
    assert all(one.WhichOneof("outcome") == "result" for one in answer.results), answer
    return [msgspec.msgpack.decode(one.result.data) for one in answer.results]


async def dispatch(stub: router_pb2_grpc.RouterServiceAsyncStub, method: str, *, token: str = "") -> dict[str, Any]:
    """What one replica answers: with a token of a gang, its leader."""
    request = router_pb2.RouterServiceDispatchRequest(
        application=APPLICATION, method=method, arguments=NOTHING, slot_token=token
    )
    answer = await stub.Dispatch(request, timeout=TIMEOUT_S)
    decoded: dict[str, Any] = msgspec.msgpack.decode(answer.result.data)
    return decoded
