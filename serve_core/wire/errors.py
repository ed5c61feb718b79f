"""Errors to and from a gRPC status with ``google.rpc`` details."""

from __future__ import annotations

import functools
import traceback
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, NamedTuple, NoReturn, TypeVar

import grpc
import grpc.aio
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError, Message
from google.rpc.code_pb2 import Code as CodeNumber  # type: ignore[import-untyped]
from google.rpc.error_details_pb2 import BadRequest, DebugInfo, ErrorInfo, RetryInfo  # type: ignore[import-untyped]
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]

from serve_core.errors import (
    DOMAIN,
    ERROR_TYPES,
    ApplicationError,
    CapacityError,
    Code,
    ConfigInvalidError,
    FieldViolation,
    Reason,
    ServeError,
)
from serve_core.v1 import router_pb2
from serve_core.wire.fields import decode_duration, encode_duration
from serve_core.wire.remote_types import as_remote_type, type_name

DETAILS_KEY = "grpc-status-details-bin"
PUSHBACK_KEY = "grpc-retry-pushback-ms"

# gRPC starts to refuse trailers at 8 KiB. The message travels in them twice, once percent-encoded, and the details as
# base64; with the limits below all of it stays under 7 KiB, which leaves room for the trailers of a user's service.
_MESSAGE_ENCODED_BYTES = 1024
_VALUE_BYTES = 256
_VALUES_BYTES = 1024
_VIOLATIONS_BYTES = 1536
_TRACEBACK_BYTES = 2048

_CUT = "…"
_REMOTE_TYPE = "remoteType"
_REPLICA_ID = "replicaId"
_KEPT_TRACEBACK_CHARS = 16_384

_GRPC_CODES: Mapping[Code, grpc.StatusCode] = {code: grpc.StatusCode[code.name] for code in Code}
_CODES: Mapping[grpc.StatusCode, Code] = {status: code for code, status in _GRPC_CODES.items()}
# Frames of those who call user code say nothing to its author.
_OUR_PACKAGES = frozenset({"replica", "serve_core", "concurrent", "asyncio"})

M = TypeVar("M", bound=Message)
Trailers = tuple[tuple[str, str | bytes], ...]


class EncodedError(NamedTuple):
    """An error as gRPC takes it."""

    code: grpc.StatusCode
    message: str
    trailing_metadata: Trailers


def grpc_code(code: Code) -> grpc.StatusCode:
    """gRPC's own constant for a code."""
    return _GRPC_CODES[code]


def encode_error(error: ServeError) -> EncodedError:
    """The status, message and trailers of an error.

    What is too long for trailers is cut: texts at their end, a traceback at its beginning, violations after the first
    ones, with a last one that counts the rest.
    """
    if isinstance(error, CapacityError):  # refusals are frequent, alike, and on the way of other requests
        return _encode_refusal(error.reason, error.message, tuple(error.details.items()), error.retry_after_s)
    return _encode(error)


async def abort(
    context: grpc.aio.ServicerContext[Any, Any],
    error: ServeError,
    *,
    extra_trailers: Sequence[tuple[str, str | bytes]] = (),
) -> NoReturn:
    """Ends the call of ``context`` with an error. Trailers that were already set are kept.

    Raises:
        grpc.aio.AbortError: Always; gRPC catches it.
    """
    code, message, trailers = encode_error(error)
    earlier = tuple(context.trailing_metadata() or ())
    await context.abort(code, message, (*earlier, *extra_trailers, *trailers))


def decode_error(error: grpc.aio.AioRpcError) -> ServeError | None:
    """The error that a status tells of, or None if its sender is not serve-core or is too new.

    An ApplicationError whose remote type is loaded here is an instance of that type as well.
    """
    details = _status_details(error.trailing_metadata())
    info = details.first(ErrorInfo)
    if info is None or info.domain != DOMAIN or info.reason not in ERROR_TYPES:
        return None
    message = error.details() or ""
    if info.reason == Reason.APPLICATION_ERROR:
        return _decode_application_error(message, error.code(), info, details)
    decoded = _plain(ERROR_TYPES[Reason(info.reason)], message, details)
    decoded.details = dict(info.metadata)
    retry = details.first(RetryInfo)
    if retry is not None:
        decoded.retry_after_s = decode_duration(retry.retry_delay)
    return decoded


