"""A lane of many replicas in the states that matter, and what happens to it: to count and to time what that costs."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from router.core.choice import PowerOfTwo
from router.core.endpoints import EndpointTable
from router.core.lane import Lane
from router.core.load import PROBE_S, ReplicaLoad
from router.core.queue import Waiter
from router.core.retry import Outcome
from serve_core.errors import QueueFullError
from serve_core.model.endpoints import DeploymentRoute, TableChange, TableVersion
from serve_core.model.ids import DeploymentKey, GangId, NodeId, ReplicaId, RevisionId
from serve_core.model.load import Load
from serve_core.model.replica import Gang, Replica

KEY = DeploymentKey("app", "Model")
CAPACITY = 4
QUEUED = 100
"""Requests that wait, where some do."""


class Crowd:
    """A deployment of ``size`` connected, idle replicas in a router's core."""

    def __init__(self, size: int, unit_random: Callable[[], float]) -> None:
        self.now = 1.0
        self.unit_random = unit_random
        self.lane = Lane(KEY, PowerOfTwo(unit_random), max_queued_requests=-1)
        self.loads = [self.connect(f"r{number}") for number in range(size)]
        self.waiting: deque[Waiter] = deque()

    def connect(self, name: str, gang: Gang | None = None) -> ReplicaLoad:
        load = self.lane.add(ReplicaId(name), gang)
        self.lane.pushed(load, Load(0, 0, CAPACITY), draining=False)
        return load

    def enter(self, *, slots: int = 1, deadline: float | None = None, whole_gang: bool = False) -> Waiter:
        self.now += 0.001
        return self.lane.enter(slots=slots, deadline=deadline, now=self.now, whole_gang=whole_gang)

    def answer(self, waiter: Waiter, outcome: Outcome = Outcome.FINAL) -> None:
        """A replica answers, and tells its load with that."""
        load = waiter.replica
        assert load is not None
        self.now += 0.001
        held = CAPACITY if outcome is Outcome.FULL else load.own - waiter.slots
        self.lane.told(load, Load(held, 0, CAPACITY), freed=waiter.slots)
        self.lane.finish(waiter, self.now, outcome=outcome)

    def fill(self) -> list[Waiter]:
        """Has this router's own calls take every slot."""
        return [self.enter() for _ in range(CAPACITY * len(self.loads))]

    def queue(self, *, slots: int = 1, deadline: float | None = None) -> None:
        """Has a few wait."""
        self.waiting.extend(self.enter(slots=slots, deadline=deadline) for _ in range(QUEUED))
        assert all(waiter.replica is None for waiter in self.waiting)

    def settle(self, *, wanted: int) -> list[Waiter]:
        done = self.lane.settle(self.now)
        # As the shell does, which arms a timer.
        self.lane.probe_ends_at()
        assert len(done) == wanted
        return done


Operation = Callable[[Crowd], Callable[[int], None]]
"""Prepares a crowd; what it returns makes the thing happen, at the place with this number."""


def all_free(crowd: Crowd, *, slots: int = 1) -> Callable[[int], None]:
    def happen(_: int) -> None:
        crowd.answer(crowd.enter(slots=slots))

    return happen


def heavy_all_free(crowd: Crowd) -> Callable[[int], None]:
    return all_free(crowd, slots=2)


def one_with_room(crowd: Crowd) -> Callable[[int], None]:
    crowd.answer(crowd.fill()[-1])
    return all_free(crowd)


def full_with_queue(crowd: Crowd) -> Callable[[int], None]:
    running = deque(crowd.fill())
    random.Random(1).shuffle(running)
    crowd.queue()

    def happen(_: int) -> None:
        crowd.answer(running.popleft())
        running.extend(crowd.settle(wanted=1))
        crowd.enter()

    return happen


def report(crowd: Crowd, *, slots: int = 1) -> Callable[[int], None]:
    crowd.fill()
    crowd.queue(slots=slots)

    def happen(place: int) -> None:
        load = crowd.loads[place % len(crowd.loads)]
        crowd.lane.pushed(load, Load(CAPACITY, 0, CAPACITY), draining=False)
        crowd.settle(wanted=0)

    return happen


def report_to_heavy(crowd: Crowd) -> Callable[[int], None]:
    return report(crowd, slots=2)


