"""A router's process: the real table, lane, choice and retry, wired as its shells wire them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from router.core.choice import PowerOfTwo
from router.core.endpoints import EndpointTable, TableGapError, unavailable
from router.core.load import ReplicaLoad
from router.core.queue import Waiter
from router.core.retry import Outcome
from serve_core.errors import (
    DeploymentUnknownError,
    NoSlotInTimeError,
    ReplicaUnavailableError,
    ServeError,
)
from serve_core.model.endpoints import DeploymentRoute, TableChange
from serve_core.model.ids import DeploymentKey, ReplicaId, RouterId
from serve_core.model.load import Load
from tests.simulation import tokens
from tests.simulation.autoscaling import Queues
from tests.simulation.calls import Call, Kind
from tests.simulation.network import Part, Stream
from tests.simulation.reserving import GangReserving
from tests.simulation.upstream import Upstream
from tests.simulation.ways import Admission, Refusal, Way

if TYPE_CHECKING:
    from tests.simulation.cluster import Cluster

RESUBSCRIBE_S = 0.05


class Router(Part):
    """One router."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        super().__init__(cluster.engine, name)
        self.cluster = cluster
        self.router_id = RouterId(name)
        self.table = EndpointTable()
        self.admissions: dict[DeploymentKey, Admission] = {}
        self.upstreams: dict[ReplicaId, Upstream] = {}
        self.ways: dict[str, Way] = {}
        self.known: dict[ReplicaId, None] = {}
        self.let_go: dict[ReplicaId, float] = {}
        self.queues = Queues(self)
        self.slow_to_acknowledge_s = 0.0
        self.late_until = 0.0
        self.faults: list[str] = []
        self.unreached_since: float | None = None
        self._random = cluster.engine.randomness(f"router {name}")
        self._needs_all = False
        self._watches = 0
        self._retries = 0
        self._takes_at = 0.0

    # The table.

    def begin(self) -> None:
        """Its ``main`` runs."""
        self.cluster.network.connect(self, self.cluster.controller, opened=self._subscribed, failed=self._unreached)

    def _unreached(self) -> None:
        if self.unreached_since is None:
            self.unreached_since = self.engine.now
        self._retries += 1
        self.later(min(2.0, RESUBSCRIBE_S * 2**self._retries) * (0.5 + 0.5 * self._random.random()), self.begin)

    def _subscribed(self, stream: Stream) -> None:
        controller = self.cluster.controller
        if controller is None or stream.server is not controller:
            self._unreached()
            return
        stream.on_end(self, self._unreached)
        version = None if self._needs_all else self.table.version
        stream.send(controller, partial(controller.publisher.subscribed, stream, self, version))
        self.queues.subscribed(stream)

    def told(self, stream: Stream, change: TableChange) -> None:
        """The controller tells of a newer table."""
        self._retries = 0
        self.unreached_since = None
        now = self.engine.now
        # Late, but in order: it is one stream.
        self._takes_at = max(self._takes_at, now + self.slow_to_acknowledge_s * self._random.random())
        if self._takes_at > now:
            self.later(self._takes_at - now, partial(self._take, stream, change))
        else:
            self._take(stream, change)

    def _take(self, stream: Stream, change: TableChange) -> None:
        if not stream.is_open:
            return
        try:
            self._apply(change)
        except TableGapError:
            self._needs_all = True
            stream.close(self)
            self._unreached()
            return
        self._needs_all = False
        controller = self.cluster.controller
        version = self.table.version
        if controller is not None and version is not None and stream.server is controller:
            stream.send(controller, partial(controller.publisher.acknowledged, stream, self, version))

    def _apply(self, change: TableChange) -> None:
        difference = self.table.apply(change)
        self.known.update(dict.fromkeys(replica.replica_id for replica in difference.added_replicas))
        for replica in (*difference.removed_replicas, *difference.updated_replicas):
            self._drop(replica.replica_id)
        for route in difference.removed_routes:
            self._close(self.admissions.pop(route.key), partial(_unknown, route.key))
        for route in difference.changed_routes:
            self._update(route)
        found = [one for route in difference.changed_routes for one in self.table.members(route.key)]
        for replica in (*difference.added_replicas, *difference.updated_replicas, *found):
            admission = self.admissions.get(replica.key)
            known = self.upstreams.get(replica.replica_id)
            if admission is not None and (known is None or known.load.gone):
                upstream = self.upstreams[replica.replica_id] = Upstream(self, replica, admission)
                upstream.connect()
                if known is not None:
                    known.close_if_idle()
        changed = (*difference.added_replicas, *difference.updated_replicas)
        for key in dict.fromkeys((*(route.key for route in difference.changed_routes), *(one.key for one in changed))):
            if key in self.admissions:
                self.settle(self.admissions[key])
        if self.table.version == change.version:
            told = sorted(replica.replica_id for replica in change.upserted_replicas)
            self.engine.note(f"{self.name} routes by {change.version.version}: {' '.join(told)}")
        self.cluster.checks.routed(self)

    def _update(self, route: DeploymentRoute) -> None:
        admission = self.admissions.get(route.key)
        if admission is None:
            policy = PowerOfTwo(self._random.random)
            lane = self.cluster.cores.lane(route.key, policy, max_queued_requests=route.max_queued_requests)
            admission = self.admissions[route.key] = Admission(lane)
        admission.lane.max_queued_requests = route.max_queued_requests
        admission.lane.route_to(route.gang_route)
        if route.available:
            admission.refusal = None
        else:
            self._close(admission, partial(unavailable, route))

    def _close(self, admission: Admission, refusal: Refusal) -> None:
        admission.refusal = refusal
        self._wake(admission, admission.lane.close(refusal))

    def _drop(self, replica_id: ReplicaId) -> None:
        upstream = self.upstreams.get(replica_id)
        if upstream is None or upstream.load.gone:
            return
        known, unless = upstream.replica, self.table.replicas.get(replica_id)
        if unless is not None and (known.key, known.address, known.epoch) == (unless.key, unless.address, unless.epoch):
            upstream.replica = unless
            upstream.lane.regroup(upstream.load, unless.gang)
            return
        upstream.admission.lane.remove(upstream.load)
        upstream.retire()

    # Calls.

    def enter(self, call: Call) -> None:
        """A caller's request arrives."""
        call.router, call.arrived_at = self.name, self.engine.now
        if call.kind is Kind.TOKEN:
            tokens.use(self, call)
            return
        admission = self.admissions.get(call.key)
        if admission is None or admission.refusal is not None:
            call.end(_unknown(call.key) if admission is None or admission.refusal is None else admission.refusal())
            return
        try:
            waiter = admission.lane.enter(
                slots=call.slots, deadline=call.deadline, now=self.engine.now, whole_gang=call.kind is Kind.GANG
            )
        except ServeError as error:
            call.end(error)
            return
        way = self.ways[call.name] = admission.ways[waiter.number] = Way(call, waiter, admission)
        if waiter.replica is not None:
            self._send(way)
            return
        self.engine.at(call.deadline, partial(self.deliver, partial(self._expire, way)))
        self._arm(admission)
        self.queues.changed()

    def cancel(self, call: Call) -> None:
        """The caller has gone."""
        call.cancelled = True
        way = self.ways.get(call.name)
        if way is None:
            return
        waiter = way.waiter
        for part in way.parts.values():
            self.abandon(part)
        if way.upstream is not None and not way.held:
            way.upstream.cancel(call)
        if waiter is not None and waiter.replica is None and way.admission is not None:
            way.admission.lane.leave(waiter)
            self._leave(way)
            self.settle(way.admission)
        else:
            self.finish(way)

    def dispatch(self, call: Call, held: Call) -> None:
        """Uses a promise that this router holds for its caller."""
        call.router, call.arrived_at = self.name, self.engine.now
        way = self.ways.pop(held.name, None)
        if way is None or way.upstream is None:
            call.end(ReplicaUnavailableError("the promise is not held here any more"))
            return
        way.call, way.held = call, False
        self.ways[call.name] = way
        way.upstream.run(way)

    def leave(self, held: Call) -> None:
        """A promise is not used: it is given back."""
        way = self.ways.get(held.name)
        if way is None or way.upstream is None or held.lease is None:
            return
        way.upstream.release(str(held.lease.token))
        self.finish(way)

    def release(self, token: str) -> None:
        """A ticket is given back through this router."""
        tokens.release(self, token)

    def upstream_of(self, load: ReplicaLoad) -> Upstream | None:
        """The way to a replica, by what is believed of its load."""
        return next((one for one in self.upstreams.values() if one.load is load), None)

    def abandon(self, part: Way) -> None:
        """What was promised to a part of a call is not needed."""
        part.call.cancelled = True
        self.ways.pop(part.call.name, None)
        if part.upstream is not None and part.call.lease is not None:
            part.upstream.release(str(part.call.lease.token))

    def pushed(self, stream: Stream, owner: str, load: Load, draining: bool) -> None:
        """A replica told its load by itself."""
        upstream = self._upstream(stream)
        if upstream is not None and upstream.owner == owner:
            upstream.pushed(load, draining=draining)
            self.settle(upstream.admission)

    def next_watch(self) -> int:
        """Numbers the watches of all replicas."""
        self._watches += 1
        return self._watches

    def goodbye(self, stream: Stream) -> None:
        """A replica stops in good order: nothing new is sent on this connection."""
        upstream = self._upstream(stream)
        if upstream is not None:
            upstream.goodbye(stream)

    def _upstream(self, stream: Stream) -> Upstream | None:
        upstream = self.upstreams.get(ReplicaId(stream.server.name))
        return upstream if upstream is not None and upstream.stream is stream else None

    def answered(self, way: Way, upstream: Upstream, error: ServeError | None) -> None:
        """The end of one try."""
        if self.ways.get(way.call.name) is not way:
            return
        if way.answered is not None:
            way.answered(way, error)
            return
        if error is None:
            if way.call.kind is not Kind.HOLD or way.call.lease is None:
                self.finish(way)
            way.call.end(None)
            return
        verdict = self.cluster.cores.outcome(error)
        if verdict is Outcome.FINAL or way.waiter is None or way.call.kind is Kind.TOKEN:
            self.finish(way)
            way.call.end(error)
            return
        if verdict is Outcome.UNREACHABLE:
            upstream.restart_watch()
        self._again(way, verdict)

    def finish(self, way: Way) -> None:
        """A request is over: its slots go to whoever is next."""
        self._leave(way)
        if way.waiter is not None and way.admission is not None:
            way.admission.lane.finish(way.waiter, self.engine.now)
            self.settle(way.admission)

    def settle(self, admission: Admission) -> None:
        """Hands out what can be handed out."""
        if len(admission.lane.queue):
            self._wake(admission, admission.lane.settle(self.engine.now))
            self._arm(admission)

    def knows(self) -> bool:
        """Whether it had a table; before, it would only hold calls, and callers go elsewhere."""
        return self.table.version is not None

    def _arm(self, admission: Admission) -> None:
        """Sees to it that probes end also where nothing else happens."""
        ends_at = admission.lane.probe_ends_at()
        if ends_at is not None and not admission.probing:
            admission.probing = True
            self.later(max(0.001, ends_at - self.engine.now), partial(self._end_probes, admission))

    def _end_probes(self, admission: Admission) -> None:
        admission.probing = False
        admission.lane.settle_probes(self.engine.now)
        self.settle(admission)
        self._arm(admission)

    def _wake(self, admission: Admission, waiters: list[Waiter]) -> None:
        for waiter in waiters:
            way = admission.ways.get(waiter.number)
            if way is None:
                continue
            if waiter.error is not None:
                self._leave(way)
                way.call.end(waiter.error)
            else:
                self.later(0.0, partial(self._turn, way))

    def _turn(self, way: Way) -> None:
        if self.ways.get(way.call.name) is not way:
            return
        if self.engine.now >= way.call.deadline:
            self.finish(way)
            way.call.end(NoSlotInTimeError("woken too late"))
            return
        self._send(way)

    def _send(self, way: Way) -> None:
        waiter = way.waiter
        assert waiter is not None
        assert waiter.replica is not None
        if waiter.members:
            GangReserving(self, way).begin()
            return
        upstream = self.upstream_of(waiter.replica)
        if upstream is None:
            self.finish(way)
            way.call.end(ReplicaUnavailableError(f"{waiter.replica.replica_id} has left this router's table"))
            return
        way.upstream = upstream
        if way.call.kind is Kind.PLAIN:
            upstream.run(way)
        else:
            upstream.reserve(way)

    def _again(self, way: Way, verdict: Outcome) -> None:
        assert way.waiter is not None
        assert way.admission is not None
        way.upstream = None
        way.admission.lane.finish(way.waiter, self.engine.now, outcome=verdict)
        self._wait_again(way, way.waiter, way.admission)

    def gang_again(self, way: Way, outcomes: Mapping[ReplicaLoad, Outcome]) -> None:
        """Members of a gang have refused a call: it takes its old place in the queue."""
        assert way.waiter is not None
        assert way.admission is not None
        way.admission.lane.refuse_gang(way.waiter, outcomes)
        self._wait_again(way, way.waiter, way.admission)

    def _wait_again(self, way: Way, waiter: Waiter, admission: Admission) -> None:
        if admission.refusal is not None:
            self._leave(way)
            way.call.end(admission.refusal())
        else:
            admission.lane.put_back(waiter)
            self.engine.at(way.call.deadline, partial(self.deliver, partial(self._expire, way)))
        self.settle(admission)
        self._arm(admission)
        self.queues.changed()

    def _expire(self, way: Way) -> None:
        waiter, admission = way.waiter, way.admission
        if waiter is None or admission is None or self.ways.get(way.call.name) is not way:
            return
        if admission.lane.expire(waiter, self.engine.now):
            self._leave(way)
            way.call.end(waiter.error)
            self.settle(admission)

    def _leave(self, way: Way) -> None:
        if self.ways.get(way.call.name) is way:
            del self.ways[way.call.name]
        if way.waiter is not None and way.admission is not None:
            way.admission.ways.pop(way.waiter.number, None)


def _unknown(key: DeploymentKey) -> DeploymentUnknownError:
    return DeploymentUnknownError(f"{key} is not known here")
