"""Which gangs a plan need not look at, because it would find them as it left them: kept from what happens, not from a look.

Most of what happens to a deployment happens to one of its gangs, while all others serve. Planning is to cost what happened, so
those are *settled*, and only counted, as long as nothing is heard of them but heartbeats, their records stay the same, and
their deployment is *at rest*: what is wanted runs, or is only to be replaced gang by gang. A change of revision or of settings,
a surplus, a removal, or a controller that has just begun to listen is planned with all gangs.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from serve_core.model.actor import ActorEndpoint
from serve_core.model.ids import DeploymentKey, GangId, NodeId
from serve_core.model.replica import ReplicaPhase
from serve_core.model.spec import DeploymentSpec
from serve_core.plan.actor_records import ActorRecord
from serve_core.plan.directory import directory
from serve_core.plan.events import Event, HeartbeatSeen, NodesSeen
from serve_core.plan.follow import is_undisturbed
from serve_core.plan.lifecycle import LIVE
from serve_core.plan.observed import Observed, PlacementState
from serve_core.plan.plan import Settled, in_order
from serve_core.plan.policy import Policy
from serve_core.plan.progress import is_of_the_past
from serve_core.plan.record_parts import Offer
from serve_core.plan.records import DeploymentRecord, GangRecord, MemberRecord, NodeRecord, Records, replicas_in
from serve_core.plan.remember import located, offer_of
from serve_core.plan.renewal import is_current
from serve_core.plan.revision import config_version
from serve_core.plan.suspicion import silence
from serve_core.plan.touched import gang_of_event

TOGETHER_S = 1.0
"""Gangs that may be silent from times this near are looked at together. As long as a heartbeat's usual period, so that all of
a deployment are, and its many heartbeats make few plans."""


class Split(NamedTuple):
    """A deployment's gangs for a plan: those to look at, oldest first, and those to count."""

    gangs: tuple[GangRecord, ...]
    settled: Settled


class _Basis(NamedTuple):
    """What all settled gangs of a deployment were settled by."""

    target: str
    revisions: tuple[object, ...]
    offer: Offer
    actors: tuple[ActorEndpoint, ...]
    draining: Mapping[NodeId, NodeRecord]
    listening_since: float
    listed_at: float


@dataclass(slots=True)
class _Share:
    """One deployment's gangs. ``silent_at`` are the settled ones: none of them is suspect before its time."""

    basis: _Basis
    config: str
    others: dict[GangId, None]
    silent_at: dict[GangId, float] = field(default_factory=dict)
    # May hold what is out of date: ``silent_at`` is what counts.
    heap: list[tuple[float, GangId]] = field(default_factory=list)

    def settle(self, gang_id: GangId, silent_at: float) -> None:
        self.others.pop(gang_id, None)
        self.silent_at[gang_id] = silent_at
        heapq.heappush(self.heap, (silent_at, gang_id))

    def unsettle(self, gang_id: GangId) -> None:
        self.silent_at.pop(gang_id, None)
        self.others[gang_id] = None

    def drop(self, gang_id: GangId) -> None:
        self.silent_at.pop(gang_id, None)
        self.others.pop(gang_id, None)

    def first(self) -> float | None:
        """Before when no settled gang is suspect."""
        while self.heap:
            time, gang_id = self.heap[0]
            if self.silent_at.get(gang_id) == time:
                return time
            heapq.heappop(self.heap)
        return None

    def take_until(self, time: float) -> list[GangId]:
        """Those that may be silent by then, each once."""
        taken: dict[GangId, None] = {}
        while (first := self.first()) is not None and first <= time:
            taken[heapq.heappop(self.heap)[1]] = None
        return list(taken)


class SettledGangs:
    """Which gangs of which deployments are settled. Has to hear of every event, and of every record that changes."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._shares: dict[DeploymentKey, _Share] = {}

    def heard(self, event: Event, records: Records) -> None:
        """Something happened: the gang that it is about is to be looked at, unless it is a sign of life as usual."""
        if isinstance(event, NodesSeen):
            self._shares.clear()
            return
        gang_id = gang_of_event(event)
        gang = records.gangs.get(gang_id) if gang_id is not None else None
        share = self._shares.get(gang.key) if gang is not None else None
        if gang is None or share is None:
            return
        if isinstance(event, HeartbeatSeen) and any(
            (member.replica_id, member.epoch) == (event.replica_id, event.epoch) for member in gang.members
        ):
            return
        share.unsettle(gang.gang_id)

    def changed(self, before: GangRecord | None, after: GangRecord | None) -> None:
        """A gang's record is another now, or is new, or is gone."""
        gang = after or before
        share = self._shares.get(gang.key) if gang is not None else None
        if gang is None or share is None:
            return
        if after is None:
            share.drop(gang.gang_id)
        else:
            share.unsettle(gang.gang_id)

    def split(self, records: Records, key: DeploymentKey, observed: Observed, *, now: float) -> Split:
        """The gangs of a deployment. Costs those that are not settled, and those that are looked at for their silence."""
        record = records.deployments.get(key)
        if record is None or not is_at_rest(record) or record.offer is None or not observed.listed_at:
            self._shares.pop(key, None)
            return Split(records.everything_of(key), Settled())
        if not _actors_rest(record, records, observed, now=now, policy=self._policy):
            self._shares.pop(key, None)
            return Split(records.everything_of(key), Settled())
        share = self._share(record, record.offer, records, observed)
        self._settle(share, record, records, observed, now=now)
        gangs = in_order(records.gangs[gang_id] for gang_id in share.others)
        # What is settled runs the target, so it is of its size.
        settled = len(share.silent_at) * record.target_spec.gang.size
        if not settled or not _is_plain(records, record, gangs, settled=settled):
            return Split(records.everything_of(key), Settled())
        return Split(tuple(gangs), Settled(len(share.silent_at), settled, share.first()))

    def _share(self, record: DeploymentRecord, offer: Offer, records: Records, observed: Observed) -> _Share:
        actors = directory(record, record.target)
        basis = _Basis(
            record.target, record.revisions, offer, actors, records.nodes, observed.listening_since, observed.listed_at
        )
        share = self._shares.get(record.key)
        if share is None or share.basis != basis:
            everything = dict.fromkeys(gang.gang_id for gang in records.everything_of(record.key))
            share = self._shares[record.key] = _Share(basis, config_version(record.target_spec), everything)
        return share

    def _settle(
        self, share: _Share, record: DeploymentRecord, records: Records, observed: Observed, *, now: float
    ) -> None:
        spec = record.target_spec
        first = share.first()
        for gang_id in share.take_until(now + TOGETHER_S) if first is not None and first <= now else ():
            # Nothing but heartbeats was heard of it, so nothing else can have changed.
            silent_at = _silent_at(records.gangs[gang_id].members, spec, observed, policy=self._policy)
            if now < silent_at:
                share.settle(gang_id, silent_at)
            else:
                share.unsettle(gang_id)
        for gang_id in tuple(share.others):
            gang = records.gangs[gang_id]
            if _is_where_it_stays(gang, records, observed) and _is_settled(
                gang, record, spec, observed, share=share, now=now, policy=self._policy
            ):
                share.settle(gang_id, _silent_at(gang.members, spec, observed, policy=self._policy))


