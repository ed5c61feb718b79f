"""Callers: plain calls, reservations that are used, left or forgotten, tickets that another router uses, cancellations."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from serve_core.errors import ServeError
from serve_core.model.ids import DeploymentKey
from serve_core.model.slots import Lease
from tests.simulation.calls import Call, Kind
from tests.simulation.outcomes import Outcomes

if TYPE_CHECKING:
    from tests.simulation.cluster import Cluster
    from tests.simulation.router import Router

PATIENCE_S = 10.0
TICKET_TTL_S = 6.0


class Workload:
    """Calls to some deployments at a rate, until it is stopped."""

    def __init__(self, cluster: Cluster, keys: tuple[DeploymentKey, ...], *, per_second: float) -> None:
        self.cluster = cluster
        self.outcomes = Outcomes(cluster)
        self.calls: list[Call] = []
        self._keys = keys
        self._per_second = per_second
        self._random = cluster.engine.randomness("workload")
        self._count = 0
        self._going = True

    def begin(self) -> None:
        """Callers come, from now on."""
        self._next()

    def stop(self) -> None:
        """No more callers come."""
        self._going = False

    def probe(self, key: DeploymentKey) -> Call | None:
        """One plain call, to see whether a deployment serves."""
        router = self._router()
        call = self._call(Kind.PLAIN, key, duration_s=0.01)
        if router is not None:
            router.enter(call)
        return call if router is not None else None

    def _next(self) -> None:
        if not self._going:
            return
        self.cluster.engine.later(self._random.expovariate(self._per_second), self._next)
        router = self._router()
        if router is None:
            return
        key = self._keys[self._random.randrange(len(self._keys))]
        lot = self._random.random()
        if lot < 0.7:
            self._plain(router, key)
        elif lot < 0.82:
            self._hold(router, key)
        elif lot < 0.94:
            self._ticket(router, key)
        else:
            self._gang(router, key)

    def _router(self) -> Router | None:
        routers = [router for router in self.cluster.routers.values() if router.knows() and not router.stopped]
        return routers[self._random.randrange(len(routers))] if routers else None

    def _call(self, kind: Kind, key: DeploymentKey, *, duration_s: float = 0.0, token: str = "") -> Call:
        self._count += 1
        call = Call(
            name=f"call-{self._count}",
            kind=kind,
            key=key,
            duration_s=duration_s,
            token=token,
            deadline=self.cluster.engine.now + PATIENCE_S,
            done=self._done,
        )
        self.calls.append(call)
        return call

    def _done(self, call: Call, error: ServeError | None) -> None:
        self.cluster.engine.note(f"{call.name} {'ok' if error is None else type(error).__name__}")
        self.outcomes.judge(call, error)
        self.calls.remove(call)

    def _duration_s(self) -> float:
        return 3.0 + 2.0 * self._random.random() if self._random.random() < 0.02 else self._random.expovariate(3.0)

    def _plain(self, router: Router, key: DeploymentKey) -> None:
        call = self._call(Kind.PLAIN, key, duration_s=min(5.0, self._duration_s()))
        if self._random.random() < 0.1:
            call.slots = 2
        if self._random.random() < 0.15:
            self.cluster.engine.later(self._random.expovariate(2.0), partial(self._cancel, router, call))
        router.enter(call)

    def _hold(self, router: Router, key: DeploymentKey) -> None:
        call = self._call(Kind.HOLD, key)
        call.done = partial(self._held, router)
        if self._random.random() < 0.1:
            self.cluster.engine.later(0.02 * self._random.random(), partial(self._cancel, router, call))
        router.enter(call)

    def _held(self, router: Router, call: Call, error: ServeError | None) -> None:
        self._done(call, error)
        if error is None:
            self.cluster.engine.later(self._random.expovariate(2.0), partial(self._use, router, call))

    def _use(self, router: Router, held: Call) -> None:
        if not router.alive or held.cancelled:
            return
        lot = self._random.random()
        if lot < 0.6 and held.lease is not None:
            call = self._call(Kind.TOKEN, held.key, duration_s=self._duration_s(), token=str(held.lease.token))
            call.lease, call.lease_at = held.lease, held.lease_at
            router.deliver(partial(router.dispatch, call, held))
        elif lot < 0.9:
            router.deliver(partial(router.leave, held))
        else:
            router.deliver(partial(router.cancel, held))

    def _ticket(self, router: Router, key: DeploymentKey) -> None:
        call = self._call(Kind.TICKET, key)
        call.request_id = call.name
        call.ttl_s = TICKET_TTL_S
        call.done = partial(self._given, router)
        router.enter(call)

    def _given(self, router: Router, call: Call, error: ServeError | None) -> None:
        self._done(call, error)
        lease, upstream = call.lease, router.upstreams.get(call.lease_at) if call.lease_at is not None else None
        if error is not None or lease is None or upstream is None:
            return
        if self._random.random() < 0.2:
            upstream.reserve_again(call)
        upstream.renew(str(lease.token), TICKET_TTL_S, partial(_renewed, call), detach=True)
        self.cluster.engine.later(self._random.expovariate(1.0), partial(self._redeem, call, lease))

    def _redeem(self, ticket: Call, lease: Lease) -> None:
        router = self._router()
        lot = self._random.random()
        if router is None or lot < 0.1:
            return  # Forgotten: its lease ends it.
        if lot < 0.3:
            router.release(str((ticket.lease or lease).token))
            return
        call = self._call(Kind.TOKEN, ticket.key, duration_s=self._duration_s(), token=str(lease.token))
        call.lease, call.lease_at = lease, ticket.lease_at
        router.enter(call)

    def _gang(self, router: Router, key: DeploymentKey) -> None:
        call = self._call(Kind.GANG, key)
        call.ttl_s = TICKET_TTL_S
        call.done = partial(self._gang_given, router)
        if self._random.random() < 0.2:
            self.cluster.engine.later(0.02 * self._random.random(), partial(self._cancel, router, call))
        router.enter(call)

    def _gang_given(self, router: Router, call: Call, error: ServeError | None) -> None:
        self._done(call, error)
        if error is not None:
            return
        if self._random.random() < 0.5:
            # Others may use it only if it does not end with its router's connections.
            for replica_id, lease in call.part_leases.items():
                upstream = router.upstreams.get(replica_id)
                if upstream is not None:
                    upstream.renew(str(lease.token), TICKET_TTL_S, _ignored, detach=True)
            used_by = None
        else:
            used_by = router
        self.cluster.engine.later(self._random.expovariate(1.0), partial(self._use_gang, call, used_by))

    def _use_gang(self, reserved: Call, used_by: Router | None) -> None:
        router = used_by or self._router()
        lot = self._random.random()
        if router is None or not router.alive or reserved.gang_lease is None or lot < 0.1:
            return  # Forgotten: its leases end it.
        token = str(reserved.gang_lease.token)
        if lot < 0.3:
            router.deliver(partial(router.release, token))
            return
        call = self._call(Kind.TOKEN, reserved.key, duration_s=self._duration_s(), token=token)
        call.ttl_s, call.part_leases, call.granted_by = TICKET_TTL_S, reserved.part_leases, reserved.granted_by
        call.lease, call.lease_at = next(iter(call.part_leases.values())), call.granted_by[0].replica_id
        call.broadcasts = lot < 0.65
        call.part_done = self.outcomes.judge
        router.deliver(partial(router.enter, call))

    def _cancel(self, router: Router, call: Call) -> None:
        if call.over or not router.alive:
            return
        call.over = call.cancelled = True
        self.calls.remove(call)
        self.cluster.engine.note(f"{call.name} is cancelled")
        router.deliver(partial(router.cancel, call))


def _ignored(error: ServeError | None, lease: Lease | None) -> None:
    """Nobody waits for this answer."""


def _renewed(ticket: Call, error: ServeError | None, lease: Lease | None) -> None:
    if error is None and lease is not None:
        ticket.lease = lease
