"""The figures as an SVG picture: a bar from 1 to each ratio, its spread, and what is wanted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from bench.report.figures import Result
from bench.report.table import number

ROW_PX = 26
LABEL_PX = 560
CHART_PX = 380
VALUE_PX = 130
HEAD_PX = 40
WIDTH_PX = LABEL_PX + CHART_PX + VALUE_PX
COLOURS = {True: "#2e7d5b", False: "#b5493a", None: "#54708f"}
"""As wanted, not as wanted, nothing wanted."""


class Scale:
    """Where on a logarithmic axis a ratio is, in pixels from the left.

    Args:
        values: What must fit.
    """

    def __init__(self, values: Sequence[float]) -> None:
        positive = [value for value in values if value > 0]
        self._low = math.floor(math.log10(min([*positive, 0.5])) * 2) / 2
        self._high = math.ceil(math.log10(max([*positive, 2.0])) * 2) / 2

    def __call__(self, value: float) -> float:
        share = (math.log10(max(value, 10**self._low)) - self._low) / (self._high - self._low)
        return LABEL_PX + CHART_PX * min(1.0, share)

    @property
    def ticks(self) -> list[float]:
        """Round ratios on the axis: 1, 2 and 5 of each decade."""
        decades = range(math.floor(self._low), math.ceil(self._high) + 1)
        candidates = [digit * 10.0**decade for decade in decades for digit in (1, 2, 5)]
        return [one for one in candidates if 10**self._low <= one * 1.0001 and one <= 10**self._high * 1.0001]


def svg(results: Sequence[Result]) -> str:
    """The ratios among the results; the black line is what is wanted."""
    shown = [one for one in results if one.figure.baseline and one.spread.median > 0]
    values = [value for one in shown for value in (one.spread.least, one.spread.most, one.figure.goal or 1.0)]
    scale = Scale(values)
    height = HEAD_PX + ROW_PX * len(shown) + 10
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH_PX}" height="{height}" '
        f'viewBox="0 0 {WIDTH_PX} {height}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH_PX}" height="{height}" fill="white"/>',
        *(_tick(tick, scale(tick), height) for tick in scale.ticks),
        *(_row(one, HEAD_PX + ROW_PX * index, scale) for index, one in enumerate(shown)),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _tick(value: float, x: float, height: int) -> str:
    colour = "#444444" if value == 1 else "#dddddd"
    return (
        f'<line x1="{x:.1f}" y1="{HEAD_PX - 8}" x2="{x:.1f}" y2="{height - 6}" stroke="{colour}"/>'
        f'<text x="{x:.1f}" y="{HEAD_PX - 14}" text-anchor="middle" fill="#444444">{value:g}</text>'
    )


def _row(result: Result, y: int, scale: Scale) -> str:
    one, middle = scale(1.0), y + ROW_PX / 2
    at, least, most = (scale(value) for value in (result.spread.median, result.spread.least, result.spread.most))
    left, right = min(one, at), max(one, at)
    parts = [
        f'<text x="{LABEL_PX - 10}" y="{middle + 4:.1f}" text-anchor="end">{escape(result.figure.title)}</text>',
        f'<rect x="{left:.1f}" y="{y + 6}" width="{right - left:.1f}" height="{ROW_PX - 12}" '
        f'fill="{COLOURS[result.met]}"/>',
        f'<line x1="{least:.1f}" y1="{middle:.1f}" x2="{most:.1f}" y2="{middle:.1f}" stroke="#222222"/>',
        f'<text x="{LABEL_PX + CHART_PX + 10}" y="{middle + 4:.1f}">{_said(result)}</text>',
    ]
    if result.figure.goal is not None:
        x = scale(result.figure.goal)
        parts.append(
            f'<line x1="{x:.1f}" y1="{y + 3}" x2="{x:.1f}" y2="{y + ROW_PX - 3}" stroke="black" stroke-width="2"/>'
        )
    return "".join(parts)


def _said(result: Result) -> str:
    goal = result.figure.goal
    if goal is None:
        return number(result.spread.median)
    return f"{number(result.spread.median)} ({'≤' if result.figure.at_most else '≥'} {goal:g})"
