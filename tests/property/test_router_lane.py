"""A lane against simulated replicas whose answers and pushes arrive in any order: nobody is lost or overtaken."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from router.core.choice import Candidates, Policy, PowerOfTwo, RoundRobin
from router.core.lane import Lane
from router.core.load import PROBE_S, Fit, ReplicaLoad
from router.core.queue import Waiter
from router.core.retry import Outcome
from serve_core.errors import QueueFullError
from serve_core.model.ids import DeploymentKey, ReplicaId
from serve_core.model.load import Load

KEY = DeploymentKey("app", "Model")
LIMIT = 6


@dataclass
class Truth:
    """What a replica really holds, and what is on the wire to and from it."""

    load: ReplicaLoad
    capacity: int
    others: int = 0
    ours: int = 0
    owed: bool = False
    connected: bool = False
    arriving: list[Waiter] = field(default_factory=list)
    running: list[Waiter] = field(default_factory=list)
    answers: list[tuple[Waiter, Outcome, Load]] = field(default_factory=list)
    pushes: list[Load] = field(default_factory=list)

    @property
    def told(self) -> Load:
        return Load(self.ours + self.others, 0, self.capacity)

    def receive(self, waiter: Waiter) -> None:
        if waiter.slots <= self.told.free:
            self.ours += waiter.slots
            self.running.append(waiter)
        else:
            self.owed = True
            self.answers.append((waiter, Outcome.FULL, self.told))

    def freed(self) -> None:
        if self.owed and self.connected:
            self.owed = False
            self.pushes.append(self.told)


class Watched:
    """A policy whose every choice is checked."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    def choose(self, candidates: Candidates, slots: int) -> ReplicaLoad | None:
        chosen = self._policy.choose(candidates, slots)
        fits = [replica.fit(slots) for replica in candidates.everyone]
        if chosen is None:
            assert all(fit is Fit.CLOSED for fit in fits)
        else:
            assert chosen.fit(slots) is max(fits) is not Fit.CLOSED
            assert chosen.own + slots <= chosen.capacity
            if slots > 1 and isinstance(self._policy, PowerOfTwo):
                fitting = [one for one in candidates.everyone if one.fit(slots) is chosen.fit(slots)]
                assert chosen.utilisation == min(one.utilisation for one in fitting)
        return chosen


