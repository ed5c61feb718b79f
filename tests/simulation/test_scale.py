"""A change costs what it is about, however much else serves beside it: counted in whole worlds, which come to rest."""

from __future__ import annotations

from functools import cache

import pytest

from tests.simulation.engine import Violation
from tests.simulation.planted import PLANTED
from tests.simulation.scale import CHANGES, LOCAL, SMALL, Counts, ScaledWorld, costs

SEED = 0
ROUTERS = 2
SHAPES = {"many small deployments": (100, 1000, SMALL), "fewer that are bigger": (150, 600, 50)}
EXTRA = 6
"""Plans, and what they look at and save, that are more or fewer as messages happen to come together or apart."""


@cache
def _costs(shape: str) -> tuple[dict[str, Counts], dict[str, Counts]]:
    """Of few replicas and of many. Whatever breaks a promise, and whatever does not come to rest, raises."""
    few, many, size = SHAPES[shape]
    return costs(SEED, replicas=few, size=size), costs(SEED, replicas=many, size=size)


def _deployments(shape: str, replicas: int) -> int:
    size = SHAPES[shape][2]
    return size // SMALL + replicas // size - 1


@pytest.mark.parametrize("change", LOCAL)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_change_of_one_deployment_costs_the_same_beside_few_and_beside_many(shape: str, change: str) -> None:
    few, many = (at[change] for at in _costs(shape))
    size = SHAPES[shape][2]
    assert few["deployments"] == many["deployments"] == (0 if change == "nothing happens" else 1)
    assert many["told"] == few["told"]
    assert many["swept"] == few["swept"] == 0
    assert many["plans"] <= 1.2 * few["plans"] + EXTRA
    assert many["records"] <= 1.2 * few["records"] + EXTRA
    assert many["gangs"] <= 1.2 * few["gangs"] + EXTRA * size


@pytest.mark.parametrize("shape", SHAPES)
def test_another_router_is_told_everything_and_nothing_is_saved(shape: str) -> None:
    for replicas, at in zip(SHAPES[shape][:2], _costs(shape), strict=True):
        cost, deployments = at["a router is replaced"], _deployments(shape, replicas)
        assert cost["records"] == cost["swept"] == 0
        # The two more are those of the deployment that was scaled.
        assert cost["told"] == replicas + 2 + deployments
        # Once when a router comes that has no table yet, once when it has.
        assert cost["plans"] <= 2 * deployments


@pytest.mark.parametrize("shape", SHAPES)
def test_a_recovery_tells_everything_once_and_saves_nothing(shape: str) -> None:
    for replicas, at in zip(SHAPES[shape][:2], _costs(shape), strict=True):
        cost = at["the controller crashes"]
        assert cost["records"] == 0
        assert cost["told"] == ROUTERS * (replicas + 2 + _deployments(shape, replicas))
        # Each replica that comes back may be planned for.
        assert cost["plans"] <= 2 * replicas
        assert cost["swept"] == replicas + 2


def test_costs_are_the_same_each_time() -> None:
    first, second = (ScaledWorld(SEED, replicas=50) for _ in range(2))
    assert first.replicas == second.replicas == 50
    for change in CHANGES.values():
        assert first.cost(change) == second.cost(change)
    assert first.cluster.engine.trace == second.cluster.engine.trace


@pytest.mark.parametrize(
    "bug",
    [
        "drains before the routers acknowledged",
        "publishes before the living are known",
        "withdraws more than may be unavailable",
    ],
)
def test_who_looks_rarely_still_finds_a_planted_bug(bug: str) -> None:
    plant, broken = PLANTED[bug]
    with pytest.raises(Violation, match=broken):
        _live(ScaledWorld(SEED, replicas=50, cores=plant()))


def _live(world: ScaledWorld) -> None:
    for change in CHANGES.values():
        world.cost(change)
