"""Rolling updates under a steady load, in every way that ``bench/update.py`` knows, only smaller: no call fails."""

from __future__ import annotations

import pytest

from bench.operating import conserved
from bench.update import VARIANTS, measure

pytestmark = pytest.mark.chaos
REQUESTS = 2000
RATE_PER_S = 250.0


@pytest.mark.parametrize("variant", VARIANTS)
async def test_no_call_fails_during_updates(variant: str) -> None:
    result = await measure(variant, requests=REQUESTS, rate_per_s=RATE_PER_S, calm_s=0.5)

    assert not result.failed
    assert result.calls >= REQUESTS
    assert result.updates
    assert result.calls_during > result.updates, "nothing was asked while replicas were replaced"
    assert result.last_answered_version == result.last_version
    assert conserved(result.promises)
