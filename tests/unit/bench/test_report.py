"""Figures, their table and their picture."""

import xml.etree.ElementTree as ElementTree

import pytest

from bench.measure.errors import MeasurementError
from bench.report.figures import FAILURES_MAX, Case, Figure, Sample, as_json, conclude, in_turn
from bench.report.plot import Scale, svg
from bench.report.statistics import Spread
from bench.report.table import cases_table, figures_table, number, spread

FASTER = Figure(title="ours over theirs", case="ours", baseline="theirs", measure="req_s", goal=2.0)
SLOWER = Figure(title="p50", case="ours", baseline="theirs", measure="p50_ms", goal=1.0, at_most=True)
SIZE = Figure(title="memory", case="ours", measure="pss_mb", goal=50.0, at_most=True, unit="MB")
SAMPLES = {
    "ours": [Sample({"req_s": 300.0, "p50_ms": 3.0, "pss_mb": 40.0}, {"router": 30.0, "replica": 10.0})] * 2
    + [Sample({"req_s": 400.0, "p50_ms": 3.0, "pss_mb": 41.0}, {"router": 50.0, "replica": 10.0})],
    "theirs": [Sample({"req_s": 100.0, "p50_ms": 2.0})] * 3,
}


async def nothing(seconds: float) -> Sample:
    return Sample({"req_s": seconds})


CASES = [Case("ours", "Ours", nothing), Case("theirs", "Theirs", nothing)]


def test_a_figure_is_the_median_ratio_with_both_sides() -> None:
    (result,) = conclude([FASTER], SAMPLES)
    assert (result.spread, result.here, result.base) == (Spread(3.0, 3.0, 4.0), 300.0, 100.0)
    assert result.met is True


def test_less_can_be_better() -> None:
    (result,) = conclude([SLOWER], SAMPLES)
    assert result.spread.median == 1.5
    assert result.met is False


def test_a_figure_without_a_baseline_is_the_value_itself() -> None:
    (result,) = conclude([SIZE], SAMPLES)
    assert (result.spread.median, result.base, result.met) == (40.0, None, True)


def test_cpu_time_is_that_of_all_processes() -> None:
    figure = Figure(title="CPU", case="ours", measure="cpu_us", unit="us")
    assert conclude([figure], SAMPLES)[0].spread == Spread(40.0, 40.0, 60.0)


def test_a_figure_whose_baseline_was_not_measured_is_left_out() -> None:
    assert conclude([FASTER], {"ours": SAMPLES["ours"]}) == []
    assert conclude([FASTER], {"theirs": SAMPLES["theirs"]}) == []


async def test_cases_are_measured_in_turn_and_every_other_round_backwards() -> None:
    order: list[str] = []

    def case(name: str) -> Case:
        async def take(seconds: float) -> Sample:
            order.append(name)
            return Sample({"req_s": seconds})

        return Case(name, name, take)

    samples, failed = await in_turn([case("a"), case("b")], 0.5, 3)
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert {name: len(taken) for name, taken in samples.items()} == {"a": 3, "b": 3}
    assert failed == {}


async def test_a_case_that_fails_is_left_out_and_the_others_go_on() -> None:
    async def fails(_: float) -> Sample:
        raise MeasurementError("3 calls failed")

    samples, failed = await in_turn([Case("broken", "Broken", fails), *CASES], 0.5, 2)
    assert {name: len(taken) for name, taken in samples.items()} == {"ours": 2, "theirs": 2}
    assert failed == {"broken": "Broken, 2 of 2 rounds: 3 calls failed"}


