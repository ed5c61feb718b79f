"""Puts the controller together, runs it, and takes it apart."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Callable, Mapping, Sequence

from serve_core.backend.accounting import NodeOffer
from serve_core.backend.local import LocalBackend
from serve_core.backend.offer import detect_offer
from serve_core.backend.port import Backend
from serve_core.controller.actor_states import ActorStates
from serve_core.controller.attach import AttachHub
from serve_core.controller.autoscaling import Autoscaling
from serve_core.controller.config import ControllerConfig, StartMethod
from serve_core.controller.executor import REPLICA_PROGRAM, Executor, ReplicaLaunch
from serve_core.controller.loop import ReconcileLoop
from serve_core.controller.observer import Listening, Observer
from serve_core.controller.persistence import RecordStore
from serve_core.controller.publisher import Publisher
from serve_core.controller.service import ControllerService
from serve_core.controller.steady import SteadyClock
from serve_core.controller.world import World
from serve_core.link.links import links_of
from serve_core.runtime import address, log
from serve_core.runtime.process import Signals, announce
from serve_core.runtime.server import Server
from serve_core.runtime.standard import add_standard_services
from serve_core.runtime.supervisor import Supervisor
from serve_core.store.port import Store
from serve_core.store.sqlite import SqliteStore
from serve_core.v1.controller_pb2_grpc import add_ControllerServiceServicer_to_server
from serve_core.wire.errors import abort

_log = log.get_logger(__name__)


async def serve(config: ControllerConfig, signals: Signals, *, environment: Mapping[str, str]) -> int:
    """The controller process: until it is asked to stop, or has shut everything down.

    Returns:
        Its exit status.

    Raises:
        StoreUnusableError: The state folder cannot be used.
        PortTakenError: Another process listens on the address.
        ConfigInvalidError: Nobody can listen on the address, or the file of nodes is not valid.
    """
    store = SqliteStore(config.store_path)
    backend = LocalBackend(
        state_dir=config.state_dir,
        offers=_offers(config, environment=environment),
        environment=environment,
        forks=REPLICA_PROGRAM if config.start is StartMethod.FORK else None,
    )
    await run(
        config,
        store=store,
        backend=backend,
        stop=signals.stop,
        on_ready=lambda listening: announce("controller", address=listening),
    )
    return 0


def _offers(config: ControllerConfig, *, environment: Mapping[str, str]) -> Sequence[NodeOffer]:
    machine = detect_offer(
        environment=environment, cpus=config.cpus, gpus=config.gpus, memory_bytes=config.memory_bytes
    )
    if config.nodes_file is None:
        return (machine,)
    from serve_core.config.nodes import load_nodes  # pydantic costs time to load, and few need it here

    return load_nodes(config.nodes_file, gpu_ids=machine.gpu_ids)


async def run(
    config: ControllerConfig,
    *,
    store: Store,
    backend: Backend,
    stop: asyncio.Event,
    on_ready: Callable[[str], None],
) -> None:
    """A controller on any store and backend, until ``stop`` is set or Shutdown has left nothing.

    Args:
        config: Its settings.
        store: Not open yet; closed at the end.
        backend: Not open yet; closed at the end. What it runs goes on.
        stop: Ends the controller, and leaves replicas as they are.
        on_ready: Called with the address, once it listens.
    """
    async with contextlib.AsyncExitStack() as cleanup:
        await store.open()
        cleanup.push_async_callback(store.close)
        records = RecordStore(store)
        world = World(
            cluster=await records.load_cluster(new_epoch=secrets.token_hex(8)),
            records=await records.load(),
            now=SteadyClock(),
            events=await records.load_events(),
            policy=config.policy,
        )
        await backend.open()
        cleanup.push_async_callback(backend.close)
        tasks = await cleanup.enter_async_context(Supervisor("controller"))
        await _Controller(config, world=world, records=records, backend=backend, tasks=tasks).run(stop, on_ready)


class _Controller:
    """Everything between an open store and an open backend."""

    def __init__(
        self, config: ControllerConfig, *, world: World, records: RecordStore, backend: Backend, tasks: Supervisor
    ) -> None:
        self._config = config
        self._world = world
        self._tasks = tasks
        policy = config.policy
        self._attach = AttachHub(world, hello_timeout_s=config.hello_timeout_s)
        self._listening = Listening(world, check_s=config.lag_check_s, limit_s=config.lag_limit_s)
        self._publisher = Publisher(
            world,
            records,
            policy=policy,
            hello_timeout_s=config.hello_timeout_s,
            before_publishing=self._listening.check,
        )
        self._observer = Observer(
            backend,
            world,
            last_words=self._attach.last_words,
            last_words_s=config.last_words_s,
            tasks=tasks,
        )
        self._launch = ReplicaLaunch(max_message_bytes=config.max_message_bytes, die_with=config.die_with)
        executor = Executor(
            backend=backend,
            commands=self._attach,
            launch=self._launch,
            emit=world.tell,
            now=world.now,
            tasks=tasks,
        )
        self._loop = ReconcileLoop(
            world=world,
            store=records,
            executor=executor,
            table_facts=self._publisher.facts,
            policy=policy,
            before_planning=self._listening.check,
        )
        self._publisher.listen(self._loop.wake)
        self._autoscaling = Autoscaling(world, self._loop)
        states = ActorStates(
            world, self._loop, records, ask=self._attach.snapshot, timeout_s=config.actor_state_timeout_s
        )
        self._service = ControllerService(
            world=world,
            loop=self._loop,
            attach=self._attach,
            states=states,
            publisher=self._publisher,
            policy=policy,
            status_interval_s=config.status_interval_s,
        )

    async def run(self, stop: asyncio.Event, on_ready: Callable[[str], None]) -> None:
        """Serves until it is to end."""
        config = self._config
        server = Server(
            config.host,
            config.port,
            max_message_bytes=config.max_message_bytes,
            abort=abort,
            probes_bandwidth=False,
        )
        server.add(add_ControllerServiceServicer_to_server, self._service)
        standard = add_standard_services(server)
        links = links_of(server, config.max_message_bytes, asks=True)
        server.add_stop_hook(self._service.close)
        listening = await server.start()
        try:
            if links is not None:
                self._service.offer = links.offered
            _, port = address.split(listening)
            self._launch.controller_address = address.join(config.replica_host, port)
            # Whoever attaches from here on is heard; nothing is decided before the backend was listed.
            await self._observer.take_stock()
            self._loop.start()
            self._tasks.spawn(self._observer.run(), name="observer")
            self._tasks.spawn(self._listening.run(), name="listening")
            self._tasks.spawn(self._publisher.run(), name="publisher")
            self._tasks.spawn(self._loop.run(), name="loop")
            self._tasks.spawn(self._autoscaling.run(), name="autoscaling")
            standard.health.set_ready(ready=True)
            on_ready(listening)
            await self._until_the_end(stop)
        finally:
            standard.health.set_ready(ready=False)
            if links is not None:
                await links.close()
            await server.stop(config.stop_grace_s)

    async def _until_the_end(self, stop: asyncio.Event) -> None:
        """Waits for the signal, or for the end of everything after Shutdown."""
        ended = asyncio.Event()

        async def watch() -> None:
            await self._service.shutdown_asked.wait()
            while self._world.records.deployments or self._world.records.gangs:
                await self._world.changed.after(self._world.changed.count)
            _log.info("everything was removed")
            ended.set()

        async def obey() -> None:
            await stop.wait()
            ended.set()

        self._tasks.spawn(watch(), name="shutdown")
        self._tasks.spawn(obey(), name="stop")
        await ended.wait()
