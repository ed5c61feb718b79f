"""Placing costs what changed since the last time, not the nodes there are: counted, not timed."""

from __future__ import annotations

import pytest

from serve_core.model.gang import Strategy
from serve_core.model.ids import NodeId
from serve_core.model.resources import Resources
from serve_core.plan.observed import NodeObserved
from serve_core.plan.placement import Capacity, GangRequest, Shortage
from serve_core.plan.placement.account import Account
from serve_core.plan.placement.request import Need


@pytest.mark.parametrize("strategy", Strategy)
@pytest.mark.parametrize("count", [50, 1000])
def test_a_decision_looks_at_the_nodes_that_changed(
    strategy: Strategy, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = [NodeObserved(node_id=NodeId(f"n{number}"), total=Resources(gpus=8.0)) for number in range(count)]
    capacity, request = Capacity(nodes, ()), GangRequest(resources=Resources(gpus=1.0), size=8, strategy=strategy)
    looks = 0
    fits = Account.fits

    def counted(account: Account, need: Need, *, most: int) -> int:
        nonlocal looks
        looks += 1
        return fits(account, need, most=most)

    monkeypatch.setattr(Account, "fits", counted)
    capacity.place(request)
    assert looks == count, "the first time it looks at all"
    for _ in range(10):
        looks = 0
        fork = capacity.fork()
        assert not isinstance(fork.place(request), Shortage)
        assert not isinstance(fork.place(request), Shortage)
        capacity.place(GangRequest(resources=Resources(gpus=1.0)))
        assert not isinstance(capacity.place(request), Shortage)
        # Each of three gangs changes 8 nodes at the most, there and back, and one replica one: of whatever number.
        assert looks - (count if _ == 0 else 0) <= 8 * 6 + 8
