"""Replicas, the router and the controller killed at random: what ``bench/chaos.py`` does, for a few seconds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from bench.chaos import wreak

pytestmark = pytest.mark.chaos
GANGS = {"size": 2, "on_member_failure": "RESTART_REPLICA"}


@pytest.mark.parametrize(("seconds", "replicas", "gang"), [(10.0, 3, None), (7.0, 6, GANGS)], ids=["plain", "gangs"])
async def test_only_what_is_inside_a_killed_replica_fails_and_nothing_is_left_over(
    seconds: float, replicas: int, gang: Mapping[str, Any] | None
) -> None:
    result = await wreak(seconds=seconds, rate_per_s=60.0, replicas=replicas, seed=8, gang=gang)

    assert {kill.kind for kill in result.kills} == {"replica", "router", "controller"}
    assert not result.careful.wrong
    assert not result.careful.twice
    assert not result.policy.wrong
    assert not result.policy.inside_replica, "gRPC itself sends again what may run twice"
    assert not result.policy.twice
    assert not result.left_over
    assert result.careful.calls > len(result.careful.inside_replica)
    assert result.policy.calls
