"""However a process is stopped and whatever is still in the pipes: after standing still it waits for fresh news."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from replica.core.fence import Fence

LIMIT_S = 10.0

steps = st.lists(
    st.one_of(
        st.tuples(st.just("pass"), st.sampled_from([0.25, 1.0, 9.9, 10.5, 60.0])),
        st.tuples(st.just("beat"), st.just(0.0)),
        st.tuples(st.just("hear"), st.sampled_from([0.0, 1.0, 2.0])),
        st.tuples(st.just("serve"), st.just(0.0)),
    ),
    max_size=60,
)


@dataclass
class Model:
    """A process that is told what it did, and a controller whose answers arrive late."""

    fence: Fence = field(default_factory=lambda: Fence(limit_s=LIMIT_S))
    now: float = 0.0
    ran_at: float = 0.0
    sent: list[tuple[int, float]] = field(default_factory=list)
    stood_still_until: float = -1.0
    heard_since: bool = True

    def run(self) -> None:
        """The process gets to run: what it must find out by itself, the model knows."""
        if self.now - self.ran_at > LIMIT_S:
            self.stood_still_until = self.now
            self.heard_since = False
        self.ran_at = self.now
        self.fence.alive(self.now)

    def beat(self) -> None:
        self.run()
        self.sent.append((len(self.sent) + 1, self.now))
        self.fence.beat(self.sent[-1][0])

    def hear(self, late: int) -> None:
        """The acknowledgement of one of the last heartbeats arrives."""
        self.run()
        if len(self.sent) > late:
            sequence, sent_at = self.sent[-1 - late]
            self.heard_since = self.heard_since or sent_at >= self.stood_still_until
            self.fence.acknowledged(sequence)


@given(steps)
def test_it_serves_only_what_the_controller_has_confirmed_since(story: list[tuple[str, float]]) -> None:
    model = Model()
    model.fence.arm(0.0)
    for step, amount in story:
        if step == "pass":
            model.now += amount
        elif step == "beat":
            model.beat()
        elif step == "hear":
            model.hear(int(amount))
        else:
            model.run()
            if not model.fence.up:
                assert model.heard_since


@given(steps)
def test_one_round_trip_is_enough_to_serve_again(story: list[tuple[str, float]]) -> None:
    model = Model()
    model.fence.arm(0.0)
    for step, amount in story:
        model.now += amount if step == "pass" else 0.0
    model.run()
    model.beat()
    model.hear(0)
    assert not model.fence.up
