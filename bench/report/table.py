"""What was measured, as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bench.report.figures import CPU, Case, Result, Sample, Samples, column, known
from bench.report.statistics import Spread

UNITS = {
    "req_s": "requests/s",
    "items_s": "items/s",
    "mb_s": "MB/s",
    "p50_ms": "p50, ms",
    "p99_ms": "p99, ms",
    "gap_p50_ms": "gap p50, ms",
    "gap_p99_ms": "gap p99, ms",
    "took_s": "s",
    "cpu_percent": "% of a core",
    "pss_mb": "PSS, MB",
    "rss_mb": "RSS, MB",
    "cold_s": "cold start, s",
    "ready_s": "ready, s",
    "update_s": "update, s",
    "rate_s": "offered/s",
    "load_us": "load's CPU, us a request",
}
"""What measures are called in a heading; others are called by their own name."""


def number(value: float) -> str:
    """With as many digits as say something."""
    size = abs(value)
    if size >= 100:
        return f"{value:,.0f}"
    if size >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if size >= 0.1 or size == 0 else f"{value:.3f}"


def spread(of: Spread) -> str:
    """Median, and least to most unless there was one round only."""
    if of.least == of.most:
        return number(of.median)
    return f"{number(of.median)} ({number(of.least)} to {number(of.most)})"


def markdown(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; every column but the first is set right."""
    lines = [heading, ["---"] + ["---:"] * (len(heading) - 1), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def figures_table(results: Sequence[Result]) -> str:
    """One line a figure: what it is over, its median with least and most, what is wanted, and both sides."""
    return markdown(("Figure", "Median (least to most)", "Wanted", "", "Here", "Baseline"), map(_figure, results))


def _figure(result: Result) -> Sequence[str]:
    figure = result.figure
    unit = f" {figure.unit}" if figure.unit else ""
    wanted = "" if figure.goal is None else f"{'≤' if figure.at_most else '≥'} {figure.goal:g}{unit}"
    verdict = {True: "met", False: "not met", None: ""}[result.met]
    here = number(result.here) if result.base is not None else ""
    base = number(result.base) if result.base is not None else ""
    return figure.title, spread(result.spread) + unit, wanted, verdict, here, base


def cases_table(cases: Iterable[Case], samples: Samples) -> str:
    """One line a case: its measures and its CPU time, as medians; of the first measure also the least and most."""
    measured = [(case.title, known(samples[case.name])) for case in cases if case.name in samples]
    measures = list(dict.fromkeys(name for _, taken in measured for name in taken[0].values))
    with_cpu = any(taken[0].cpu_us for _, taken in measured)
    rows = []
    for title, taken in measured:
        cells = [_cell(taken, name, first=name == measures[0]) for name in measures]
        rows.append([title, *cells, *(cpu(taken) if with_cpu else ())])
    heading = ["Measured", *(UNITS.get(name, name) for name in measures)]
    return markdown([*heading, *(["CPU, us a request", "of that"] if with_cpu else [])], rows)


def _cell(taken: Sequence[Sample], measure: str, *, first: bool) -> str:
    if measure not in taken[0].values:
        return ""
    of = Spread.of(column(taken, measure))
    return spread(of) if first else number(of.median)


def cpu(taken: Sequence[Sample]) -> tuple[str, str]:
    """CPU time per request of all processes and of each: medians over the rounds."""
    names = taken[0].cpu_us
    if not names:
        return "", ""
    each = ", ".join(f"{name} {Spread.of(one.cpu_us[name] for one in taken).median:.0f}" for name in names)
    return number(Spread.of(column(taken, CPU)).median), each if len(names) > 1 else ""
