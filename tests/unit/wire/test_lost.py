"""What a failed call says of the replica that it was made to."""

from __future__ import annotations

import grpc
import grpc.aio
import pytest

from serve_core.errors import MessageTooLargeError, ReplicaDiedError
from serve_core.wire.lost import replica_error
from serve_core.wire.metadata import REPLICA_KEY

NOTHING = grpc.aio.Metadata()
OURS = grpc.aio.Metadata((REPLICA_KEY, "app.dep.g1-0"))


def failed(code: grpc.StatusCode, details: str, trailers: grpc.aio.Metadata = NOTHING) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, NOTHING, trailers, details)


@pytest.mark.parametrize(
    ("code", "details"),
    [
        (grpc.StatusCode.UNAVAILABLE, "Connection reset by peer"),
        (grpc.StatusCode.CANCELLED, "the server ends"),
        (grpc.StatusCode.INTERNAL, "Internal error from Core"),
    ],
)
def test_what_the_transport_says_means_that_the_call_may_have_run(code: grpc.StatusCode, details: str) -> None:
    told = replica_error(failed(code, details), "app.dep.g1-0")
    assert isinstance(told, ReplicaDiedError)
    assert told.details == {"replicaId": "app.dep.g1-0", "cause": details}
    assert replica_error(failed(code, details, OURS), "app.dep.g1-0") is None


@pytest.mark.parametrize("code", [grpc.StatusCode.INTERNAL, grpc.StatusCode.NOT_FOUND])
def test_any_other_status_is_the_users(code: grpc.StatusCode) -> None:
    assert replica_error(failed(code, "as the user says"), "app.dep.g1-0") is None


def test_a_message_that_is_too_large_is_told_as_such() -> None:
    error = failed(grpc.StatusCode.RESOURCE_EXHAUSTED, "Received message larger than max (5 vs. 4)")
    assert isinstance(replica_error(error, "app.dep.g1-0"), MessageTooLargeError)
