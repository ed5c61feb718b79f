from __future__ import annotations

import asyncio

import pytest

from serve_core.context import (
    RequestContext,
    bind_request_context,
    get_replica_context,
    get_request_context,
    has_replica_context,
    remaining_time,
    unbind_request_context,
)
from serve_core.errors import ConfigInvalidError


def test_outside_of_a_replica_the_error_says_so() -> None:
    assert not has_replica_context()
    with pytest.raises(ConfigInvalidError, match="works only in a replica"):
        get_replica_context()
    with pytest.raises(ConfigInvalidError, match="works only while a request is served"):
        get_request_context()
    assert remaining_time() is None


async def test_the_request_follows_tasks_and_threads() -> None:
    context = RequestContext(request_id="r1", remaining=lambda: -3.0)
    token = bind_request_context(context)
    try:
        assert await asyncio.to_thread(get_request_context) is context
        assert context.time_remaining() == remaining_time() == 0.0
    finally:
        unbind_request_context(token)
    with pytest.raises(ConfigInvalidError):
        get_request_context()


def test_a_cancelled_request_wakes_threads() -> None:
    context = RequestContext(request_id="r1")
    assert not context.is_cancelled()
    assert not context.cancelled.wait(0)
    context.cancelled.set()
    assert context.is_cancelled()
    assert context.cancelled.wait(0)
    assert context.time_remaining() is None
    assert not context.draining
