"""The benchmark's command: which rows there are, and what becomes of one that fails."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench.measure.errors import MeasurementError
from bench.report.figures import Case, Figure, Sample
from bench.report.page import marks
from bench.rows.stage import Row, Size, Stage
from bench.speed import DEFAULT_ROWS, ROWS, main, measure


async def no_cases(_: Stage) -> Sequence[Case]:
    raise MeasurementError("nothing to measure with")


async def one_case(_: Stage) -> Sequence[Case]:
    async def take(seconds: float) -> Sample:
        return Sample({"req_s": seconds})

    return [Case("one", "One", take)]


def no_figures(_: Size) -> Sequence[Figure]:
    return []


async def test_a_row_that_cannot_be_prepared_is_told_and_the_next_is_measured() -> None:
    rows = [Row("bad", "Bad", "", no_cases, no_figures), Row("good", "Good", "", one_case, no_figures)]
    report = await measure(rows, Size(), seconds=1.0, rounds=2)
    assert report.failed == ["bad: nothing to measure with"]
    assert "- failed: bad: nothing to measure with" in report.text("")
    assert "| One | 1.00 |" in report.text("")


async def test_a_row_that_takes_long_is_measured_less_often() -> None:
    report = await measure([Row("good", "Good", "", one_case, no_figures, 1)], Size(), seconds=1.0, rounds=5)
    assert len(report.raw["good"]["cases"]["one"]["rounds"]) == 1


async def test_a_row_may_ask_for_more_rounds() -> None:
    row = Row("good", "Good", "", one_case, no_figures, rounds_times=3)
    report = await measure([row], Size(), seconds=1.0, rounds=2)
    assert len(report.raw["good"]["cases"]["one"]["rounds"]) == 6


def test_what_was_measured_is_written_though_the_run_breaks_off(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async def breaks(_: Stage) -> Sequence[Case]:
        raise ZeroDivisionError("nobody thought of this")

    monkeypatch.setitem(ROWS, "good", Row("good", "Good", "", one_case, no_figures))
    monkeypatch.setitem(ROWS, "worse", Row("worse", "Worse", "", breaks, no_figures))
    page = tmp_path / "page.md"
    page.write_text("as it was")
    out, rest = str(tmp_path / "report.md"), ["--seconds", "1", "--repeats", "1", "--page", str(page)]
    result = CliRunner().invoke(main, ["--rows", "good,worse", "--out", out, *rest])
    assert isinstance(result.exception, ZeroDivisionError)
    assert "| One | 1.00 |" in result.output
    assert "| One | 1.00 |" in (tmp_path / "report.md").read_text()
    assert page.read_text() == "as it was"


def test_a_page_gets_what_was_measured_and_what_failed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(ROWS, "good", Row("good", "Good", "", one_case, no_figures))
    monkeypatch.setitem(ROWS, "bad", Row("bad", "Bad", "", no_cases, no_figures))
    page = tmp_path / "page.md"
    page.write_text("\n".join(("before", *marks("speed"), "after")))
    result = CliRunner().invoke(main, ["--rows", "bad,good", "--seconds", "1", "--page", str(page)])
    assert result.exit_code == 1
    text = page.read_text()
    assert "- failed: bad: nothing to measure with" in text
    assert "| One | 1.00 |" in text
    assert (tmp_path / "speed.svg").exists()


def test_an_unknown_row_is_named_with_those_that_there_are() -> None:
    result = CliRunner().invoke(main, ["--rows", "hop,nope"])
    assert result.exit_code == 2
    assert "'nope'" in result.output
    assert "streams" in result.output


def test_what_needs_ray_is_not_measured_unasked() -> None:
    assert {"ray", "ray-life"} == set(ROWS) - set(DEFAULT_ROWS)


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_every_figure_has_a_goal_that_is_a_ratio_or_says_its_unit(row: Row) -> None:
    for figure in row.figures(Size()):
        assert figure.baseline or figure.unit, figure.title
