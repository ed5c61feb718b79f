import json

import pytest

from router.http_errors import STATUS_OF_CODE, body_of, headers_of, status_of
from serve_core.errors import (
    CATALOGUE,
    ApplicationError,
    Code,
    ConfigInvalidError,
    DeploymentUnknownError,
    DrainingError,
    FieldViolation,
    MessageTooLargeError,
    NoSlotInTimeError,
    QueueFullError,
    Reason,
    ReplicaDiedError,
    ServeError,
)


def test_every_code_has_a_status() -> None:
    assert set(STATUS_OF_CODE) == set(Code)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (QueueFullError("x"), 429),
        (DrainingError("x"), 503),
        (ReplicaDiedError("x"), 503),
        (NoSlotInTimeError("x"), 504),
        (DeploymentUnknownError("x"), 404),
        (MessageTooLargeError("x"), 413),
        (ConfigInvalidError([FieldViolation("a", "b")]), 400),
        (ApplicationError("x"), 500),
        (ApplicationError("x", code=Code.CANCELLED), 499),
        (ApplicationError("x", code=Code.UNIMPLEMENTED), 501),
        (ApplicationError("x", code=Code.ABORTED), 409),
        (ApplicationError("x", code=Code.FAILED_PRECONDITION), 400),
    ],
)
def test_status(error: ServeError, status: int) -> None:
    assert status_of(error) == status


def test_body_tells_what_a_grpc_caller_is_told() -> None:
    error = DeploymentUnknownError("no such thing", details={"application": "shop"})
    assert json.loads(body_of(error)) == {
        "error": {
            "reason": "DEPLOYMENT_UNKNOWN",
            "code": "NOT_FOUND",
            "message": "no such thing",
            "details": {"application": "shop"},
        }
    }


def test_body_lists_every_violation() -> None:
    error = ConfigInvalidError([FieldViolation("a.b", "too small"), FieldViolation("c", "missing")])
    assert json.loads(body_of(error))["error"]["violations"] == [
        {"field": "a.b", "description": "too small"},
        {"field": "c", "description": "missing"},
    ]


def test_an_application_error_keeps_its_traceback_from_http_callers() -> None:
    error = ApplicationError("bad", remote_type="m:E", remote_traceback="secret path", replica_id="r1")
    assert json.loads(body_of(error))["error"]["details"] == {"remoteType": "m:E", "replicaId": "r1"}
    assert b"secret" not in body_of(error)


@pytest.mark.parametrize(
    ("error", "headers"),
    [
        (QueueFullError("x", retry_after_s=2.2), {"Retry-After": "3"}),
        (QueueFullError("x"), {"Retry-After": "1"}),
        (DrainingError("x", retry_after_s=0.0), {"Retry-After": "0"}),
        (NoSlotInTimeError("x", retry_after_s=2.0), {}),
        (MessageTooLargeError("x"), {}),
    ],
)
def test_retry_after_where_a_retry_makes_sense(error: ServeError, headers: dict[str, str]) -> None:
    assert headers_of(error) == headers


def test_every_reason_of_the_catalogue_has_a_status_of_an_error() -> None:
    assert all(400 <= STATUS_OF_CODE[CATALOGUE[reason].code] < 600 for reason in Reason)
