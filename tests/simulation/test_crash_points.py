"""A controller is killed before and after each effect of each kind of change: the next one finishes it."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from serve_core.plan.records import GangRecord
from tests.simulation.scene import Scene
from tests.simulation.steps import STEPS


class Left(NamedTuple):
    """What is there in the end, and how often it was begun: the same whether a controller died or not."""

    revision: str
    actor: str
    members: int
    is_drained: bool
    epoch: int
    restarts: int
    incarnation: int
    starts: tuple[int, ...]


def _left(scene: Scene) -> list[Left]:
    records = scene.cluster.store.records

    def of(gang: GangRecord) -> Left:
        return Left(
            revision=gang.revision,
            actor=gang.actor.name if gang.actor is not None else "",
            members=len(gang.members),
            is_drained=any(member.node_id in records.nodes for member in gang.members),
            epoch=gang.epoch,
            restarts=gang.restarts,
            incarnation=gang.incarnation,
            starts=tuple(member.epoch for member in gang.members),
        )

    return sorted(of(gang) for gang in records.gangs.values())


def _failures(scene: Scene) -> list[tuple[str, int, int, list[tuple[str, int, int, int]]]]:
    """What was counted against deployments and their actors: a crash of the controller is not their fault."""
    return [
        (
            str(record.key),
            record.crashes,
            record.start_failures,
            sorted((one.key.name, one.incarnation, one.restarts, one.failures) for one in record.actors),
        )
        for record in scene.cluster.store.records.deployments.values()
    ]


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_controller_may_die_at_any_effect(name: str, after: bool) -> None:
    step = STEPS[name]
    whole = Scene(step)
    whole.play()
    assert len(whole.effects) >= 5
    print(f"{len(whole.effects)} crash points")
    for number in range(1, len(whole.effects) + 1):
        scene = Scene(step)
        scene.cluster.crashes.arm(scene.before + number, after=after)
        scene.play()
        assert scene.cluster.lives == 2, f"nobody died at {number}"
        assert _left(scene) == _left(whole), whole.effects[number - 1]
        assert _failures(scene) == _failures(whole), whole.effects[number - 1]
        assert not ({"ReplicaDiedError", "NoSlotInTimeError"} - step.errors) & set(scene.workload.outcomes.count)
