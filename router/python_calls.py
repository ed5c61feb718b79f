"""The calls of Python code: as the router takes them, and what becomes of them as Python code takes that."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable
from typing import NamedTuple, NoReturn

import grpc
import grpc.aio

from router.broadcast import MemberAnswer
from router.calls import Budget
from router.selection import Selection, Ticket
from serve_core.errors import ApplicationError, Code, ServeError
from serve_core.model.payload import Payload
from serve_core.model.replica import Replica
from serve_core.runtime.clock import monotonic
from serve_core.v1 import replica_pb2, types_pb2
from serve_core.wire.payload import decode_payload, encode_payload, fill_payload


class MemberReply(NamedTuple):
    """What one member of a gang answered to a broadcast: what it returned, or why it did not."""

    replica: Replica
    outcome: Payload | ServeError | TimeoutError


def make_request(
    method: str, arguments: Payload, *, slots: int, request_id: str, slot_token: str
) -> replica_pb2.DispatchRequest:
    """The request of a call."""
    request = replica_pb2.DispatchRequest()  # Fields set one by one cost a third of what they do as arguments.
    request.method = method
    if slots:
        request.slots = slots
    if request_id:
        request.request_id = request_id
    if slot_token:
        request.slot_token = slot_token
    fill_payload(request.arguments, arguments)
    return request


def request_for(
    target: Selection | Ticket, method: str, arguments: Payload, request_id: str
) -> replica_pb2.DispatchRequest:
    """The request of a call on what was chosen, which is used up from now on."""
    token = target.slot_token if isinstance(target, Ticket) else target.take()
    return make_request(method, arguments, slots=0, request_id=request_id, slot_token=token)


def deadline_of(timeout_s: float | None) -> float | None:
    """The monotonic time at which so many seconds are over; None is no end."""
    return None if timeout_s is None else monotonic() + timeout_s


def budget_of(timeout_s: float | None) -> Budget:
    """The time limits of a call that may wait for a slot until its end."""
    deadline = None if timeout_s is None else monotonic() + timeout_s
    return Budget(deadline, deadline)


def encoded_items(items: AsyncIterable[Payload] | None) -> AsyncGenerator[types_pb2.Payload, None] | None:
    """The messages of streamed arguments."""

    async def encoded(items: AsyncIterable[Payload]) -> AsyncGenerator[types_pb2.Payload, None]:
        async for item in items:
            yield encode_payload(item)

    return None if items is None else encoded(items)


def reply_of(answer: MemberAnswer, timeout_s: float | None) -> MemberReply:
    """What a member answered, for Python code."""
    if answer.result is not None:
        return MemberReply(answer.replica, decode_payload(answer.result, field="result"))
    error = answer.error
    assert error is not None
    return MemberReply(answer.replica, error if isinstance(error, ServeError) else _foreign(error, timeout_s))


def raise_foreign(error: grpc.aio.AioRpcError, timeout_s: float | None) -> NoReturn:
    """Raises what a status means that is none of ours."""
    raise _foreign(error, timeout_s) from error


def _foreign(error: grpc.aio.AioRpcError, timeout_s: float | None) -> ApplicationError | TimeoutError:
    """What a status that is none of ours means to Python code."""
    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return TimeoutError(f"the call did not end within {timeout_s} s")
    return ApplicationError(error.details() or error.code().name, code=Code[error.code().name])
