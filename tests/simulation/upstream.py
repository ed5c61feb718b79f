"""One replica as a router reaches it: a connection, the watch of its load, and the calls that are under way on it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from serve_core.errors import ReplicaDiedError, ReplicaUnavailableError, ServeError
from serve_core.model.ids import OwnerId
from serve_core.model.load import Load
from serve_core.model.replica import Replica
from serve_core.model.slots import Lease
from tests.simulation.calls import Call, Kind
from tests.simulation.network import Stream
from tests.simulation.process import Process
from tests.simulation.running import Reply

if TYPE_CHECKING:
    from tests.simulation.router import Router
    from tests.simulation.ways import Admission, Way

Answered = Callable[[ServeError | None, Lease | None], None]
ANSWER_TIMEOUT_S = 5.0
CONNECT_PATIENCE_S = 2.0
RETRY_S = 0.05
RETRY_MAX_S = 1.0


class Upstream:
    """The way from one router to one replica."""

    def __init__(self, router: Router, replica: Replica, admission: Admission) -> None:
        self.router = router
        self.replica = replica
        self.admission = admission
        self.lane = admission.lane
        self.load = admission.lane.add(replica.replica_id, replica.gang)
        self.stream: Stream | None = None
        self._watches = router.next_watch()
        self._attempts = 0
        self._leased_until = 0.0
        self._retired = False
        self._is_void = False
        self._is_connecting = False
        self._closed = False
        self._is_leaving = False
        self._under_way: dict[int, Way] = {}
        self._asked: dict[int, Answered] = {}
        self._count = 0

    @property
    def owner(self) -> OwnerId:
        """Names the watch that is open now."""
        return OwnerId(f"{self.router.name}.{self._watches}")

    @property
    def process(self) -> Process | None:
        """Who listens at the replica's address."""
        return self.router.cluster.backend.listening(self.replica.address)

    # The connection.

    def connect(self) -> None:
        """Connects, again and again."""
        if not self._closed:
            self._is_connecting = True
            self.router.cluster.network.connect(self.router, self.process, opened=self._opened, failed=self._failed)

    def retire(self) -> None:
        """It has left the table: the connection ends after the last call on it, once it drains and holds no promise."""
        self._retired = True
        self.close_if_idle()

    def close_if_idle(self) -> None:
        """Ends the connection of one that left the table, once nothing needs it."""
        if not self._retired or self._closed:
            return
        if any(way.upstream is self for way in self.router.ways.values()):
            return
        reached = self.stream is not None or self._is_connecting
        if reached and not self._is_void and self._is_needed():
            return
        self._closed = True
        if self.router.upstreams.get(self.replica.replica_id) is self:
            del self.router.upstreams[self.replica.replica_id]
            self.router.let_go[self.replica.replica_id] = self.router.engine.now
        if self.stream is not None:
            self.stream.close(self.router)
            self.stream = None

    def _is_needed(self) -> bool:
        if self.router.upstreams.get(self.replica.replica_id) is self:
            return True
        # Tokens of others go over the newer connection.
        lease_s = self._leased_until - self.router.engine.now
        if lease_s > 0:
            self.router.later(lease_s + 0.001, self.close_if_idle)
        return lease_s > 0

    def restart_watch(self) -> None:
        """It does not answer: it is in rotation again only once it answers a new watch."""
        stream, process = self.stream, self.process
        if stream is None or process is None:
            return
        stream.send(process, partial(process.unwatch, self.owner))
        self.lane.lost(self.load, reachable=False)
        self._watches = self.router.next_watch()
        stream.send(process, partial(process.watch, stream, self.owner))

    def pushed(self, load: Load, *, draining: bool) -> None:
        """The replica told its load by itself."""
        self._attempts = 0
        self.lane.pushed(self.load, load, draining=draining)
        self._is_void = draining and not load.held
        self.close_if_idle()

    def goodbye(self, stream: Stream) -> None:
        """The replica stops: what is under way is still answered."""
        self._is_leaving = True
        self.lane.lost(self.load, reachable=False)
        process = self.process
        if process is not None:
            stream.send(process, partial(process.leaving.goodbye, stream))

    def _opened(self, stream: Stream) -> None:
        self._is_connecting = False
        process = self.process
        if self._closed or process is None or stream.server is not process:
            stream.close(self.router)
            self._failed()
            return
        self.stream = stream
        self._is_leaving = False
        self._watches = self.router.next_watch()
        stream.on_end(self.router, partial(self._ended, stream))
        stream.send(process, partial(process.watch, stream, self.owner))

    def _failed(self) -> None:
        self._is_connecting = False
        if self._closed:
            return
        self._attempts += 1
        self.router.later(min(RETRY_MAX_S, RETRY_S * 2**self._attempts), self.connect)
        self.close_if_idle()

    def _ended(self, stream: Stream) -> None:
        if self.stream is not stream:
            return
        self.stream = None
        self.lane.lost(self.load, reachable=False)
        for number, way in list(self._under_way.items()):
            self._under_way.pop(number, None)
            way.call.excuses += self._excuses()
            if way.call.kind in (Kind.PLAIN, Kind.TOKEN):
                self._answer(way, ReplicaDiedError(f"{self.replica.replica_id} ended with the request inside"))
            else:
                self._answer(way, ReplicaUnavailableError(f"{self.replica.replica_id} did not answer"))
        for number in list(self._asked):
            self._in_vain(number)
        self.router.settle(self.admission)
        self._failed()

    def _excuses(self) -> list[str]:
        """What was done to this connection, if anything was."""
        cluster = self.router.cluster
        return [*cluster.faults_of(self.router.name, self.replica.replica_id)]

    # Calls.

    def run(self, way: Way) -> None:
        """Has user code run for a call."""
        call = way.call
        self.router.cluster.checks.sent(self.router, self, call)
        stream, process = self.stream, self.process
        if stream is None or process is None or self._is_leaving:
            if call.kind is Kind.TOKEN and self.router.engine.now < call.arrived_at + CONNECT_PATIENCE_S:
                self.router.later(RETRY_S, partial(self._try_to_run, way))
            else:
                self._undelivered(way)
            return
        call.sent_to.append(self.replica.replica_id)
        number = self._begin(way)
        reply = partial(self._back, stream, partial(self._reply, stream, number, call.slots))
        run = partial(process.run, stream, call, self.owner)
        if call.token:
            stream.ask(process, run, reply, once=True)
        else:
            stream.send(process, partial(run, reply))

    def _try_to_run(self, way: Way) -> None:
        if self.router.ways.get(way.call.name) is way:
            self.run(way)

    def reserve(self, way: Way) -> None:
        """Asks for a promise."""
        stream, process = self.stream, self.process
        if stream is None or process is None or self._is_leaving:
            self._undelivered(way)
            return
        call = way.call
        number = self._begin(way)
        answer = partial(self._reply, stream, number, call.slots)
        stream.ask(process, partial(process.reserve, call, self.owner), partial(self._back, stream, answer))
        self.router.later(ANSWER_TIMEOUT_S, partial(self._no_answer, number))

    def reserve_again(self, call: Call) -> None:
        """A caller that lost the answer asks again with the same id: the same token is the answer, not another slot."""
        stream, process = self.stream, self.process
        if stream is None or process is None:
            return
        answer = partial(self._reserved_again, call)
        stream.ask(process, partial(process.reserve, call, self.owner), partial(self._back, stream, answer))

    def _reserved_again(self, call: Call, error: ServeError | None, load: Load, lease: Lease | None) -> None:
        if lease is not None and call.lease is not None and lease.token != call.lease.token:
            self.release(str(lease.token))

    def release(self, token: str) -> None:
        """Gives a promise back; if that fails, its lease ends it."""
        stream, process = self.stream, self.process
        if stream is not None and process is not None:
            answer = partial(self._released, stream)
            stream.ask(process, partial(process.release, token), partial(self._back, stream, answer))

    def give_back(self, token: str, *, freed: int, done: Answered) -> None:
        """Gives a promise back, whose slots still count as this router's own, and says when that is done or in vain."""
        self._ask(lambda process, reply: process.release(token, reply), done, freed=freed)

    def renew(self, token: str, ttl_s: float, done: Answered, *, detach: bool = False) -> None:
        """Starts a lease anew; detached from this router, it outlives it. Waits for the connection, if it has to."""
        now = self.router.engine.now
        self._leased_until = max(self._leased_until, now + ttl_s)
        ask = partial(_renew, token, ttl_s, detach=detach)
        self._ask_once_connected(ask, done, until=now + CONNECT_PATIENCE_S)

    def _ask_once_connected(self, ask: Callable[[Process, Reply], None], done: Answered, *, until: float) -> None:
        if (self.stream is None or self.process is None) and self.router.engine.now < until:
            self.router.later(RETRY_S, partial(self._ask_once_connected, ask, done, until=until))
        else:
            self._ask(ask, done)

    def _ask(self, ask: Callable[[Process, Reply], None], done: Answered, *, freed: int = 0) -> None:
        stream, process = self.stream, self.process
        if stream is None or process is None:
            error = ReplicaUnavailableError(f"{self.replica.replica_id} is not connected")
            self.router.later(0.0, partial(done, error, None))
            return
        self._count += 1
        number = self._count
        self._asked[number] = done
        reply = partial(self._back, stream, partial(self._heard, stream, number, freed))
        stream.ask(process, partial(ask, process), reply)
        self.router.later(ANSWER_TIMEOUT_S, partial(self._in_vain, number))

    def _heard(
        self, stream: Stream, number: int, freed: int, error: ServeError | None, load: Load, lease: Lease | None
    ) -> None:
        if stream is self.stream:
            self.lane.told(self.load, load, freed=freed)
            self.router.settle(self.admission)
        done = self._asked.pop(number, None)
        if done is not None:
            done(error, lease)

    def _in_vain(self, number: int) -> None:
        done = self._asked.pop(number, None)
        if done is not None:
            done(ReplicaUnavailableError(f"{self.replica.replica_id} did not answer"), None)

    def cancel(self, call: Call) -> None:
        """The caller of a request that is under way has gone."""
        stream, process = self.stream, self.process
        for number, way in list(self._under_way.items()):
            if way.call is call and call.kind in (Kind.PLAIN, Kind.TOKEN):
                self._under_way.pop(number, None)
                if stream is not None and process is not None:
                    stream.send(process, partial(process.cancel, call))

    def _begin(self, way: Way) -> int:
        self._count += 1
        self._under_way[self._count] = way
        return self._count

    def _undelivered(self, way: Way) -> None:
        error = ReplicaUnavailableError(f"{self.replica.replica_id} is not connected; nothing was run")
        self.router.later(0.0, partial(self._answer, way, error))

    def _no_answer(self, number: int) -> None:
        way = self._under_way.pop(number, None)
        if way is not None:
            self._answer(way, ReplicaUnavailableError(f"{self.replica.replica_id} did not answer in time"))

    def _back(self, stream: Stream, answer: _Answer, error: ServeError | None, load: Load, lease: Lease | None) -> None:
        """On the replica's side: the answer goes out."""
        stream.send(self.router, partial(answer, error, load, lease))

    def _reply(
        self, stream: Stream, number: int, freed: int, error: ServeError | None, load: Load, lease: Lease | None
    ) -> None:
        way = self._under_way.pop(number, None)
        if way is None or way.call.cancelled:
            if lease is not None:
                self.release(str(lease.token))
            return
        if stream is self.stream:
            self.lane.told(self.load, load, freed=freed)
        if lease is not None:
            now = self.router.engine.now
            self._leased_until = max(self._leased_until, now + lease.ttl_s)
            way.call.lease, way.call.lease_at = lease, self.replica.replica_id
            way.held = way.call.kind is Kind.HOLD
        self._answer(way, error)
        self.router.settle(self.admission)

    def _released(self, stream: Stream, error: ServeError | None, load: Load, lease: Lease | None) -> None:
        if stream is self.stream:
            self.lane.told(self.load, load)
            self.router.settle(self.admission)

    def _answer(self, way: Way, error: ServeError | None) -> None:
        self.router.answered(way, self, error)
        self.close_if_idle()


_Answer = partial[None]


def _renew(token: str, ttl_s: float, process: Process, reply: Reply, *, detach: bool) -> None:
    process.renew(token, ttl_s, reply, detach=detach)
