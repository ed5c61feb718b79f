"""Replicas are counted in whole gangs: one rule, and what it proposes instead holds by itself."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from serve_core.errors import ConfigInvalidError
from serve_core.model.gang import GangPolicy
from serve_core.model.ids import DeploymentKey
from serve_core.model.spec import ApplicationSpec, DeploymentSpec
from serve_core.plan.deploy import apply_change, deploy, scale
from serve_core.plan.records import Records
from serve_core.plan.validate import application_violations
from serve_core.plan.whole import NotWhole, gangs_for, whole_gangs

COUNTS = st.integers(0, 10_000)
SIZES = st.integers(1, 10_000)


def an_application(num_replicas: int, size: int) -> ApplicationSpec:
    spec = DeploymentSpec(name="a", import_path="m:A", num_replicas=num_replicas, gang=GangPolicy(size=size))
    return ApplicationSpec(name="app", ingress="a", deployments=(spec,))


@given(COUNTS, SIZES)
def test_a_number_is_whole_or_between_the_two_nearest_that_are(num_replicas: int, size: int) -> None:
    found = whole_gangs(num_replicas, size=size)
    if isinstance(found, NotWhole):
        assert found.below < num_replicas < found.above == found.below + size
        assert whole_gangs(found.below, size=size) == found.below // size
        assert whole_gangs(found.above, size=size) == found.above // size
        assert str(found.below) in str(found)
        assert str(found.above) in str(found)
    else:
        assert found * size == num_replicas


@given(COUNTS, SIZES)
def test_enough_gangs_are_no_more_than_needed(num_replicas: int, size: int) -> None:
    count = gangs_for(num_replicas, size=size)
    assert count * size >= num_replicas > (count - 1) * size
    whole = whole_gangs(num_replicas, size=size)
    assert isinstance(whole, NotWhole) or whole == count


@given(COUNTS, st.integers(1, 50), st.integers(0, 20))
def test_every_way_to_a_number_refuses_the_same(num_replicas: int, size: int, gangs: int) -> None:
    possible = not isinstance(whole_gangs(num_replicas, size=size), NotWhole)
    assert (not application_violations(an_application(num_replicas, size))) is possible
    records = apply_change(Records(), deploy(Records(), an_application(gangs * size, size), now=1.0))
    try:
        scale(records, DeploymentKey("app", "a"), num_replicas=num_replicas)
    except ConfigInvalidError:
        assert not possible
    else:
        assert possible