def encode_call_failure(error: ServeError | grpc.aio.AioRpcError) -> router_pb2.CallFailure:
    """How one of several calls ended, for an answer that tells of all of them."""
    if isinstance(error, grpc.aio.AioRpcError):
        return router_pb2.CallFailure(code=error.code().value[0], message=_cut_message(error.details() or ""))
    details = _cut_values(error.details)
    if isinstance(error, ApplicationError):
        details[_REMOTE_TYPE] = _cut(error.remote_type, _VALUE_BYTES)
        details[_REPLICA_ID] = _cut(error.replica_id, _VALUE_BYTES)
    return router_pb2.CallFailure(
        code=CodeNumber.Value(error.code.name),
        message=_cut_message(error.message),
        reason=error.reason,
        details=details,
    )


def from_exception(exc: BaseException, *, replica_id: str) -> ApplicationError:
    """The ApplicationError that tells of an exception of user code.

    A code that the exception carries is kept: its ``code``, be it a Code, a ``grpc.StatusCode``, or, on a
    ``grpc.RpcError``, a method. An exception that came from another replica keeps its origin.
    """
    details = exc.details if isinstance(exc, ServeError) else {}
    result = ApplicationError(
        _message_of(exc),
        code=_code_of(exc),
        details=details,
        remote_type=type_name(type(exc)),
        remote_traceback=_traceback_of(exc),
        replica_id=replica_id,
    )
    if isinstance(exc, ApplicationError) and exc.remote_type:
        result.remote_type, result.replica_id = exc.remote_type, exc.replica_id or replica_id
    return result


@functools.lru_cache(maxsize=512)
def _encode_refusal(
    reason: Reason, message: str, details: tuple[tuple[str, str], ...], retry_after_s: float | None
) -> EncodedError:
    return _encode(ERROR_TYPES[reason](message, details=dict(details), retry_after_s=retry_after_s))


def _encode(error: ServeError) -> EncodedError:
    code = error.code
    message = _cut_message(error.message)
    metadata = _cut_values(error.details)
    parts: list[Message] = [ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=metadata)]
    trailers: Trailers = ()
    if isinstance(error, ApplicationError):
        parts[0] = ErrorInfo(
            reason=error.reason,
            domain=DOMAIN,
            metadata={
                **metadata,
                _REMOTE_TYPE: _cut(error.remote_type, _VALUE_BYTES),
                _REPLICA_ID: _cut(error.replica_id, _VALUE_BYTES),
            },
        )
        if error.remote_traceback:
            parts.append(DebugInfo(detail=_cut_front(error.remote_traceback, _TRACEBACK_BYTES)))
    if isinstance(error, ConfigInvalidError):
        parts.append(BadRequest(field_violations=_cut_violations(error.violations)))
    if error.retry_after_s is not None:
        parts.append(RetryInfo(retry_delay=encode_duration(error.retry_after_s)))
        trailers = ((PUSHBACK_KEY, str(max(0, round(error.retry_after_s * 1000)))),)
    status = Status(code=CodeNumber.Value(code.name), message=message)
    for part in parts:
        status.details.add().Pack(part)
    return EncodedError(_GRPC_CODES[code], message, ((DETAILS_KEY, status.SerializeToString()), *trailers))


class _Details:
    """The details of a status, by type."""

    def __init__(self, packed: Sequence[AnyMessage]) -> None:
        self._packed = packed

    def first(self, cls: type[M]) -> M | None:
        """The first detail of a type."""
        for packed in self._packed:
            if packed.TypeName() == cls.DESCRIPTOR.full_name:
                message = cls()
                try:
                    packed.Unpack(message)
                except DecodeError:
                    return None
                return message
        return None


def _status_details(trailers: Any) -> _Details:
    for key, value in trailers or ():
        if key == DETAILS_KEY:
            try:
                return _Details(Status.FromString(value).details)
            except DecodeError:
                break
    return _Details(())


def _plain(cls: type[ServeError], message: str, details: _Details) -> ServeError:
    """An error of a class with the message that was received, whatever its constructor would make of it."""
    if not issubclass(cls, ConfigInvalidError):
        return cls(message)
    request = details.first(BadRequest) or BadRequest()
    error = cls([FieldViolation(violation.field, violation.description) for violation in request.field_violations])
    error.message, error.args = message, (message,)
    return error


