"""What user code inside a replica may ask: which replica this is, and which request it serves.

The request's lives in a context variable: it follows async methods, generators, and the threads that run methods that
are not async; a process has one replica. Outside of a replica or a request, asking raises ``ConfigInvalidError``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextvars import ContextVar, Token
from dataclasses import dataclass, field
from typing import Any

from serve_core.errors import ConfigInvalidError, FieldViolation
from serve_core.model.bundles import ChildBundle
from serve_core.model.ids import NodeId, ReplicaId, RevisionId
from serve_core.model.replica import Gang


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaContext:
    """Which replica runs this code. ``bundles`` are what it may use for child processes of its own."""

    application: str
    deployment: str
    replica_id: ReplicaId
    revision: RevisionId
    epoch: int
    node_id: NodeId
    gang: Gang
    zone: str = ""
    controller_address: str = ""
    user_config: Any = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    bundles: tuple[ChildBundle, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorContext:
    """Which life of which deployment actor runs this code. ``restored`` says that it begins from a stored state: the
    constructor finds nothing of that yet, ``restore_state`` gets it right after.
    """

    application: str
    deployment: str
    name: str
    incarnation: int
    revision: RevisionId
    restored: bool = False


class CancelFlag:
    """Told when a request is cancelled; for threads (``wait``) and for a glance (``is_set``)."""

    __slots__ = ("_is_set", "_waited_for")

    def __init__(self) -> None:
        self._is_set = False
        self._waited_for: list[threading.Event] = []
        """One event for each thread that waited: most requests have none, and events cost each of them."""

    def set(self) -> None:
        """Says that nobody waits for the answer any more."""
        self._is_set = True
        for event in tuple(self._waited_for):
            event.set()

    def is_set(self) -> bool:
        """Whether the request was cancelled."""
        return self._is_set

    def wait(self, timeout_s: float | None = None) -> bool:
        """Blocks this thread until the request is cancelled; False when ``timeout_s`` seconds passed first."""
        event = threading.Event()
        self._waited_for.append(event)
        try:
            # Looked at only now: whoever set it before may not have seen the event.
            return self._is_set or event.wait(timeout_s)
        finally:
            self._waited_for.remove(event)


def _never_draining() -> bool:
    return False


def _no_deadline() -> float | None:
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestContext:
    """The request that this code serves."""

    request_id: str
    method: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    cancelled: CancelFlag = field(default_factory=CancelFlag)
    remaining: Callable[[], float | None] = _no_deadline
    is_draining: Callable[[], bool] = _never_draining

    def time_remaining(self) -> float | None:
        """Seconds until the caller's deadline, never below 0; None when the caller set none."""
        left = self.remaining()
        return None if left is None else max(0.0, left)

    def is_cancelled(self) -> bool:
        """Whether nobody waits for the answer any more: methods that run in threads should look and stop."""
        return self.cancelled.is_set()

    @property
    def draining(self) -> bool:
        """Whether the replica is to end soon; a long answer may then be cut short."""
        return self.is_draining()


RequestSource = Callable[[], RequestContext]
"""Tells of a request when it is asked, the same each time: most requests are never asked about."""

_request: ContextVar[RequestContext | RequestSource | None] = ContextVar("serve_core_request", default=None)
_process_replica: list[ReplicaContext] = []
_process_actor: list[ActorContext] = []


def bind_replica_context(context: ReplicaContext) -> None:
    """Makes ``context`` that of this process: a process runs one replica. The latest one holds."""
    _process_replica[:] = [context]


def bind_actor_context(context: ActorContext) -> None:
    """Makes ``context`` that of this process: a process runs one actor. The latest one holds."""
    _process_actor[:] = [context]


def bind_request_context(context: RequestContext | RequestSource) -> Token[RequestContext | RequestSource | None]:
    """Makes ``context``, or what gives it, that of the code that runs in the current task or thread from here on."""
    return _request.set(context)


def unbind_request_context(token: Token[RequestContext | RequestSource | None]) -> None:
    """Restores what was bound before ``bind_request_context`` gave ``token``."""
    _request.reset(token)


def _bound() -> RequestContext | None:
    bound = _request.get()
    return bound if bound is None or isinstance(bound, RequestContext) else bound()


def misplaced(call: str, description: str) -> ConfigInvalidError:
    """The error of a call that cannot be made here."""
    return ConfigInvalidError((FieldViolation(call, description),), what="this call")


def has_replica_context() -> bool:
    """Whether this process is a replica."""
    return bool(_process_replica)


def get_replica_context() -> ReplicaContext:
    """Which replica runs this code.

    Raises:
        ConfigInvalidError: This process is no replica.
    """
    if _process_replica:
        return _process_replica[-1]
    raise misplaced("get_replica_context()", "works only in a replica: call it from a deployment's code")


def get_deployment_actor_context() -> ActorContext:
    """Which deployment actor runs this code.

    Raises:
        ConfigInvalidError: This process is no actor.
    """
    if _process_actor:
        return _process_actor[-1]
    raise misplaced("get_deployment_actor_context()", "works only in a deployment actor: call it from an actor's code")


def get_request_context() -> RequestContext:
    """The request that this code serves.

    Raises:
        ConfigInvalidError: No request is being served here.
    """
    context = _bound()
    if context is not None:
        return context
    raise misplaced("get_request_context()", "works only while a request is served: call it from a method")


def remaining_time() -> float | None:
    """Seconds that the request that this code serves still has; None when there is none, or without a deadline."""
    context = _bound()
    return None if context is None else context.time_remaining()


def request_id() -> str:
    """The id of the request that this code serves; empty if there is none."""
    context = _bound()
    return "" if context is None else context.request_id
