"""How fast serve-core is, as ratios to what users would use instead, measured in turn in the same run.

Each row is a set of cases. Every round measures every case once; a figure is the median of its rounds' ratios, shown with the
least and the most of them. Prints a report in Markdown; with --out it is written to a file, beside a picture and the raw numbers.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from bench.measure.errors import FAILURES, said
from bench.report.figures import Result, as_json, conclude, in_turn
from bench.report.page import with_report
from bench.report.plot import svg
from bench.report.table import cases_table, figures_table
from bench.rows import embedded, hop, idle, life, pairs, payload, ray, ray_life, streams, tail, workers
from bench.rows.stage import Row, Size, Stage
from bench.targets.servers import RAY_PYTHON, Servers

ROWS = {
    module.ROW.name: module.ROW
    for module in (hop, pairs, embedded, streams, tail, workers, payload, life, idle, ray, ray_life)
}
DEFAULT_ROWS = [name for name in ROWS if not name.startswith("ray")]
"""Those that need nothing but `make bench-tools`."""


@dataclass(slots=True)
class Report:
    """What a run has found so far."""

    results: list[Result] = field(default_factory=list)
    sections: list[str] = field(default_factory=list)
    raw: dict[str, Any] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)

    def text(self, heading: str) -> str:
        """All of it, in Markdown."""
        failed = [f"- failed: {one}\n" for one in self.failed]
        return "\n".join((heading, figures_table(self.results), *failed, *self.sections))


async def measure(
    rows: Sequence[Row],
    size: Size,
    *,
    seconds: float,
    rounds: int,
    ray_python: Path = RAY_PYTHON,
    report: Report | None = None,
) -> Report:
    """Measures rows one after the other; the servers that they share stay up. What is found is in ``report`` at once."""
    report = Report() if report is None else report
    with tempfile.TemporaryDirectory(prefix="serve-core-bench-") as folder:
        async with AsyncExitStack() as stack:
            servers = await stack.enter_async_context(Servers(Path(folder), ray_python=ray_python))
            for row in rows:
                await measure_row(row, Stage(servers=servers, size=size), report, seconds=seconds, rounds=rounds)
    return report


async def measure_row(row: Row, stage: Stage, report: Report, *, seconds: float, rounds: int) -> None:
    """Measures one row, and adds it to the report."""
    tell(f"{row.name}: preparing")
    try:
        cases = await row.cases(stage)
    except FAILURES as error:
        report.failed.append(f"{row.name}: {said(error)}")
        return
    samples, failed = await in_turn(cases, seconds, row.rounds(rounds), tell=lambda what: tell(f"{row.name}: {what}"))
    report.failed += failed.values()
    results = conclude(row.figures(stage.size), samples)
    report.results += results
    report.sections += [f"### {row.title}", "", row.text, "", cases_table(cases, samples)]
    report.raw[row.name] = as_json(cases, samples, results)


def tell(what: str) -> None:
    """Says on a terminal what goes on."""
    if sys.stderr.isatty():
        click.echo(f"\r\033[K{what}"[:120], err=True, nl=False)


def heading(*, seconds: float, rounds: int, load: float, took_s: float) -> str:
    """On what, and how much, was measured. ``load`` is what the machine had to do before."""
    return (
        f"Python {platform.python_version()}, {os.cpu_count()} cores, a load of {load:.1f} before it began. Rounds of {seconds:g} s, "
        f"{rounds} of each in turn, {took_s / 60:.0f} minutes in all; medians, with least and most.\n"
    )


@click.command(help=__doc__)
@click.option("--rows", default=",".join(DEFAULT_ROWS), show_default=True, help=f"Which of {', '.join(ROWS)}.")
@click.option("--seconds", default=0.7, show_default=True, help="Time of one measurement.")
@click.option("--repeats", default=5, show_default=True, help="Rounds: measurements of each case, in turn.")
@click.option("--concurrency", default="1,64", show_default=True, help="Concurrent calls, by comma.")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the report to FILE.md, and FILE.svg and FILE.json beside it.",
)
@click.option(
    "--page",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Put the report between the marks of this page, and a picture beside it.",
)
@click.option(
    "--ray-python",
    default=RAY_PYTHON,
    show_default=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="The Python that has ray[serve]: make bench-ray.",
)
def main(
    rows: str, seconds: float, repeats: int, concurrency: str, out: Path | None, page: Path | None, ray_python: Path
) -> None:
    unknown = [name for name in rows.split(",") if name not in ROWS]
    if unknown:
        raise click.BadParameter(f"there is no row {unknown[0]!r}; there are {', '.join(ROWS)}", param_hint="--rows")
    size = Size(concurrencies=tuple(int(one) for one in concurrency.split(",")))
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # Or every process that is started compiles all that it imports.
    chosen = [ROWS[name] for name in rows.split(",")]
    load, begun_at = os.getloadavg()[0], time.monotonic()
    report = Report()
    try:
        asyncio.run(measure(chosen, size, seconds=seconds, rounds=repeats, ray_python=ray_python, report=report))
    finally:  # What was measured until then is not lost.
        took_s = time.monotonic() - begun_at
        text = report.text(heading(seconds=seconds, rounds=repeats, load=load, took_s=took_s))
        click.echo(text)
        if out is not None:
            write(out, text, report)
    if page is not None:
        name = "ray" if all(row.name.startswith("ray") for row in chosen) else "speed"
        page.with_name(f"{name}.svg").write_text(svg(report.results))
        page.write_text(with_report(page.read_text(), name, f"![The same as a picture]({name}.svg)\n\n{text}"))
    sys.exit(1 if report.failed else 0)


def write(out: Path, text: str, report: Report) -> None:
    """The report, the picture and the raw numbers, side by side."""
    out.with_suffix(".md").write_text(text)
    out.with_suffix(".svg").write_text(svg(report.results))
    out.with_suffix(".json").write_text(json.dumps(report.raw, indent=1))


if __name__ == "__main__":
    main()
