"""What a failed call to a replica says of the replica."""

from __future__ import annotations

import grpc
import grpc.aio

from serve_core.errors import MessageTooLargeError, ReplicaDiedError, ServeError
from serve_core.wire.errors import decode_error
from serve_core.wire.metadata import REPLICA_KEY

TRANSPORT_CODES = frozenset((grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED))
"""Codes that gRPC itself gives when a connection ends."""

_SENT_INTO_NOTHING = "Internal error from Core"
"""What grpcio's client says, as INTERNAL, when it could not send on a call that ended meanwhile: how it ended is then lost."""


def replica_error(error: grpc.aio.AioRpcError, replica_id: str) -> ServeError | None:
    """What a failed call on a READY channel means, or None where the status is the user's own.

    A status without proof that the replica sent it comes from the transport: the request may have run.
    """
    ours = decode_error(error)
    if ours is not None:
        return ours
    trailers = error.trailing_metadata()
    if trailers is not None and REPLICA_KEY in trailers:
        return None
    details = error.details() or ""
    if error.code() in TRANSPORT_CODES or (error.code() is grpc.StatusCode.INTERNAL and details == _SENT_INTO_NOTHING):
        return ReplicaDiedError(
            f"replica {replica_id} ended with the request inside ({details}): it may have run; "
            "send it again only if running it twice is harmless",
            details={"replicaId": replica_id, "cause": details},
        )
    if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in details:
        return MessageTooLargeError(
            f"a message to or from replica {replica_id} is too large: {details}", details={"replicaId": replica_id}
        )
    return None
