"""One life of a controller: fold, plan, record, execute, publish, as its shells do it. It can end between any two effects."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING

from serve_core.controller.admission import Refusal, admit, may_go_on
from serve_core.controller.agenda import Agenda
from serve_core.controller.world import World
from serve_core.model.event import Event as Happened
from serve_core.model.ids import DeploymentKey, GangId, ReplicaId
from serve_core.model.load import Load
from serve_core.model.replica import ReplicaReport
from serve_core.plan import events
from serve_core.plan.deploy import Change, apply_change
from serve_core.plan.observed import Observed
from serve_core.plan.orphans import collect
from serve_core.plan.policy import Policy
from serve_core.plan.reconcile import apply, forgotten
from serve_core.plan.records import Records
from serve_core.plan.revision import config_version
from serve_core.plan.touched import is_unowned, touched_by_records
from tests.simulation.autoscaling import Autoscaling
from tests.simulation.executing import Executor
from tests.simulation.network import Part, Stream
from tests.simulation.planning import plan_deployment
from tests.simulation.process import Process
from tests.simulation.publishing import Publisher
from tests.simulation.states import States

if TYPE_CHECKING:
    from tests.simulation.cluster import Cluster

LAST_WORDS_S = 1.0
LISTEN_LIMIT_S = 2.0
ROUND_S = 0.001


class Session:
    """One attached replica."""

    def __init__(self, stream: Stream, process: Process) -> None:
        self.stream = stream
        self.process = process


class Controller(Part):
    """What one process of the controller knows and does; with it ends all but the store."""

    def __init__(self, cluster: Cluster, life: int) -> None:
        super().__init__(cluster.engine, "controller")
        self.cluster = cluster
        self.life = life
        self.policy = Policy()
        store = cluster.store
        self.world = World(
            cluster=store.cluster,
            records=store.load(),
            now=lambda: cluster.engine.now,
            events=store.events,
            policy=self.policy,
        )
        self.publisher = Publisher(self)
        self.sessions: dict[ReplicaId, Session] = {}
        self.executor = Executor(self)
        self.states = States(self)
        self.autoscaling = Autoscaling(self)
        self._random = cluster.engine.randomness(f"controller {life}")
        self._agenda = Agenda()
        self._blocked: dict[DeploymentKey, None] = {}
        self._orphans_at: float | None = None
        self._due = float("inf")
        self._checked_at = self.engine.now
        self._ids: Iterator[str] = (f"c{life}g{number}" for number in range(1, 1_000_000))
        self.world.listen(self._on_event)
        self.world.listen_touched(self.wake)

    @property
    def records(self) -> Records:
        """What is persisted."""
        return self.world.records

    @property
    def observed(self) -> Observed:
        """What was seen."""
        return self.world.observed

    def begin(self) -> None:
        """Lists the backend, then plans for everything."""
        backend = self.cluster.backend
        backend.adopted()
        for placement in backend.accounts.placements:
            self.tell(events.PlacementReserved(gang_id=GangId(placement.placement_id), now=self.engine.now))
        for process in list(backend.processes.values()):
            started = events.ProcessStarted(
                replica_id=process.replica_id, epoch=process.epoch, pid=process.pid, now=self.engine.now
            )
            self.tell(started)
        self.nodes_changed()
        self.tell(events.BackendListed(now=self.engine.now))
        self._look_for_orphans()
        self.wake(self.records.deployments)
        self.publisher.begin()
        self.autoscaling.begin()
        self.later(1.0, self._listen)

    def nodes_changed(self) -> None:
        """The backend says which nodes there are."""
        self.tell(events.NodesSeen(nodes=self.cluster.nodes.seen(), now=self.engine.now))

    def effect(self, what: str, do: Callable[[], None]) -> bool:
        """Changes the world outside; this life may end right before or right after. False if it has."""
        if self.cluster.crashes.now(what, after=False):
            self.crash()
            return False
        do()
        if self.alive and self.cluster.crashes.now(what, after=True):
            self.crash()
        return self.alive

    def crash(self) -> None:
        """SIGKILL."""
        self.die()
        self.cluster.controller_ended(self)

    def tell(self, event: events.Event) -> None:
        """Something happened."""
        self.world.tell(event)

    def wake(self, keys: Iterable[DeploymentKey]) -> None:
        """Something happened to these deployments."""
        self._agenda.add(keys)
        self._wake_at(self.engine.now)

    def change(self, decide: Callable[[Records], Change]) -> bool:
        """What an operator asks for; False if the controller died over it. Raises as ``decide`` does."""
        change = decide(self.records)
        if not self.save(apply_change(self.records, change), change.events, "operator's change"):
            return False
        self.wake(record.key for record in change.saved_deployments)
        if change.saved_nodes or change.deleted_nodes:
            self.wake(self.records.deployments)
        return True

    def _on_event(self, event: events.Event) -> None:
        if not isinstance(event, events.Forgotten) and is_unowned(event, self.records):
            self._look_for_orphans()

    # Replicas.

    def hello(self, stream: Stream, process: Process, report: ReplicaReport) -> None:
        """A replica attaches."""
        admitted = admit(self.records, process.replica_id, process.epoch)
        if isinstance(admitted, Refusal):
            stream.send(process, partial(process.leaving.begin, None, disowned=True))
            return
        older = self.sessions.get(process.replica_id)
        if older is not None and older.process is not process:
            stream.send(process, partial(process.leaving.begin, None, disowned=True))
            return
        self.sessions[process.replica_id] = Session(stream, process)
        if older is not None and older.stream is not stream:
            older.stream.close(self)
        stream.on_end(self, partial(self._detached, stream, process))
        opened = events.AttachOpened(
            replica_id=process.replica_id,
            epoch=process.epoch,
            pid=process.pid,
            report=report,
            config=config_version(admitted.spec),
            now=self.engine.now,
        )
        self.tell(opened)
        stream.send(process, partial(process.welcome, admitted.spec, admitted.actor))

    def reported(self, stream: Stream, process: Process, report: ReplicaReport) -> None:
        """A replica says what it is."""
        if self._is_current(stream, process):
            self.tell(
                events.Reported(replica_id=process.replica_id, epoch=process.epoch, report=report, now=self.engine.now)
            )

    def heartbeat(self, stream: Stream, process: Process, sequence: int, load: Load) -> None:
        """A replica lives."""
        if self._is_current(stream, process):
            if may_go_on(self.records, process.replica_id, process.epoch):
                stream.send(process, partial(process.acknowledged, sequence))
            self.tell(
                events.HeartbeatSeen(replica_id=process.replica_id, epoch=process.epoch, load=load, now=self.engine.now)
            )

    def exited(self, process: Process, exit_code: int) -> None:
        """The backend says that a process has ended; its last words come first, if it ended by itself."""
        session = self.sessions.get(process.replica_id)
        if exit_code >= 0 and session is not None and session.process is process:
            self.later(LAST_WORDS_S, partial(self._exited, process, exit_code))
        else:
            self._exited(process, exit_code)

    def _exited(self, process: Process, exit_code: int) -> None:
        self.tell(
            events.ProcessExited(
                replica_id=process.replica_id, epoch=process.epoch, exit_code=exit_code, now=self.engine.now
            )
        )

    def _is_current(self, stream: Stream, process: Process) -> bool:
        session = self.sessions.get(process.replica_id)
        return session is not None and session.stream is stream

    def _detached(self, stream: Stream, process: Process) -> None:
        if self._is_current(stream, process):
            del self.sessions[process.replica_id]
            self.tell(events.AttachLost(replica_id=process.replica_id, epoch=process.epoch, now=self.engine.now))

    # Planning.

    def _wake_at(self, time: float) -> None:
        if time < self._due:
            self._due = time
            self.engine.at(max(time, self.engine.now + ROUND_S), partial(self.deliver, partial(self._round, time)))

    def _round(self, due: float) -> None:
        if due != self._due:
            return
        self._due = float("inf")
        self._check_listening()
        for key in self._agenda.take(self.engine.now):
            if key in self.records.deployments and not self._plan(key):
                return
        self._collect_orphans()
        if self._agenda.is_due:
            self._wake_at(self.engine.now)
        times = [time for time in (self._agenda.next_time(), self._orphans_at) if time is not None]
        if times:
            self._wake_at(min(times))

    def _look_for_orphans(self) -> None:
        now = self.engine.now
        self._orphans_at = max(now, (self.observed.listed_at or now) + self.policy.orphan_grace_s)
        self._wake_at(self._orphans_at)

    def _collect_orphans(self) -> None:
        now = self.engine.now
        if self._orphans_at is None or now < self._orphans_at:
            return
        self.cluster.costs.swept += len(self.records.gangs)
        actions = collect(self.records.gangs, self.observed, now=now, policy=self.policy)
        self._orphans_at = now + self.policy.kill_retry_s if actions else None
        self.executor.submit(actions)

    def _plan(self, key: DeploymentKey) -> bool:
        before, now = self.records, self.engine.now
        planned = plan_deployment(
            self.cluster.cores,
            self.cluster.costs,
            key,
            world=self.world,
            facts=self.publisher.facts,
            ids=self._ids,
            unit_random=self._random.random(),
            policy=self.policy,
        )
        for reason in planned.reasons:
            self.engine.note(f"planned: {reason}")
        if planned.changes_records or planned.events:
            self.cluster.checks.planned(key, before, planned)
            judge = partial(self.cluster.checks.actors.planned, key, before, planned)
            if not self.save(apply(before, planned), planned.events, f"plan of {key}", judge=judge):
                return False
        self._agenda.put(key, planned.wake_at)
        if planned.blocked:
            self._blocked[key] = None
        else:
            self._blocked.pop(key, None)
        frees_turn = planned.frees_starts and self.policy.max_concurrent_starts_per_node
        ends_waits = planned.deleted_gangs or planned.frees_claim or frees_turn
        if ends_waits and self._blocked:
            self.wake(self.world.waiters.in_order(self._blocked))
        self.cluster.checks.drains(self, planned)
        for event in forgotten(before, planned, now=now):
            self.tell(event)
        self.executor.submit(planned.actions)
        return self.alive

    def save(
        self,
        records: Records,
        happened: Iterable[Happened],
        what: str,
        *,
        written: Mapping[str, bytes] | None = None,
        judge: Callable[[], None] = lambda: None,
    ) -> bool:
        """Commits records, and bytes that they tell of, which are judged then; False if the controller died over it."""
        before, log = self.records, self.world.events.appended(happened)

        def commit() -> None:
            self.cluster.store.commit(records, log, written or {})
            judge()
            self.cluster.costs.saved(before, records)
            self.cluster.checks.saved(touched_by_records(before, records))

        if not self.effect(f"save {what}", commit):
            return False
        self.world.replace_records(records, log)
        return True

    def _listen(self) -> None:
        self._check_listening()
        self.later(1.0, self._listen)

    def _check_listening(self) -> None:
        gap_s, self._checked_at = self.engine.now - self._checked_at, self.engine.now
        if gap_s > LISTEN_LIMIT_S:
            self.tell(events.ListeningResumed(now=self.engine.now))
