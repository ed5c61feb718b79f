"""Replicas, the router and the controller killed at random: what ``bench/chaos.py`` does, for ten seconds."""

from __future__ import annotations

import pytest

from bench.chaos import wreak

pytestmark = pytest.mark.chaos


@pytest.mark.timeout(90)
async def test_only_what_is_inside_a_killed_process_fails_and_nothing_is_left_over() -> None:
    result = await wreak(seconds=10.0, rate_per_s=60.0, replicas=3, seed=7)

    assert {kill.kind for kill in result.kills} == {"replica", "router", "controller"}
    assert not result.wrong
    assert not result.twice
    assert not result.left_over
    assert result.calls > len(result.inside_replica) + len(result.inside_router)
