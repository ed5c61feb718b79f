"""What ``deploy --dry-run`` prints."""

from __future__ import annotations

import pytest

from serve_core.cli.plans import plan_lines
from serve_core.model.deployplan import DeployEffect, DeploymentPlan, FieldChange
from serve_core.model.ids import RevisionId
from serve_core.model.resources import Resources

OLD, NEW = RevisionId("r1"), RevisionId("r2")


def plan(effect: DeployEffect, old: RevisionId | None, new: RevisionId | None) -> DeploymentPlan:
    return DeploymentPlan(deployment="A", effect=effect, old_revision=old, new_revision=new)


@pytest.mark.parametrize(
    ("value", "line"),
    [
        (plan(DeployEffect.UNCHANGED, OLD, OLD), "app.A: unchanged"),
        (plan(DeployEffect.CREATE, None, NEW), "app.A: new, revision r2"),
        (plan(DeployEffect.DELETE, OLD, None), "app.A: removed, with revision r1"),
        (plan(DeployEffect.ROLLOUT, OLD, NEW), "app.A: restart, revision r1 -> r2"),
        (plan(DeployEffect.ROLLOUT, OLD, OLD), "app.A: restart, revision r1 is tried again"),
        (plan(DeployEffect.RECONFIGURE, OLD, OLD), "app.A: reconfigure in place, revision r1 stays"),
    ],
)
def test_each_effect_has_its_line(value: DeploymentPlan, line: str) -> None:
    assert list(plan_lines("app", [value])) == [line]


def test_changes_needs_and_room_follow() -> None:
    value = DeploymentPlan(
        deployment="A",
        effect=DeployEffect.ROLLOUT,
        old_revision=OLD,
        new_revision=NEW,
        changes=(
            FieldChange(field="resources.cpus", old_value="1", new_value="2", restarts=True),
            FieldChange(field="user_config", old_value="", new_value="{'a': 1}", restarts=False),
        ),
        surge_replicas=2,
        needs=Resources(cpus=4.0, memory_bytes=3 * 2**29),
        fits=False,
        missing="there is room for 1 of 2 replicas: node-0 lacks 2 CPUs (1 free)",
    )
    assert list(plan_lines("app", [value]))[1:] == [
        "  resources.cpus: 1 -> 2 (restarts)",
        "  user_config: none -> {'a': 1} (in place)",
        "  starts 2 replicas beside what runs, needs 4 CPUs, 1.5Gi of memory: does not fit now: "
        "there is room for 1 of 2 replicas: node-0 lacks 2 CPUs (1 free)",
    ]


@pytest.mark.parametrize(
    ("replicas", "size", "actors", "text"),
    [
        (1, 1, (), "1 replica"),
        (4, 4, (), "4 replicas in 1 gang of 4"),
        (8, 4, ("cache",), "actor cache and then 8 replicas in 2 gangs of 4"),
        (0, 4, ("cache", "tree"), "actors cache, tree"),
    ],
)
def test_replicas_start_in_whole_gangs_and_after_their_actors(
    replicas: int, size: int, actors: tuple[str, ...], text: str
) -> None:
    value = DeploymentPlan(
        deployment="A",
        effect=DeployEffect.ROLLOUT,
        old_revision=OLD,
        new_revision=NEW,
        surge_replicas=replicas,
        gang_size=size,
        actors=actors,
    )
    assert list(plan_lines("app", [value]))[1:] == [f"  starts {text} beside what runs, needs nothing: fits"]
