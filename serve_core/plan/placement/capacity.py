"""What is free on all nodes, and the placing of whole gangs on it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TypeAlias

from serve_core.model.ids import DeploymentKey, NodeId
from serve_core.model.placement import GangRequest
from serve_core.model.resources import Resources
from serve_core.plan.amounts import total
from serve_core.plan.lifecycle import STARTING
from serve_core.plan.observed import NodeObserved
from serve_core.plan.placement.account import Account
from serve_core.plan.placement.claims import choose, hold, missing_in
from serve_core.plan.placement.ground import Ground
from serve_core.plan.placement.index import NO_TURNS, Accounts, Turns
from serve_core.plan.placement.layout import Layout, lay_out
from serve_core.plan.placement.request import MemberPlacement, Need, Shortage
from serve_core.plan.placement.shortage import explain, explain_claims
from serve_core.plan.records import Bundle, GangRecord

LessClaims: TypeAlias = "Callable[[Capacity], Capacity]"
"""What is left of what is free, once what others have claims to is held back."""


class Capacity:
    """What is free on all nodes. A working copy: placing a gang takes from it."""

    def __init__(
        self, nodes: Iterable[NodeObserved], gangs: Iterable[GangRecord], *, draining: Collection[NodeId] = ()
    ) -> None:
        """Counts the placements of ``gangs``, which are those of all deployments, off what ``nodes`` offer.

        Nothing is placed on nodes that are ``draining``.
        """
        self._ground = Ground(nodes, draining)
        self._free = self._ground.empty
        # What is free and not held back for those that wait longer: the same, unless somebody does.
        self._offered = self._free
        self._claimants: tuple[DeploymentKey, ...] = ()
        self._less_claims: LessClaims | None = None
        for gang in gangs:
            self.change(None, gang)

    def change(self, before: GangRecord | None, after: GangRecord | None) -> None:
        """A gang's record is another now, or is new, or is gone. Not for one in which something is held back."""
        given_back = self._free.changed(_booked(self._free, (before,) if before is not None else (), sign=1))
        self._free = self._offered = given_back.changed(
            _booked(given_back, (after,) if after is not None else (), sign=-1)
        )

    def could_fit_beside(self, request: GangRequest, gangs: Iterable[GangRecord]) -> bool:
        """Whether there were room for a gang if nothing were placed but these."""
        alone = self._ground.empty.changed(_booked(self._ground.empty, gangs, sign=-1))
        return lay_out(self._ground.room_beside(alone, request), request.strategy, size=request.size) is not None

    def fork(self) -> Capacity:
        """One like this, to be used up on its own. Costs nothing for what is not placed on."""
        forked = Capacity.__new__(Capacity)
        forked._ground, forked._free, forked._offered = self._ground, self._free, self._offered
        forked._claimants, forked._less_claims = self._claimants, self._less_claims
        return forked

    def fork_less(self, less_claims: LessClaims) -> Capacity:
        """One like this, but for what is held back for others: that is found out when something is to be placed."""
        forked = self.fork()
        forked._less_claims = less_claims
        return forked

    def _subtract_claims(self) -> None:
        less_claims, self._less_claims = self._less_claims, None
        if less_claims is not None:
            left = less_claims(self)
            self._offered, self._claimants = left._offered, left._claimants

    def is_as(self, other: Capacity) -> bool:
        """Whether the same nodes are free in the same way, for all that is known without a look."""
        return self._ground is other._ground and self._free is other._free

    def hold_back(self, key: DeploymentKey, request: GangRequest) -> None:
        """Offers to nobody what is free on the nodes that a deployment waits for, as far as it needs it there."""
        near, empty = self._ground.nearest(self._offered, request)
        claim = choose(request, self._offered, near, empty)
        self._offered = hold(claim, Need.of(request), self._offered)
        self._claimants = (*self._claimants, key)

    def missing(self, request: GangRequest) -> int:
        """What a gang that waits lacks on the nodes that it would have a claim to: 0 if it can be placed, or never can."""
        self._subtract_claims()
        near, empty = self._ground.nearest(self._offered, request)
        return missing_in(choose(request, self._offered, near, empty), Need.of(request), self._offered)

    def place(self, request: GangRequest, *, starts_per_node: int = 0) -> tuple[MemberPlacement, ...] | Shortage:
        """Where each member goes, by rank, members of one node next to each other; or why there is no room for all.

        No node gets so many that more than ``starts_per_node`` start on it at once; 0 means no limit. Only a gang that needs
        to may start more than that together, on a node on which nothing else starts.
        """
        self._subtract_claims()
        for turns in _turns(request, starts_per_node):
            layout = self._lay_out(request, self._offered, turns)
            if layout is not None:
                return self._take(request, layout)
        if starts_per_node and self._lay_out(request, self._offered, NO_TURNS) is not None:
            message = f"{starts_per_node} replicas start at once on each node that has room, the most that may"
            return Shortage(message, feasible=True, turn=True, request=request)
        if self._claimants and self._lay_out(request, self._free, NO_TURNS) is not None:
            return Shortage(explain_claims(self._claimants), feasible=True, request=request)
        return self._shortage(request)

    def _lay_out(self, request: GangRequest, accounts: Accounts, turns: Turns) -> Layout | None:
        return lay_out(self._ground.room(accounts, request, turns), request.strategy, size=request.size)

    def _take(self, request: GangRequest, layout: Layout) -> tuple[MemberPlacement, ...]:
        placed: list[MemberPlacement] = []
        offered: dict[NodeId, Account] = {}
        free: dict[NodeId, Account] = {}
        for node_id, count in layout:
            left, real = self._offered[node_id], self._free[node_id]
            is_same = left is real
            for _ in range(count):
                left, member = left.place(request.parts)
                placed.append(member)
                for bundle in () if is_same else (member.bundle, *member.child_bundles):
                    real = real.booked(bundle, sign=-1)
            offered[node_id] = left.with_starts(count)
            free[node_id] = offered[node_id] if is_same else real.with_starts(count)
        is_same = self._free is self._offered
        self._free = self._free.changed(free)
        self._offered = self._free if is_same else self._offered.changed(offered)
        return tuple(placed)

    def _shortage(self, request: GangRequest) -> Shortage:
        empty = self._ground.room_when_empty(request)
        free = self._ground.room(self._free, request, NO_TURNS)
        return Shortage(
            explain(request, self._free, self._ground.ids, free=free, empty=empty),
            feasible=lay_out(empty, request.strategy, size=request.size) is not None,
            request=request,
        )


