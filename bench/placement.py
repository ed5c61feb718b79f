"""What it costs to place one gang, and how that grows with the nodes and the gangs that there are.

Gangs of 8 members of 1 GPU on nodes of 8 GPUs, by strategy, as the planner places them: 1,000 over 2,000 nodes, and fewer and
more. ``waiting`` is what one more decision costs while 32 others hold claims to nodes. Prints microseconds for one decision, and
the ratio to the smallest size: 1 is what costs the decision, 16 what costs all that there is.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).parents[1]))

from serve_core.model.gang import Strategy
from serve_core.model.ids import DeploymentKey, NodeId, RevisionId
from serve_core.model.resources import Resources
from serve_core.plan.observed import NodeObserved
from serve_core.plan.placement import Capacity, GangRequest, Shortage, Waiters
from serve_core.plan.record_parts import WaitRecord
from serve_core.plan.records import DeploymentRecord

SIZE = 8
NODES = (500, 2_000, 8_000)
NODES_PER_GANG = 2
WAITING = 32
"""As many as hold claims at once."""


def request_of(strategy: Strategy, *, gpus: float = 1.0) -> GangRequest:
    return GangRequest(resources=Resources(cpus=2.0, gpus=gpus), size=SIZE, strategy=strategy)


def nodes_of(count: int) -> list[NodeObserved]:
    """Nodes of which no two offer quite the same."""
    return [
        NodeObserved(node_id=NodeId(f"n{number}"), total=Resources(cpus=64.0 + number / 1000, gpus=8.0))
        for number in range(count)
    ]


def place_all(count: int, strategy: Strategy) -> float:
    """Microseconds for each of all gangs, one plan after the other, until half of the room is taken."""
    capacity, request = Capacity(nodes_of(count), ()), request_of(strategy)
    gangs = count // NODES_PER_GANG
    must_place(capacity, request_of(strategy, gpus=0.5))
    began = time.perf_counter()
    for _ in range(gangs):
        must_place(capacity, request)
    return (time.perf_counter() - began) / gangs * 1e6


def refuse(count: int, strategy: Strategy) -> float:
    """Microseconds to find out that there is no room, and why, on full nodes of which one changes each time."""
    capacity, request = Capacity(nodes_of(count), ()), request_of(strategy)
    while not isinstance(capacity.place(request_of(Strategy.PACK)), Shortage):
        pass
    rounds = 200
    began = time.perf_counter()
    for _ in range(rounds):
        must_place(capacity, GangRequest(resources=Resources(cpus=0.001)))
        assert isinstance(capacity.place(request), Shortage)
    return (time.perf_counter() - began) / rounds * 1e6


def beside_claims(count: int, strategy: Strategy) -> float:
    """Microseconds for one decision, with those of all claims, after something changed."""
    capacity = Capacity(nodes_of(count), ())
    waiters = Waiters(waiting(number, request_of(strategy, gpus=8.0)) for number in range(WAITING))
    small = GangRequest(resources=Resources(cpus=0.001, gpus=0.01))
    must_place(waiters.capacity_for(None, capacity), small)
    rounds = 20
    began = time.perf_counter()
    for _ in range(rounds):
        must_place(capacity, small)
        must_place(waiters.capacity_for(None, capacity), small)
    return (time.perf_counter() - began) / rounds * 1e6


def waiting(number: int, request: GangRequest) -> DeploymentRecord:
    return DeploymentRecord(
        key=DeploymentKey("app", f"d{number}"),
        generation=1,
        target=RevisionId("r"),
        num_replicas=SIZE,
        revisions=(),
        waiting=WaitRecord(since=float(number), request=request),
    )


def must_place(capacity: Capacity, request: GangRequest) -> None:
    placed = capacity.place(request)
    assert not isinstance(placed, Shortage), placed.message


def echo_rows(title: str, measure: Callable[[int, Strategy], float]) -> None:
    for strategy in Strategy:
        took_us = [measure(count, strategy) for count in NODES]
        cells = [f"{took:.0f} us" for took in took_us] + [f"{took / took_us[0]:.2f}" for took in took_us[1:]]
        click.echo(f"{title:10}{strategy.value:14}" + "".join(f"{cell:>14}" for cell in cells))


@click.command()
def main() -> None:
    titles = [f"{count:,} nodes" for count in NODES] + [f"x{count // NODES[0]}" for count in NODES[1:]]
    click.echo(" " * 24 + "".join(f"{title:>14}" for title in titles))
    echo_rows("place", place_all)
    echo_rows("refuse", refuse)
    echo_rows("waiting", beside_claims)


if __name__ == "__main__":
    main()
