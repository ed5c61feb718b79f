"""One request's way: admit, choose, send, settle, and what may be tried elsewhere."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import TypeVar

from router.admission import Admission
from router.core.choice import Policy, PowerOfTwo
from router.core.endpoints import EndpointTable, TableDifference, unavailable
from router.core.lane import Lane
from router.core.retry import Outcome, outcome
from router.fleet import Fleet
from router.gangs import GangReserving
from router.going import Going
from router.holding import Hold
from router.promises import Promise, Promises
from router.queues import Queues
from router.reservation import Held, Reservation
from router.reserving import Reserving
from router.tokens import Tokens
from router.upstream import Upstream
from serve_core.errors import DeploymentUnknownError, ServeError
from serve_core.model.endpoints import DeploymentRoute, TableChange, TableVersion
from serve_core.model.ids import DeploymentKey, RouterId
from serve_core.model.replica import Replica
from serve_core.model.slots import AnyLease, Lease
from serve_core.runtime.clock import monotonic
from serve_core.runtime.limits import DEFAULT_MAX_MESSAGE_BYTES
from serve_core.runtime.supervisor import Supervisor

T = TypeVar("T")
Send = Callable[[Upstream], Awaitable[T]]

CONNECT_TIMEOUT_S = 2.0


class Router:
    """Sends requests to replicas. Used by the router process and inside callers alike.

    Args:
        router_id: Unique for this process.
        tasks: Owns the tasks of this router: watches of replicas, and what must outlive a cancelled caller.
        max_message_bytes: The largest message that passes.
        new_policy: Makes the policy of each deployment; power of two choices unless given.
        unit_random: Random numbers from 0 to below 1.
        connect_timeout_s: Seconds that a chosen replica's channel has to become READY before another is chosen.
    """

    def __init__(
        self,
        *,
        router_id: RouterId,
        tasks: Supervisor,
        max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES,
        new_policy: Callable[[], Policy] | None = None,
        unit_random: Callable[[], float] | None = None,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
    ) -> None:
        self.router_id = router_id
        self.max_message_bytes = max_message_bytes
        unit_random = unit_random or random.Random().random
        self._new_policy: Callable[[], Policy] = new_policy or partial(PowerOfTwo, unit_random)
        self._connect_timeout_s = connect_timeout_s
        self._closed = False
        self._table = EndpointTable()
        self.version: TableVersion | None = None
        """The version of the table that is routed by; None before the first."""
        self.queues = Queues(self.queue_depths)
        self._routes_changed = asyncio.Event()
        self._admissions: dict[DeploymentKey, Admission] = {}
        self._fleet = Fleet(
            router_id=router_id, tasks=tasks, max_message_bytes=max_message_bytes, unit_random=unit_random
        )
        self.reserving = Reserving(tasks)
        self._promises = Promises(self._fleet, self.reserving)
        self.tokens = Tokens(self._fleet, self.reserving, tasks)
        self.gangs = GangReserving(self._admission, self._fleet, self.reserving, connect_timeout_s=connect_timeout_s)

    # The table.

    def table_version(self) -> int:
        """The number of that version; 0 before the first."""
        return 0 if self.version is None else self.version.version

    def apply(self, change: TableChange) -> None:
        """Routes by a newer table from now on. Requests that run go on.

        Raises:
            TableGapError: The change does not follow from the table: nothing was changed.
        """
        if self._closed:
            return
        is_first = self.version is None
        difference = self._table.apply(change)
        self.version = self._table.version
        for replica in (*difference.removed_replicas, *difference.updated_replicas):
            self._fleet.drop(replica.replica_id, unless=self._table.replicas.get(replica.replica_id))
        for route in difference.removed_routes:
            self._admissions.pop(route.key).close(partial(self._gone, route.key))
        for route in difference.changed_routes:
            if self._update(route):
                for replica in self._table.members(route.key):
                    self._fleet.add(replica, self._admissions[route.key])
        for replica in (*difference.added_replicas, *difference.updated_replicas):
            admission = self._admissions.get(replica.key)
            if admission is not None:
                self._fleet.add(replica, admission)
        self._settle(difference)
        if is_first or difference.changed_routes or difference.removed_routes:
            self._routes_changed.set()
            self._routes_changed = asyncio.Event()

    async def routes_changed(self, deadline: float | None) -> bool:
        """Waits until a table came that is the first, or that has other deployments, or describes one otherwise.

        Returns:
            Whether it came before ``deadline`` (monotonic seconds).
        """
        try:
            async with asyncio.timeout(None if deadline is None else deadline - monotonic()):
                await self._routes_changed.wait()
        except TimeoutError:
            return False
        return True

    def resolve(self, application: str, deployment: str = "") -> DeploymentRoute:
        """The route to a deployment; without a name, to the application's ingress.

        Raises:
            DeploymentUnknownError: There is none of this name.
            DeploymentUnavailableError: Nothing is ready and nothing is coming.
        """
        return self._table.resolve(application, deployment)

    def resolve_service(self, service: str, application: str = "") -> DeploymentRoute:
        """The route to the deployment that serves a user-defined gRPC service.

        Raises:
            MethodUnknownError: None does, or several applications do and none was named.
            DeploymentUnavailableError: Nothing is ready and nothing is coming.
        """
        return self._table.resolve_service(service, application)

    def routes(self) -> list[DeploymentRoute]:
        """Every deployment in the table."""
        return list(self._table.routes.values())

    def replicas(self, key: DeploymentKey) -> list[Replica]:
        """The replicas of a deployment in the table."""
        return list(self._table.members(key))

    def leased_until(self) -> float:
        """Monotonic seconds until which any token that was reserved through this router may live."""
        return self._fleet.leased_until()

    def queue_depths(self) -> Iterator[tuple[str, str, int]]:
        """Application, deployment, and requests that wait there."""
        for key, admission in self._admissions.items():
            yield key.application, key.deployment, len(admission.lane.queue)

    def gang_counts(self) -> Iterator[tuple[str, str, int, int]]:
        """Application, deployment, and its gangs in the table: those that are whole, and those that are not."""
        for key, admission in self._admissions.items():
            gangs = list(admission.lane.gangs)
            whole = sum(gang.whole for gang in gangs)
            yield key.application, key.deployment, whole, len(gangs) - whole

    def ongoing(self) -> Iterator[tuple[Replica, int]]:
        """Replicas, also those that left the table with work inside, and this router's calls that are on their way there."""
        return self._fleet.ongoing()

    def locate(self, token_text: str, key: DeploymentKey | None = None) -> Upstream:
        """The replica that a call with this token goes to; raises as ``Tokens.locate``."""
        return self.tokens.locate(token_text, key)[0].upstream

    def is_current(self, upstream: Upstream) -> bool:
        """Whether tokens of its replica go over this connection."""
        return self._fleet.find(upstream.replica.replica_id) is upstream

    # Requests.

    async def run(self, key: DeploymentKey, send: Send[T], *, slots: int = 1, deadline: float | None) -> T:
        """Waits its turn, chooses a replica and sends; tries elsewhere what was refused or not delivered.

        Args:
            key: The deployment.
            send: Sends to the replica, whose channel is READY. To be tried elsewhere it raises NoSlotError or
                DrainingError (refused) or ReplicaUnavailableError (not delivered); whatever else it raises is final.
            slots: What the request weighs.
            deadline: Monotonic seconds until which it may wait for a slot; None means without end.

        Raises:
            DeploymentUnknownError, DeploymentUnavailableError: There is no such deployment, or no hope; also later.
            QueueFullError: Too many wait.
            NoSlotInTimeError: No slot was free in time.
            ConfigInvalidError: It weighs more than any replica holds.
        """
        return await self.run_on(self.enter(key, slots, deadline), send)

    def begin(self, key: DeploymentKey, *, slots: int = 1, deadline: float | None) -> Going:
        """Begins as ``run`` does, and raises as that does: with an upstream if none has to be waited for.

        The caller goes on by ``run_on``, or sends to the upstream, and ends it by ``end``.
        """
        admission = self._admission(key)
        waiter = admission.enter(slots=slots, deadline=deadline)
        replica = waiter.replica
        upstream = None if replica is None else self._fleet.upstream_if_open(replica)
        if upstream is not None and not upstream.try_use():
            upstream = None
        return Going(admission, waiter, upstream)

    async def run_on(self, going: Going, send: Send[T]) -> T:
        """Goes on as ``run`` does with what was begun. Its first ``send`` is to its upstream, if it has one; where it was sent
        there already, it is to wait for that.
        """
        try:
            return (await self.deliver(going, send))[0]
        finally:
            going.end()

    async def reserve(
        self,
        key: DeploymentKey,
        *,
        slots: int = 1,
        ttl_s: float | None = None,
        request_id: str = "",
        deadline: float | None,
    ) -> Reservation:
        """Waits its turn until a replica has promised slots. Raises as ``run`` does.

        Args:
            key: The deployment.
            slots: Slots to promise.
            ttl_s: How long the promise should hold; None means the deployment's default.
            request_id: The same id again gets the same token while that lives.
            deadline: Monotonic seconds until which it may wait for a slot; None means without end.
        """
        send = self.reserving.sender(slots=slots, ttl_s=ttl_s, request_id=request_id, deadline=deadline)
        self._admission(key)  # An unknown deployment has made no promises either.
        for promise in await self._promises.again(key, request_id, send) or ():
            return Reservation(promise.lease, promise.upstream.replica)
        going = self.enter(key, slots, deadline)
        try:
            lease, upstream = await self.deliver(going, send)
        finally:
            going.end()
        self._promises.remember(key, request_id, [Promise(lease, upstream)])
        return Reservation(lease, upstream.replica)

    async def reserve_on(self, going: Going, send: Send[Lease]) -> Reservation:
        """Goes on as ``reserve`` does with what was begun, for a request without an id; see ``run_on``."""
        try:
            lease, upstream = await self.deliver(going, send)
        finally:
            going.end()
        return Reservation(lease, upstream.replica)

    def hold(
        self,
        key: DeploymentKey,
        *,
        slots: int = 1,
        ttl_s: float | None = None,
        request_id: str = "",
        deadline: float | None,
    ) -> AbstractAsyncContextManager[Held]:
        """Reserves as ``reserve`` does, for a block: leaving it releases the token unless ``held.spend()`` was called.

        The slots count as this router's own until the block ends, and the replica's channel stays open.
        """
        return Hold(self, key, slots=slots, ttl_s=ttl_s, request_id=request_id, deadline=deadline)

    async def release(self, token_text: str, *, timeout_s: float | None = None) -> bool:
        """Gives a promise back; as ``Tokens.release``."""
        return await self.tokens.release(token_text, timeout_s=timeout_s)

    def abandon(self, token_text: str) -> None:
        """Releases a token in the background; as ``Tokens.abandon``."""
        self.tokens.abandon(token_text)

    async def renew(
        self, token_text: str, *, ttl_s: float | None = None, detach: bool = False, timeout_s: float | None = None
    ) -> AnyLease:
        """Starts a promise's time to live anew; raises as ``Tokens.renew``.

        Args:
            token_text: The token.
            ttl_s: The new time to live; None means the deployment's default.
            detach: Frees the token from this router's connection, so that it outlives this process.
            timeout_s: Seconds for the replica to answer.
        """
        return await self.tokens.renew(token_text, ttl_s=ttl_s, detach=detach, timeout_s=timeout_s)

    async def close(self) -> None:
        """Refuses what waits, and closes every channel with what is on it. Takes no table from then on."""
        self._closed = True
        for key, admission in self._admissions.items():
            admission.close(partial(self._gone, key))
        await self._fleet.close()

    def enter(self, key: DeploymentKey, slots: int, deadline: float | None) -> Going:
        """A request arrives. Raises as ``run``."""
        admission = self._admission(key)
        return Going(admission, admission.enter(slots=slots, deadline=deadline))

    async def deliver(self, going: Going, send: Send[T]) -> tuple[T, Upstream]:
        """Sends until the outcome is final. Once it has succeeded the request still counts at its replica."""
        admission, waiter = going.admission, going.waiter
        while True:
            upstream = going.upstream
            if upstream is None:
                upstream = self._fleet.upstream_of(waiter.replica or await admission.turn(waiter))
                upstream.begin_use()
                going.upstream = upstream
            try:
                if going.sent is None and not upstream.connected:
                    await upstream.ready(self._time_to_connect_s(waiter.deadline))
                return await send(upstream), upstream
            except ServeError as error:
                verdict = outcome(error)
                if verdict is Outcome.FINAL:
                    raise
                if verdict is Outcome.UNREACHABLE and upstream.connected:
                    # The channel claims otherwise: the replica has to prove it by answering a new watch.
                    upstream.restart_watch()
                admission.again(waiter, verdict)
            finally:
                going.upstream = going.sent = None
                upstream.end_use()

    def _time_to_connect_s(self, deadline: float | None) -> float:
        return (
            self._connect_timeout_s
            if deadline is None
            else min(self._connect_timeout_s, max(0.0, deadline - monotonic()))
        )

    def _admission(self, key: DeploymentKey) -> Admission:
        admission = self._admissions.get(key)
        if admission is None:
            raise self._gone(key)
        return admission

    def _settle(self, difference: TableDifference) -> None:
        """Lets those go ahead who waited for a gang to be whole, or for other members of it to take calls."""
        changed: tuple[DeploymentRoute | Replica, ...] = (
            *difference.changed_routes,
            *difference.added_replicas,
            *difference.updated_replicas,
        )
        for key in dict.fromkeys(one.key for one in changed):
            if key in self._admissions:
                self._admissions[key].settle()

    def _update(self, route: DeploymentRoute) -> bool:
        """Follows a route; says whether there was none to its deployment."""
        admission = self._admissions.get(route.key)
        is_new = admission is None
        if admission is None:
            lane = Lane(route.key, self._new_policy(), max_queued_requests=route.max_queued_requests)
            admission = self._admissions[route.key] = Admission(lane, on_wait=self.queues.began)
        admission.lane.max_queued_requests = route.max_queued_requests
        admission.lane.route_to(route.gang_route)
        if route.available:
            admission.open()
        else:
            admission.close(partial(unavailable, route))
        return is_new

    @staticmethod
    def _gone(key: DeploymentKey) -> DeploymentUnknownError:
        return DeploymentUnknownError(
            f"{key} is not known here (any more); see 'serve-core status'",
            details={"application": key.application, "deployment": key.deployment},
        )