def is_feasible(nodes: Iterable[NodeObserved], request: GangRequest, *, draining: Collection[NodeId] = ()) -> bool:
    """Whether a gang could be placed if nothing else were."""
    return not isinstance(Capacity(nodes, (), draining=draining).place(request), Shortage)


def bundles_by_node(gangs: Iterable[GangRecord]) -> Mapping[NodeId, Sequence[Bundle]]:
    """What the placements of ``gangs`` hold on each node."""
    held: dict[NodeId, list[Bundle]] = {}
    for gang in gangs:
        for bundle in gang.bundles:
            held.setdefault(bundle.node_id, []).append(bundle)
    return held


def used(node_id: NodeId, gangs: Iterable[GangRecord]) -> Resources:
    """What the placements of ``gangs`` hold on a node."""
    return total(bundle.resources for bundle in bundles_by_node(gangs).get(node_id, ()))


def _booked(accounts: Accounts, gangs: Iterable[GangRecord], *, sign: int) -> dict[NodeId, Account]:
    """The accounts that are others once what gangs hold is taken off (-1) or given back (+1)."""
    changed: dict[NodeId, Account] = {}
    for gang in gangs:
        for member in gang.members:
            account = changed.get(member.node_id) or accounts.get(member.node_id)
            if account is None:
                continue
            for bundle in member.all_bundles:
                account = account.booked(bundle, sign=sign)
            changed[member.node_id] = account.with_starts(-sign * (gang.phase in STARTING))
    return changed


def _turns(request: GangRequest, starts_per_node: int) -> tuple[Turns, ...]:
    if not starts_per_node or request.size == 1:
        return (Turns(starts_per_node),)
    return (Turns(starts_per_node), Turns(starts_per_node, idle_takes_all=True))
