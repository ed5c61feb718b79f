"""What is measured, and what is claimed of it: cases that take samples, and figures that set one case over another."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.measure.errors import FAILURES, said
from bench.report.statistics import Spread, ratios

CPU = "cpu_us"
FAILURES_MAX = 3
"""A case that failed as often is measured no more."""

Samples = Mapping[str, Sequence["Sample | None"]]
"""By case: one of each round; None if that round failed. Every case has one at least."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What one round of a case showed.

    Attributes:
        values: By name of the measure, such as ``req_s`` or ``p50_ms``.
        cpu_us: CPU microseconds per request of each process, by its name.
    """

    values: Mapping[str, float]
    cpu_us: Mapping[str, float] = field(default_factory=dict)

    def measured(self, measure: str) -> float:
        """One of its values; ``cpu_us`` is that of all processes together."""
        return sum(self.cpu_us.values()) if measure == CPU else self.values[measure]


@dataclass(frozen=True, slots=True)
class Case:
    """Something to measure. ``take(seconds)`` measures it once."""

    name: str
    title: str
    take: Callable[[float], Awaitable[Sample]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One claim: a measure of a case, over the same measure of its baseline, in the same rounds.

    Attributes:
        title: What it says.
        case: Which case.
        measure: Which of its values.
        baseline: Which case it is set over; empty: the value itself is the figure.
        baseline_measure: Which of the baseline's values; empty: the same.
        goal: What is wanted.
        at_most: Whether less is better.
        unit: Of the value itself, when there is no baseline.
    """

    title: str
    case: str
    measure: str
    baseline: str = ""
    baseline_measure: str = ""
    goal: float | None = None
    at_most: bool = False
    unit: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A figure, and what it is: the spread of its rounds, and the medians of both sides."""

    figure: Figure
    spread: Spread
    here: float
    base: float | None = None

    @property
    def met(self) -> bool | None:
        """Whether it is as wanted; None if nothing was said."""
        goal = self.figure.goal
        if goal is None:
            return None
        return self.spread.median <= goal if self.figure.at_most else self.spread.median >= goal


def known(samples: Sequence[Sample | None]) -> list[Sample]:
    """Those of the rounds that did not fail."""
    return [sample for sample in samples if sample is not None]


def column(samples: Iterable[Sample], measure: str) -> list[float]:
    """One measure over the rounds."""
    return [sample.measured(measure) for sample in samples]


def conclude(figures: Iterable[Figure], samples: Samples) -> list[Result]:
    """What the samples say of each figure whose case and baseline were both measured."""
    results = []
    for figure in figures:
        if not figure.baseline:
            if figure.case in samples:
                here = Spread.of(column(known(samples[figure.case]), figure.measure))
                results.append(Result(figure=figure, spread=here, here=here.median))
            continue
        both = _together(samples.get(figure.case, ()), samples.get(figure.baseline, ()))
        if both:
            taken = column((here for here, _ in both), figure.measure)
            base = column((base for _, base in both), figure.baseline_measure or figure.measure)
            medians = [Spread.of(one).median for one in (taken, base)]
            results.append(
                Result(figure=figure, spread=Spread.of(ratios(taken, base)), here=medians[0], base=medians[1])
            )
    return results


def _together(taken: Sequence[Sample | None], base: Sequence[Sample | None]) -> list[tuple[Sample, Sample]]:
    """The rounds in which neither failed."""
    rounds = zip(taken, base, strict=False)
    return [(one, other) for one, other in rounds if one is not None and other is not None]


async def in_turn(
    cases: Sequence[Case], seconds: float, rounds: int, *, tell: Callable[[str], None] = lambda _: None
) -> tuple[dict[str, list[Sample | None]], dict[str, str]]:
    """Measures every case once a round, so that what disturbs the machine for a while disturbs all of them.

    Returns:
        The samples by case, of those that did not fail every time; and of each case that failed why, and how often.
    """
    samples: dict[str, list[Sample | None]] = {case.name: [] for case in cases}
    failures: dict[str, list[str]] = {}
    for number in range(rounds):
        # Every other round backwards: no case is always right after the same other one.
        for case in cases if number % 2 == 0 else reversed(cases):
            sample = None
            if len(failures.get(case.name, ())) < FAILURES_MAX:
                tell(f"round {number + 1} of {rounds}: {case.title}")
                try:
                    sample = await case.take(seconds)
                except FAILURES as error:
                    failures.setdefault(case.name, []).append(said(error))
            samples[case.name].append(sample)
    found = {name: taken for name, taken in samples.items() if known(taken)}
    titles = {case.name: case.title for case in cases}
    return found, {
        name: f"{titles[name]}, {rounds - len(known(samples[name]))} of {rounds} rounds: {why[-1]}"
        for name, why in failures.items()
    }


def as_json(cases: Iterable[Case], samples: Samples, results: Iterable[Result]) -> dict[str, Any]:
    """Everything, raw."""
    return {
        "cases": {
            case.name: {
                "title": case.title,
                "rounds": [one and {**one.values, "cpu_us": dict(one.cpu_us)} for one in samples[case.name]],
            }
            for case in cases
            if case.name in samples
        },
        "figures": [
            {
                "title": one.figure.title,
                "case": one.figure.case,
                "baseline": one.figure.baseline,
                "measure": one.figure.measure,
                "median": one.spread.median,
                "least": one.spread.least,
                "most": one.spread.most,
                "here": one.here,
                "base": one.base,
                "goal": one.figure.goal,
                "at_most": one.figure.at_most,
                "met": one.met,
            }
            for one in results
        ],
    }
