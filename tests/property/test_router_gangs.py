"""Routers that compete for the same gangs, with messages in any order: none waits for ever, none holds while it waits."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.core.attempt import GangAttempt
from router.core.choice import RoundRobin
from router.core.lane import Lane
from router.core.load import ReplicaLoad
from router.core.queue import Waiter
from router.core.retry import Outcome
from serve_core.model.ids import DeploymentKey, GangId, ReplicaId
from serve_core.model.load import Load
from serve_core.model.replica import Gang

STEPS_MAX = 20_000


@dataclass
class Truth:
    """A replica: what it really holds, and whom it owes a push."""

    name: ReplicaId
    gang: Gang
    capacity: int
    held: int = 0
    owed: set[int] = field(default_factory=set)

    @property
    def load(self) -> Load:
        return Load(0, self.held, self.capacity)


@dataclass(eq=False)
class Job:
    """One request of one router: for a whole gang, or for one replica."""

    waiter: Waiter
    attempts: int = 0
    attempt: GangAttempt | None = None
    asked: int = 0
    granted: list[ReplicaLoad] = field(default_factory=list)
    refused: dict[ReplicaLoad, Outcome] = field(default_factory=dict)
    releasing: int = 0
    runs: bool = False


@dataclass
class Message:
    """Something on the wire: what it does when it arrives, and by which router and rank it is told apart."""

    router: int
    rank: int
    arrive: Callable[[], None]


class Router:
    """The real lane and the real attempt, wired as the shells wire them."""

    def __init__(self, world: World, number: int) -> None:
        self.world = world
        self.number = number
        self.lane = Lane(DeploymentKey("app", "Model"), RoundRobin(), max_queued_requests=-1)
        self.loads = {truth.name: self.lane.add(truth.name, truth.gang) for truth in world.truths}
        for truth in world.truths:
            self.lane.pushed(self.loads[truth.name], truth.load, draining=False)
        self.jobs: dict[int, Job] = {}

    def enter(self, *, whole_gang: bool) -> None:
        waiter = self.lane.enter(slots=1, deadline=None, now=self.world.now, whole_gang=whole_gang)
        self.jobs[waiter.number] = Job(waiter)
        if waiter.replica is not None:
            self.begin(waiter)

    def settle(self) -> None:
        for waiter in self.lane.settle(self.world.now):
            self.begin(waiter)

    def begin(self, waiter: Waiter) -> None:
        job = self.jobs[waiter.number]
        leader = waiter.replica
        assert leader is not None
        members = waiter.members or (leader,)
        job.attempt = GangAttempt(members, at_once=self.world.always_at_once or job.attempts == 0)
        job.attempts, job.granted, job.refused = job.attempts + 1, [], {}
        self.go_on(job)

    def go_on(self, job: Job) -> None:
        assert job.attempt is not None
        if job.refused:
            job.attempt.refused()
        members = job.attempt.next()
        job.asked = len(members)
        for member in members:
            self.world.send(self.number, member, lambda member=member: self.world.ask(self, job, member))  # type: ignore[misc]
        if members:
            return
        if not job.refused:
            job.runs = True
            self.world.send(self.number, job.granted[0], lambda: self.give_back(job))
        else:
            self.give_back(job)

    def answered(self, job: Job, member: ReplicaLoad, load: Load, *, granted: bool) -> None:
        self.lane.told(member, load, freed=1)
        self.settle()
        if granted:
            job.granted.append(member)
        else:
            job.refused[member] = Outcome.FULL
        job.asked -= 1
        if job.asked == 0:
            self.go_on(job)

    def give_back(self, job: Job) -> None:
        job.releasing = len(job.granted)
        for member in list(job.granted):
            self.world.send(self.number, member, lambda member=member: self.world.release(self, job, member))  # type: ignore[misc]
        if not job.releasing:
            self.ended(job)

    def released(self, job: Job, member: ReplicaLoad, load: Load) -> None:
        self.lane.told(member, load, freed=1)
        self.settle()
        job.releasing -= 1
        if job.releasing == 0:
            self.ended(job)

    def ended(self, job: Job) -> None:
        if job.runs:
            self.lane.finish(job.waiter, self.world.now)
            del self.jobs[job.waiter.number]
        else:
            assert not job.granted, "it waits, and holds slots"
            if job.waiter.members:
                self.lane.refuse_gang(job.waiter, job.refused)
            else:
                self.lane.finish(job.waiter, self.world.now, outcome=Outcome.FULL)
            self.lane.put_back(job.waiter)
        self.settle()


class World:
    """Replicas, routers, and what is on the wire between them."""

    def __init__(self, *, gangs: int, size: int, capacity: int, routers: int, always_at_once: bool = False) -> None:
        self.now = 1.0
        self.always_at_once = always_at_once
        self.wire: list[Message] = []
        self.truths = [
            Truth(ReplicaId(f"g{gang}-{rank}"), Gang(gang_id=GangId(f"g{gang}"), rank=rank, size=size), capacity)
            for gang in range(gangs)
            for rank in range(size)
        ]
        self.routers = [Router(self, number) for number in range(routers)]

    def truth(self, member: ReplicaLoad) -> Truth:
        return next(truth for truth in self.truths if truth.name == member.replica_id)

    def send(self, router: int, member: ReplicaLoad, arrive: Callable[[], None]) -> None:
        self.wire.append(Message(router, self.truth(member).gang.rank, arrive))

    def ask(self, router: Router, job: Job, member: ReplicaLoad) -> None:
        truth = self.truth(member)
        granted = truth.held < truth.capacity
        if granted:
            truth.held += 1
        else:
            truth.owed.add(router.number)
        load = truth.load
        self.send(router.number, member, lambda: router.answered(job, member, load, granted=granted))

    def release(self, router: Router, job: Job, member: ReplicaLoad) -> None:
        truth = self.truth(member)
        truth.held -= 1
        job.granted.remove(member)
        load = truth.load
        for number in sorted(truth.owed):
            other = self.routers[number]
            self.send(number, member, lambda other=other: self.push(other, truth, load))  # type: ignore[misc]
        truth.owed.clear()
        self.send(router.number, member, lambda: router.released(job, member, load))

    def push(self, router: Router, truth: Truth, load: Load) -> None:
        router.lane.pushed(router.loads[truth.name], load, draining=False)
        router.settle()

    def run(self, pick: Callable[[list[Message]], int]) -> None:
        """Lets messages arrive until every request was served.

        Raises:
            TimeoutError: That never comes.
        """
        for _ in range(STEPS_MAX):
            if not any(router.jobs for router in self.routers):
                return
            self.now += 0.001
            if self.wire:
                self.wire.pop(pick(self.wire)).arrive()
            for router in self.routers:
                router.lane.settle_probes(self.now)
                router.settle()
            assert all(truth.held <= truth.capacity for truth in self.truths)
        raise TimeoutError("nobody gets on")


@settings(max_examples=60, deadline=None)
@given(
    gangs=st.integers(1, 3),
    size=st.integers(1, 4),
    capacity=st.integers(1, 2),
    routers=st.integers(1, 3),
    wanted=st.lists(st.tuples(st.integers(0, 2), st.booleans()), min_size=1, max_size=25),
    seed=st.integers(0, 10_000),
)
def test_everyone_is_served_and_nothing_is_left(
    gangs: int, size: int, capacity: int, routers: int, wanted: list[tuple[int, bool]], seed: int
) -> None:
    chance = random.Random(seed)
    world = World(gangs=gangs, size=size, capacity=capacity, routers=routers)
    for router, whole_gang in wanted:
        world.routers[router % routers].enter(whole_gang=whole_gang)
    world.run(lambda wire: chance.randrange(len(wire)))
    while world.wire:
        world.wire.pop(0).arrive()
    assert [truth.held for truth in world.truths] == [0] * len(world.truths)
    for front in world.routers:
        assert [load.own for load in front.loads.values()] == [0] * len(world.truths)


def in_lockstep() -> Callable[[list[Message]], int]:
    """One message of each router in turn; one router's reach low ranks first, the other's high ones."""
    turns: Iterator[int] = count()

    def pick(wire: list[Message]) -> int:
        turn = next(turns) % 2
        mine = [index for index, message in enumerate(wire) if message.router == turn] or list(range(len(wire)))
        return min(mine, key=lambda index: (wire[index].rank if turn == 0 else -wire[index].rank, index))

    return pick


def compete(*, always_at_once: bool) -> None:
    world = World(gangs=1, size=2, capacity=1, routers=2, always_at_once=always_at_once)
    for router in world.routers:
        for _ in range(5):
            router.enter(whole_gang=True)
    world.run(in_lockstep())


def test_two_in_lockstep_get_on_because_of_the_order_of_ranks() -> None:
    compete(always_at_once=False)
    with pytest.raises(TimeoutError):
        compete(always_at_once=True)
