"""Deployment actors that are killed under a steady load, as ``bench/actors.py`` does it, only shorter: no call fails."""

from __future__ import annotations

import pytest

from bench.actors import SNAPSHOT_INTERVAL_S, Size, measure

pytestmark = pytest.mark.chaos
SIZES = {"kill": Size(calm_s=2.5 * SNAPSHOT_INTERVAL_S), "snapshot": Size(calm_s=0.3)}


@pytest.mark.parametrize("variant", SIZES)
async def test_no_call_fails_and_what_was_stored_is_known(variant: str) -> None:
    result = await measure(variant, SIZES[variant])

    assert not result.failed
    assert not result.wrong
    assert result.lost < result.known, "the next incarnation began empty"
    assert bool(result.stored) == (variant == "snapshot")
