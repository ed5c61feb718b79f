"""A small world for the planner: a backend, replicas and routers that do what they are told, in memory and in one thread.

It checks the planner's promises at every step. Time moves only by ``advance``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import count, islice

from serve_core.model.actor import ActorEndpoint, ActorSpec
from serve_core.model.endpoints import TableVersion
from serve_core.model.event import Event
from serve_core.model.gang import GangRoster
from serve_core.model.ids import DeploymentKey, GangId, NodeId, ReplicaId, RouterId, gang_of
from serve_core.model.load import Load
from serve_core.model.replica import Environment, Failure, Method, MethodKind, Replica, ReplicaPhase, ReplicaReport
from serve_core.model.resources import Resources
from serve_core.model.spec import ApplicationSpec, DeploymentSpec
from serve_core.model.status import DeploymentStatus
from serve_core.plan import actions as act
from serve_core.plan import deploy, endpoints, events, orphans, reconcile, status
from serve_core.plan.deploy import Change
from serve_core.plan.fold import fold
from serve_core.plan.gate import awaited
from serve_core.plan.lifecycle import LIVE
from serve_core.plan.observed import NodeObserved, Observed
from serve_core.plan.placement import Capacity, Waiters, used
from serve_core.plan.plan import Plan, Settled
from serve_core.plan.policy import Policy
from serve_core.plan.records import DeploymentRecord, GangRecord, Records, replicas_in
from serve_core.plan.renewal import is_outdated
from serve_core.plan.revision import config_version
from serve_core.plan.rollout import Bounds
from serve_core.plan.settled import Split
from serve_core.plan.table import EndpointTable
from tests.unit.plan.incremental import Incremental

KEY = DeploymentKey("app", "main")


def a_spec(**changes: object) -> DeploymentSpec:
    spec = DeploymentSpec(
        name="main",
        import_path="app:v1",
        num_replicas=2,
        resources=Resources(cpus=1.0),
        graceful_shutdown_timeout_s=5.0,
        start_deadline_s=20.0,
        max_start_failures=3,
    )
    return replace(spec, **changes)  # type: ignore[arg-type]


def an_actor(name: str = "cache", **changes: object) -> ActorSpec:
    return replace(ActorSpec(name=name, import_path="app:Cache", start_deadline_s=10.0), **changes)  # type: ignore[arg-type]


def an_application(*deployments: DeploymentSpec) -> ApplicationSpec:
    return ApplicationSpec(name="app", ingress=deployments[0].name, deployments=deployments)


@dataclass
class Process:
    """One process. ``ready_in_s`` and the like are set by the behaviour of its import path when it starts."""

    action: act.StartProcess
    pid: int
    attached: bool = False
    phase: ReplicaPhase = ReplicaPhase.STARTING
    silent: bool = False
    deaf: bool = False
    healthy: bool = True
    is_ready: bool = True
    environment: Environment | None = None
    reconfigure_failure: Failure | None = None
    roster: GangRoster | None = None
    """What it acts on."""
    heard: GangRoster | None = None
    """What it was told last, which it acts on with its next step."""
    held: bool = False
    """Whether it waits for its gang once it has drained."""
    told_drained: bool = False
    asked: bool = False
    """Whether it was told to drain, and does not leave by itself."""
    load: Load = field(default_factory=lambda: Load(0, 0, 5))


@dataclass
class Router:
    router_id: RouterId
    acknowledged: TableVersion | None = None
    replicas: set[ReplicaId] = field(default_factory=set)
    stuck: bool = False


class World:
    """Everything around the planner.

    ``behaviour`` maps an import path to what its processes do: "ready", "fail", "exit" or "hang".
    """

    def __init__(self, *, nodes: tuple[NodeObserved, ...] | None = None, policy: Policy | None = None) -> None:
        self.now = 1000.0
        self.policy = policy or Policy()
        self.nodes = nodes or (NodeObserved(node_id=NodeId("node-0"), zone="z", total=Resources(cpus=8.0, gpus=2.0)),)
        self.records = Records()
        self.behaviour: dict[str, str] = {}
        self.processes: dict[ReplicaId, Process] = {}
        self.placements: set[GangId] = set()
        self.refuse_placements = False
        self.refuse_starts = False
        self.routers: dict[RouterId, Router] = {}
        self.log: list[str] = []
        self.done: list[act.Action] = []
        self.unit_random = 0.5
        self.plans: dict[DeploymentKey, Plan] = {}
        self.events: list[Event] = []
        self.directories: dict[ReplicaId, tuple[ActorEndpoint, ...]] = {}
        self.checks_ready = 0
        self.epochs: dict[GangId, tuple[int, ...]] = {}
        self._pids = count(100)
        self._ids: Iterator[str] = (f"g{number}" for number in count(1))
        self._version = 0
        self.restart_controller(list_backend=False)
        self.list_backend()

    # What a test does.

    def deploy(self, *deployments: DeploymentSpec) -> Change:
        change = deploy.deploy(self.records, an_application(*deployments), now=self.now)
        self.records = deploy.apply_change(self.records, change)
        return change

    def change(self, change: Change) -> None:
        self.records = deploy.apply_change(self.records, change)

    def kill(self, replica_id: ReplicaId, *, exit_code: int = -9) -> None:
        process = self.processes.pop(replica_id)
        self.tell(
            events.ProcessExited(replica_id=replica_id, epoch=process.action.epoch, exit_code=exit_code, now=self.now)
        )

    def lose_attach(self, replica_id: ReplicaId) -> None:
        process = self.processes[replica_id]
        if process.attached:
            process.attached = False
            self.tell(events.AttachLost(replica_id=replica_id, epoch=process.action.epoch, now=self.now))

    def restart_controller(self, *, list_backend: bool = True) -> None:
        """Forgets all but the records."""
        self.observed = Observed(listening_since=self.now)
        self.incremental = Incremental(self.records, self.policy)
        self.table = EndpointTable(epoch="e", version=self._version, policy=self.policy)
        for process in self.processes.values():
            process.attached = False
        if list_backend:
            self.list_backend()

    def list_backend(self) -> None:
        self.tell(events.NodesSeen(nodes=self.nodes, now=self.now))
        for gang_id in sorted(self.placements):
            self.tell(events.PlacementReserved(gang_id=gang_id, now=self.now))
        for replica_id, process in sorted(self.processes.items()):
            self.tell(
                events.ProcessStarted(replica_id=replica_id, epoch=process.action.epoch, pid=process.pid, now=self.now)
            )
        self.tell(events.BackendListed(now=self.now))

    def add_router(self, name: str = "r1") -> Router:
        router = Router(RouterId(name))
        self.routers[router.router_id] = router
        self._subscribe(router)
        return router

    def remove_router(self, name: str = "r1") -> None:
        del self.routers[RouterId(name)]
        self.tell(events.RouterGone(router_id=RouterId(name), now=self.now))

    def advance(self, seconds: float) -> None:
        self.now += seconds

    def settle(self, *, rounds: int = 60) -> int:
        """Steps until nothing happens any more. Returns how many steps that took."""
        for number in range(rounds):
            if not self.step():
                return number
        raise AssertionError("no fixed point:\n" + "\n".join(self.log[-40:]))

    def steps(self, *, rounds: int = 200) -> Iterator[int]:
        """Steps until nothing happens any more, for a look after each step."""
        for number in range(rounds):
            if not self.step():
                return
            yield number
        raise AssertionError("no fixed point:\n" + "\n".join(self.log[-40:]))

    def run(self, seconds: float, *, step_s: float = 0.5) -> None:
        """Steps while time passes."""
        end = self.now + seconds
        while self.now < end:
            self.settle()
            self.advance(step_s)
        self.settle()

    def step(self) -> bool:
        """Lets everyone act once. Returns whether anything happened."""
        before = (self.records, self._seen_without_times(), self.table.version)
        self._replicas_act()
        self.plan_all()
        self._publish()
        return before != (self.records, self._seen_without_times(), self.table.version)

    def plan_all(self) -> None:
        for key in sorted(self.records.deployments):
            self.plan(key)
        for action in orphans.collect(self.records.gangs, self.observed, now=self.now, policy=self.policy):
            self.execute(action)

    def plan(self, key: DeploymentKey = KEY, *, crash_after: int | None = None) -> Plan:
        """Plans, saves and executes; with ``crash_after``, only the first actions are executed."""
        record = self.records.deployments[key]
        actors = sum(len(kept.spec.actors) for kept in record.revisions)
        ids = list(islice(self._ids, record.num_replicas * 2 + actors))
        planned = self._plan(key, Split(self.records.everything_of(key), Settled()), ids)
        self._check_settled(key, planned, ids)
        self.plans[key] = planned
        self.events += planned.events
        self.log += [f"{self.now:g} {reason}" for reason in planned.reasons]
        forgotten = reconcile.forgotten(self.records, planned, now=self.now)
        self.records = reconcile.apply(self.records, planned)
        for event in forgotten:
            self.tell(event)
        self.check(key)
        for action in planned.actions[:crash_after]:
            self.execute(action)
        return planned

    def _plan(self, key: DeploymentKey, split: Split, ids: list[str]) -> Plan:
        return reconcile.plan(
            self.records.deployments[key],
            split.gangs,
            self.observed,
            capacity=self._capacity(key),
            table=self.table.facts(
                [member.replica_id for gang in split.gangs for member in gang.members],
                self.observed,
                now=self.now,
            ),
            now=self.now,
            ids=iter(ids),
            unit_random=self.unit_random,
            policy=self.policy,
            settled=split.settled,
            draining=self.records.nodes,
        )

    def _capacity(self, key: DeploymentKey) -> Capacity:
        capacity = Capacity(self.nodes, self.records.gangs.values(), draining=self.records.nodes)
        return Waiters(self.records.deployments.values()).capacity_for(key, capacity)

    def _check_settled(self, key: DeploymentKey, planned: Plan, ids: list[str]) -> None:
        """The plan is the same if the settled gangs are only counted."""
        split = self.incremental.split(self.records, key, self.observed, now=self.now)
        other = self._plan(key, split, ids)
        assert replace(other, wake_at=None) == replace(planned, wake_at=None)
        if split.settled.count:
            assert planned.wake_at is not None
            assert other.wake_at is not None
            assert self.now < other.wake_at <= planned.wake_at
        else:
            assert other.wake_at == planned.wake_at

    def status(self, key: DeploymentKey = KEY) -> DeploymentStatus:
        return status.deployment_status(
            self.record(key),
            self.records.gangs_of(key),
            self.observed,
            now=self.now,
            actor_gangs=self.records.actor_gangs_of(key),
        )

    # What a test looks at.

    def record(self, key: DeploymentKey = KEY) -> DeploymentRecord:
        return self.records.deployments[key]

    def gangs(self, phase: ReplicaPhase | None = None, key: DeploymentKey = KEY) -> list[GangRecord]:
        return [gang for gang in self.records.gangs_of(key) if phase is None or gang.phase is phase]

    def actor_gangs(self, key: DeploymentKey = KEY) -> list[GangRecord]:
        return list(self.records.actor_gangs_of(key))

    def lives(self, name: str) -> list[GangRecord]:
        """What there is of an actor, oldest first."""
        return [gang for gang in self.actor_gangs() if gang.actor is not None and gang.actor.name == name]

    def ready_ids(self, key: DeploymentKey = KEY) -> list[ReplicaId]:
        return [gang.members[0].replica_id for gang in self.gangs(ReplicaPhase.READY, key)]

    def told(self, *, subject: bool = False) -> list[str]:
        """The reasons of all events about the deployment, or about its gangs."""
        return [event.reason for event in self.events if bool(event.subject) is subject]

    def ready_paths(self, key: DeploymentKey = KEY) -> Counter[str]:
        return Counter(
            self.processes[replica_id].action.spec.import_path
            for replica_id in self.ready_ids(key)
            if replica_id in self.processes
        )

    # What the world does.

    def tell(self, event: events.Event) -> None:
        before, self.observed = self.observed, fold(self.observed, event)
        self.incremental.tell(event, self.records, before)

    def execute(self, action: act.Action) -> None:
        self.done.append(action)
        match action:
            case act.ReservePlacement(gang_id=gang_id):
                if self.refuse_placements and gang_id not in self.placements:
                    failure = Failure(reason="DEPLOYMENT_UNAVAILABLE", message="no room", time=self.now)
                    self.tell(events.PlacementRefused(gang_id=gang_id, failure=failure, now=self.now))
                else:
                    self.placements.add(gang_id)
                    self.tell(events.PlacementReserved(gang_id=gang_id, now=self.now))
            case act.StartProcess():
                self._start(action)
            case act.SendReconfigure() | act.SendActors() | act.SendRoster():
                self._inform(action)
            case act.SendDrain():
                self._drain(action)
            case act.KillProcess(replica_id=replica_id, epoch=epoch):
                if replica_id in self.processes and self.processes[replica_id].action.epoch == epoch:
                    del self.processes[replica_id]
                self.tell(events.ProcessExited(replica_id=replica_id, epoch=epoch, exit_code=None, now=self.now))
            case act.FreePlacement(gang_id=gang_id):
                self.placements.discard(gang_id)
                self.tell(events.PlacementFreed(gang_id=gang_id, now=self.now))
            case act.Disown(replica_id=replica_id):
                self.kill(replica_id, exit_code=0)

    def _drain(self, action: act.SendDrain) -> None:
        replica_id, hold = action.replica_id, action.hold
        self._check_withdrawn(replica_id)
        self.tell(events.DrainSent(replica_id=replica_id, epoch=action.epoch, hold=hold, now=self.now))
        process = self.processes[replica_id]
        process.asked = True
        if not process.deaf:
            process.held = hold and (process.held or process.phase is not ReplicaPhase.DRAINING)
            process.phase = ReplicaPhase.DRAINING

    def _inform(self, action: act.SendReconfigure | act.SendActors | act.SendRoster) -> None:
        replica_id, epoch = action.replica_id, action.epoch
        match action:
            case act.SendReconfigure(config=config):
                self.tell(events.Reconfigured(replica_id=replica_id, epoch=epoch, config=config, now=self.now))
            case act.SendRoster(roster=roster):
                self.processes[replica_id].heard = roster
                self.tell(events.RosterSent(replica_id=replica_id, epoch=epoch, gang_epoch=roster.epoch, now=self.now))
            case act.SendActors(actors=actors):
                self.directories[replica_id] = actors
                self.tell(events.ActorsSent(replica_id=replica_id, epoch=epoch, actors=actors, now=self.now))

    def _start(self, action: act.StartProcess) -> None:
        if action.replica_id in self.processes:
            assert self.processes[action.replica_id].action.epoch == action.epoch, "two of one rank"
            return
        if self.refuse_starts:
            failure = Failure(reason="IMPORT_FAILED", message="no such interpreter", time=self.now)
            self.tell(
                events.StartRefused(replica_id=action.replica_id, epoch=action.epoch, failure=failure, now=self.now)
            )
            return
        process = Process(action, next(self._pids))
        self.processes[action.replica_id] = process
        self.tell(
            events.ProcessStarted(replica_id=action.replica_id, epoch=action.epoch, pid=process.pid, now=self.now)
        )

    def _replicas_act(self) -> None:
        for replica_id, process in list(self.processes.items()):
            if process.phase is ReplicaPhase.DRAINING and not process.load.held and not process.held:
                if process.asked:
                    self._check_together(replica_id)
                self.kill(replica_id, exit_code=0)
            elif not process.silent:
                self._replica_acts(replica_id, process)

    def _replica_acts(self, replica_id: ReplicaId, process: Process) -> None:
        epoch, behaviour = process.action.epoch, self.behaviour.get(process.action.spec.import_path, "ready")
        if behaviour == "exit":
            self.kill(replica_id, exit_code=3)
            return
        if not process.attached:
            process.attached = True
            self.tell(
                events.AttachOpened(
                    replica_id=replica_id,
                    epoch=epoch,
                    pid=process.pid,
                    report=self._report(process),
                    config=config_version(process.action.spec),
                    now=self.now,
                )
            )
        elif self._report(process).drained and not process.told_drained:
            process.told_drained = True
            self.report(replica_id)
        elif process.heard is not process.roster:
            process.roster = process.heard
            self.report(replica_id)
        elif process.phase is ReplicaPhase.STARTING and process.action.replica.gang.size > 1 and process.roster is None:
            self.tell(events.HeartbeatSeen(replica_id=replica_id, epoch=epoch, load=process.load, now=self.now))
        elif process.phase is ReplicaPhase.STARTING and behaviour == "fail":
            failure = Failure(reason="CONSTRUCTOR_FAILED", message="boom", traceback="Traceback", time=self.now)
            report = replace(self._report(process), failure=failure)
            self.tell(events.Reported(replica_id=replica_id, epoch=epoch, report=report, now=self.now))
            self.kill(replica_id, exit_code=1)
        elif process.phase is ReplicaPhase.STARTING and behaviour == "ready":
            process.phase = ReplicaPhase.READY
            self.report(replica_id)
        else:
            self.tell(events.HeartbeatSeen(replica_id=replica_id, epoch=epoch, load=process.load, now=self.now))

    def report(self, replica_id: ReplicaId) -> None:
        process = self.processes[replica_id]
        self.tell(
            events.Reported(
                replica_id=replica_id, epoch=process.action.epoch, report=self._report(process), now=self.now
            )
        )

    def _report(self, process: Process) -> ReplicaReport:
        return ReplicaReport(
            phase=process.phase,
            address=f"127.0.0.1:{process.pid}",
            load=process.load,
            methods=(Method(process.action.spec.import_path, MethodKind.UNARY),),
            healthy=process.healthy,
            is_ready=process.is_ready,
            environment=process.environment,
            reconfigure_failure=process.reconfigure_failure,
            metadata={"own": "x"},
            drained=process.phase is ReplicaPhase.DRAINING and process.held and not process.load.held,
            rendezvous_port=process.pid if process.action.replica.gang.rank == 0 else 0,
            gang_epoch=process.roster.epoch if process.roster is not None else 0,
        )

    def _subscribe(self, router: Router) -> None:
        self.tell(
            events.RouterSubscribed(
                router_id=router.router_id,
                address="",
                http_address="",
                acknowledged=router.acknowledged,
                now=self.now,
            )
        )

    def reconnect_routers(self) -> None:
        for router in self.routers.values():
            self._subscribe(router)

    def _publish(self) -> None:
        if not self.table.is_published and endpoints.is_recovering(
            self.records, self.observed, now=self.now, policy=self.policy
        ):
            return
        routes, replicas = endpoints.build(self.records, self.observed, now=self.now, policy=self.policy)
        self._check_whole(replicas)
        self.table.update(routes, replicas)
        self.incremental.check_table(routes, replicas, records=self.records, observed=self.observed, now=self.now)
        self._version = self.table.version.version
        for router in self.routers.values():
            if router.router_id in self.observed.routers and not router.stuck:
                self._feed(router)

    def _feed(self, router: Router) -> None:
        change = self.table.change_since(router.acknowledged)
        if change is None:
            return
        if change.snapshot:
            router.replicas.clear()
        router.replicas -= set(change.removed_replica_ids)
        router.replicas |= {replica.replica_id for replica in change.upserted_replicas}
        router.acknowledged = change.version
        self.tell(events.RouterAcknowledged(router_id=router.router_id, acknowledged=change.version, now=self.now))
        assert router.replicas == self.table.replica_ids

    # What must always hold.

    def check(self, key: DeploymentKey) -> None:
        for node in self.nodes:
            held = used(node.node_id, self.records.gangs.values())
            assert held.cpus <= node.total.cpus
            assert held.gpus <= node.total.gpus
        record = self.records.deployments.get(key)
        if record is None:
            assert not self.records.everything_of(key)
            return
        self._check_actors(record)
        self._check_gangs(key)
        live = [gang for gang in self.records.gangs_of(key) if gang.phase in LIVE]
        moving = any(self._moves(gang) for gang in live)
        assert replicas_in(live) <= Bounds.of(record, live, moving=moving).most_good, f"too many live: {live}"
        stay = [gang for gang in live if not is_outdated(record, gang) and not self._moves(gang)]
        for revision in {gang.revision for gang in stay}:
            mine = [gang for gang in stay if gang.revision == revision]
            assert replicas_in(mine) < record.num_replicas + mine[0].size, f"{len(mine)} gangs of {revision}"

    def _check_gangs(self, key: DeploymentKey) -> None:
        """Each rank once, of the size that its revision says, and in epochs that only rise."""
        for gang in self.records.gangs_of(key):
            assert [member.rank for member in gang.members] == list(range(gang.size))
            assert gang.size == self.records.deployments[key].spec_of(gang).gang.size
            epochs = (gang.epoch, *(member.epoch for member in gang.members))
            before = self.epochs.get(gang.gang_id, epochs)
            assert all(one <= other for one, other in zip(before, epochs, strict=True)), f"{before} -> {epochs}"
            self.epochs[gang.gang_id] = epochs

    def _check_whole(self, replicas: Sequence[Replica]) -> None:
        """Gangs are routed to whole, or not at all: every rank, in one epoch."""
        gangs: dict[GangId, list[Replica]] = {}
        for replica in replicas:
            gangs.setdefault(replica.gang.gang_id, []).append(replica)
        for members in gangs.values():
            assert sorted(member.gang.rank for member in members) == list(range(members[0].gang.size))
            assert len({member.gang.epoch for member in members}) == 1

    def _check_actors(self, record: DeploymentRecord) -> None:
        """No replica of a revision before its actors were ready; and no two lives of one actor at once."""
        for gang in self.records.gangs_of(record.key):
            assert not awaited(record, gang.revision), f"{gang.gang_id} is there before its actors"
        lives = Counter(gang.actor for gang in self.records.actor_gangs_of(record.key))
        assert not lives or max(lives.values()) == 1, f"two lives at once: {lives}"

    def _check_withdrawn(self, replica_id: ReplicaId) -> None:
        gang = self.records.gangs[gang_of(replica_id)]
        waited = self.now - gang.phase_since >= self.policy.withdraw_timeout_s
        for router in self.routers.values():
            assert waited or replica_id not in router.replicas or router.stuck, "drained while routed to"

    def _moves(self, gang: GangRecord) -> bool:
        return any(member.node_id in self.records.nodes for member in gang.members)

    def _check_together(self, replica_id: ReplicaId) -> None:
        """Whoever finished in good order: no other member of its gang has work still."""
        gang = self.records.gangs.get(gang_of(replica_id))
        for member in gang.members if gang is not None else ():
            other = self.processes.get(member.replica_id)
            if other is not None and not other.deaf and not other.silent:
                assert not other.load.held, f"{replica_id} ends while {member.replica_id} has work"

    def _seen_without_times(self) -> object:
        return (
            {
                replica_id: replace(seen, heard_at=0.0, detached_at=0.0)
                for replica_id, seen in self.observed.replicas.items()
            },
            self.observed.placements,
            self.observed.routers,
        )
