"""What is kept of a value's past: in bounded memory, and never more hopeful than the whole of it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from serve_core.plan.window import SPANS, Window

YEAR_S = 365 * 24 * 3600.0


def noted(values: list[tuple[float, float]], keep_s: float) -> Window:
    window = Window()
    for time, value in values:
        window.note(value, now=time, keep_s=keep_s)
    return window


def test_each_value_of_five_minutes_is_kept_by_itself() -> None:
    window = noted([(float(second), float(second)) for second in range(1000)], keep_s=300.0)
    assert len(window) == 301
    assert window.extremes_since(999.0 - 300.0) == (699.0, 999.0)
    assert window.extremes_since(989.5) == (989.0, 999.0)
    assert window.extremes_since(698.0) is None
    assert window.mean() == (699.0 + 999.0) / 2
    assert window.newest == 999.0


def test_a_window_of_a_year_is_no_larger() -> None:
    window = Window()
    for minute in range(2 * 365 * 24 * 6):
        window.note(minute % 97, now=600.0 * minute, keep_s=YEAR_S)
    assert len(window) <= SPANS + 2
    now = window.newest
    assert now is not None
    assert window.extremes_since(now - YEAR_S) == (0, 96)


def test_of_nothing_nothing_is_known() -> None:
    assert Window().extremes_since(0.0) is None
    assert Window().newest is None


@given(
    keep_s=st.floats(1.0, 1e6),
    since_share=st.floats(0.0, 1.0),
    steps=st.lists(st.tuples(st.floats(0.001, 1e5), st.floats(0.0, 100.0)), min_size=1, max_size=60),
)
def test_the_extremes_are_those_of_every_value_since_then_or_wider(
    keep_s: float, since_share: float, steps: list[tuple[float, float]]
) -> None:
    now, seen, window = 0.0, list[tuple[float, float]](), Window()
    for step, value in steps:
        now += step
        seen.append((now, value))
        window.note(value, now=now, keep_s=keep_s)
        since = now - keep_s * since_share
        found = window.extremes_since(since)
        reaches = seen[0][0] <= since
        assert (found is not None) == reaches
        if found is not None:
            inside = [one for time, one in seen if time >= since]
            assert found[0] <= min(inside)
            assert found[1] >= max(inside)
            assert found[0] in {one for _, one in seen}
        assert len(window) <= SPANS + 2