async def test_a_round_that_fails_is_left_out_with_that_of_the_other_side() -> None:
    answers = iter([1.0, None, 4.0])

    async def fails_once(_: float) -> Sample:
        answer = next(answers)
        if answer is None:
            raise MeasurementError("3 calls failed:\nall that h2load printed")
        return Sample({"req_s": answer})

    rounds = iter([2.0, 3.0, 2.0])

    async def goes_on(_: float) -> Sample:
        return Sample({"req_s": next(rounds)})

    cases = [Case("ours", "Ours", fails_once), Case("theirs", "Theirs", goes_on)]
    samples, failed = await in_turn(cases, 0.5, 3)
    assert failed == {"ours": "Ours, 1 of 3 rounds: 3 calls failed"}
    (result,) = conclude([FASTER], samples)
    assert (result.spread, result.here, result.base) == (Spread(1.25, 0.5, 2.0), 2.5, 2.0)
    assert "| Ours | 2.50 (1.00 to 4.00) |" in cases_table(cases, samples)
    assert as_json(cases, samples, [result])["cases"]["ours"]["rounds"][1] is None


async def test_a_case_that_always_fails_is_not_tried_for_ever() -> None:
    tries: list[float] = []

    async def fails(seconds: float) -> Sample:
        tries.append(seconds)
        raise TimeoutError

    samples, failed = await in_turn([Case("broken", "Broken", fails)], 0.5, 9)
    assert (len(tries), samples) == (FAILURES_MAX, {})
    assert failed == {"broken": "Broken, 9 of 9 rounds: not in time"}


def test_the_table_of_figures() -> None:
    assert figures_table(conclude([FASTER, SLOWER, SIZE], SAMPLES)) == (
        "| Figure | Median (least to most) | Wanted |  | Here | Baseline |\n"
        "| --- | ---: | ---: | ---: | ---: | ---: |\n"
        "| ours over theirs | 3.00 (3.00 to 4.00) | ≥ 2 | met | 300 | 100 |\n"
        "| p50 | 1.50 | ≤ 1 | not met | 3.00 | 2.00 |\n"
        "| memory | 40.0 (40.0 to 41.0) MB | ≤ 50 MB | met |  |  |\n"
    )


def test_the_table_of_cases() -> None:
    assert cases_table(CASES, SAMPLES) == (
        "| Measured | requests/s | p50, ms | PSS, MB | CPU, us a request | of that |\n"
        "| --- | ---: | ---: | ---: | ---: | ---: |\n"
        "| Ours | 300 (300 to 400) | 3.00 | 40.0 | 40.0 | router 30, replica 10 |\n"
        "| Theirs | 100 | 2.00 |  |  |  |\n"
    )


@pytest.mark.parametrize(
    ("value", "wanted"), [(12345.6, "12,346"), (99.94, "99.9"), (1.234, "1.23"), (0.0123, "0.012"), (0.0, "0.00")]
)
def test_numbers_have_as_many_digits_as_say_something(value: float, wanted: str) -> None:
    assert number(value) == wanted


def test_one_round_has_no_spread() -> None:
    assert spread(Spread(1.0, 1.0, 1.0)) == "1.00"


def test_the_picture_has_a_bar_for_each_ratio_and_says_it() -> None:
    picture = ElementTree.fromstring(svg(conclude([FASTER, SLOWER, SIZE], SAMPLES)))
    texts = [one.text for one in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert {"ours over theirs", "p50", "3.00 (≥ 2)", "1.50 (≤ 1)"} <= set(texts)
    assert "memory" not in texts
    assert len(list(picture.iter("{http://www.w3.org/2000/svg}rect"))) == 1 + 2


def test_titles_are_escaped_in_the_picture() -> None:
    figure = Figure(title="a < b & c", case="ours", baseline="theirs", measure="req_s")
    assert "a &lt; b &amp; c" in svg(conclude([figure], SAMPLES))


def test_the_scale_is_logarithmic_and_holds_all_values() -> None:
    scale = Scale([0.1, 1.0, 100.0])
    assert scale(10.0) - scale(1.0) == pytest.approx(scale(100.0) - scale(10.0))
    assert {0.1, 1, 10, 100} <= set(scale.ticks)


def test_the_raw_numbers_hold_every_round() -> None:
    raw = as_json(CASES, SAMPLES, conclude([FASTER], SAMPLES))
    assert [one["req_s"] for one in raw["cases"]["ours"]["rounds"]] == [300.0, 300.0, 400.0]
    assert raw["figures"][0]["met"] is True
