"""Whatever comes, goes and gives up: the calls of an actor run in the order in which they came, and never too many."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from replica.calls import Claim
from replica.core.leases import LeasePolicy
from replica.desk import Occupancy, SlotDesk
from replica.line import Line
from serve_core.errors import DrainingError
from serve_core.model.ids import ReplicaId

CAPACITY = 3
STEPS = st.one_of(
    st.tuples(st.just("come"), st.integers(1, CAPACITY)),
    st.tuples(st.just("finish"), st.integers(0, 9)),
    st.tuples(st.just("give up"), st.integers(0, 9)),
)


class Scene:
    """An actor, and what its callers do."""

    def __init__(self) -> None:
        self.desk = SlotDesk(replica_id=ReplicaId("app.dep.g1-0"), epoch=1)
        self.desk.configure(capacity=CAPACITY, leases=LeasePolicy(default_s=10.0, max_s=60.0))
        self.desk.open()
        self._line = Line(self.desk)
        self._came = 0
        self.waiting: dict[int, tuple[int, asyncio.Task[None]]] = {}
        self.inside: dict[int, tuple[int, Occupancy]] = {}
        self.order: list[int] = []

    def come(self, slots: int) -> None:
        number = self._came
        self._came += 1

        async def call() -> None:
            occupancy = await self._line.admit(Claim(slots=slots))
            self.order.append(number)
            self.inside[number] = (slots, occupancy)
            del self.waiting[number]

        self.waiting[number] = (slots, asyncio.ensure_future(call()))

    def finish(self, which: int) -> None:
        if self.inside:
            _, occupancy = self.inside.pop(sorted(self.inside)[which % len(self.inside)])
            occupancy.finish(ok=True)

    async def give_up(self, which: int) -> None:
        if self.waiting:
            _, task = self.waiting.pop(sorted(self.waiting)[which % len(self.waiting)])
            task.cancel()
            await asyncio.wait({task})

    async def settle(self) -> None:
        for _ in range(2 * CAPACITY + 3):
            await asyncio.sleep(0)

    def check(self) -> None:
        held = sum(slots for slots, _ in self.inside.values())
        assert held <= CAPACITY
        assert self.order == sorted(self.order)
        assert not self.order or not self.waiting or max(self.order) < min(self.waiting), "overtaken"
        assert self.desk.load.ongoing == held
        if self.waiting:
            slots, _ = self.waiting[min(self.waiting)]
            assert slots > CAPACITY - held, "the first one has room, and waits"
        self.desk.check()


@given(steps=st.lists(STEPS, max_size=40))
def test_calls_run_in_order_and_as_soon_as_there_is_room(steps: list[tuple[str, int]]) -> None:
    async def play() -> None:
        scene = Scene()
        for kind, number in steps:
            if kind == "come":
                scene.come(number)
            elif kind == "finish":
                scene.finish(number)
            else:
                await scene.give_up(number)
            await scene.settle()
            scene.check()
        scene.desk.drain()
        refused = [task for _, task in scene.waiting.values()]
        for result in await asyncio.gather(*refused, return_exceptions=True):
            assert isinstance(result, DrainingError)
        while scene.inside:
            scene.finish(0)
        assert scene.desk.idle

    asyncio.run(play())
