"""What the calls have in common that this process makes to others of its kind."""

from __future__ import annotations

import grpc
import grpc.aio

from serve_core.errors import ApplicationError, Code
from serve_core.model.backoff import Backoff
from serve_core.runtime import clock
from serve_core.wire.lost import replica_error

BACKOFF = Backoff(initial_s=0.05, factor=2.0, max_s=1.0, jitter=0.5)


def left_s(ends_at: float) -> float:
    """Seconds until a monotonic time."""
    return max(0.0, ends_at - clock.monotonic())


def failed_call(error: grpc.aio.AioRpcError, *, replica_id: str, what: str, timeout_s: float) -> Exception:
    """What a failed call on a READY channel means; ``what`` names it in a message."""
    known = replica_error(error, replica_id)
    if known is not None:
        return known
    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return TimeoutError(f"{what} did not end within {timeout_s:g} s")
    return ApplicationError(error.details() or error.code().name, code=Code[error.code().name])