class LaneMachine(RuleBasedStateMachine):
    """Requests of weight 1 and 2 on replicas that others use too."""

    @initialize(
        capacities=st.lists(st.integers(2, 4), min_size=1, max_size=3),
        seed=st.integers(0, 1000),
        round_robin=st.booleans(),
    )
    def start(self, capacities: list[int], seed: int, round_robin: bool) -> None:
        self.now = 100.0
        self.random = random.Random(seed)
        policy: Policy = RoundRobin() if round_robin else PowerOfTwo(self.random.random)
        self.lane = Lane(KEY, Watched(policy), max_queued_requests=LIMIT)
        self.truths = [
            Truth(self.lane.add(ReplicaId(f"r{number}")), capacity, others=self.random.randint(0, capacity))
            for number, capacity in enumerate(capacities)
        ]
        for truth in self.truths:
            self.come(truth)
        self.waiting: list[Waiter] = []
        self.alive: dict[int, Waiter] = {}
        self.done = 0

    # What callers do.

    @rule(many=st.lists(st.sampled_from([1, 1, 1, 2]), min_size=1, max_size=4), patience=st.sampled_from([None, 0.05]))
    def arrive(self, many: list[int], patience: float | None) -> None:
        for slots in many:
            self.arrive_one(slots, patience)

    def arrive_one(self, slots: int, patience: float | None) -> None:
        waited = len(self.lane.queue)
        deadline = None if patience is None else self.now + patience
        try:
            waiter = self.lane.enter(slots=slots, deadline=deadline, now=self.now)
        except QueueFullError:
            assert waited >= LIMIT
            return
        self.alive[waiter.number] = waiter
        if waiter.replica is None:
            assert waited < LIMIT
            self.waiting.append(waiter)
        else:
            assert waited == 0, "it overtook those that wait"
            self.send(waiter)

    @precondition(lambda self: self.waiting)
    @rule(which=st.integers(0, 2))
    def cancel(self, which: int) -> None:
        waiter = self.waiting[which % len(self.waiting)]
        self.waiting.remove(waiter)
        self.lane.leave(waiter)
        del self.alive[waiter.number]
        self.settle()

    # What replicas do.

    @rule(which=st.integers(0, 2))
    def connect(self, which: int) -> None:
        truth = self.truths[which % len(self.truths)]
        if not truth.connected:
            self.come(truth)

    @rule(which=st.integers(0, 2), reachable=st.booleans())
    def lose(self, which: int, reachable: bool) -> None:
        truth = self.truths[which % len(self.truths)]
        if truth.connected:
            truth.connected, truth.owed = False, False
            truth.pushes.clear()
            self.lane.lost(truth.load, reachable=reachable)
            self.settle()

    @rule(which=st.integers(0, 2))
    def deliver(self, which: int) -> None:
        truth = self.truths[which % len(self.truths)]
        if truth.arriving:
            truth.receive(truth.arriving.pop(0))

    @rule(which=st.integers(0, 2))
    def complete(self, which: int) -> None:
        truth = self.truths[which % len(self.truths)]
        if truth.running:
            self.end(truth, truth.running.pop(self.random.randrange(len(truth.running))))

    @rule(which=st.integers(0, 2))
    def others_take(self, which: int) -> None:
        truth = self.truths[which % len(self.truths)]
        truth.others += truth.told.free > 0

    @rule(which=st.integers(0, 2))
    def others_free(self, which: int) -> None:
        truth = self.truths[which % len(self.truths)]
        if truth.others:
            truth.others -= 1
            truth.freed()

    # What the network does: answers and pushes overtake each other.

    @rule(which=st.integers(0, 2))
    def answer(self, which: int) -> None:
        truth = self.truths[which % len(self.truths)]
        if truth.answers:
            self.come_back(truth, *truth.answers.pop(self.random.randrange(len(truth.answers))))

    @rule(which=st.integers(0, 2))
    def push(self, which: int) -> None:
        truth = self.truths[which % len(self.truths)]
        if truth.pushes:
            self.lane.pushed(truth.load, truth.pushes.pop(0), draining=False)
            self.settle()

    @rule(seconds=st.sampled_from([0.001, PROBE_S, 0.1]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.lane.settle_probes(self.now)
        self.settle()

    # What always holds.

    @invariant()
    def the_queue_is_in_order_and_whole(self) -> None:
        numbers = [waiter.number for waiter in self.lane.queue]
        assert numbers == sorted(numbers) == sorted(waiter.number for waiter in self.waiting)
        assert self.lane.queue.waits is bool(numbers)

    @invariant()
    def own_is_exact(self) -> None:
        for truth in self.truths:
            on_the_way = [waiter for waiter, _, _ in truth.answers]
            ours = sum(waiter.slots for waiter in (*truth.arriving, *truth.running, *on_the_way))
            assert truth.load.own == ours
            assert truth.ours + truth.others <= truth.capacity

    @invariant()
    def what_is_kept_up_to_date_is_what_a_look_at_everyone_tells(self) -> None:
        loads = list(self.lane.replicas)
        census = self.lane._census
        assert census.slots == sum(load.capacity for load in loads)
        assert census.connected == sum(load.connected for load in loads)
        assert set(self.lane._probed) == {load for load in loads if load.probe_ends_at is not None}
        ends = [load.probe_ends_at or 0.0 for load in self.lane._probed]
        assert ends == sorted(ends)

    def teardown(self) -> None:
        """Once the others are gone and everything arrives, everybody is served without any news from outside."""
        if not hasattr(self, "truths"):
            return
        for truth in self.truths:
            if not truth.connected:
                self.come(truth)
            truth.others = 0
            truth.freed()
        self.settle()
        for _ in range(1000):
            if not self.alive:
                return
            self.everything_arrives()
        raise AssertionError(f"{len(self.alive)} requests are lost")

    def everything_arrives(self) -> None:
        for truth in self.truths:
            while truth.pushes:
                self.lane.pushed(truth.load, truth.pushes.pop(0), draining=False)
            self.settle()
            while truth.arriving:
                truth.receive(truth.arriving.pop(0))
            while truth.running:
                self.end(truth, truth.running.pop())
            while truth.answers:
                self.come_back(truth, *truth.answers.pop(0))

    # How it is done.

    def settle(self) -> None:
        for waiter in self.lane.settle(self.now):
            ahead = [other for other in self.lane.queue if other.number < waiter.number]
            assert not ahead, "it overtook"
            self.waiting.remove(waiter)
            if waiter.replica is not None:
                self.send(waiter)
            else:
                assert waiter.error is not None
                assert waiter.deadline is not None
                assert self.now >= waiter.deadline
                del self.alive[waiter.number]

    def come(self, truth: Truth) -> None:
        truth.connected = True
        self.lane.pushed(truth.load, truth.told, draining=False)
        self.settle()

    def send(self, waiter: Waiter) -> None:
        truth = next(truth for truth in self.truths if truth.load is waiter.replica)
        truth.arriving.append(waiter)

    def end(self, truth: Truth, waiter: Waiter) -> None:
        truth.ours -= waiter.slots
        truth.answers.append((waiter, Outcome.FINAL, truth.told))
        truth.freed()

    def come_back(self, truth: Truth, waiter: Waiter, outcome: Outcome, load: Load) -> None:
        if self.random.random() < 0.5:
            self.lane.finish(waiter, self.now, outcome=outcome, load=load)
        else:
            self.lane.told(truth.load, load, freed=waiter.slots)
            self.lane.finish(waiter, self.now, outcome=outcome)
        if outcome is Outcome.FINAL:
            del self.alive[waiter.number]
        else:
            self.lane.put_back(waiter)
            self.waiting.append(waiter)
        self.settle()


TestLane = LaneMachine.TestCase
TestLane.settings = settings(max_examples=300, stateful_step_count=50, deadline=None)
