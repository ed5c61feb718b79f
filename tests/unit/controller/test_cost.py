"""What happens to one replica costs nothing for the others, be they of its deployment or not: counted, not timed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from serve_core.model.ids import gang_of
from serve_core.plan import persistent
from serve_core.plan.events import ListeningResumed
from serve_core.plan.persistent import GroupedMap, PersistentMap
from tests.lines import counting_lines
from tests.unit.controller.fleet import Fleet

FEW, MANY = 5, 80
REPLICAS = 10
ONE_OF = (50, 800, 4_000)


async def _lines(work: Callable[[], Awaitable[None] | None]) -> int:
    """How many lines of serve-core run, comprehensions' turns included."""
    with counting_lines("serve_core") as lines:
        done = work()
        if done is not None:
            await done
    return lines.count


async def _fleet(deployments: int) -> Fleet:
    fleet = Fleet(deployments=deployments, replicas=REPLICAS)
    await fleet.start()
    assert len(fleet.world.records.gangs) == deployments * REPLICAS
    return fleet


CHANGES: dict[str, Callable[[Fleet], Awaitable[None] | None]] = {
    "a heartbeat": lambda fleet: fleet.beat(fleet.replica(1, 3)),
    "a replica dies": lambda fleet: fleet.kill(fleet.replica(1, 3)),
    "a deployment is new": lambda fleet: fleet.deploy("new", replicas=3),
}


@pytest.mark.parametrize("change", CHANGES)
async def test_a_change_costs_the_same_beside_few_and_beside_many(change: str) -> None:
    costs = []
    for deployments in (FEW, MANY):
        fleet = await _fleet(deployments)
        costs.append(await _lines(lambda fleet=fleet: CHANGES[change](fleet)))  # type: ignore[misc]
    few, many = costs
    # A persistent map is a level or two deeper; sixteen times the deployments would be sixteen times the cost.
    assert 0 < many < few * 1.5 + 200, costs


async def test_a_change_costs_the_same_in_a_small_and_in_a_big_deployment() -> None:
    small, middle, big = [await _lines_of_each(replicas) for replicas in ONE_OF]
    for change, lines in small.items():
        assert middle[change] < lines * 1.5 + 200, (change, lines, middle[change])
        assert big[change] < lines * 1.5 + 200, (change, lines, big[change])


async def _lines_of_each(replicas: int) -> dict[str, int]:
    """What each change takes in one deployment of so many replicas."""
    fleet = Fleet(deployments=1, replicas=replicas)
    await fleet.start()
    await fleet.kill(fleet.replica(0, 7))
    await fleet.replace()
    victim, silent = fleet.replica(0, 3), fleet.replica(0, 5)
    lines = {
        "a heartbeat": await _lines(lambda: fleet.beat(victim)),
        "a replica dies": await _lines(lambda: fleet.kill(victim)),
        "another is ready": await _lines(fleet.replace),
    }
    await fleet.silence(silent)
    lines["one is suspect"] = await _lines(fleet.pass_second)
    gang = fleet.world.records.gangs[gang_of(silent)]
    assert "heartbeats" in gang.out_of_rotation
    assert silent not in fleet.publisher._table
    lines["it comes back"] = await _lines(lambda: fleet.come_back(silent))
    assert fleet.world.records.gangs[gang_of(silent)].serves
    assert silent in fleet.publisher._table
    return lines


@pytest.mark.parametrize("change", CHANGES)
async def test_no_change_walks_through_everything(change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = await _fleet(MANY)
    walked: list[int] = []
    walk = persistent._walk

    def counting(node: Any) -> Any:
        entries = list(walk(node))
        walked.append(len(entries))
        return iter(entries)

    monkeypatch.setattr(persistent, "_walk", counting)
    done = CHANGES[change](fleet)
    if done is not None:
        await done
    assert max(walked, default=0) <= max(REPLICAS, persistent.LEAF_MAX * 2)


async def test_everything_is_kept_in_mappings_that_share() -> None:
    fleet = await _fleet(FEW)
    await fleet.kill(fleet.replica())
    records, observed = fleet.world.records, fleet.world.observed
    assert isinstance(records.gangs, GroupedMap)
    assert isinstance(records.deployments, GroupedMap)
    assert isinstance(records.applications, PersistentMap)
    for mapping in (observed.replicas, observed.placements, observed.routers):
        assert isinstance(mapping, PersistentMap)


async def test_a_heartbeat_wakes_neither_planning_nor_publishing() -> None:
    fleet = await _fleet(FEW)
    version = fleet.publisher.version
    fleet.clock.advance(1.0)
    fleet.beat(fleet.replica(2, 2))
    assert not fleet.loop.is_due
    assert not fleet.publisher.is_stale
    assert fleet.publisher.version == version


async def test_a_dead_replica_is_replaced_and_nothing_else_is_planned() -> None:
    fleet = await _fleet(FEW)
    planned: list[str] = []
    original = fleet.loop._plan

    def noting(key: Any) -> Any:
        planned.append(key.application)
        return original(key)

    fleet.loop._plan = noting  # type: ignore[method-assign]
    await fleet.kill(fleet.replica(3, 1))
    assert set(planned) == {"app3"}
    assert len(planned) <= 6
    assert any(action.action_id.startswith("reserve:app3.d.") for action in fleet.actions)


async def test_whoever_was_not_listened_to_is_not_left_out() -> None:
    fleet = await _fleet(1)
    before = fleet.publisher.version
    fleet.clock.advance(60.0)
    fleet.publisher._before_publishing = lambda: fleet.world.tell(ListeningResumed(now=fleet.clock()))
    # The first of many that are read after a stop of the controller: the others were not silent, but not heard.
    fleet.beat(fleet.replica(0, 0))
    assert fleet.publisher.is_stale
    await fleet.publisher.publish()
    assert fleet.publisher.version == before
