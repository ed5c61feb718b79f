"""Errors as HTTP tells them: a status, and a JSON body that says what a gRPC caller would be told."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import TypeAlias

import grpc.aio

from serve_core.errors import ApplicationError, Code, ConfigInvalidError, Reason, ServeError

CLIENT_CLOSED_REQUEST = 499
RETRY_AFTER_DEFAULT_S = 1.0

STATUS_OF_CODE: Mapping[Code, int] = {
    Code.CANCELLED: CLIENT_CLOSED_REQUEST,
    Code.UNKNOWN: 500,
    Code.INVALID_ARGUMENT: 400,
    Code.DEADLINE_EXCEEDED: 504,
    Code.NOT_FOUND: 404,
    Code.ALREADY_EXISTS: 409,
    Code.PERMISSION_DENIED: 403,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.FAILED_PRECONDITION: 400,
    Code.ABORTED: 409,
    Code.OUT_OF_RANGE: 400,
    Code.UNIMPLEMENTED: 501,
    Code.INTERNAL: 500,
    Code.UNAVAILABLE: 503,
    Code.DATA_LOSS: 500,
    Code.UNAUTHENTICATED: 401,
}
"""The HTTP status of each gRPC code, as gRPC gateways map them."""

_STATUS_OF_REASON: Mapping[Reason, int] = {Reason.MESSAGE_TOO_LARGE: 413}

CallError: TypeAlias = ServeError | grpc.aio.AioRpcError
"""What a call may end in: an error of the catalogue, or a status that is none of ours, such as a deadline's end."""


def code_of(error: CallError) -> Code:
    """The gRPC code of an error."""
    return error.code if isinstance(error, ServeError) else Code[error.code().name]


def status_of(error: CallError) -> int:
    """The HTTP status that an error travels as."""
    if isinstance(error, ServeError) and error.reason in _STATUS_OF_REASON:
        return _STATUS_OF_REASON[error.reason]
    return STATUS_OF_CODE[code_of(error)]


def body_of(error: CallError) -> bytes:
    """The JSON text of an error: ``{"error": {"reason", "code", "message", "details"}}``.

    The reason of a status that is none of ours is its code.
    """
    code = code_of(error).value
    if isinstance(error, grpc.aio.AioRpcError):
        return _json({"reason": code, "code": code, "message": error.details() or code, "details": {}})
    described: dict[str, object] = {
        "reason": error.reason.value,
        "code": code,
        "message": error.message,
        "details": _details(error),
    }
    if isinstance(error, ConfigInvalidError):
        described["violations"] = [
            {"field": violation.field, "description": violation.description} for violation in error.violations
        ]
    return _json(described)


def headers_of(error: CallError) -> dict[str, str]:
    """``Retry-After``, in whole seconds, where another try makes sense later."""
    if status_of(error) not in (429, 503):
        return {}
    hint_s = error.retry_after_s if isinstance(error, ServeError) else None
    seconds = RETRY_AFTER_DEFAULT_S if hint_s is None else hint_s
    return {"Retry-After": str(max(0, math.ceil(seconds)))}


def _json(described: dict[str, object]) -> bytes:
    return json.dumps({"error": described}).encode()


def _details(error: ServeError) -> dict[str, str]:
    details = dict(error.details)
    if isinstance(error, ApplicationError):
        # The traceback stays with the operator: an HTTP caller may be anybody.
        told = {"remoteType": error.remote_type, "replicaId": error.replica_id}
        details |= {name: value for name, value in told.items() if value}
    return details
