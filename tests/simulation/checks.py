"""Judges, written from the design's invariants and not from the code. What breaks one raises Violation at once.

Invariant 1 is judged beside every ledger (``slots``), 4 in ``actors``, 7 at the end (``rest``), 8 by what callers got
(``outcomes``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

from router.core.queue import Waiter
from serve_core.model.endpoints import TableChange
from serve_core.model.gang import GangRoute
from serve_core.model.ids import DeploymentKey, GangId, ReplicaId
from serve_core.model.replica import Replica, ReplicaPhase
from serve_core.plan.actions import SendDrain
from serve_core.plan.plan import Plan
from serve_core.plan.records import DeploymentRecord, GangRecord, Records
from tests.simulation.actors import ActorChecks
from tests.simulation.calls import Call, Kind
from tests.simulation.engine import broken
from tests.simulation.gangs import GangChecks
from tests.simulation.room import free_cpus

if TYPE_CHECKING:
    from tests.simulation.cluster import Cluster
    from tests.simulation.controller import Controller
    from tests.simulation.process import Process
    from tests.simulation.router import Router
    from tests.simulation.upstream import Upstream

LIVE = (ReplicaPhase.RESERVING, ReplicaPhase.STARTING, ReplicaPhase.READY)
STUCK_S = 2.0
MICRO = 1e-6


class Checks:
    """Told of everything that happens in one world.

    ``serving_since`` says since when a deployment has been wanted and in the routers' tables, without a break.

    Args:
        cluster: The world.
        every: What looks at everything there is does so at one occasion of so many; what looks at a change, at each.
    """

    def __init__(self, cluster: Cluster, *, every: int = 1) -> None:
        self.cluster = cluster
        self.gangs = GangChecks(cluster)
        self.actors = ActorChecks(cluster)
        self._every = every
        self._occasions = 0
        self.serving_since: dict[DeploymentKey, float] = {}
        self._published_ever: dict[tuple[ReplicaId, int], None] = {}
        self._floor: dict[DeploymentKey, int] = {}
        self._wanted_before: dict[DeploymentKey, int] = {}
        self._last_table: dict[ReplicaId, Replica] = {}
        self._stuck: dict[tuple[str, DeploymentKey], tuple[int, float]] = {}

    def is_turn(self) -> bool:
        """Whether this occasion is one at which to look at everything."""
        self._occasions += 1
        return self._occasions % self._every == 0

    def everything(self) -> None:
        """Looks at everything, whoever's turn it is."""
        for router in self.cluster.routers.values():
            self.gangs.whole(router.table.replicas.values())
        self.capacity()
        self._within_offers()

    # 2: no request reaches a replica that is not ready.

    def sent(self, router: Router, upstream: Upstream, call: Call) -> None:
        """A router sends a call to a replica."""
        if (upstream.replica.replica_id, upstream.replica.epoch) not in self._published_ever:
            broken(2, f"{router.name} sends {call.name} to {upstream.replica.replica_id}, which no table ever held")
        self.gangs.sent(router, upstream.replica, call)

    def started(self, process: Process, call: Call) -> None:
        """User code begins to run for a call."""
        may = (ReplicaPhase.READY, ReplicaPhase.DRAINING) if call.kind is Kind.TOKEN else (ReplicaPhase.READY,)
        if process.phase not in may:
            broken(2, f"{call.name} runs in {process.process_id}, which is {process.phase.name}")
        if call.ran_at:
            broken(8, f"{call.name} runs in {process.process_id}, after it was delivered to {call.ran_at}")
        call.ran_at.append(process.process_id)

    def drains(self, controller: Controller, planned: Plan) -> None:
        """A plan tells replicas to drain: no router that counts may still route to them."""
        for action in planned.actions:
            if isinstance(action, SendDrain):
                self._drains(controller, action)

    def _drains(self, controller: Controller, action: SendDrain) -> None:
        now, policy = self.cluster.engine.now, controller.policy
        gang = controller.records.gangs.get(action.gang_id)
        listening_since = controller.observed.listening_since
        if gang is None or now >= max(gang.phase_since, listening_since) + policy.withdraw_timeout_s - MICRO:
            return
        for router in self.cluster.routers.values():
            if action.replica_id not in router.table.replicas:
                continue
            seen = controller.observed.routers.get(router.router_id)
            away_since = listening_since if seen is None else seen.lost_at
            if (seen is not None and seen.connected) or now < away_since + policy.router_lease_s - MICRO:
                broken(2, f"{action.replica_id} is told to drain while {router.name} routes to it")

    # 3, 5: tables.

    def published(self, controller: Controller, change: TableChange, *, first: bool) -> None:
        """A controller has a new table: the whole of it, or what has changed in it."""
        now = self.cluster.engine.now
        table = {replica.replica_id: replica for replica in change.upserted_replicas}
        if change.snapshot:
            self.gangs.whole(table.values())
        if first and now < controller.observed.listening_since + controller.policy.reattach_grace_s - MICRO:
            self._not_emptier(controller, table)
        self._published_ever.update(dict.fromkeys((one.replica_id, one.epoch) for one in table.values()))
        self.gangs.published(change.upserted_replicas)
        wanted = {route.key for route in change.upserted_deployments}
        gone = (
            [key for key in self.serving_since if key not in wanted] if change.snapshot else change.removed_deployments
        )
        for key in gone:
            self.serving_since.pop(key, None)
        for replica in change.upserted_replicas:
            self.serving_since.setdefault(replica.key, now)

    def told(self, change: TableChange) -> None:
        """A table, or a change of it, went out to routers."""
        if change.snapshot:
            self._last_table.clear()
        for replica_id in change.removed_replica_ids:
            self._last_table.pop(replica_id, None)
        self._last_table.update((replica.replica_id, replica) for replica in change.upserted_replicas)

    def routed(self, router: Router) -> None:
        """A router has a new table."""
        if self.is_turn():
            self.gangs.whole(router.table.replicas.values())
            self.capacity()

    def capacity(self) -> None:
        """5: ready capacity while nothing fails, as each router sees it."""
        if not self.cluster.calm:
            return
        counts = [self._available(router) for router in self.cluster.routers.values()]
        for key, record in self.cluster.store.records.deployments.items():
            if record.deleting:
                self._floor.pop(key, None)
                continue
            available = min((count[key] for count in counts), default=0)
            unavailable = record.target_spec.rollout.max_unavailable.rounded_down(record.num_replicas)
            # What another rollout has given up before need not be there at once, nor what only the next one brings: where there
            # is no room beside it, what served before may have to go first.
            least = min(self._floor.get(key, 0), record.num_replicas - unavailable)
            if available < least:
                broken(5, f"{key} has {available} replicas where {least} must serve")
            reached = available >= record.num_replicas
            if is_changing(record):
                reached = reached and record.num_replicas <= self._wanted_before.get(key, 0)
            elif reached:
                self._wanted_before[key] = record.num_replicas
            self._floor[key] = record.num_replicas if reached else min(self._floor.get(key, 0), available)

    def planned(self, key: DeploymentKey, before: Records, planned: Plan) -> None:
        """5: a plan creates no more gangs than the surge allows, and none that it stops."""
        self.gangs.planned(before, planned)
        created = [gang for gang in planned.saved_gangs if gang.gang_id not in before.gangs]
        for gang in created:
            if gang.phase not in LIVE:
                broken(5, f"{gang.gang_id} is created and stopped in one plan")
        if not self.cluster.calm or all(gang.actor is not None for gang in created):
            return
        gangs = {gang.gang_id: gang for gang in before.gangs_of(key)}
        gangs.update((gang.gang_id, gang) for gang in planned.saved_gangs if gang.actor is None)
        for gone in planned.deleted_gangs:
            gangs.pop(gone, None)
        record = planned.saved_deployment or before.deployments[key]
        members = sum(len(gang.members) for gang in gangs.values() if gang.phase in LIVE)
        limit = in_whole_gangs(record.num_replicas, record.target_spec.gang.size) + surge(record, gangs.values())
        good = record.revision(record.last_good) if record.last_good is not None else None
        if good is not None:
            # It serves on while a change is held, and what is wanted then it has to be in its own whole gangs.
            whole = in_whole_gangs(record.num_replicas, good.spec.gang.size)
            # While a change is held, one of its gangs that is to be elsewhere makes way only for its like.
            limit = max(limit, whole + surge(record, gangs.values(), size=good.spec.gang.size))
        if members > limit:
            broken(5, f"{key} has {members} replicas, more than {limit}")

    # 6: placements.

    def placed(self) -> None:
        """A placement was granted."""
        if self.is_turn():
            self._within_offers()

    def _within_offers(self) -> None:
        for node_id, cpus in free_cpus(self.cluster).items():
            if cpus < -MICRO:
                broken(6, f"{-cpus} CPUs more than {node_id} offers are placed on it")

    def freed(self, placement_id: str) -> None:
        """A placement was given back."""
        for process in self.cluster.backend.processes.values():
            if process.action.gang_id == placement_id:
                broken(6, f"the placement of {process.process_id} is freed while it lives")

    def spawned(self, process: Process) -> None:
        """A process was started."""
        placement = self.cluster.backend.accounts.get(process.action.gang_id)
        bundles = process.action.replica.gang.size * (1 + len(process.action.spec.bundles))
        if placement is None or len(placement.bundles) != bundles:
            broken(6, f"{process.process_id} runs without a whole placement")
        self.actors.spawned(process)

    def killed(self, replica_id: ReplicaId, epoch: int) -> None:
        """A process is about to be killed: a healthy one that serves never is, and one that has work has its time."""
        process = self.cluster.backend.processes.get(f"{replica_id}.{epoch}")
        if process is None or process.faults or process.ill:
            return
        if process.acting is not None:
            self.actors.killed(process)
            return
        if (replica_id, epoch) not in self._published_ever:
            return
        if self.gangs.is_aborted(process):
            process.faults.append("its gang was aborted")
        elif process.ready:
            broken(8, f"{process.process_id} is killed, though it serves and nothing is wrong with it")
        elif process.running and not process.leaving.in_full:
            broken(8, f"{process.process_id} is killed with work that it had time for")

    def ended(self, process: Process) -> None:
        """A process has ended."""
        if self.is_turn():
            self.capacity()

    # What is wanted.

    def saved(self, changed: Iterable[DeploymentKey]) -> None:
        """Records were committed, of which those of these deployments changed."""
        deployments = self.cluster.store.records.deployments
        for key in (*deployments, *self.serving_since) if self.is_turn() else changed:
            record = deployments.get(key)
            if record is None or record.deleting or record.num_replicas == 0 or gave_up(record):
                self.serving_since.pop(key, None)
            if record is not None and key in self._floor:
                self._floor[key] = min(self._floor[key], record.num_replicas)
            if record is not None and key in self._wanted_before:
                self._wanted_before[key] = min(self._wanted_before[key], record.num_replicas)

    # Nobody waits while there is room.

    def tick(self) -> None:
        """Looks at every queue: whoever is first must not wait beside a replica that has had room for long."""
        now = self.cluster.engine.now
        for router in self.cluster.routers.values():
            self.gangs.waits(router)
            for key, admission in router.admissions.items():
                head, place = admission.lane.queue.head(), (router.name, key)
                if head is None or not self._room(router, key, head):
                    self._stuck.pop(place, None)
                    continue
                number, since = self._stuck.get(place, (head.number, now))
                if number != head.number:
                    number, since = head.number, now
                self._stuck[place] = (number, since)
                if now >= since + STUCK_S:
                    broken(8, f"a request for {key} waits in {router.name} for {now - since:g} s beside a free replica")

    def _room(self, router: Router, key: DeploymentKey, head: Waiter) -> bool:
        if router.stopped:
            return False
        route = router.table.routes.get(key)
        leads = route is not None and route.gang_route is GangRoute.LEADER
        free: Counter[GangId] = Counter()
        for upstream in router.upstreams.values():
            gang = upstream.replica.gang
            if upstream.replica.key == key and self._is_free(router, upstream, head.slots):
                free[gang.gang_id] += 1
                if free[gang.gang_id] == gang.size if head.whole_gang else gang.rank == 0 or not leads:
                    return True
        return False

    def _is_free(self, router: Router, upstream: Upstream, slots: int) -> bool:
        process, stream = upstream.process, upstream.stream
        if upstream.load.gone or process is None or stream is None or not stream.is_open:
            return False
        if process.stopped or not process.ready or process.slots.ledger.suspended:
            return False
        if self.cluster.network.is_cut(router.name, process.name):
            return False
        return process.slots.load.free >= slots and self.cluster.engine.now >= process.slots.free_since + STUCK_S

    def _available(self, router: Router) -> Counter[DeploymentKey]:
        count: Counter[DeploymentKey] = Counter()
        ready: Counter[GangId] = Counter()
        for replica in router.table.replicas.values():
            process = self.cluster.backend.listening(replica.address)
            ready[replica.gang.gang_id] += process is not None and process.ready
            if ready[replica.gang.gang_id] == replica.gang.size:
                count[replica.key] += replica.gang.size
        return count

    def _not_emptier(self, controller: Controller, table: dict[ReplicaId, Replica]) -> None:
        processes = {process.replica_id: process for process in self.cluster.backend.processes.values()}
        sound = Counter(
            one.action.gang_id for one in processes.values() if one.ready and one.healthy and not one.faults
        )
        owners = {member.replica_id: gang for gang in controller.records.gangs.values() for member in gang.members}
        for replica_id in self._last_table:
            process, gang = processes.get(replica_id), owners.get(replica_id)
            wanted = (
                gang is not None and gang.phase is ReplicaPhase.READY and gang.key in controller.records.deployments
            )
            if process is None or not wanted or replica_id in table:
                continue
            # It may have said so to a controller that died before it told the routers.
            if gang is not None and "is_ready says no" in gang.out_of_rotation:
                continue
            told = controller.observed.replicas.get(replica_id)
            if sound[process.action.gang_id] == process.membership.gang.size and (told is None or told.report is None):
                record = controller.records.deployments[process.key]
                if not record.deleting:
                    broken(8, f"the first table of controller {controller.life} leaves out {replica_id}, which serves")