def is_at_rest(record: DeploymentRecord) -> bool:
    """Whether what is wanted served last, and no change is to be followed: then only single gangs are."""
    if record.deleting or record.terminal is not None or record.unproven or record.last_good != record.target:
        return False
    rollout = record.rollout
    return rollout is None or (bool(rollout.finished_at) and not is_of_the_past(record, rollout))


def _is_plain(records: Records, record: DeploymentRecord, others: Iterable[GangRecord], *, settled: int) -> bool:
    """Whether none is to be chosen to go: then all must be looked at. ``settled`` are replicas."""
    live = [gang for gang in others if gang.phase in LIVE and gang.actor is None]
    if any(member.node_id in records.nodes for gang in live for member in gang.members):
        return False
    return replicas_in(live) + settled <= record.wanted and all(is_current(record, gang) for gang in live)


def _is_where_it_stays(gang: GangRecord, records: Records, observed: Observed) -> bool:
    """Whether every node of a gang is there, and is not being drained."""
    return all(member.node_id in observed.nodes and member.node_id not in records.nodes for member in gang.members)


def _is_settled(
    gang: GangRecord,
    record: DeploymentRecord,
    spec: DeploymentSpec,
    observed: Observed,
    *,
    share: _Share,
    now: float,
    policy: Policy,
) -> bool:
    """Whether a plan would find nothing to do for a gang, nor to learn from it."""
    # One that has become ready just now ends a series of failures: that is for the plan to see.
    if (
        gang.actor is not None
        or gang.phase is not ReplicaPhase.READY
        or not is_current(record, gang)
        or gang.phase_since >= now
    ):
        return False
    if observed.placement(gang.gang_id).state is not PlacementState.HELD:
        return False
    return all(
        is_undisturbed(gang, member, spec, observed, now=now, policy=policy)
        and _is_as_recorded(member, record, observed, share=share)
        for member in gang.members
    )


def _actors_rest(record: DeploymentRecord, records: Records, observed: Observed, *, now: float, policy: Policy) -> bool:
    """Whether a plan would find nothing to do for any actor, nor anything of one to tell replicas."""
    for actor in record.actors:
        gang = records.gangs.get(actor.gang_id) if actor.gang_id is not None else None
        if gang is None:
            if actor.given_up is None:
                return False
        elif actor.failures or not _actor_rests(actor, gang, records, observed, now=now, policy=policy):
            return False
    return True


def _actor_rests(
    actor: ActorRecord, gang: GangRecord, records: Records, observed: Observed, *, now: float, policy: Policy
) -> bool:
    record = records.deployments[gang.key]
    member, spec = gang.members[0], record.spec_of(gang)
    if gang.phase is not ReplicaPhase.READY or gang.phase_since >= now or member.node_id in records.nodes:
        return False
    is_undisturbed_now = is_undisturbed(gang, member, spec, observed, now=now, policy=policy)
    return (
        is_undisturbed_now
        and member.endpoint is not None
        and located(member, observed) is member
        and bool(actor.address)
    )


def _is_as_recorded(member: MemberRecord, record: DeploymentRecord, observed: Observed, *, share: _Share) -> bool:
    seen = observed.replica(member.replica_id, epoch=member.epoch)
    return (
        seen.report is not None
        and seen.start_failure is None
        and seen.config == share.config
        and seen.actors == share.basis.actors
        and located(member, observed) is member
        and offer_of(seen.report) == record.offer
    )


def _silent_at(members: Iterable[MemberRecord], spec: DeploymentSpec, observed: Observed, *, policy: Policy) -> float:
    return min(
        silence(observed.replica(member.replica_id, epoch=member.epoch), spec, observed, policy=policy).suspect_at
        for member in members
    )
