"""The requests for one deployment and the replicas that may take them: who waits, and who goes where.

Rules:

* A new request goes ahead only when nobody waits; else it queues, and no later one is served before it.
* A refused request takes its old place again; it was admitted before, so ``max_queued_requests`` does not count it
  against itself.
* A request for a whole gang waits in the same queue, and is handed out once every member of some gang has room.
* Whatever may open a replica is followed by ``settle``, which hands out what can be handed out. Nothing is polled.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping

from router.core.census import Census
from router.core.choice import Candidates, Policy
from router.core.gangs import GangLoad, Gangs
from router.core.load import OPEN, ReplicaLoad
from router.core.queue import Waiter, WaitQueue
from router.core.retry import DRAINING, FINAL, FULL, UNREACHABLE, Outcome
from serve_core.errors import ConfigInvalidError, FieldViolation, NoSlotInTimeError, QueueFullError, ServeError
from serve_core.model.gang import GangRoute
from serve_core.model.ids import DeploymentKey, GangId, ReplicaId
from serve_core.model.load import Load
from serve_core.model.replica import Gang

RETRY_AFTER_MIN_S = 0.05
RETRY_AFTER_MAX_S = 30.0
_SMOOTHING = 0.1


class Lane:
    """Queue, estimates and policy of one deployment.

    Args:
        key: The deployment.
        policy: Who chooses.
        max_queued_requests: Requests that may wait; -1 means no limit.
    """

    def __init__(self, key: DeploymentKey, policy: Policy, *, max_queued_requests: int) -> None:
        self.key = key
        self.max_queued_requests = max_queued_requests
        self.queue = WaitQueue()
        self._policy = policy
        self._candidates = Candidates()
        self._gangs = Gangs()
        self._route = GangRoute.ALL
        self._replicas: dict[ReplicaId, ReplicaLoad] = {}
        self._census = Census()
        # Those with a probe under way. It ends the later, the later it began.
        self._probed: OrderedDict[ReplicaLoad, None] = OrderedDict()
        self._arrivals = 0
        self._duration_s = 0.0

    @property
    def replicas(self) -> Iterable[ReplicaLoad]:
        """The estimates of the replicas in the table."""
        return self._replicas.values()

    @property
    def gangs(self) -> Iterable[GangLoad]:
        """The gangs that replicas in the table are members of."""
        return self._gangs

    def add(self, replica_id: ReplicaId, gang: Gang | None = None) -> ReplicaLoad:
        """A replica came into the table. It gets requests once it is connected, and its gang is whole.

        Args:
            replica_id: The replica.
            gang: Its place in its gang; a gang of its own unless given.
        """
        replica = self._replicas[replica_id] = ReplicaLoad(replica_id)
        self._census.add(replica)
        self.regroup(replica, gang or Gang(gang_id=GangId(replica_id)))
        return replica

    def regroup(self, replica: ReplicaLoad, gang: Gang) -> None:
        """A replica in the table has this place in its gang now."""
        for changed in self._gangs.put(gang, replica):
            self._sort_gang(changed)

    def route_to(self, route: GangRoute) -> None:
        """Says which members of whole gangs take the calls of callers."""
        if route is not self._route:
            self._route = route
            for gang in self._gangs:
                self._sort_gang(gang)

    def remove(self, replica: ReplicaLoad) -> None:
        """A replica left the table: nothing new goes there, and what runs there runs on."""
        replica.gone = True
        if self._replicas.get(replica.replica_id) is replica:
            del self._replicas[replica.replica_id]
            self._census.remove(replica)
            self._candidates.remove(replica)
            gang = self._gangs.drop(replica)
            if gang is not None:
                self._sort_gang(gang)

    def enter(self, *, slots: int, deadline: float | None, now: float, whole_gang: bool = False) -> Waiter:
        """A request arrives. It has its ``replica`` at once, or waits its turn; with ``whole_gang``, its ``members``.

        Raises:
            QueueFullError: It would have to wait, and too many do.
            NoSlotInTimeError: Its deadline is over.
            ConfigInvalidError: It weighs more than any replica holds.
        """
        self._arrivals += 1
        waiter = Waiter(self._arrivals, slots, deadline, now, whole_gang)
        if deadline is not None and now >= deadline:
            raise self.too_late(waiter, now)
        if not self.queue.waits and self._hand_out(waiter, now):
            return waiter
        if slots > 1 and (capacity := self._too_heavy(slots)):
            raise self._weighs_too_much(slots, capacity)
        if 0 <= self.max_queued_requests <= len(self.queue):
            raise self._full()
        self.queue.append(waiter)
        return waiter

    def settle(self, now: float) -> list[Waiter]:
        """Hands out what can be handed out, in order. Returns those that wait no more: with a replica, or an error."""
        done: list[Waiter] = []
        while (head := self.queue.head()) is not None:
            if head.deadline is not None and now >= head.deadline:
                head.error = self.too_late(head, now)
            elif not self._hand_out(head, now):
                capacity = self._too_heavy(head.slots) if head.slots > 1 else 0
                if not capacity:
                    break
                head.error = self._weighs_too_much(head.slots, capacity)
            self.queue.remove(head)
            done.append(head)
        return done

    def finish(self, waiter: Waiter, now: float, *, outcome: Outcome = FINAL, load: Load | None = None) -> None:
        """A request came back from its replica.

        Args:
            waiter: The request.
            now: Monotonic seconds.
            outcome: What became of it.
            load: What the replica told with it: its load, which no longer holds the request.
        """
        replica = waiter.replica
        if replica is None:
            return
        if waiter.members:
            self.refuse_gang(waiter, {})
        else:
            waiter.replica = None
            self._came_back(replica, waiter.slots, waiter.since, outcome, load)
        if outcome is FINAL:
            self._duration_s += _SMOOTHING * (now - waiter.sent_at - self._duration_s)

    def refuse_gang(self, waiter: Waiter, outcomes: Mapping[ReplicaLoad, Outcome]) -> None:
        """A request came back from a whole gang, because of what became of it at the members that ``outcomes`` names."""
        members, waiter.members, waiter.replica = waiter.members, (), None
        for member, since in zip(members, waiter.sinces, strict=True):
            self._came_back(member, waiter.slots, since, outcomes.get(member, FINAL))

    def put_back(self, waiter: Waiter) -> None:
        """A request that nothing came of takes its old place in the queue."""
        self.queue.put_back(waiter)

    def leave(self, waiter: Waiter) -> None:
        """A request that waits does so no more: its caller is gone."""
        self.queue.remove(waiter)

    def expire(self, waiter: Waiter, now: float) -> bool:
        """A request's deadline is over; says whether it still waited, in which case it has its ``error`` now."""
        error = self.too_late(waiter, now)
        if not self.queue.remove(waiter):
            return False
        waiter.error = error
        return True

    def close(self, make_error: Callable[[], ServeError]) -> list[Waiter]:
        """Gives everyone up who waits. Returns them, each with an ``error`` of its own."""
        everyone = self.queue.clear()
        for waiter in everyone:
            waiter.error = make_error()
        return everyone

    def told(self, replica: ReplicaLoad, load: Load, *, freed: int = 0) -> None:
        """A reply told a replica's load."""
        if replica.told(load, freed=freed):
            self._census.see(replica)
        self._slots_changed(replica)

    def pushed(self, replica: ReplicaLoad, load: Load, *, draining: bool) -> None:
        """A replica told its load by itself: it is connected."""
        replica.pushed(load, draining=draining)
        self._census.see(replica)
        self._candidates_changed(replica)

    def lost(self, replica: ReplicaLoad, *, reachable: bool) -> None:
        """A replica's watch ended. Unless it is ``reachable`` it is out of rotation until it is connected again."""
        replica.unwatched(reachable=reachable)
        self._census.see(replica)
        self._candidates_changed(replica)

    def too_late(self, waiter: Waiter, now: float) -> NoSlotInTimeError:
        """The error for a request whose deadline is over."""
        waited_s = now - waiter.arrived_at
        position, queued = self.queue.position(waiter), len(self.queue)
        connected = self._census.connected
        place = f"position {position} of {queued} in the queue" if position else "no longer in the queue"
        what = (
            f"whole gang of {self.key} had a free slot on every member"
            if waiter.whole_gang
            else (f"replica of {self.key} had a free slot")
        )
        return NoSlotInTimeError(
            f"no {what} in time: waited {waited_s:.3f} s, {place}, "
            f"{connected} of {len(self._replicas)} replicas connected; allow a longer deadline, or add replicas",
            details=self._details()
            | {
                "waitedS": f"{waited_s:.3f}",
                "position": str(position),
                "queued": str(queued),
                "replicas": str(len(self._replicas)),
                "replicasConnected": str(connected),
            },
        )

    def probe_ends_at(self) -> float | None:
        """When a probe that someone waits for counts as accepted, so that ``settle_probes`` is due; else None."""
        if not self._probed or not self.queue.waits:
            return None
        return next(iter(self._probed)).probe_ends_at

    def settle_probes(self, now: float) -> None:
        """Ends the probes that were not refused in time."""
        while self._probed and (replica := next(iter(self._probed))).settle_probe(now):
            self._candidates_changed(replica)

    def _hand_out(self, waiter: Waiter, now: float) -> bool:
        if waiter.whole_gang:
            return self._hand_out_gang(waiter, now)
        replica = self._policy.choose(self._candidates, waiter.slots)
        if replica is None:
            return False
        waiter.replica, waiter.sent_at, waiter.since = replica, now, replica.pushes
        self._start(replica, waiter.slots, now)
        return True

    def _hand_out_gang(self, waiter: Waiter, now: float) -> bool:
        gang = self._gangs.choose(waiter.slots)
        if gang is None:
            return False
        waiter.members, waiter.sent_at = gang.by_rank, now
        waiter.replica, waiter.sinces = waiter.members[0], tuple(member.pushes for member in waiter.members)
        for member in waiter.members:
            self._start(member, waiter.slots, now)
        return True

    def _start(self, replica: ReplicaLoad, slots: int, now: float) -> None:
        replica.started(slots, now)
        if replica.probe_ends_at is not None:
            self._probed[replica] = None
        self._slots_changed(replica)

    def _came_back(
        self, replica: ReplicaLoad, slots: int, since: int, outcome: Outcome, load: Load | None = None
    ) -> None:
        if replica.finished(slots, load):
            self._census.see(replica)
        if outcome is FINAL:
            self._slots_changed(replica)
            return
        if outcome is FULL:
            replica.refused(slots, since)
        elif outcome is DRAINING:
            replica.drains(since)
        elif outcome is UNREACHABLE:
            replica.unreachable(since)
            self._census.see(replica)
        self._candidates_changed(replica)

    def _slots_changed(self, replica: ReplicaLoad) -> None:
        """As ``_candidates_changed``, where nothing but its slots has. One that is open, and stays so, is where it belongs."""
        stays = replica.placed is OPEN and replica.own + replica.others < replica.capacity
        if not stays or self._probed or self._candidates.watched or self._gangs.watched:
            self._candidates_changed(replica)

    def _candidates_changed(self, replica: ReplicaLoad) -> None:
        if self._probed and replica.probe_ends_at is None:
            self._probed.pop(replica, None)
        if not replica.gone:
            self._candidates.sort(replica)
            if self._gangs.watched:
                self._gangs.changed(replica)

    def _sort_gang(self, gang: GangLoad) -> None:
        """Lets the members of a gang be chosen that may be now."""
        for place, member in gang:
            if gang.takes_calls(place, self._route):
                self._candidates.add(member)
            else:
                self._candidates.remove(member)

    def _too_heavy(self, slots: int) -> int:
        """The slots of the largest replica if they are too few, else 0. Without a replica nothing is known."""
        largest = self._census.largest
        return largest if largest < slots else 0

    def _weighs_too_much(self, slots: int, capacity: int) -> ConfigInvalidError:
        violation = FieldViolation("slots", f"{slots} is more than {capacity}, the slots of a replica of {self.key}")
        return ConfigInvalidError([violation], what="the request")

    def _full(self) -> QueueFullError:
        queued = len(self.queue)
        return QueueFullError(
            f"{queued} requests wait for {self.key} in this router, which is its max_queued_requests: "
            "retry later, raise it, or add replicas",
            details=self._details() | {"queued": str(queued), "maxQueuedRequests": str(self.max_queued_requests)},
            retry_after_s=self._retry_after_s(queued),
        )

    def _retry_after_s(self, queued: int) -> float:
        """About when the queue will have moved on by half, by how long requests took so far."""
        estimate_s = self._duration_s * (queued / 2 + 1) / max(1, self._census.slots)
        return min(RETRY_AFTER_MAX_S, max(RETRY_AFTER_MIN_S, estimate_s))

    def _details(self) -> dict[str, str]:
        return {"application": self.key.application, "deployment": self.key.deployment}