def _decode_application_error(
    message: str, status: grpc.StatusCode, info: ErrorInfo, details: _Details
) -> ApplicationError:
    metadata = dict(info.metadata)
    debug = details.first(DebugInfo)
    error = ApplicationError(
        message,
        code=_CODES.get(status, Code.UNKNOWN),
        remote_type=metadata.pop(_REMOTE_TYPE, ""),
        replica_id=metadata.pop(_REPLICA_ID, ""),
        remote_traceback="" if debug is None else debug.detail,
        details=metadata,
    )
    error = as_remote_type(error)
    if error.remote_traceback:
        error.add_note(f"Raised by replica {error.replica_id or 'unknown'}:\n{error.remote_traceback.rstrip()}")
    return error


def _message_of(exc: BaseException) -> str:
    try:
        text = exc.details() if isinstance(exc, grpc.aio.AioRpcError) else str(exc)
        return text or type(exc).__name__
    except Exception as nested:  # noqa: BLE001 - user code
        return f"{type(exc).__name__} (its text raised {type(nested).__name__})"


def _code_of(exc: BaseException) -> Code:
    try:
        code = getattr(exc, "code", None)
        if isinstance(exc, grpc.RpcError) and callable(code):
            code = code()
    except Exception:  # noqa: BLE001 - user code
        return Code.UNKNOWN
    if isinstance(code, Code):
        return code
    return _CODES.get(code, Code.UNKNOWN) if isinstance(code, grpc.StatusCode) else Code.UNKNOWN


def _traceback_of(exc: BaseException) -> str:
    frames: TracebackType | None = exc.__traceback__
    while frames is not None and frames.tb_next is not None and _is_ours(frames):
        frames = frames.tb_next
    try:
        text = "".join(traceback.format_exception(type(exc), exc, frames))
    except Exception as nested:  # noqa: BLE001 - user code
        text = f"{type_name(type(exc))} (its traceback raised {type(nested).__name__})"
    return text[-_KEPT_TRACEBACK_CHARS:]


def _is_ours(frames: TracebackType) -> bool:
    return str(frames.tb_frame.f_globals.get("__name__", "")).partition(".")[0] in _OUR_PACKAGES


def _clean(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")  # a lone surrogate is no UTF-8


def _cut(text: str, limit: int) -> str:
    raw = _clean(text[: limit + 1])
    return raw.decode() if len(raw) <= limit else raw[: limit - 3].decode("utf-8", "ignore") + _CUT


def _cut_front(text: str, limit: int) -> str:
    raw = _clean(text[-limit - 1 :])
    return raw.decode() if len(raw) <= limit else _CUT + raw[3 - limit :].decode("utf-8", "ignore")


def _cut_message(message: str) -> str:
    if len(message) * 3 <= _MESSAGE_ENCODED_BYTES and message.isascii():
        return message
    size = 0
    raw = _clean(message[: _MESSAGE_ENCODED_BYTES + 1])
    for index, byte in enumerate(raw):
        size += 1 if 0x20 <= byte <= 0x7E and byte != 0x25 else 3  # as gRPC percent-encodes it
        if size > _MESSAGE_ENCODED_BYTES:
            return raw[: max(0, index - 9)].decode("utf-8", "ignore") + _CUT
    return raw.decode()


def _cut_values(details: Mapping[str, str]) -> dict[str, str]:
    kept: dict[str, str] = {}
    left = _VALUES_BYTES
    for key, value in details.items():
        short_key, short = _cut(key, _VALUE_BYTES), _cut(value, _VALUE_BYTES)
        left -= len(_clean(short_key)) + len(_clean(short))
        if left < 0:
            break
        kept[short_key] = short
    return kept


def _cut_violations(violations: Sequence[FieldViolation]) -> list[BadRequest.FieldViolation]:
    kept: list[BadRequest.FieldViolation] = []
    left = _VIOLATIONS_BYTES
    for violation in violations:
        field, description = _cut(violation.field, _VALUE_BYTES), _cut(violation.description, 2 * _VALUE_BYTES)
        left -= len(_clean(field)) + len(_clean(description)) + 8
        if left < 0:
            rest = len(violations) - len(kept)
            kept.append(BadRequest.FieldViolation(field=_CUT, description=f"and {rest} more"))
            break
        kept.append(BadRequest.FieldViolation(field=field, description=description))
    return kept
