"""Runs the variants of a benchmark in turn, and prints what each of them showed."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import asdict
from typing import Any, Protocol, TypeVar

from bench.steady import Call

SHOWN_MAX = 10
"""Failed calls that are printed one by one."""


class Result(Protocol):
    """What one variant showed: a dataclass."""

    @property
    def fine(self) -> bool:
        """Whether nothing was wrong."""


R = TypeVar("R", bound=Result)


async def run_all(
    names: Iterable[str], measure: Callable[[str], Awaitable[R]], show: Callable[[R], None], *, as_json: bool
) -> bool:
    """Measures the variants in turn; whether all of them were fine.

    Args:
        names: The variants.
        measure: Runs one of them.
        show: Prints what one showed, as soon as it is known.
        as_json: Prints all results in the end instead, with what is computed of them.
    """
    results = []
    for name in names:
        results.append(await measure(name))
        if not as_json:
            show(results[-1])
    if as_json:
        print(json.dumps([_fields(result) for result in results], indent=2))
    return all(result.fine for result in results)


def show_failed(calls: Sequence[Call]) -> None:
    """Prints how many calls failed, and the first of them."""
    print(f"  failed: {len(calls)} (wanted: 0)")
    for call in calls[:SHOWN_MAX]:
        print(f"    call {call.number}: {call.status} {call.reason} {call.replica_id} {call.details}")


def _fields(result: Any) -> dict[str, Any]:
    computed = [name for name, value in vars(type(result)).items() if isinstance(value, property)]
    return asdict(result) | {name: getattr(result, name) for name in computed}
