"""How a router leaves, told moment by moment."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from router.core.departure import Departure, DepartureLimits, Phase, Seen, Step

LIMITS = DepartureLimits(drain_timeout_s=30.0, linger_timeout_s=12.0, quiet_s=2.0)
BUSY = Seen(running=1, connections=3, last_call_at=100.0)
EMPTY = Seen(running=0, connections=0, last_call_at=90.0)
LISTENS = Step(Phase.LEAVING, listening=True)
DEAF = Step(Phase.LEAVING, listening=False)
REFUSES = Step(Phase.REFUSING, listening=False)
GONE = Step(Phase.GONE, listening=False)


def leaving() -> Departure:
    return Departure(LIMITS, now=100.0)


def test_it_serves_on_while_it_is_called() -> None:
    departure = leaving()
    assert departure.look(BUSY, now=100.0) == LISTENS
    assert departure.look(replace(BUSY, running=0, last_call_at=111.0), now=111.9) == LISTENS


def test_it_ends_once_it_was_quiet_and_nobody_is_connected() -> None:
    departure = leaving()
    assert departure.look(EMPTY, now=100.0) == LISTENS, "whoever balances load needs time to notice"
    assert departure.look(EMPTY, now=101.9) == LISTENS
    assert departure.look(replace(EMPTY, last_call_at=101.0), now=102.5) == LISTENS
    assert departure.look(replace(EMPTY, connections=1), now=104.0) == LISTENS
    assert departure.look(EMPTY, now=104.0) == GONE


def test_a_successor_on_its_port_takes_what_is_new() -> None:
    departure = leaving()
    assert departure.look(replace(BUSY, replaced=True), now=100.0) == DEAF
    assert departure.look(BUSY, now=100.1) == DEAF, "it does not listen again"
    assert departure.look(replace(EMPTY, connections=1), now=100.2) == DEAF
    assert departure.look(EMPTY, now=100.3) == GONE, "nobody new can come, so there is nothing to wait for"


def test_it_waits_for_the_slots_that_were_promised_through_it() -> None:
    departure = leaving()
    promised = replace(EMPTY, replaced=True, leased_until=105.0)
    assert departure.look(promised, now=104.9) == DEAF
    assert departure.look(promised, now=105.0) == GONE


def test_callers_that_never_leave_are_refused_and_what_runs_finishes() -> None:
    departure = leaving()
    assert departure.look(BUSY, now=111.9) == LISTENS
    assert departure.look(BUSY, now=112.0) == REFUSES
    assert departure.look(BUSY, now=129.9) == REFUSES
    assert departure.look(replace(BUSY, running=0), now=129.95) == GONE


def test_the_time_for_all_of_it_is_bounded() -> None:
    departure = leaving()
    assert departure.look(BUSY, now=129.9) == REFUSES
    assert departure.look(BUSY, now=130.0) == GONE
    short = Departure(replace(LIMITS, drain_timeout_s=1.0), now=100.0)
    assert short.look(BUSY, now=100.9) == LISTENS
    assert short.look(BUSY, now=101.0) == GONE, "lingering does not outlast the whole"


sights = st.builds(
    Seen,
    running=st.integers(0, 2),
    connections=st.integers(0, 2),
    last_call_at=st.floats(0.0, 140.0),
    leased_until=st.floats(0.0, 140.0),
    replaced=st.booleans(),
)


@given(st.lists(st.tuples(st.floats(0.0, 5.0), sights), max_size=30))
def test_it_never_goes_back_and_never_leaves_anyone_before_time(looks: list[tuple[float, Seen]]) -> None:
    departure, now, before = leaving(), 100.0, LISTENS
    order = list(Phase)
    for later, seen in looks:
        now += later
        step = departure.look(seen, now=now)
        assert order.index(step.phase) >= order.index(before.phase)
        assert step.listening <= before.listening
        if step.phase is Phase.GONE and before.phase is not Phase.GONE:
            assert seen.running == 0 or now >= 130.0
        if step.phase is not Phase.LEAVING:
            assert not step.listening
        assert now < 130.0 or step.phase is Phase.GONE
        assert now < 112.0 or step.phase is not Phase.LEAVING
        before = step
