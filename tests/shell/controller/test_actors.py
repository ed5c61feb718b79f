"""Deployment actors, as their processes and their replicas see the controller."""

from __future__ import annotations

import asyncio

import pytest
from click.testing import CliRunner

from serve_core.cli import cli
from serve_core.controller import actor_states
from serve_core.errors import (
    ActorDiedError,
    ActorFencedError,
    ActorUnavailableError,
    ActorUnknownError,
    ApplicationError,
    ConfigInvalidError,
    DeploymentUnknownError,
    MessageTooLargeError,
    QueueFullError,
)
from serve_core.model.actor import ActorAssignment, ActorEndpoint, ActorOnFailure, ActorSpec
from serve_core.model.ids import ReplicaId
from serve_core.model.replica import Failure, ReplicaPhase
from serve_core.model.resources import Resources
from serve_core.model.spec import ApplicationSpec
from serve_core.model.status import ActorStatus, ClusterStatus, DeploymentState
from serve_core.testing import FakeBackend, MemoryStore
from serve_core.v1 import controller_pb2
from serve_core.wire.actors import decode_actor_assignment, decode_actor_directory
from serve_core.wire.replica import encode_failure
from tests.shell.controller.rig import PATIENCE_S, PATIENT, FakeReplica, Rig, app, controller, refusal, spec

Save = controller_pb2.SaveActorStateRequest


def _app(*, replicas: int = 1, **changes: object) -> ApplicationSpec:
    settings: dict[str, object] = {
        "on_failure": ActorOnFailure.RESTART_FROM_SNAPSHOT,
        "resources": Resources(cpus=0.5),
        "health": PATIENT,
        **changes,
    }
    cache = ActorSpec(name="cache", import_path="m:Cache", **settings)  # type: ignore[arg-type]
    return app("app", spec("d", num_replicas=replicas, actors=(cache,)))


async def _actor(rig: Rig, number: int) -> tuple[FakeReplica, ActorAssignment]:
    """The actor that was started as the ``number``-th process, attached and ready, and what it was told to be."""
    actor = await rig.replica(number)
    await actor.attach()
    welcome = (await actor.next()).welcome
    assert welcome.spec.import_path == "m:Cache"
    await actor.report(ReplicaPhase.READY)
    return actor, decode_actor_assignment(welcome.actor)


async def _serving(rig: Rig) -> tuple[FakeReplica, FakeReplica]:
    """An actor and a replica that serve."""
    await rig.deploy(_app())
    actor, _ = await _actor(rig, 1)
    replica = await rig.ready_replica(2)
    await _told(replica)
    return actor, replica


async def _told(replica: FakeReplica) -> ActorEndpoint:
    """The next directory of one actor that a replica is told."""
    while True:
        command = await replica.next()
        if command.HasField("actors"):
            (endpoint,) = decode_actor_directory(command.actors)
            return endpoint


async def _save(
    rig: Rig,
    actor: FakeReplica,
    *parts: bytes,
    incarnation: int = 1,
    sequence: int = 1,
    request: int = 0,
    whole: bool = True,
) -> object:
    """Uploads a state in these parts."""

    async def messages() -> object:
        for index, part in enumerate(parts):
            yield Save(
                replica_id=actor.replica_id if index == 0 else "",
                epoch=actor.epoch if index == 0 else 0,
                incarnation=incarnation if index == 0 else 0,
                sequence=sequence if index == 0 else 0,
                request=request if index == 0 else 0,
                data=part,
                last=whole and index == len(parts) - 1,
            )

    return await rig.stub.SaveActorState(messages(), timeout=PATIENCE_S)  # type: ignore[arg-type]


async def _load(rig: Rig, actor: FakeReplica, incarnation: int) -> bytes:
    request = controller_pb2.LoadActorStateRequest(
        replica_id=actor.replica_id, epoch=actor.epoch, incarnation=incarnation
    )
    return b"".join([message.data async for message in rig.stub.LoadActorState(request, timeout=PATIENCE_S)])


def _of(status: ClusterStatus) -> ActorStatus:
    (actor,) = status.applications[0].deployments[0].actors
    return actor


