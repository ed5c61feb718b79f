"""From a welcome to user code that is ready to be called.

The order: the roster of the gang, if it has more members, the constructor, ``restore_state`` in an actor that begins from a
stored state, ``replica_metadata``, ``reconfigure``, ``warm_up``, ``is_ready`` until it says true, and the first
``check_health``; all of it within the start deadline.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import serve_core
from replica.hooks import Hooks
from replica.loader import Loaded, Resolve, StartFailure, load
from replica.methods import ACTOR_HOOKS
from replica.threads import in_own_thread
from serve_core.context import ReplicaContext, bind_replica_context
from serve_core.errors import ApplicationError, ConstructorFailedError, ServeError, StartError, StartTimedOutError
from serve_core.model.bundles import ChildBundle
from serve_core.model.replica import Failure, Replica
from serve_core.model.spec import DeploymentSpec
from serve_core.runtime import clock
from serve_core.wire.codec import HandleRef, decode_value
from serve_core.wire.errors import from_exception

T = TypeVar("T")

_IS_READY = "is_ready()"
_ROSTER = "the list of the gang's members"
_STORED_STATE = "the stored state"


@dataclass(frozen=True, slots=True)
class Started:
    """User code that is ready: what it offers, its hooks, and the metadata that it told of itself."""

    loaded: Loaded
    hooks: Hooks
    metadata: Mapping[str, str]


class Waiter(Protocol):
    """Knows when user code wants requests."""

    @property
    def trouble(self) -> str:
        """What the last ``is_ready`` raised; empty if it answered."""

    async def until_ready(self, hooks: Hooks) -> None:
        """Waits until ``is_ready`` says true, if there is one."""


class ActorStart(Protocol):
    """What the start of an actor needs beyond that of a replica."""

    def require_hooks(self, hooks: Hooks) -> None:
        """Raises ConstructorFailedError if user code lacks a hook that the actor's description needs."""

    async def stored_state(self) -> bytes | None:
        """The state to begin from; None if it begins empty. Raises ServeError."""


async def start_user_code(
    spec: DeploymentSpec,
    *,
    controller: str,
    gathered: Callable[[], Awaitable[None]],
    waiter: Waiter,
    constructed: Callable[[Loaded, Hooks], None],
    actor: ActorStart | None = None,
) -> Started:
    """Waits for the gang, imports and constructs in a thread, then calls the hooks of a start.

    Args:
        spec: What to start; its start deadline is for all of it.
        controller: Where handles among the constructor's arguments find their deployments.
        gathered: Waits until it is known who is in the gang, and where.
        waiter: Waits for ``is_ready``.
        constructed: Is told what there is to call, and the hooks, as soon as there are any.
        actor: What else belongs to the start if this is an actor's.

    Raises:
        StartFailure: It did not come up, and why.
    """
    stage = [_ROSTER]
    deadline_s = start_deadline_s(spec)
    try:
        async with asyncio.timeout(deadline_s) as deadline:
            await gathered()
            return await _start(spec, _resolver(controller), waiter, constructed, actor, stage)
    except TimeoutError as error:
        assert deadline.expired()  # whatever user code raises is a StartFailure
        missing = {_IS_READY: "said true", _ROSTER: "come", _STORED_STATE: "come"}.get(stage[0], "returned")
        option = "start_deadline_s" if spec.gang.start_deadline_s is None else "gang.start_deadline_s"
        message = f"{stage[0]} had not {missing} after {deadline_s:g} s ({option})"
        if stage[0] == _IS_READY and waiter.trouble:
            message += f"; last it raised {waiter.trouble}"
        raise StartFailure(StartTimedOutError(message, details={"stage": stage[0]}), "") from error


def start_deadline_s(spec: DeploymentSpec) -> float:
    """Seconds for a start in all: the gang's, if it has its own."""
    return spec.start_deadline_s if spec.gang.start_deadline_s is None else spec.gang.start_deadline_s


async def _start(
    spec: DeploymentSpec,
    resolve: Resolve,
    waiter: Waiter,
    constructed: Callable[[Loaded, Hooks], None],
    actor: ActorStart | None,
    stage: list[str],
) -> Started:
    stage[0] = "the constructor"
    hidden = ACTOR_HOOKS if actor is not None else ()
    loaded = await in_own_thread(
        lambda: load(
            spec.import_path, spec.init_arguments, working_dir=spec.working_dir, resolve=resolve, hooks=hidden
        ),
        name="constructor",
    )
    hooks = Hooks(loaded.instance)
    if actor is not None:
        actor.require_hooks(hooks)
        stage[0] = _STORED_STATE
        state = await actor.stored_state()
        if state is not None:
            stage[0] = "restore_state()"
            await _hook(hooks.restore_state(state), stage[0])
    constructed(loaded, hooks)
    stage[0] = "replica_metadata()"
    metadata = await _hook(hooks.metadata(), stage[0])
    if spec.user_config is not None:
        stage[0] = "reconfigure()"
        await _hook(hooks.reconfigure(spec.user_config), stage[0])
    stage[0] = "warm_up()"
    await _hook(hooks.warm_up(), stage[0])
    stage[0] = _IS_READY
    await waiter.until_ready(hooks)
    stage[0] = "check_health()"
    await _hook(hooks.check_health(), stage[0])
    return Started(loaded, hooks, metadata)


async def _hook(running: Awaitable[T], name: str) -> T:
    try:
        return await running
    except Exception as error:
        told = from_exception(error, replica_id="")
        message = f"{name} raised {type(error).__name__}: {told.message}"
        raise StartFailure(ConstructorFailedError(message), told.remote_traceback) from error


def bind_context(replica: Replica, spec: DeploymentSpec, *, controller: str, bundles: tuple[ChildBundle, ...]) -> None:
    """Lets user code ask which replica it runs in.

    Raises:
        ConfigInvalidError: The user's configuration cannot be read.
    """
    config: Any = None if spec.user_config is None else decode_value(spec.user_config, field="user_config")
    bind_replica_context(
        ReplicaContext(
            application=replica.key.application,
            deployment=replica.key.deployment,
            replica_id=replica.replica_id,
            revision=replica.revision,
            epoch=replica.epoch,
            node_id=replica.node_id,
            gang=replica.gang,
            zone=replica.zone,
            controller_address=controller,
            user_config=config,
            metadata=replica.metadata,
            bundles=bundles,
        )
    )


def failure_of(error: ServeError, *, user_traceback: str = "") -> Failure:
    """What is reported of an error."""
    return Failure(reason=error.reason, message=error.message, traceback=user_traceback, time=clock.wall())


def hook_failure(what: str, error: Exception, *, replica_id: str) -> Failure:
    """What is reported of user code that raised when ``what`` was called."""
    told = from_exception(error, replica_id=replica_id)
    said = told.message if str(error) else type(error).__name__
    return failure_of(ApplicationError(f"{what} raised {said}"), user_traceback=told.remote_traceback)


def as_start_error(error: ServeError) -> StartError:
    """The same as an error of the start, which ends the process with one line."""
    return error if isinstance(error, StartError) else ConstructorFailedError(error.message, details=error.details)


def _resolver(controller: str) -> Resolve:
    def resolve(reference: HandleRef) -> Any:
        return serve_core.get_handle(reference.application, reference.deployment, controller=controller)

    return resolve