def surge(record: DeploymentRecord, gangs: Iterable[GangRecord], *, size: int = 0) -> int:
    """Replicas beyond those wanted that a rollout may have: whole gangs, and as many as it needs to move at all.

    Where one more gang would be too many, and one less too few, nothing could move. ``size`` is that of the gangs that come, the
    target's unless given.
    """
    rollout, size = record.target_spec.rollout, size or record.target_spec.gang.size
    allowed = in_whole_gangs(rollout.max_surge.rounded_up(record.num_replicas), size)
    biggest = max(len(gang.members) for gang in gangs)
    return max(allowed, size + biggest - 1 - rollout.max_unavailable.rounded_down(record.num_replicas))


def in_whole_gangs(num_replicas: int, size: int) -> int:
    """As many replicas, or the next number that makes whole gangs."""
    return -(-num_replicas // size) * size


def gave_up(record: DeploymentRecord) -> bool:
    """Whether nothing is to be hoped for."""
    return record.terminal is not None and record.last_good in (None, record.target)


def is_changing(record: DeploymentRecord) -> bool:
    """Whether a revision is to take the place of another: also if that is a roll back to the last good one."""
    rollout = record.rollout
    replacing = rollout is not None and rollout.from_revision is not None and not rollout.finished_at
    return replacing or record.last_good not in (None, record.target)