async def test_a_replica_is_started_after_the_actor_and_told_where_it_is() -> None:
    async with controller() as rig:
        await rig.deploy(_app())
        actor, assignment = await _actor(rig, 1)
        assert assignment == ActorAssignment(name="cache", incarnation=1, restore=False)
        replica = await rig.replica(2)
        roles = [process.command[-2:] for process in rig.backend.started]
        assert roles[0] == ("--role", "actor")
        assert "--role" not in rig.backend.started[1].command
        await replica.attach()
        assert (await replica.next()).welcome.HasField("replica")
        assert await _told(replica) == ActorEndpoint(
            name="cache", incarnation=1, address=actor.address, replica_id=ReplicaId(actor.replica_id)
        )


async def test_everybody_is_told_of_a_lost_actor_at_once_and_of_the_next_one() -> None:
    async with controller() as rig:
        actor, replica = await _serving(rig)
        await rig.exit(actor, exit_code=-9)
        lost = await _told(replica)
        assert (lost.incarnation, lost.address) == (2, "")
        assert lost.failure is not None
        status = await rig.watch_until(
            lambda status: status.applications[0].deployments[0].state == DeploymentState.DEGRADED
        )
        assert "incarnation 1 of actor cache has ended" in status.applications[0].deployments[0].message
        following, assignment = await _actor(rig, 3)
        assert assignment == ActorAssignment(name="cache", incarnation=2, restore=False)
        found = await _told(replica)
        assert (found.incarnation, found.address, found.restored) == (2, following.address, False)


async def test_the_next_life_begins_from_the_state_that_was_saved() -> None:
    async with controller() as rig:
        actor, replica = await _serving(rig)
        await _save(rig, actor, b"old", sequence=1)
        await _save(rig, actor, b"a" * 3_000_000, b"b", sequence=2)
        status = _of(await rig.status())
        assert (status.snapshot_bytes, status.snapshot_incarnation) == (3_000_001, 1)
        assert status.snapshot_time is not None
        await rig.exit(actor, exit_code=-9)
        following, assignment = await _actor(rig, 3)
        assert assignment == ActorAssignment(name="cache", incarnation=2, restore=True)
        assert await _load(rig, following, 2) == b"a" * 3_000_000 + b"b"
        while not (told := await _told(replica)).address:
            continue
        assert told.restored


async def test_a_late_older_state_does_not_take_the_place_of_a_newer_one() -> None:
    store = MemoryStore()
    async with controller(store=store) as rig:
        actor, _ = await _serving(rig)
        await _save(rig, actor, b"newer", sequence=7)
        await _save(rig, actor, b"older", sequence=6)
        (part,) = await store.scan("snapshots/")
        assert part.value == b"newer"


async def test_the_state_survives_the_controller() -> None:
    store, backend = MemoryStore(), FakeBackend()
    async with controller(store=store, backend=backend) as rig:
        actor, _ = await _serving(rig)
        await _save(rig, actor, b"state")
    backend.exit(f"{actor.replica_id}.{actor.epoch}", -9)
    async with controller(store=store, backend=backend) as rig:
        following, assignment = await _actor(rig, 3)
        assert assignment == ActorAssignment(name="cache", incarnation=2, restore=True)
        assert await _load(rig, following, 2) == b"state"
        assert await store.scan("snapshots/")


async def test_only_the_live_incarnation_stores_and_loads() -> None:
    store = MemoryStore()
    async with controller(store=store) as rig:
        actor, replica = await _serving(rig)
        stranger = FakeReplica(rig.stub, "app.d.none-0")
        for other, incarnation in ((actor, 2), (stranger, 1), (replica, 1)):
            assert isinstance(await refusal(_save(rig, other, b"x", incarnation=incarnation)), ActorFencedError)
            assert isinstance(await refusal(_load(rig, other, incarnation)), ActorFencedError)
        await rig.exit(actor, exit_code=-9)
        await _actor(rig, 3)
        told = await refusal(_save(rig, actor, b"x"))
        assert isinstance(told, ActorFencedError)
        assert told.details["incarnation"] == "1"
        assert await store.scan("snapshots/") == []


