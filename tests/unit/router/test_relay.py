"""What a replica's trailers tell, and whom."""

from __future__ import annotations

from router.relay import for_caller, told
from serve_core.model.load import Load

LOAD = ("serve-core-load", "1,2,8")
REPLICA = ("serve-core-replica", "r1")
NAMED = ("x-request-id", "named")


def test_the_load_is_the_routers_and_the_rest_the_callers() -> None:
    assert told((REPLICA, LOAD, NAMED), "mine") == (Load(1, 2, 8), (REPLICA, NAMED))


def test_a_request_that_nobody_has_named_gets_its_name() -> None:
    assert told((LOAD, REPLICA), "mine") == (Load(1, 2, 8), (REPLICA, ("x-request-id", "mine")))
    assert for_caller(None, "mine") == (("x-request-id", "mine"),)


def test_what_is_no_load_is_nobodys() -> None:
    assert told((("serve-core-load", "many"), NAMED), "mine") == (None, (NAMED,))
