"""What happens to a slot costs the same beside few promises and routers and beside many: counted, not timed."""

from __future__ import annotations

import pytest

from tests.lines import counting_lines
from tests.unit.replica.burdened import OPERATIONS, Burdened

FEW, MANY = 10, 1_000
REPEATS = 20


def lines(operation: str, size: int) -> int:
    happen = OPERATIONS[operation](Burdened(size))
    happen(0)
    with counting_lines("/replica/core/") as counted:
        for place in range(1, 1 + REPEATS):
            happen(place)
    return counted.count


@pytest.mark.parametrize("operation", OPERATIONS)
def test_it_costs_the_same_beside_many_promises_and_routers(operation: str) -> None:
    few, many = (lines(operation, size) for size in (FEW, MANY))
    assert 0 < many < few * 1.5 + 200, (few, many)