async def test_a_life_that_ends_during_its_upload_stores_nothing() -> None:
    store = MemoryStore()
    async with controller(store=store) as rig:
        actor, replica = await _serving(rig)
        goes_on = asyncio.Event()

        async def messages() -> object:
            yield Save(replica_id=actor.replica_id, epoch=actor.epoch, incarnation=1, sequence=1, data=b"begun")
            await goes_on.wait()
            if not upload.done():  # It is refused at its first message, if that came late.
                yield Save(data=b"ended", last=True)

        upload = rig.stub.SaveActorState(messages())  # type: ignore[arg-type]
        await rig.exit(actor, exit_code=-9)
        await _told(replica)
        goes_on.set()
        assert isinstance(await refusal(upload), ActorFencedError)
        assert await store.scan("snapshots/") == []


async def test_a_stale_process_is_disowned_when_it_attaches() -> None:
    async with controller() as rig:
        actor, _ = await _serving(rig)
        await rig.exit(actor, exit_code=-9)
        await _actor(rig, 3)
        stale = FakeReplica(rig.stub, actor.replica_id, actor.epoch, actor.pid)
        await stale.attach(ReplicaPhase.READY)
        assert (await stale.next()).HasField("disown")


async def test_an_upload_that_breaks_off_stores_nothing() -> None:
    store = MemoryStore()
    async with controller(store=store) as rig:
        actor, _ = await _serving(rig)
        assert isinstance(await refusal(_save(rig, actor, b"half", whole=False)), ConfigInvalidError)
        assert isinstance(await refusal(_save(rig, actor)), ConfigInvalidError)
        assert await store.scan("snapshots/") == []


async def test_an_upload_that_stands_still_is_ended() -> None:
    async with controller(actor_state_timeout_s=0.3) as rig:
        actor, _ = await _serving(rig)

        async def messages() -> object:
            yield Save(replica_id=actor.replica_id, epoch=actor.epoch, incarnation=1, sequence=1, data=b"begun")
            await asyncio.Event().wait()

        told = await refusal(rig.stub.SaveActorState(messages()))  # type: ignore[arg-type]
        assert isinstance(told, ConfigInvalidError)
        assert "did not come within 0.3 s" in told.message


