"""What a deploy says that it would do is what it then does."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from serve_core.model.deployplan import DeployEffect
from serve_core.model.health import HealthPolicy
from serve_core.model.ids import DeploymentKey, NodeId
from serve_core.model.payload import Encoding, Payload
from serve_core.model.resources import Resources
from serve_core.model.share import Share
from serve_core.model.spec import ApplicationSpec, DeploymentSpec, RolloutPolicy
from serve_core.plan.deploy import apply_change, deploy
from serve_core.plan.diff import deployment_plans
from serve_core.plan.observed import NodeObserved
from serve_core.plan.placement import Capacity
from serve_core.plan.records import Records

NODE = NodeObserved(node_id=NodeId("node-0"), total=Resources(cpus=4.0))
CHANGES: dict[str, st.SearchStrategy[Any]] = {
    "import_path": st.sampled_from(["m:A", "m:B"]),
    "num_replicas": st.integers(0, 3),
    "resources": st.sampled_from([Resources(cpus=1.0), Resources(cpus=2.0, custom={"x": 1.0})]),
    "env": st.sampled_from([{}, {"A": "1"}, {"A": "2"}]),
    "user_config": st.sampled_from([None, Payload(Encoding.JSON, b"1"), Payload(Encoding.JSON, b"2")]),
    "health": st.sampled_from([HealthPolicy(), HealthPolicy(period_s=1.0)]),
    "rollout": st.sampled_from([RolloutPolicy(), RolloutPolicy(max_surge=Share(2))]),
    "thread_count": st.integers(0, 1),
}
SPECS = st.fixed_dictionaries({}, optional=CHANGES).map(
    lambda changes: replace(DeploymentSpec(name="a", import_path="m:A"), **changes)
)
APPLICATIONS = st.dictionaries(st.sampled_from(["a", "b", "c"]), SPECS, min_size=1).map(
    lambda specs: ApplicationSpec(
        name="app", ingress=min(specs), deployments=tuple(replace(spec, name=name) for name, spec in specs.items())
    )
)


@given(st.lists(APPLICATIONS, min_size=1, max_size=4))
def test_a_plan_is_what_happens(applications: list[ApplicationSpec]) -> None:
    records = Records()
    for number, spec in enumerate(applications):
        plans = deployment_plans(records, spec, capacity=Capacity((NODE,), ()))
        change = deploy(records, spec, now=float(number))
        saved = {record.key: record for record in change.saved_deployments}
        told = {DeploymentKey("app", plan.deployment): plan for plan in plans}
        assert {key for key, plan in told.items() if plan.effect is not DeployEffect.UNCHANGED} == set(saved)
        for key, record in saved.items():
            plan, before = told[key], records.deployments.get(key)
            assert record.deleting is (plan.effect is DeployEffect.DELETE)
            if before is None or before.deleting or record.deleting:
                continue
            assert (plan.old_revision, plan.new_revision) == (before.target, record.target)
            restarts = any(one.restarts for one in plan.changes)
            assert restarts is (plan.effect is DeployEffect.ROLLOUT) is (record.target != before.target)
            assert plan.changes
            assert bool(plan.missing) is not plan.fits
        records = apply_change(records, change)
