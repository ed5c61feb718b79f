"""What happens to a request, and what changes in the table, costs the same beside few replicas and many: counted, not timed."""

from __future__ import annotations

import random

import pytest

from tests.lines import counting_lines
from tests.unit.router.crowd import OPERATIONS, Crowd

FEW, MANY = 10, 1_000
REPEATS = 20


def lines(operation: str, replicas: int) -> int:
    happen = OPERATIONS[operation](Crowd(replicas, random.Random(7).random))
    # Whoever is asked for the first time may look at everyone, once.
    happen(0)
    with counting_lines("/router/core/") as counted:
        for place in range(1, 1 + REPEATS):
            happen(place)
    return counted.count


@pytest.mark.parametrize("operation", OPERATIONS)
def test_it_costs_the_same_beside_many_replicas(operation: str) -> None:
    few, many = (lines(operation, replicas) for replicas in (FEW, MANY))
    # What is ranked costs a turn or two more; a look at everyone, just once, would be a thousand lines.
    assert 0 < many < few * 1.5 + 200, (few, many)
