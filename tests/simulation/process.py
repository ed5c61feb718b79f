"""A replica's process: the real ledger, drain and health, and user code that behaves as its import path says."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from replica.core.fence import Fence
from replica.core.health import Health
from serve_core.errors import DrainingError, NoSlotError, ReplicaUnavailableError, ServeError
from serve_core.model.actor import ActorAssignment
from serve_core.model.ids import OwnerId, ReplicaId
from serve_core.model.replica import Failure, ReplicaPhase, ReplicaReport
from serve_core.model.spec import DeploymentSpec
from serve_core.plan.actions import StartProcess
from serve_core.plan.actor_keys import actor_key
from tests.simulation.acting import Acting
from tests.simulation.calls import Call
from tests.simulation.directory import Directory
from tests.simulation.leaving import Leaving
from tests.simulation.membership import Membership
from tests.simulation.network import Part, Stream
from tests.simulation.running import Reply, Running
from tests.simulation.slots import Slots
from tests.simulation.wishes import behaviour_of

if TYPE_CHECKING:
    from tests.simulation.cluster import Cluster

ILL_CHECK_S = 1.0


class Process(Part):
    """One start of a replica, or of an actor.

    ``faults`` are those that have touched it. It does not end by a signal before ``immortal_until``.
    """

    def __init__(self, cluster: Cluster, action: StartProcess, pid: int) -> None:
        super().__init__(cluster.engine, action.replica_id)
        self.cluster = cluster
        self.action = action
        self.replica_id: ReplicaId = action.replica_id
        self.epoch = action.epoch
        self.key = action.replica.key
        self.node_id = action.bundle.node_id
        self.pid = pid
        self.address = f"sim:{pid}"
        self.behaviour = behaviour_of(action.spec)
        self.phase = ReplicaPhase.STARTING
        self.failure: Failure | None = None
        self.ill = False
        self.healthy = True
        self.says_ready = True
        self.was_ready = False
        self.immortal_until = 0.0
        self.faults: list[str] = []
        self.slots = Slots(
            cluster.engine,
            self.name,
            cluster.cores.ledger(replica_id=self.replica_id, epoch=self.epoch, capacity=1),
        )
        self.running: list[Running] = []
        self.spec: DeploymentSpec | None = None
        self.leaving = Leaving(self)
        self._random = cluster.engine.randomness(f"process {pid}")
        self.membership = Membership(self, self._random)
        self.directory = Directory(self, self._random)
        self.acting = _acting(self, action)
        self._fence = Fence(limit_s=10.0)
        self._sequence = 0
        self._health = Health(failure_threshold=3)
        self.attachment: Stream | None = None
        self._attempts = 0
        self._watches: dict[OwnerId, Stream] = {}
        self._lease_timer: float | None = None

    @property
    def process_id(self) -> str:
        """The backend's name of it."""
        return f"{self.replica_id}.{self.epoch}"

    @property
    def ready(self) -> bool:
        """Whether user code is loaded and everything is taken."""
        return self.alive and self.phase is ReplicaPhase.READY

    # Its life.

    def begin(self) -> None:
        """Its ``main`` runs."""
        self._attach()

    def end(self, exit_code: int) -> None:
        """It ends; whoever was connected notices."""
        self.cluster.engine.note(f"{self.process_id} ends with {exit_code}")
        if exit_code < 0:
            for running in self.running:
                running.call.excuses.append(f"{self.process_id} was killed")
        self.die()
        self.cluster.network.end_of(self)
        self.cluster.backend.exited(self, exit_code)

    def vanish(self) -> None:
        """Its node is gone, and it with it."""
        self.faults.append("its node was lost")
        for running in self.running:
            running.call.excuses.append(f"{self.process_id} was lost with {self.node_id}")
        self.die()
        self.cluster.network.vanish(self)
        self.cluster.backend.exited(self, -9)

    def _attach(self) -> None:
        self.cluster.network.connect(self, self.cluster.controller, opened=self._attached, failed=self._attach_failed)

    def _attach_failed(self) -> None:
        self._attempts += 1
        self.later(min(2.0, 0.05 * 2**self._attempts) * (0.5 + 0.5 * self._random.random()), self._attach)

    def _attached(self, stream: Stream) -> None:
        controller = self.cluster.controller
        if controller is None or stream.server is not controller:
            self._attach_failed()
            return
        self.attachment = stream
        stream.on_end(self, partial(self._detached, stream))
        stream.send(controller, partial(controller.hello, stream, self, self.report()))
        self.later(self.cluster.heartbeat_s, partial(self._beat, stream))

    def _detached(self, stream: Stream) -> None:
        if self.attachment is stream:
            self.attachment = None
            self._attach_failed()

    def _beat(self, stream: Stream) -> None:
        if not stream.is_open or self.attachment is not stream:
            return
        self.notice()
        self._send_heartbeat(stream)
        self.directory.call_one()
        self.later(self.cluster.heartbeat_s, partial(self._beat, stream))

    def _send_heartbeat(self, stream: Stream) -> None:
        controller = self.cluster.controller
        if controller is not None and stream.server is controller:
            self._sequence += 1
            self._fence.beat(self._sequence)
            stream.send(controller, partial(controller.heartbeat, stream, self, self._sequence, self.slots.load))

    def tell(self) -> None:
        """Reports, and tells whoever watches."""
        stream, controller = self.attachment, self.cluster.controller
        if stream is not None and controller is not None and stream.server is controller:
            stream.send(controller, partial(controller.reported, stream, self, self.report()))
        self._push_all()

    def _push_all(self) -> None:
        for owner in list(self._watches):
            self._push(owner)

    def report(self) -> ReplicaReport:
        """What it says of itself."""
        return ReplicaReport(
            phase=self.phase,
            address=self.address,
            load=self.slots.load,
            failure=self.failure,
            healthy=self.healthy,
            is_ready=self.says_ready,
            drained=self.leaving.drained,
            rendezvous_port=self.membership.rendezvous_port,
            gang_epoch=self.membership.epoch,
        )

    # What the controller says.

    def welcome(self, spec: DeploymentSpec, actor: ActorAssignment | None = None) -> None:
        """Be this; once it runs, take what changes in place."""
        self._attempts = 0
        first = self.spec is None
        self.reconfigure(spec)
        if self.acting is not None and actor is not None:
            self.acting.welcomed(actor)
        elif first and not self.membership.needs_roster:
            self.load()

    def load(self) -> None:
        """Runs the constructor of user code."""
        if self.behaviour == "bad":
            self.later(0.2 + 0.5 * self._random.random(), self._fail)
        elif self.behaviour != "hang":
            slow_s = 6.0 * self._random.random() if self.behaviour == "slow" else 0.0
            self.later(0.1 + 0.4 * self._random.random() + slow_s, self._loaded)

    def reconfigure(self, spec: DeploymentSpec) -> None:
        """Take what changes in place."""
        self.spec = spec
        self._fence.limit(spec.health.lost_after_missed * spec.health.heartbeat_period_s)
        self.slots.resize(spec.max_ongoing_requests)
        self._settle()

    def acknowledged(self, sequence: int) -> None:
        """The controller has heard a heartbeat."""
        if self._fence.acknowledged(sequence):
            self.slots.suspend(suspended=False)
            self._settle()
            self._push_all()

    def notice(self) -> None:
        """Had it stood still for so long that it may have been replaced, it takes nothing new for now."""
        if self._fence.alive(self.engine.now):
            self.slots.suspend(suspended=True)
            self._push_all()
            if self.attachment is not None:
                self._send_heartbeat(self.attachment)

    def _fail(self) -> None:
        self.failure = Failure(reason="CONSTRUCTOR_FAILED", message="boom", time=self.engine.now)
        self.phase = ReplicaPhase.GONE
        self.tell()
        self.later(0.01, partial(self.end, 1))

    def _loaded(self) -> None:
        if self.leaving.begun:
            return
        self.phase = ReplicaPhase.READY
        self.was_ready = True
        self._fence.arm(self.engine.now)
        self.engine.note(f"{self.process_id} is ready")
        self.cluster.checks.gangs.ready(self)
        self.tell()
        if self.acting is not None:
            self.acting.ready()
        if self.behaviour == "sick":
            self.later(1.0 + self._random.random(), self._fall_ill)

    def _fall_ill(self) -> None:
        if not self.cluster.healed:
            self.sicken()

    def sicken(self) -> None:
        """Its health checks fail from now on."""
        self.ill = True
        self.faults.append("ill")
        self._check_health()

    def hesitate(self, *, says_ready: bool) -> None:
        """Its ``is_ready`` says something else than before."""
        self.says_ready = says_ready
        self.tell()

    def _check_health(self) -> None:
        if self._health.failed() if self.ill else self._health.passed():
            self.healthy = self._health.healthy
            self.engine.note(f"{self.process_id} is {'well' if self.healthy else 'ill'}")
            self.tell()
        if self.ill:
            self.later(ILL_CHECK_S, self._check_health)

    # What routers ask for.

    def watch(self, stream: Stream, owner: OwnerId) -> None:
        """Tells this owner of freed slots from now on; its promises end with the watch."""
        self._watches[owner] = stream
        self.slots.ledger.owner_came(owner)
        stream.on_end(self, partial(self._lost, stream))
        self._push(owner)

    def watches(self) -> list[Stream]:
        """The connections on which it tells of freed slots."""
        return list(self._watches.values())

    def unwatch(self, owner: OwnerId) -> None:
        """The owner ends one watch."""
        if self._watches.pop(owner, None) is not None:
            self.slots.owner_gone(owner)
            self._settle()

    def run(self, stream: Stream, call: Call, owner: OwnerId, reply: Reply) -> None:
        """Runs user code for a call, with its token or without."""
        self.notice()
        try:
            if self.phase is ReplicaPhase.STARTING:
                raise ReplicaUnavailableError(f"{self.name} is not ready yet")
            number = self.slots.dispatch(call.token) if call.token else self.slots.start(slots=call.slots, owner=owner)
        except ServeError as error:
            reply(error, self.slots.load, None)
            self._settle()
            return
        self.cluster.checks.started(self, call)
        running = Running(call, number, stream, reply)
        self.running.append(running)
        self.later(call.duration_s, partial(self._ran, running))

    def cancel(self, call: Call) -> None:
        """The caller has gone."""
        for running in self.running:
            if running.call is call:
                self.finish(running, None, answer=False)
                return

    def reserve(self, call: Call, owner: OwnerId, reply: Reply) -> None:
        """Promises slots."""
        self.notice()
        if self.phase is ReplicaPhase.STARTING:
            reply(ReplicaUnavailableError(f"{self.name} is not ready yet"), self.slots.load, None)
            return
        lease = self.slots.reserve(
            slots=call.slots,
            ttl_s=call.ttl_s,
            request_id=call.request_id,
            owner=owner,
            secret=self.cluster.new_secret(),
        )
        error: ServeError | None = None
        if lease is None:
            draining = self.slots.ledger.draining or self.slots.ledger.suspended
            error = DrainingError(f"{self.name} drains") if draining else NoSlotError(f"{self.name} is full")
        reply(error, self.slots.load, lease)
        self._settle()

    def release(self, token: str, reply: Reply) -> None:
        """Takes a promise back."""
        self.slots.release(token)
        reply(None, self.slots.load, None)
        self._settle()

    def renew(self, token: str, ttl_s: float, reply: Reply, *, detach: bool) -> None:
        """Prolongs a promise, and may detach it from its router."""
        try:
            lease = self.slots.renew(token, ttl_s=ttl_s, detach=detach)
        except ServeError as error:
            reply(error, self.slots.load, None)
        else:
            reply(None, self.slots.load, lease)
        self._settle()

    def _ran(self, running: Running) -> None:
        if running in self.running:
            running.call.finished_at.append(self.process_id)
            self.finish(running, None)

    def finish(self, running: Running, error: ServeError | None, *, answer: bool = True) -> None:
        """A call is over, and its slots are free."""
        self.running.remove(running)
        self.slots.finish(running.number, ok=answer and error is None)
        if answer:
            running.reply(error, self.slots.load, None)
        self._settle()

    def _lost(self, stream: Stream) -> None:
        """A router's connection has ended: its calls are cancelled, its promises over."""
        for running in [running for running in self.running if running.stream is stream]:
            self.finish(running, None, answer=False)
        self.leaving.goodbye(stream)
        for owner in [owner for owner, watched in self._watches.items() if watched is stream]:
            self.unwatch(owner)

    def _settle(self) -> None:
        """After each operation on slots: tells whoever waits, and sees to it that the next lease's end is noticed."""
        for owner in self.slots.ledger.owners_to_tell():
            self._push(owner)
        deadline = self.slots.ledger.deadline()
        if deadline is not None and (self._lease_timer is None or deadline < self._lease_timer):
            self._lease_timer = deadline
            self.later(max(0.0, deadline - self.engine.now) + 0.001, self._leases_over)
        if self.leaving.begun and self.slots.ledger.idle:
            self.later(0.0, self.leaving.advance)

    def _leases_over(self) -> None:
        self._lease_timer = None
        self.slots.expire()
        self._settle()

    def _push(self, owner: OwnerId) -> None:
        stream = self._watches.get(owner)
        if stream is not None:
            router = self.cluster.routers.get(stream.client.name)
            if router is not None:
                draining = self.phase is not ReplicaPhase.READY or self.slots.ledger.suspended
                stream.send(router, partial(router.pushed, stream, owner, self.slots.load, draining))


def _acting(process: Process, action: StartProcess) -> Acting | None:
    if not action.is_actor:
        return None
    (actor,) = action.spec.actors
    return Acting(process, actor, actor_key(action.spec, action.replica.revision, actor))
