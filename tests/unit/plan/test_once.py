"""What follows from a description is worked out once for it, and never taken from another."""

from __future__ import annotations

from dataclasses import replace

from serve_core.model.spec import DeploymentSpec
from serve_core.plan.once import KEPT_MAX, OncePerSpec
from tests.unit.plan.world import a_spec


def test_the_same_description_is_worked_out_once() -> None:
    asked: list[DeploymentSpec] = []

    def work_out(spec: DeploymentSpec) -> str:
        asked.append(spec)
        return spec.name

    name, spec = OncePerSpec(work_out), a_spec()
    assert name(spec) == name(spec) == spec.name
    assert asked == [spec]


def test_another_one_has_its_own_answer() -> None:
    number = OncePerSpec(lambda spec: spec.num_replicas)
    for at in range(2 * KEPT_MAX):
        assert number(replace(a_spec(), num_replicas=at)) == at


def test_what_was_asked_long_ago_is_worked_out_again() -> None:
    number = OncePerSpec(lambda spec: spec.num_replicas)
    specs = [replace(a_spec(), num_replicas=at) for at in range(KEPT_MAX + 1)]
    assert [number(spec) for spec in specs] == list(range(KEPT_MAX + 1))
    assert number(specs[0]) == 0
