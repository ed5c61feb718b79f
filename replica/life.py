"""A replica's life: it is welcomed, starts user code, is healthy or not, takes settings in place, drains, and ends."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from replica.admission import UserServices
from replica.calls import Calls
from replica.core.drain import Drain, DrainPhase
from replica.core.health import Health
from replica.core.leases import LeasePolicy
from replica.desk import SlotDesk
from replica.hooks import Hooks
from replica.loader import StartFailure
from replica.startup import Started, as_start_error, bind_context, failure_of, start_user_code
from replica.state import ReplicaState
from replica.threads import ThreadRunner
from serve_core.errors import ApplicationError, ServeError, StartError
from serve_core.model.replica import Replica, ReplicaPhase
from serve_core.model.spec import DeploymentSpec
from serve_core.runtime import clock, log
from serve_core.runtime.descriptors import DescriptorIndex
from serve_core.runtime.standard import StandardServices
from serve_core.runtime.supervisor import Supervisor
from serve_core.wire.errors import from_exception

_USER_SOURCE = "user"
_log = log.get_logger(__name__)


class Life:
    """Obeys the controller's commands and signals, one stage of life after the other.

    Args:
        controller: ``HOST:PORT`` of the controller, for handles that user code holds.
        state: What the replica says of itself.
        desk: Its slots.
        calls: The calls that run.
        threads: Where methods run that are not asynchronous.
        services: The user's own gRPC services.
        standard: Health and reflection.
    """

    def __init__(
        self,
        *,
        controller: str,
        state: ReplicaState,
        desk: SlotDesk,
        calls: Calls,
        threads: ThreadRunner,
        services: UserServices,
        standard: StandardServices,
    ) -> None:
        self._controller = controller
        self._state = state
        self._desk = desk
        self._calls = calls
        self._threads = threads
        self._services = services
        self._standard = standard
        self._spec: DeploymentSpec | None = None
        self._hooks = Hooks(None)
        self._health = Health(failure_threshold=1)
        self._refused: ServeError | None = None
        self._welcome = asyncio.Event()
        self._reconfigured = asyncio.Event()
        self._drain: Drain | None = None
        self._poke = asyncio.Event()
        desk.on_change(self._on_slots)

    def on_welcome(self, replica: Replica, spec: DeploymentSpec) -> None:
        """Be this replica and run this; once it runs, take what changes in place."""
        self._state.introduce(replica, spec.metadata)
        if self._spec is None:
            self._take(spec)
            self._welcome.set()
        else:
            self.on_reconfigure(spec)

    def on_reconfigure(self, spec: DeploymentSpec) -> None:
        """Take what changes in place: slots, leases, threads and health checks at once, then the user's part."""
        before = self._spec
        if before == spec:
            return
        self._take(spec)
        if before is not None and before.user_config != spec.user_config:
            self._reconfigured.set()

    def on_drain(self, budget_s: float | None) -> None:
        """Finish what is there within the budget, and end."""
        default_s = self._spec.graceful_shutdown_timeout_s if self._spec is not None else 0.0
        self._end_by(
            lambda drain: drain.begin(budget_s=default_s if budget_s is None else budget_s, now=clock.monotonic())
        )

    def on_stop(self) -> None:
        """End at once."""
        self._end_by(lambda drain: drain.stop())

    def on_refused(self, error: ServeError) -> None:
        """What the controller said cannot be read: the end of a start, and nothing to a replica that runs."""
        _log.error("what the controller said cannot be read", error=error.message)
        if self._spec is None:
            self._refused = error
            self._welcome.set()

    def _on_slots(self) -> None:
        if self._drain is not None and self._desk.idle:
            self._poke.set()

    async def run(self) -> None:
        """Lives to the end of the drain. The server and the stream to the controller are still there then.

        Raises:
            StartError: It did not come up; the controller was told.
        """
        async with Supervisor("replica") as tasks:
            start = tasks.spawn(self._start(), name="start")
            start.add_done_callback(lambda _: self._poke.set())
            while not start.done() and self._drain is None:
                await self._poked(None)
            if self._drain is None:
                error = start.result()
                if error is not None:
                    raise error
                tasks.spawn(self._watch_health(), name="health")
                tasks.spawn(self._reconfigure(), name="reconfigure")
            while self._drain is None:
                await self._poked(None)
            await self._end(self._drain, tasks)

    async def _start(self) -> StartError | None:
        await self._welcome.wait()
        try:
            if self._refused is not None:
                raise self._refused
            assert self._spec is not None
            bind_context(self._state.replica, self._spec, controller=self._controller)
            started = await start_user_code(self._spec, controller=self._controller)
        except StartFailure as failure:
            return self._failed(failure.error, failure.user_traceback)
        except ServeError as error:
            return self._failed(as_start_error(error), "")
        self._serve(started)
        return None

    def _failed(self, error: StartError, user_traceback: str) -> StartError:
        _log.error("the start failed", reason=str(error.reason), error=error.message, user_traceback=user_traceback)
        self._state.enter(ReplicaPhase.GONE, failure=failure_of(error, user_traceback=user_traceback))
        return error

    def _serve(self, started: Started) -> None:
        loaded = started.loaded
        self._hooks = started.hooks
        self._state.load(loaded, started.metadata)
        self._services.serve(loaded.handlers)
        names = [service.name for service in loaded.services]
        if names:
            index = DescriptorIndex.from_bytes(names, loaded.file_descriptor_set)
            self._standard.reflection.put(_USER_SOURCE, index)
        if self._drain is not None:  # told to end while it started
            return
        self._desk.open()
        self._state.enter(ReplicaPhase.READY)
        self._tell_health()
        methods = [method.name for method in loaded.methods.described]
        _log.info("ready", address=self._state.replica.address, methods=methods, services=names)

    def _take(self, spec: DeploymentSpec) -> None:
        self._spec = spec
        self._desk.configure(
            capacity=spec.max_ongoing_requests,
            leases=LeasePolicy(default_s=spec.slot_ttl_s, max_s=spec.slot_ttl_max_s),
        )
        self._threads.resize(spec.thread_count or spec.max_ongoing_requests)
        self._health.limit(spec.health.failure_threshold)
        self._state.introduce(self._state.replica, spec.metadata)
        self._state.changed()

    async def _reconfigure(self) -> None:
        while True:
            await self._reconfigured.wait()
            self._reconfigured.clear()
            assert self._spec is not None
            if self._spec.user_config is None:
                continue
            try:
                bind_context(self._state.replica, self._spec, controller=self._controller)
                await self._hooks.reconfigure(self._spec.user_config)
            except Exception as error:  # noqa: BLE001 - user code
                self._ill("reconfigure()", error)

    async def _watch_health(self) -> None:
        while self._hooks.checks_health:
            assert self._spec is not None
            policy = self._spec.health
            await asyncio.sleep(policy.period_s)
            try:
                async with asyncio.timeout(policy.timeout_s):
                    await self._hooks.check_health()
            except Exception as error:  # noqa: BLE001 - user code, or its time-out
                changed = self._health.failed()
                _log.warning("check_health() failed", error=repr(error), in_a_row=self._health.failures)
                if changed:
                    self._ill(f"check_health() {self._health.failures} times in a row", error)
            else:
                if self._health.passed():
                    self._state.judge(healthy=True)
                    self._tell_health()

    def _ill(self, what: str, error: Exception) -> None:
        told = from_exception(error, replica_id=self._desk.replica_id)
        said = told.message if str(error) else type(error).__name__
        failure = failure_of(ApplicationError(f"{what} raised {said}"), user_traceback=told.remote_traceback)
        self._state.judge(healthy=False, failure=failure)
        self._tell_health()

    def _tell_health(self) -> None:
        serving = self._state.phase is ReplicaPhase.READY and self._state.healthy
        self._standard.health.set_ready(ready=serving)
        for service in self._state.services:
            self._standard.health.set(service.name, serving=serving)

    def _end_by(self, change: Callable[[Drain], object]) -> None:
        if self._drain is None:
            self._drain = Drain(cleans_up=self._hooks.cleans_up)
        change(self._drain)
        self._poke.set()

    async def _end(self, drain: Drain, tasks: Supervisor) -> None:
        """Refuses what is new, waits for what is there, lets user code clean up."""
        _log.info("draining", held=self._desk.load.held, budget_s=round(drain.remaining_s(clock.monotonic()), 3))
        self._desk.drain()
        self._state.enter(ReplicaPhase.DRAINING)
        self._standard.health.shut_down()
        cleaning = False
        while (phase := drain.advance(idle=self._desk.idle, now=clock.monotonic())) is not DrainPhase.DONE:
            if phase is DrainPhase.CLEANING and not cleaning:
                cleaning = True
                self._cut_off()
                tasks.spawn(self._clean_up(drain), name="shutdown hook")
            await self._poked(drain.deadline())
        self._cut_off()

    def _cut_off(self) -> None:
        promises, calls = self._desk.close(), self._calls.end_all()
        if promises or calls:
            _log.warning("ended what had not finished within the budget", promises=promises, calls=calls)

    async def _clean_up(self, drain: Drain) -> None:
        try:
            await self._hooks.shutdown()
        except Exception:  # noqa: BLE001 - user code, at the very end
            _log.exception("shutdown() raised")
        finally:
            drain.cleaned_up()
            self._poke.set()

    async def _poked(self, deadline: float | None) -> None:
        """Waits until something happens that may matter, or until the deadline."""
        delay_s = None if deadline is None else max(0.0, deadline - clock.monotonic())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(delay_s):
                await self._poke.wait()
        self._poke.clear()
