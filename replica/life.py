"""A replica's life: it is welcomed, starts user code, is healthy or not, takes settings in place, drains, and ends."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace

from replica.actor import Actor
from replica.actor_calls import ActorCalls
from replica.admission import UserServices
from replica.calls import Calls
from replica.checks import Checks
from replica.configuration import Configuration
from replica.core.directory import Restart
from replica.core.drain import Drain, DrainPhase
from replica.core.leases import LeasePolicy
from replica.desk import SlotDesk
from replica.environment import describe_environment
from replica.hooks import Hooks
from replica.lane import GangLane
from replica.loader import Loaded, StartFailure
from replica.membership import Membership
from replica.peers import Peers
from replica.startup import Started, as_start_error, bind_context, failure_of, start_deadline_s, start_user_code
from replica.state import ReplicaState
from replica.threads import ThreadRunner, in_own_thread
from replica.watchdog import LoopWatchdog
from serve_core.actor_handle import bind_actor_port
from serve_core.errors import ServeError, StartError
from serve_core.gang import GangContext, bind_gang_context
from serve_core.model.actor import ActorAssignment, ActorEndpoint
from serve_core.model.bundles import ChildBundle
from serve_core.model.gang import GangRoster
from serve_core.model.replica import Environment, Replica, ReplicaPhase
from serve_core.model.spec import DeploymentSpec
from serve_core.runtime import clock, log
from serve_core.runtime.descriptors import DescriptorIndex
from serve_core.runtime.standard import StandardServices
from serve_core.runtime.supervisor import Supervisor
from serve_core.wire.fields import invalid

ENVIRONMENT_TIMEOUT_S = 20.0
"""How long looking at the installed packages may hold up a start; then the replica does without."""

_USER_SOURCE = "user"
_log = log.get_logger(__name__)


class Life:
    """Obeys the controller's commands and signals, one stage of life after the other.

    Args:
        controller: ``HOST:PORT`` of the controller, for handles that user code holds.
        bundles: What user code may use for child processes.
        state: What the replica says of itself.
        desk: Its slots.
        calls: The calls that run.
        threads: Where methods run that are not asynchronous.
        services: The user's own gRPC services.
        standard: Health and reflection.
        watchdog: Watches the event loop.
        membership: The replica's place in its gang.
        peers: How user code reaches the other members.
        lane: Takes their calls.
        actor_calls: How user code calls the deployment's actors.
        actor: What it is beyond a replica, if it is an actor.
    """

    def __init__(
        self,
        *,
        controller: str,
        bundles: tuple[ChildBundle, ...],
        state: ReplicaState,
        desk: SlotDesk,
        calls: Calls,
        threads: ThreadRunner,
        services: UserServices,
        standard: StandardServices,
        watchdog: LoopWatchdog,
        membership: Membership,
        peers: Peers,
        lane: GangLane,
        actor_calls: ActorCalls,
        actor: Actor | None,
    ) -> None:
        self._controller = controller
        self._bundles = bundles
        self._state = state
        self._desk = desk
        self._calls = calls
        self._threads = threads
        self._services = services
        self._standard = standard
        self._watchdog = watchdog
        self._membership = membership
        self._peers = peers
        self._lane = lane
        self._actors = actor_calls.actors
        self._actor_calls = actor_calls
        self._actor = actor
        self._spec: DeploymentSpec | None = None
        self._hooks = Hooks(None)
        self._checks = Checks(state, changed=self._tell_health)
        self._refused: ServeError | None = None
        self._welcome = asyncio.Event()
        self._configuration = Configuration(state, bind=self._bind_context)
        self._drain: Drain | None = None
        self._poke = asyncio.Event()
        desk.on_drained(self._on_slots)
        if actor is not None:
            actor.on_fenced(lambda: self.on_drain(None))

    def on_welcome(self, replica: Replica, spec: DeploymentSpec, actor: ActorAssignment | None) -> None:
        """Be this replica, or this life of an actor, and run this; once it runs, take what changes in place.

        Raises:
            ConfigInvalidError: It is an actor and this process was started as a replica, or the other way round.
        """
        if (actor is None) is not (self._actor is None):
            raise invalid("welcome.actor", "is not what this process was started as", what="the welcome")
        if self._actor is not None and actor is not None:
            self._actor.become(actor)
        self._state.introduce(replica, spec.metadata)
        self._membership.join()
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
            self._configuration.change(spec.user_config)

    def on_roster(self, roster: GangRoster) -> None:
        """This is who is in the gang: user code is told, unless it is known already. Raises ``ConfigInvalidError``."""
        self._membership.take(roster)

    def on_actors(self, actors: Sequence[ActorEndpoint]) -> None:
        """This is where the deployment's actors are: user code is told of those that serve in a new life."""
        self._actors.take(actors)

    def on_snapshot(self, request: int) -> None:
        """Save the state, for the request of this number; a replica has none."""
        if self._actor is not None:
            self._actor.on_snapshot(request)

    def on_drain(self, budget_s: float | None, *, hold: bool = False) -> None:
        """Finish what is there within the budget, and end; with ``hold`` only once told so, or with the budget."""
        if budget_s is None:
            budget_s = self._spec.graceful_shutdown_timeout_s if self._spec is not None else 0.0
        self._end_by(lambda drain: drain.begin(budget_s=budget_s, now=clock.monotonic(), hold=hold))

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
            start = tasks.spawn(self._start(tasks), name="start")
            start.add_done_callback(lambda _: self._poke.set())
            while not start.done() and self._drain is None:
                await self._poked(None)
            if self._drain is None:
                error = start.result()
                if error is not None:
                    raise error
                tasks.spawn(self._checks.watch_health(self._hooks), name="health")
                tasks.spawn(self._checks.watch_readiness(self._hooks), name="readiness")
                tasks.spawn(self._configuration.follow(self._hooks), name="reconfigure")
                tasks.spawn(self._membership.follow(self._regroup), name="gang")
                tasks.spawn(self._actors.follow(self._tell_restart), name="actors")
                if self._actor is not None:
                    tasks.spawn(self._actor.keep_saving(self._hooks), name="snapshots")
            while self._drain is None:
                await self._poked(None)
            start.cancel()
            await self._end(self._drain, tasks)

    async def _start(self, tasks: Supervisor) -> StartError | None:
        await self._welcome.wait()
        try:
            if self._refused is not None:
                raise self._refused
            assert self._spec is not None
            looking = tasks.spawn(_environment(self._spec.working_dir), name="environment")
            started = await start_user_code(
                self._spec,
                controller=self._controller,
                gathered=self._gathered,
                waiter=self._checks,
                constructed=self._constructed,
                actor=self._actor,
            )
            self._state.environment = await looking
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

    async def _gathered(self) -> None:
        await self._membership.reach(1)
        assert self._spec is not None
        self._configuration.start(self._spec.user_config)
        self._bind_context()
        loop = asyncio.get_running_loop()
        bind_gang_context(GangContext(self._peers, loop))
        if self._actor is None:
            bind_actor_port(self._actor_calls, loop)
        else:
            self._actor.bind_context()
        self._state.act_on(self._membership.epoch)

    def _bind_context(self) -> None:
        assert self._spec is not None
        spec = replace(self._spec, user_config=self._configuration.taken)
        bind_context(self._state.replica, spec, controller=self._controller, bundles=self._bundles)

    def _constructed(self, loaded: Loaded, hooks: Hooks) -> None:
        self._hooks = hooks
        self._lane.serve(loaded.methods)
        self._state.is_ready = not hooks.says_ready

    def _serve(self, started: Started) -> None:
        loaded = started.loaded
        self._state.load(loaded, started.metadata)
        self._services.serve(loaded.handlers)
        names = [service.name for service in loaded.services]
        if names:
            index = DescriptorIndex.from_bytes(names, loaded.file_descriptor_set)
            self._standard.reflection.put(_USER_SOURCE, index)
        if self._drain is not None:  # told to end while it started
            return
        self._desk.open()
        self._state.is_ready = True
        self._state.enter(ReplicaPhase.READY)
        self._tell_health()
        methods = [method.name for method in loaded.methods.described]
        _log.info("ready", address=self._state.replica.address, methods=methods, services=names)

    def _take(self, spec: DeploymentSpec) -> None:
        self._spec = spec
        self._desk.configure(
            capacity=spec.max_ongoing_requests,
            leases=LeasePolicy(default_s=spec.slot_ttl_s, max_s=spec.slot_ttl_max_s),
            fence_limit_s=spec.health.lost_after_missed * spec.health.heartbeat_period_s,
        )
        self._threads.resize(spec.thread_count or spec.max_ongoing_requests)
        self._checks.configure(spec.health)
        self._watchdog.configure(spec.health)
        self._peers.barrier_timeout_s = start_deadline_s(spec)
        self._actors.describe(actor.name for actor in spec.actors)
        if self._actor is not None:
            self._actor.configure(spec)
        self._state.introduce(self._state.replica, spec.metadata)
        self._state.changed()

    async def _regroup(self, roster: GangRoster) -> bool:
        """Tells user code that the gang has other members. Whether that went well."""
        assert self._spec is not None
        try:
            self._bind_context()
            async with asyncio.timeout(start_deadline_s(self._spec)):
                await self._hooks.on_gang_changed(roster)
        except Exception as error:  # noqa: BLE001 - user code, or its time-out
            self._checks.ill("on_gang_changed()", error)
            return False
        _log.info("acts on the gang's new members", epoch=roster.epoch)
        return True

    async def _tell_restart(self, restart: Restart) -> None:
        """Tells user code that an actor serves in a new life."""
        assert self._spec is not None
        try:
            async with asyncio.timeout(start_deadline_s(self._spec)):
                await self._hooks.on_actor_restarted(restart.name, restart.incarnation)
        except Exception as error:  # noqa: BLE001 - user code, or its time-out
            self._checks.ill("on_actor_restarted()", error)

    def _tell_health(self) -> None:
        serving = self._state.phase is ReplicaPhase.READY and self._state.healthy and self._state.is_ready
        self._standard.health.set_ready(ready=serving)
        for service in self._state.services:
            self._standard.health.set(service.name, serving=serving)

    def _end_by(self, change: Callable[[Drain], object]) -> None:
        if self._drain is None:
            saves = self._actor is not None and self._actor.saves_last(self._hooks)
            self._drain = Drain(cleans_up=self._hooks.cleans_up or saves)
        change(self._drain)
        # At once, and not when the end gets its turn: what is told after this must find it refusing.
        self._desk.drain()
        self._state.drain_by(self._drain.ends_at)
        self._poke.set()

    async def _end(self, drain: Drain, tasks: Supervisor) -> None:
        """Refuses what is new, waits for what is there, lets user code clean up."""
        _log.info("draining", held=self._desk.load.held, budget_s=round(drain.remaining_s(clock.monotonic()), 3))
        self._standard.health.shut_down()
        cleaning = False
        while (phase := drain.advance(idle=self._desk.idle, now=clock.monotonic())) is not DrainPhase.DONE:
            if phase is DrainPhase.HELD:
                self._state.wait_drained()
            if phase is DrainPhase.CLEANING and not cleaning:
                cleaning = True
                self._cut_off()
                tasks.spawn(self._clean_up(drain), name="clean-up")
            await self._poked(drain.deadline())
        self._cut_off()

    def _cut_off(self) -> None:
        self._lane.close()
        promises, calls = self._desk.close(), self._calls.end_all()
        if promises or calls:
            _log.warning("ended what had not finished within the budget", promises=promises, calls=calls)

    async def _clean_up(self, drain: Drain) -> None:
        try:
            if self._actor is not None:
                await self._actor.save_last(self._hooks)
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


async def _environment(working_dir: str) -> Environment | None:
    """What the process runs on, or None when that cannot be found out in time."""
    try:
        async with asyncio.timeout(ENVIRONMENT_TIMEOUT_S):
            return await in_own_thread(lambda: describe_environment(working_dir), name="environment")
    except Exception as error:  # noqa: BLE001 - what is installed may be broken in any way
        _log.warning("the environment cannot be described", error=repr(error))
        return None