async def test_a_state_has_a_limit_and_so_have_all_together(monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore()
    async with controller(store=store) as rig:
        actor, _ = await _serving(rig)
        monkeypatch.setattr(actor_states, "STATE_BYTES_MAX", 3)
        assert isinstance(await refusal(_save(rig, actor, b"ab", b"cd")), MessageTooLargeError)
        monkeypatch.setattr(actor_states, "BUFFERED_BYTES_MAX", 2)
        assert isinstance(await refusal(_save(rig, actor, b"ab", b"c")), QueueFullError)
        await _save(rig, actor, b"ab")
        assert [part.value for part in await store.scan("snapshots/")] == [b"ab"]


async def test_an_operator_can_have_the_state_saved() -> None:
    async with controller() as rig:
        actor, _ = await _serving(rig)
        call = rig.stub.SnapshotActor(_request())
        command = await _command(actor)
        await _save(rig, actor, b"by time", sequence=1)
        await _save(rig, actor, b"as asked", sequence=2, request=command.request)
        answer = await call
        assert (answer.bytes, answer.incarnation) == (8, 1)


async def test_why_there_is_no_state_is_told() -> None:
    async with controller() as rig:
        actor, _ = await _serving(rig)
        call = rig.stub.SnapshotActor(_request())
        command = await _command(actor)

        async def messages() -> object:
            failure = encode_failure(Failure(reason="APPLICATION_ERROR", message="no snapshot hook", traceback="T"))
            yield Save(
                replica_id=actor.replica_id,
                epoch=1,
                incarnation=1,
                sequence=1,
                request=command.request,
                failure=failure,
            )

        await rig.stub.SaveActorState(messages())  # type: ignore[arg-type]
        told = await refusal(call)
        assert isinstance(told, ApplicationError)
        assert "no snapshot hook" in told.message


async def test_an_actor_that_ends_before_it_has_saved_is_told_of() -> None:
    async with controller() as rig:
        actor, _ = await _serving(rig)
        call = rig.stub.SnapshotActor(_request())
        await _command(actor)
        await rig.exit(actor, exit_code=-9)
        told = await refusal(call)
        assert isinstance(told, ActorDiedError)
        assert isinstance(await refusal(rig.stub.SnapshotActor(_request())), ActorUnavailableError)


async def test_an_actor_that_does_not_answer_is_waited_for_no_longer_than_is_said() -> None:
    async with controller(actor_state_timeout_s=0.3) as rig:
        await _serving(rig)
        told = await refusal(rig.stub.SnapshotActor(_request()))
        assert isinstance(told, ActorUnavailableError)
        assert "within 0.3 s" in told.message


async def test_who_is_not_there_cannot_be_asked() -> None:
    async with controller() as rig:
        await _serving(rig)
        assert isinstance(await refusal(rig.stub.SnapshotActor(_request(actor="tree"))), ActorUnknownError)
        assert isinstance(await refusal(rig.stub.SnapshotActor(_request(deployment="e"))), DeploymentUnknownError)


async def test_the_state_goes_with_its_revision() -> None:
    store = MemoryStore()
    async with controller(store=store) as rig:
        actor, replica = await _serving(rig)
        await _save(rig, actor, b"state")
        await rig.deploy(_app(env={"A": "b"}))
        await _actor(rig, 3)
        await rig.ready_replica(4)
        assert (await replica.next()).HasField("drain")
        assert await store.scan("snapshots/")
        await rig.exit(replica)
        assert (await actor.next()).HasField("drain")
        await _save(rig, actor, b"last words", sequence=2)
        await rig.exit(actor)
        await rig.watch_until(lambda status: len(status.applications[0].deployments[0].actors) == 1)
        assert await store.scan("snapshots/") == []


async def test_a_removed_application_leaves_no_state() -> None:
    store = MemoryStore()
    async with controller(store=store) as rig:
        actor, replica = await _serving(rig)
        await _save(rig, actor, b"state")
        await rig.stub.DeleteApplication(controller_pb2.DeleteApplicationRequest(application="app"))
        assert (await replica.next()).HasField("drain")
        await rig.exit(replica)
        assert (await actor.next()).HasField("drain")
        await rig.exit(actor)
        await rig.watch_until(lambda status: not status.applications)
        assert [entry.key for entry in await store.scan() if not entry.key.startswith("events/")] == ["cluster"]


async def test_an_adopted_actor_keeps_its_incarnation_and_replicas_are_told_again() -> None:
    store, backend = MemoryStore(), FakeBackend()
    async with controller(store=store, backend=backend) as rig:
        actor, replica = await _serving(rig)
    async with controller(store=store, backend=backend) as rig:
        again = FakeReplica(rig.stub, actor.replica_id, actor.epoch, actor.pid)
        await again.attach(ReplicaPhase.READY)
        welcome = (await again.next()).welcome
        assert decode_actor_assignment(welcome.actor) == ActorAssignment(name="cache", incarnation=1, restore=False)
        back = FakeReplica(rig.stub, replica.replica_id, replica.epoch, replica.pid)
        await back.attach(ReplicaPhase.READY)
        assert await _told(back) == ActorEndpoint(
            name="cache", incarnation=1, address=actor.address, replica_id=ReplicaId(actor.replica_id)
        )
        assert len(backend.started) == 2


async def test_the_command_line_lists_actors_and_has_one_save_its_state() -> None:
    async with controller() as rig:
        actor, _ = await _serving(rig)
        command_line = asyncio.create_task(  # noqa: TID251
            asyncio.to_thread(_cli, "actor", "snapshot", "app", "cache", "--controller", rig.address)
        )
        command = await _command(actor)
        await _save(rig, actor, b"12345", request=command.request)
        assert "app.d: 5 bytes of incarnation 1 of actor 'cache' are stored" in await command_line
        listed = await asyncio.to_thread(_cli, "actor", "list", "app", "--controller", rig.address)
        assert "app.d/cache" in listed
        assert "ready" in listed


def _cli(*arguments: str) -> str:
    result = CliRunner(env={"COLUMNS": "200"}).invoke(cli, arguments)
    assert result.exit_code == 0, result.output
    return result.output


def _request(*, deployment: str = "d", actor: str = "cache") -> controller_pb2.SnapshotActorRequest:
    return controller_pb2.SnapshotActorRequest(application="app", deployment=deployment, actor=actor)


async def _command(actor: FakeReplica) -> controller_pb2.SnapshotCommand:
    command = await actor.next()
    assert command.HasField("snapshot")
    return command.snapshot
