"""Barriers against a plain account of who was there: nobody passes alone, and nobody waits for who has come."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from replica.core.barrier import Barriers, Rounds, Visit
from serve_core.errors import GangChangedError

SIZE = 3
NAMES = ("", "load")

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("come"), st.integers(0, SIZE - 1), st.sampled_from(NAMES)),
        st.tuples(st.just("give up"), st.integers(0, SIZE - 1), st.sampled_from(NAMES)),
        st.tuples(st.just("replace"), st.just(0), st.just("")),
    ),
    max_size=60,
)


class Gang:
    """Members that come and give up, the barriers that they come to, and when each was there, in plain words."""

    def __init__(self) -> None:
        self.barriers = Barriers(size=SIZE)
        self.rounds = [Rounds() for _ in range(SIZE)]
        self.waiting: dict[tuple[int, str], Visit] = {}
        self.passes = {(rank, name): 0 for rank in range(SIZE) for name in NAMES}
        self.epoch = 1
        self.barriers.begin(epoch=1)

    def come(self, rank: int, name: str) -> None:
        if (rank, name) in self.waiting:
            return
        visit = self.rounds[rank].next(epoch=self.epoch, rank=rank, name=name)
        self.barriers.come(visit)
        self.waiting[rank, name] = visit
        there = [other for other in range(SIZE) if (other, name) in self.waiting]
        assert self.barriers.missing(visit) == (() if len(there) == SIZE else tuple(set(range(SIZE)) - set(there)))
        if len(there) == SIZE:
            for other in there:
                self.leave(other, name)

    def leave(self, rank: int, name: str) -> None:
        visit = self.waiting.pop((rank, name))
        assert self.barriers.missing(visit) == ()
        self.barriers.go(visit)
        self.rounds[rank].passed(visit)
        self.passes[rank, name] += 1

    def give_up(self, rank: int, name: str) -> None:
        visit = self.waiting.pop((rank, name), None)
        if visit is not None:
            assert self.barriers.missing(visit)
            self.barriers.go(visit)

    def replace(self) -> None:
        self.epoch += 1
        self.barriers.begin(epoch=self.epoch)
        for visit in self.waiting.values():
            try:
                self.barriers.missing(visit)
            except GangChangedError:
                self.barriers.go(visit)
            else:
                raise AssertionError(f"{visit} goes on in epoch {self.epoch}")
        self.waiting.clear()


@given(STEPS)
def test_members_pass_together_or_not_at_all(steps: list[tuple[str, int, str]]) -> None:
    gang = Gang()
    for what, rank, name in steps:
        match what:
            case "come":
                gang.come(rank, name)
            case "give up":
                gang.give_up(rank, name)
            case _:
                gang.replace()
        for one in NAMES:
            assert len({gang.passes[rank, one] for rank in range(SIZE)}) == 1
