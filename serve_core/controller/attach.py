"""The streams of attached replicas: what they say becomes events, and what they are told goes out on them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass, field

from serve_core.controller.admission import Refusal, Welcome, admit, may_go_on
from serve_core.controller.world import World
from serve_core.errors import ConfigInvalidError, DrainingError, FieldViolation, QueueFullError
from serve_core.model.actor import ActorEndpoint
from serve_core.model.gang import GangRoster
from serve_core.model.ids import ReplicaId
from serve_core.model.spec import DeploymentSpec
from serve_core.plan.events import AttachLost, AttachOpened, HeartbeatSeen, Reported
from serve_core.plan.revision import config_version
from serve_core.runtime import log
from serve_core.runtime.supervisor import Supervisor
from serve_core.v1 import controller_pb2
from serve_core.wire.actors import encode_actor_assignment, encode_actor_directory
from serve_core.wire.fields import decode_duration, encode_duration
from serve_core.wire.gang import encode_gang_roster
from serve_core.wire.replica import decode_load, decode_replica_report, encode_replica
from serve_core.wire.spec import encode_deployment_spec

COMMANDS_MAX = 256
"""Commands that may wait on one stream; a replica that reads none of them is cut off, and attaches again."""

_log = log.get_logger(__name__)


@dataclass(eq=False, slots=True)
class _Session:
    """One open stream. None in the queue ends it."""

    replica_id: ReplicaId
    epoch: int
    pid: int
    commands: asyncio.Queue[controller_pb2.AttachResponse | None] = field(
        default_factory=lambda: asyncio.Queue(COMMANDS_MAX)
    )
    cut_off: bool = False
    disowned: bool = False
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    def send(self, command: controller_pb2.AttachResponse | None) -> bool:
        """Queues a command; False if the replica does not read."""
        try:
            self.commands.put_nowait(command)
        except asyncio.QueueFull:
            self.cut_off = True
            while not self.commands.empty():
                self.commands.get_nowait()
            self.commands.put_nowait(None)
            return False
        return True


class AttachHub:
    """All attached replicas.

    Args:
        world: Is told what the replicas say, and knows whom to welcome.
        hello_timeout_s: What a stream has for its first message.
    """

    def __init__(self, world: World, *, hello_timeout_s: float) -> None:
        self._world = world
        self._hello_timeout_s = hello_timeout_s
        self._sessions: dict[ReplicaId, _Session] = {}
        self._closing = False

    @property
    def attached(self) -> int:
        """How many replicas are attached."""
        return len(self._sessions)

    async def serve(
        self, requests: AsyncIterator[controller_pb2.AttachRequest]
    ) -> AsyncGenerator[controller_pb2.AttachResponse, None]:
        """One stream, from hello to its end.

        Raises:
            ConfigInvalidError: It does not begin with a hello, or says what cannot be read.
        """
        hello = await self._read_hello(requests)
        admitted = admit(self._world.records, ReplicaId(hello.replica_id), hello.epoch)
        if isinstance(admitted, Refusal):
            _log.warning("disowned", replica=hello.replica_id, epoch=hello.epoch, why=admitted.message)
            yield _disown(admitted.message)
            return
        older = self._sessions.get(ReplicaId(hello.replica_id))
        if older is not None and older.pid != hello.pid:
            yield _disown(f"process {older.pid} is attached as {hello.replica_id} already")
            return
        session = self._open(hello, admitted)
        yield self._welcome(admitted)
        try:
            async with Supervisor(f"attach {session.replica_id}") as tasks:
                tasks.spawn(self._listen(session, requests), name="listen")
                while (command := await session.commands.get()) is not None:
                    yield command
            if session.cut_off:
                raise QueueFullError(f"{COMMANDS_MAX} commands were not read; attach again")
        finally:
            self._lose(session)

    def reconfigure(self, replica_id: ReplicaId, epoch: int, spec: DeploymentSpec) -> bool:
        """See ``Commands.reconfigure``."""
        command = controller_pb2.ReconfigureCommand(spec=encode_deployment_spec(spec))
        return self._send(replica_id, epoch, controller_pb2.AttachResponse(reconfigure=command))

    def roster(self, replica_id: ReplicaId, epoch: int, roster: GangRoster) -> bool:
        """See ``Commands.roster``."""
        return self._send(replica_id, epoch, controller_pb2.AttachResponse(roster=encode_gang_roster(roster)))

    def drain(self, replica_id: ReplicaId, epoch: int, budget_s: float, *, hold: bool) -> bool:
        """See ``Commands.drain``."""
        command = controller_pb2.DrainCommand(budget=encode_duration(budget_s), hold=hold)
        return self._send(replica_id, epoch, controller_pb2.AttachResponse(drain=command))

    def actors(self, replica_id: ReplicaId, epoch: int, actors: Sequence[ActorEndpoint]) -> bool:
        """See ``Commands.actors``."""
        return self._send(replica_id, epoch, controller_pb2.AttachResponse(actors=encode_actor_directory(actors)))

    def snapshot(self, replica_id: ReplicaId, epoch: int, request: int) -> bool:
        """Asks an actor to save its state now, for the request of this number. Returns False if it is not attached."""
        command = controller_pb2.SnapshotCommand(request=request)
        return self._send(replica_id, epoch, controller_pb2.AttachResponse(snapshot=command))

    def disown(self, replica_id: ReplicaId, epoch: int, message: str) -> bool:
        """See ``Commands.disown``."""
        session = self._sessions.get(replica_id)
        if session is None or session.epoch != epoch:
            return False
        if session.disowned:
            return True  # Said once; it finishes what it has.
        session.disowned = True
        return session.send(_disown(message))

    async def last_words(self, replica_id: ReplicaId, epoch: int) -> None:
        """Waits until everything that a process said was heard: until its stream ends, if it has one."""
        session = self._sessions.get(replica_id)
        if session is not None and session.epoch == epoch:
            await session.ended.wait()

    def close(self) -> None:
        """Ends every stream, and takes no new one."""
        self._closing = True
        for session in tuple(self._sessions.values()):
            session.send(None)

    async def _read_hello(self, requests: AsyncIterator[controller_pb2.AttachRequest]) -> controller_pb2.AttachHello:
        if self._closing:
            raise DrainingError("the controller ends; attach to the next one", retry_after_s=1.0)
        try:
            async with asyncio.timeout(self._hello_timeout_s):
                first = await anext(requests, None)
        except TimeoutError:
            first = None
        if first is None or first.WhichOneof("event") != "hello":
            raise ConfigInvalidError([FieldViolation("hello", "must be the first message")], what="the stream")
        return first.hello

    def _open(self, hello: controller_pb2.AttachHello, admitted: Welcome) -> _Session:
        report = decode_replica_report(hello.report)
        session = _Session(ReplicaId(hello.replica_id), hello.epoch, hello.pid)
        older = self._sessions.get(session.replica_id)
        self._sessions[session.replica_id] = session
        if older is not None:
            older.send(None)
        _log.info("attached", replica=session.replica_id, replica_pid=session.pid, phase=report.phase.name)
        self._world.tell(
            AttachOpened(
                replica_id=session.replica_id,
                epoch=session.epoch,
                pid=session.pid,
                report=report,
                config=config_version(admitted.spec),
                now=self._world.now(),
            )
        )
        return session

    def _welcome(self, admitted: Welcome) -> controller_pb2.AttachResponse:
        welcome = controller_pb2.AttachWelcome(
            replica=encode_replica(admitted.replica),
            spec=encode_deployment_spec(admitted.spec),
            heartbeat_period=encode_duration(admitted.spec.health.heartbeat_period_s),
            actor=encode_actor_assignment(admitted.actor) if admitted.actor is not None else None,
        )
        return controller_pb2.AttachResponse(welcome=welcome)

    async def _listen(self, session: _Session, requests: AsyncIterator[controller_pb2.AttachRequest]) -> None:
        async for request in requests:
            match request.WhichOneof("event"):
                case "report":
                    self._on_report(session, request.report)
                case "heartbeat":
                    self._on_heartbeat(session, request.heartbeat)
                case kind:
                    raise ConfigInvalidError([FieldViolation(kind or "event", "cannot come here")], what="the stream")
        session.send(None)

    def _on_report(self, session: _Session, message: controller_pb2.ReplicaReport) -> None:
        report = decode_replica_report(message)
        if self._sessions.get(session.replica_id) is session:
            _log.info("reported", replica=session.replica_id, phase=report.phase.name, healthy=report.healthy)
            self._world.tell(
                Reported(replica_id=session.replica_id, epoch=session.epoch, report=report, now=self._world.now())
            )

    def _on_heartbeat(self, session: _Session, heartbeat: controller_pb2.Heartbeat) -> None:
        if self._sessions.get(session.replica_id) is not session:
            return
        if not heartbeat.unanswered and may_go_on(self._world.records, session.replica_id, session.epoch):
            acknowledgement = controller_pb2.HeartbeatAck(sequence=heartbeat.sequence)
            session.send(controller_pb2.AttachResponse(heartbeat_ack=acknowledgement))
        drains = heartbeat.HasField("drain_remaining")
        self._world.tell(
            HeartbeatSeen(
                replica_id=session.replica_id,
                epoch=session.epoch,
                load=decode_load(heartbeat.load),
                drain_remaining_s=decode_duration(heartbeat.drain_remaining) if drains else None,
                now=self._world.now(),
            )
        )

    def _lose(self, session: _Session) -> None:
        session.ended.set()
        # A newer stream of the same replica has taken its place: then nothing was lost.
        if self._sessions.get(session.replica_id) is session:
            del self._sessions[session.replica_id]
            self._world.tell(AttachLost(replica_id=session.replica_id, epoch=session.epoch, now=self._world.now()))

    def _send(self, replica_id: ReplicaId, epoch: int, command: controller_pb2.AttachResponse) -> bool:
        session = self._sessions.get(replica_id)
        return session is not None and session.epoch == epoch and session.send(command)


def _disown(message: str) -> controller_pb2.AttachResponse:
    return controller_pb2.AttachResponse(disown=controller_pb2.DisownCommand(message=message))
