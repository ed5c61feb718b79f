"""The checkers bite: each planted bug is found within 200 seeds, and by the invariant that it breaks."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.simulation.cores import Cores
from tests.simulation.planted import PLANTED
from tests.simulation.planted_actors import PLANTED_ACTORS
from tests.simulation.planted_autoscaling import PLANTED_AUTOSCALING
from tests.simulation.run import simulate

SEEDS = 200
EVERY = PLANTED | PLANTED_ACTORS | PLANTED_AUTOSCALING


@pytest.mark.parametrize(("plant", "broken"), EVERY.values(), ids=EVERY)
def test_a_planted_bug_is_found(plant: Callable[[], Cores], broken: str) -> None:
    cores = plant()
    found = next((result for seed in range(SEEDS) if (result := simulate(seed, cores=cores)).violation), None)
    assert found is not None
    assert found.violation.startswith(broken), found.tell()
    assert not simulate(found.seed).violation