def heavy_full_with_queue(crowd: Crowd) -> Callable[[int], None]:
    running = deque(crowd.enter(slots=2) for _ in range(CAPACITY // 2 * len(crowd.loads)))
    random.Random(1).shuffle(running)
    crowd.queue(slots=2)

    def happen(_: int) -> None:
        crowd.answer(running.popleft())
        running.extend(crowd.settle(wanted=1))
        crowd.enter(slots=2)

    return happen


def refused(crowd: Crowd) -> Callable[[int], None]:
    crowd.fill()
    crowd.queue()
    crowd.lane.max_queued_requests = len(crowd.lane.queue)

    def happen(_: int) -> None:
        with suppress(QueueFullError):
            crowd.enter()

    return happen


def given_up(crowd: Crowd) -> Callable[[int], None]:
    crowd.fill()
    crowd.queue(deadline=crowd.now + 1e6)

    def happen(_: int) -> None:
        crowd.waiting.append(crowd.enter(deadline=crowd.now + 1e6))
        assert crowd.lane.expire(crowd.waiting.popleft(), crowd.now)
        crowd.settle(wanted=0)

    return happen


def probed(crowd: Crowd) -> Callable[[int], None]:
    """Others hold every slot: each call that gets its turn is a probe, is refused, and waits for a push."""
    for load in crowd.loads:
        crowd.lane.pushed(load, Load(CAPACITY, 0, CAPACITY), draining=False)
    probes = [crowd.enter() for _ in crowd.loads]
    crowd.queue()
    for probe in probes:
        refuse(crowd, probe)
    crowd.settle(wanted=0)

    def happen(place: int) -> None:
        load = crowd.loads[place % len(crowd.loads)]
        crowd.lane.pushed(load, Load(CAPACITY, 0, CAPACITY), draining=False)
        (probe,) = crowd.settle(wanted=1)
        assert probe.replica is load
        refuse(crowd, probe)
        crowd.settle(wanted=0)

    return happen


def refuse(crowd: Crowd, probe: Waiter) -> None:
    crowd.answer(probe, Outcome.FULL)
    crowd.enter()


def unrefused(crowd: Crowd) -> Callable[[int], None]:
    """A probe is not refused in time, and counts as accepted; the answer comes later."""
    for load in crowd.loads:
        crowd.lane.pushed(load, Load(CAPACITY, 0, CAPACITY), draining=False)

    def happen(_: int) -> None:
        probe = crowd.enter()
        crowd.now += 2 * PROBE_S
        crowd.lane.settle_probes(crowd.now)
        load = probe.replica
        assert load is not None
        crowd.lane.finish(probe, crowd.now)
        crowd.lane.told(load, Load(CAPACITY, 0, CAPACITY))

    return happen


def gang_reserved(crowd: Crowd) -> Callable[[int], None]:
    def happen(_: int) -> None:
        reservation = crowd.enter(whole_gang=True)
        member = reservation.replica
        assert member is not None
        crowd.lane.told(member, Load(member.own - 1, 0, CAPACITY), freed=1)
        crowd.lane.finish(reservation, crowd.now)

    return happen


def table_change(crowd: Crowd) -> Callable[[int], None]:
    """A replica leaves the table and another comes, in one version after the other."""
    table = EndpointTable()
    replicas = [described(f"r{number}") for number in range(len(crowd.loads))]
    route = DeploymentRoute(key=KEY, ingress=True, available=True)
    told = TableChange(
        version=TableVersion("e", 1), snapshot=True, upserted_deployments=(route,), upserted_replicas=tuple(replicas)
    )
    table.apply(told)
    estimates = {load.replica_id: load for load in crowd.loads}
    names = [load.replica_id for load in crowd.loads]

    def happen(number: int) -> None:
        place = number % len(names)
        comes = described(f"new{number}")
        assert table.version is not None
        change = TableChange(
            version=TableVersion(table.version.epoch, table.version.version + 1),
            snapshot=False,
            upserted_replicas=(comes,),
            removed_replica_ids=(names[place],),
        )
        difference = table.apply(change)
        for replica in difference.removed_replicas:
            crowd.lane.remove(estimates.pop(replica.replica_id))
        for replica in difference.added_replicas:
            estimates[replica.replica_id] = crowd.connect(replica.replica_id, replica.gang)
        names[place] = comes.replica_id

    return happen


def described(name: str) -> Replica:
    return Replica(
        key=KEY,
        replica_id=ReplicaId(name),
        revision=RevisionId("v1"),
        epoch=1,
        address="127.0.0.1:1",
        node_id=NodeId("n"),
        gang=Gang(gang_id=GangId(name)),
    )


OPERATIONS: dict[str, Operation] = {
    "call, all free": all_free,
    "call, one with room": one_with_room,
    "call, all full, 100 wait": full_with_queue,
    "load report, all full, 100 wait": report,
    "refused, as too many wait": refused,
    "given up, as it waited too long": given_up,
    "probe, refused": probed,
    "probe, not refused in time": unrefused,
    "call of 2 slots, all free": heavy_all_free,
    "call of 2 slots, all full, 100 wait": heavy_full_with_queue,
    "load report, 2 slots wanted": report_to_heavy,
    "reservation of a gang": gang_reserved,
    "a replica leaves, another comes": table_change,
}
