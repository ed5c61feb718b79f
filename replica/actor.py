"""What a process does beyond a replica if it runs a deployment actor: it is one life of it, which begins from the state that
an earlier one saved, and saves its own.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from replica.calls import Calls
from replica.core.snapshots import BY_TIME, SnapshotTimes
from replica.hooks import Hooks
from replica.line import Line
from replica.startup import failure_of
from replica.state import ReplicaState
from replica.states import Snapshot, StoredStates
from serve_core.context import ActorContext, bind_actor_context
from serve_core.errors import (
    ActorFencedError,
    ApplicationError,
    ConstructorFailedError,
    ControllerUnreachableError,
    ServeError,
)
from serve_core.model.actor import ActorAssignment, ActorOnFailure, ActorSpec
from serve_core.model.backoff import Backoff
from serve_core.model.replica import Failure
from serve_core.model.spec import DeploymentSpec
from serve_core.runtime import clock, log
from serve_core.wire.errors import from_exception

BACKOFF = Backoff(initial_s=0.1, factor=2.0, max_s=5.0, jitter=0.5)

_log = log.get_logger(__name__)


class Actor:
    """One life of an actor.

    Args:
        states: Where its states are kept.
        state: What the process says of itself.
        calls: Who is told for which calls this is.
        line: Where calls wait for a slot.
        unit_random: Gives random numbers from 0 to 1, for jitter.
    """

    def __init__(
        self,
        states: StoredStates,
        state: ReplicaState,
        calls: Calls,
        line: Line,
        *,
        unit_random: Callable[[], float],
    ) -> None:
        self._states = states
        self._state = state
        self._calls = calls
        self._line = line
        self._unit_random = unit_random
        self._fenced: Callable[[], None] = lambda: None
        self._spec = ActorSpec(name="", import_path="")
        self._assignment = ActorAssignment(name="", incarnation=0)
        self._times = SnapshotTimes(now=clock.monotonic())
        self._saving = asyncio.Lock()
        self._wake = asyncio.Event()
        self._sequence = 0
        self._failures = 0
        self._serves = False

    def on_fenced(self, listener: Callable[[], None]) -> None:
        """Calls ``listener`` when it turns out that another life has taken the place of this one."""
        self._fenced = listener

    def become(self, assignment: ActorAssignment) -> None:
        """The controller has said which life of which actor this is. May be said again."""
        self._assignment = assignment
        self._calls.be_actor(assignment.incarnation, self._line.admit)
        self._times.forget_requests()

    def configure(self, spec: DeploymentSpec) -> None:
        """Takes its settings, which are those of the one actor in this description."""
        (self._spec,) = spec.actors
        self._times.every(self._spec.snapshot_interval_s)
        self._wake.set()

    def bind_context(self) -> None:
        """Lets user code ask which actor it is."""
        replica = self._state.replica
        bind_actor_context(
            ActorContext(
                application=replica.key.application,
                deployment=replica.key.deployment,
                name=self._assignment.name,
                incarnation=self._assignment.incarnation,
                revision=replica.revision,
                restored=self._assignment.restore,
            )
        )

    def on_snapshot(self, request: int) -> None:
        """Save the state as it is from now on, for the request of this number."""
        if not self._times.ask(request):
            _log.warning("too many ask for the state at once", request=request)
        self._wake.set()

    def require_hooks(self, hooks: Hooks) -> None:
        """Raises ConstructorFailedError if it is to save states, or to begin from one, and cannot."""
        if self._restores and (missing := hooks.missing("save_state", "restore_state")):
            setting = f"on_failure = {ActorOnFailure.RESTART_FROM_SNAPSHOT}"
        elif self._spec.snapshot_interval_s > 0 and (missing := hooks.missing("save_state")):
            setting = f"snapshot_interval_s = {self._spec.snapshot_interval_s:g}"
        else:
            return
        lacks = " and ".join(f"{name}()" for name in missing)
        message = f"actor {self._assignment.name} has {setting}, but its class has no {lacks}"
        raise ConstructorFailedError(message, details={"actor": self._assignment.name})

    async def stored_state(self) -> bytes | None:
        """The state to begin from, as soon as the controller gives it; None if it begins empty."""
        attempt = 0
        while self._assignment.restore:
            try:
                return await self._states.load(self._assignment.incarnation)
            except ControllerUnreachableError as error:
                _log.info("the stored state cannot be fetched now", reason=error.message)
            await asyncio.sleep(BACKOFF.delay_s(attempt, self._unit_random()))
            attempt += 1
        return None

    async def keep_saving(self, hooks: Hooks) -> None:
        """Saves the state by time and on request, from now on."""
        self._serves = True
        self._times.saved(clock.monotonic())
        while self._serves:
            request = self._times.take(clock.monotonic())
            if request is None:
                await self._until_due()
            else:
                async with self._saving:
                    await self._save(hooks, request)

    def saves_last(self, hooks: Hooks) -> bool:
        """Whether it saves its state once more before it ends: not one that never was ready, whose state may be half of one."""
        keeps = self._restores or self._spec.snapshot_interval_s > 0
        return self._serves and keeps and not hooks.missing("save_state")

    async def save_last(self, hooks: Hooks) -> None:
        """Saves the state once more, and never again."""
        async with self._saving:
            if self.saves_last(hooks):
                await self._save(hooks, BY_TIME)
            self._serves = False

    @property
    def _restores(self) -> bool:
        return self._spec.on_failure is ActorOnFailure.RESTART_FROM_SNAPSHOT

    async def _until_due(self) -> None:
        deadline = self._times.deadline()
        delay_s = None if deadline is None else max(0.0, deadline - clock.monotonic())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(delay_s):
                await self._wake.wait()
        self._wake.clear()

    async def _save(self, hooks: Hooks, request: int) -> None:
        began_at = clock.monotonic()
        data, failure = await self._taken(hooks)
        self._sequence += 1
        snapshot = Snapshot(sequence=self._sequence, request=request, data=data, failure=failure)
        if failure is None or request != BY_TIME:
            failure = await self._uploaded(snapshot) or failure
        self._state.tell_snapshot(failure)
        if failure is None:
            self._failures = 0
            self._times.saved(began_at)
            _log.debug("state saved", sequence=snapshot.sequence, state_bytes=len(data))
            return
        _log.warning("the state is not saved", error=failure.message, user_traceback=failure.traceback)
        retry_s = BACKOFF.delay_s(self._failures, self._unit_random())
        self._failures += 1
        self._times.failed(clock.monotonic(), retry_s=retry_s)

    async def _taken(self, hooks: Hooks) -> tuple[bytes, Failure | None]:
        """The state, or why there is none."""
        timeout_s = self._spec.health.timeout_s
        try:
            async with asyncio.timeout(timeout_s) as limit:
                return await hooks.save_state(), None
        except Exception as error:  # noqa: BLE001 - user code, or its time-out
            if isinstance(error, TimeoutError) and limit.expired():
                message = f"save_state() had not returned after {timeout_s:g} s (health_check_timeout_s)"
                return b"", failure_of(ApplicationError(message))
            told = from_exception(error, replica_id=self._state.replica.replica_id)
            message = f"save_state() raised {type(error).__name__}: {told.message}"
            return b"", failure_of(ApplicationError(message), user_traceback=told.remote_traceback)

    async def _uploaded(self, snapshot: Snapshot) -> Failure | None:
        """Why the state could not be stored, if so."""
        try:
            await self._states.save(self._assignment.incarnation, snapshot)
        except ActorFencedError as error:
            _log.warning("another life has taken the place of this one", reason=error.message)
            self._serves = False
            self._fenced()
            return failure_of(error)
        except ServeError as error:
            return failure_of(error)
        return None
