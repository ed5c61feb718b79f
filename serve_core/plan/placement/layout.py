"""Which node takes how many members, by strategy. Members ask for the same, so counts are all there is to choose.

A single replica goes to the emptiest node. A gang that fits on one node goes to the fullest of those, so that the emptier ones
are left for gangs that need them whole; spread over nodes it goes to the emptiest.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import assert_never

from serve_core.model.gang import Strategy
from serve_core.model.ids import NodeId
from serve_core.plan.placement.index import RoomIndex

Layout = Sequence[tuple[NodeId, int]]
"""Nodes, each once, and how many members each takes."""


def lay_out(index: RoomIndex, strategy: Strategy, *, size: int) -> Layout | None:
    """Where all of ``size`` members go; None if there is no room for all."""
    match strategy:
        case Strategy.PACK:
            return _pack(index, size) if index.room >= size else None
        case Strategy.STRICT_PACK:
            return _pack(index, size) if index.most_on_one >= size else None
        case Strategy.SPREAD:
            return _spread(index, size) if index.room >= size else None
        case Strategy.STRICT_SPREAD:
            return _spread(index, size) if index.node_count >= size else None
        case _:
            assert_never(strategy)


def _pack(index: RoomIndex, size: int) -> Layout:
    """The fewest nodes: those that hold the most first, and for the rest the one that it fits on most tightly."""
    chosen: list[tuple[NodeId, int]] = []
    levels, left = index.levels(), size
    taken = dict.fromkeys(levels, 0)
    while left:
        level = min((level for level in levels if level >= left), default=levels[0])
        entries, number = index.at(level), taken[level]
        entry = entries[number] if size == 1 else entries[-1 - number]
        count = min(level, left)
        chosen.append((entry.node_id, count))
        left -= count
        taken[level] += 1
        if taken[level] == len(entries):
            levels.remove(level)
    return chosen


def _spread(index: RoomIndex, size: int) -> Layout:
    """The most nodes, and as evenly as can be."""
    nodes = list(islice(index.emptiest(), size))
    counts = [0] * len(nodes)
    left = size
    while left:
        for number, (_, room) in enumerate(nodes):
            if left and counts[number] < room:
                counts[number] += 1
                left -= 1
    return [(node_id, count) for (node_id, _), count in zip(nodes, counts, strict=True)]
