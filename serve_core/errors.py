"""Every error that serve-core raises on purpose, and the catalogue they come from.

The tree; whose fault it is, is the type::

    ServeError
    ├── CallerError                    the caller's fault
    │   ├── ConfigInvalidError         CONFIG_INVALID
    │   ├── DeploymentUnknownError     DEPLOYMENT_UNKNOWN
    │   ├── MethodUnknownError         METHOD_UNKNOWN
    │   ├── MessageTooLargeError       MESSAGE_TOO_LARGE
    │   ├── RevisionConflictError      REVISION_CONFLICT
    │   ├── SlotError                  a token that cannot be used
    │   │   ├── SlotUnknownError       SLOT_UNKNOWN
    │   │   ├── SlotExpiredError       SLOT_EXPIRED
    │   │   ├── SlotConsumedError      SLOT_CONSUMED
    │   │   └── SlotFencedError        SLOT_FENCED
    │   ├── NodeUnknownError           NODE_UNKNOWN
    │   ├── ActorUnknownError          ACTOR_UNKNOWN
    │   └── StateLostError             what was known of others holds no more
    │       ├── GangChangedError       GANG_CHANGED
    │       └── ActorFencedError       ACTOR_FENCED
    ├── CapacityError                  nobody's fault, now
    │   ├── QueueFullError             QUEUE_FULL
    │   ├── NoSlotInTimeError          NO_SLOT_IN_TIME
    │   ├── NoSlotError                NO_SLOT
    │   ├── DrainingError              DRAINING
    │   └── DeploymentUnavailableError DEPLOYMENT_UNAVAILABLE
    ├── ReplicaLostError               the replica's end
    │   ├── ReplicaUnavailableError    REPLICA_UNAVAILABLE: proven not delivered
    │   └── ReplicaDiedError           REPLICA_DIED: may have run
    ├── ActorLostError                 a deployment actor's end
    │   ├── ActorUnavailableError      ACTOR_UNAVAILABLE: proven not delivered
    │   └── ActorDiedError             ACTOR_DIED: may have run
    ├── StartError                     a process that could not start
    │   ├── ImportFailedError          IMPORT_FAILED
    │   ├── ConstructorFailedError     CONSTRUCTOR_FAILED
    │   ├── StartTimedOutError         START_TIMED_OUT
    │   ├── DeploymentActorFailedError DEPLOYMENT_ACTOR_FAILED
    │   ├── PortTakenError             PORT_TAKEN
    │   └── StoreUnusableError         STORE_UNUSABLE
    ├── ControllerUnreachableError     CONTROLLER_UNREACHABLE
    └── ApplicationError               APPLICATION_ERROR: user code raised
    InvariantViolation                 not a ServeError: a bug of ours

The catalogue is the one source of the errors page of the documentation and of ``serve-core errors``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

DOMAIN = "serve-core"
"""The ``domain`` of every ``google.rpc.ErrorInfo`` that serve-core sends."""


class Code(StrEnum):
    """gRPC status codes, by name (https://grpc.io/docs/guides/status-codes/)."""

    CANCELLED = "CANCELLED"
    UNKNOWN = "UNKNOWN"
    INVALID_ARGUMENT = "INVALID_ARGUMENT"
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    NOT_FOUND = "NOT_FOUND"
    ALREADY_EXISTS = "ALREADY_EXISTS"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    RESOURCE_EXHAUSTED = "RESOURCE_EXHAUSTED"
    FAILED_PRECONDITION = "FAILED_PRECONDITION"
    ABORTED = "ABORTED"
    OUT_OF_RANGE = "OUT_OF_RANGE"
    UNIMPLEMENTED = "UNIMPLEMENTED"
    INTERNAL = "INTERNAL"
    UNAVAILABLE = "UNAVAILABLE"
    DATA_LOSS = "DATA_LOSS"
    UNAUTHENTICATED = "UNAUTHENTICATED"


class Reason(StrEnum):
    """What went wrong, for machines: the ``reason`` of ``google.rpc.ErrorInfo``."""

    QUEUE_FULL = "QUEUE_FULL"
    NO_SLOT_IN_TIME = "NO_SLOT_IN_TIME"
    NO_SLOT = "NO_SLOT"
    DEPLOYMENT_UNKNOWN = "DEPLOYMENT_UNKNOWN"
    METHOD_UNKNOWN = "METHOD_UNKNOWN"
    DEPLOYMENT_UNAVAILABLE = "DEPLOYMENT_UNAVAILABLE"
    REPLICA_UNAVAILABLE = "REPLICA_UNAVAILABLE"
    DRAINING = "DRAINING"
    REPLICA_DIED = "REPLICA_DIED"
    SLOT_UNKNOWN = "SLOT_UNKNOWN"
    SLOT_EXPIRED = "SLOT_EXPIRED"
    SLOT_CONSUMED = "SLOT_CONSUMED"
    SLOT_FENCED = "SLOT_FENCED"
    APPLICATION_ERROR = "APPLICATION_ERROR"
    CONFIG_INVALID = "CONFIG_INVALID"
    MESSAGE_TOO_LARGE = "MESSAGE_TOO_LARGE"
    REVISION_CONFLICT = "REVISION_CONFLICT"
    IMPORT_FAILED = "IMPORT_FAILED"
    CONSTRUCTOR_FAILED = "CONSTRUCTOR_FAILED"
    START_TIMED_OUT = "START_TIMED_OUT"
    PORT_TAKEN = "PORT_TAKEN"
    STORE_UNUSABLE = "STORE_UNUSABLE"
    CONTROLLER_UNREACHABLE = "CONTROLLER_UNREACHABLE"
    GANG_CHANGED = "GANG_CHANGED"
    NODE_UNKNOWN = "NODE_UNKNOWN"
    ACTOR_UNKNOWN = "ACTOR_UNKNOWN"
    ACTOR_UNAVAILABLE = "ACTOR_UNAVAILABLE"
    ACTOR_DIED = "ACTOR_DIED"
    ACTOR_FENCED = "ACTOR_FENCED"
    DEPLOYMENT_ACTOR_FAILED = "DEPLOYMENT_ACTOR_FAILED"


class Retry(StrEnum):
    """Whether the caller may send the same request again."""

    NEVER = "never"
    LATER = "later"
    ELSEWHERE = "elsewhere"
    RESERVE_AGAIN = "after a new reservation"
    IF_IDEMPOTENT = "only if the method is idempotent"


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogueEntry:
    """One row of the error catalogue."""

    reason: Reason
    code: Code
    situation: str
    next_step: str
    retry: Retry


def _entry(reason: Reason, code: Code, retry: Retry, situation: str, next_step: str) -> CatalogueEntry:
    return CatalogueEntry(reason=reason, code=code, situation=situation, next_step=next_step, retry=retry)


CATALOGUE: Mapping[Reason, CatalogueEntry] = {
    entry.reason: entry
    for entry in (
        _entry(
            Reason.QUEUE_FULL,
            Code.RESOURCE_EXHAUSTED,
            Retry.LATER,
            "the deployment's queue in this router is full",
            "retry after the hinted time, raise max_queued_requests, or add replicas",
        ),
        _entry(
            Reason.NO_SLOT_IN_TIME,
            Code.DEADLINE_EXCEEDED,
            Retry.LATER,
            "no replica had a free slot within the caller's deadline",
            "allow a longer deadline, or add replicas",
        ),
        _entry(
            Reason.NO_SLOT,
            Code.RESOURCE_EXHAUSTED,
            Retry.ELSEWHERE,
            "every slot of this one replica is taken; nothing was run",
            "ask another replica, or call through a router, which waits for a free slot",
        ),
        _entry(
            Reason.DEPLOYMENT_UNKNOWN,
            Code.NOT_FOUND,
            Retry.NEVER,
            "no application or deployment has this name",
            "look up the names with 'serve-core status'",
        ),
        _entry(
            Reason.METHOD_UNKNOWN,
            Code.UNIMPLEMENTED,
            Retry.NEVER,
            "the deployment has no such service or method, or it has another shape (unary or streaming)",
            "compare with the methods that the error names, or with server reflection",
        ),
        _entry(
            Reason.DEPLOYMENT_UNAVAILABLE,
            Code.UNAVAILABLE,
            Retry.LATER,
            "the deployment has nothing ready and nothing is coming",
            "see why with 'serve-core status', and deploy a corrected version",
        ),
        _entry(
            Reason.REPLICA_UNAVAILABLE,
            Code.UNAVAILABLE,
            Retry.RESERVE_AGAIN,
            "the selected replica was gone before the request reached it; nothing was run",
            "reserve again",
        ),
        _entry(
            Reason.DRAINING,
            Code.UNAVAILABLE,
            Retry.ELSEWHERE,
            "the replica or router finishes what it has and takes nothing new",
            "try another one at once; a router does so by itself",
        ),
        _entry(
            Reason.REPLICA_DIED,
            Code.UNAVAILABLE,
            Retry.IF_IDEMPOTENT,
            "the replica ended while the request was inside; it may have run",
            "send it again only if running it twice is harmless",
        ),
        _entry(
            Reason.SLOT_UNKNOWN,
            Code.NOT_FOUND,
            Retry.RESERVE_AGAIN,
            "this token was never issued here, or so long ago that it is forgotten",
            "check that it is passed on unchanged and to the right deployment, or reserve again",
        ),
        _entry(
            Reason.SLOT_EXPIRED,
            Code.FAILED_PRECONDITION,
            Retry.RESERVE_AGAIN,
            "the token's lease was over, or its owner's connection was lost, before it was dispatched",
            "reserve again; dispatch sooner, renew it, or ask for a longer ttl",
        ),
        _entry(
            Reason.SLOT_CONSUMED,
            Code.FAILED_PRECONDITION,
            Retry.NEVER,
            "the token was dispatched or released before; a token is good for one request",
            "reserve a slot for each request",
        ),
        _entry(
            Reason.SLOT_FENCED,
            Code.FAILED_PRECONDITION,
            Retry.RESERVE_AGAIN,
            "the token is from an earlier epoch of the replica, which has restarted since",
            "reserve again",
        ),
        _entry(
            Reason.APPLICATION_ERROR,
            Code.UNKNOWN,
            Retry.NEVER,
            "the user's code raised an exception",
            "see the message and the remote traceback; raise ApplicationError with a code to choose the status",
        ),
        _entry(
            Reason.CONFIG_INVALID,
            Code.INVALID_ARGUMENT,
            Retry.NEVER,
            "the configuration or an argument is not valid; nothing was changed",
            "correct the named fields, all of which are listed",
        ),
        _entry(
            Reason.MESSAGE_TOO_LARGE,
            Code.RESOURCE_EXHAUSTED,
            Retry.NEVER,
            "the message is larger than this process takes",
            "send less at once, or raise --max-message-bytes for the routers and the controller",
        ),
        _entry(
            Reason.REVISION_CONFLICT,
            Code.ABORTED,
            Retry.NEVER,
            "the application was changed since the generation that was expected",
            "read its status, and decide anew",
        ),
        _entry(
            Reason.IMPORT_FAILED,
            Code.FAILED_PRECONDITION,
            Retry.NEVER,
            "the import path does not lead to a deployment, class or function",
            "check MODULE:ATTRIBUTE, the working directory and the interpreter's packages",
        ),
        _entry(
            Reason.CONSTRUCTOR_FAILED,
            Code.FAILED_PRECONDITION,
            Retry.NEVER,
            "the user's constructor raised an exception",
            "see the traceback in 'serve-core status', and deploy a corrected version",
        ),
        _entry(
            Reason.START_TIMED_OUT,
            Code.DEADLINE_EXCEEDED,
            Retry.NEVER,
            "the replica was not ready within start_deadline_s",
            "make the constructor faster, or raise start_deadline_s",
        ),
        _entry(
            Reason.PORT_TAKEN,
            Code.UNAVAILABLE,
            Retry.NEVER,
            "another process listens on the address",
            "choose another port (0 lets the system choose), or end the other process",
        ),
        _entry(
            Reason.STORE_UNUSABLE,
            Code.FAILED_PRECONDITION,
            Retry.NEVER,
            "the controller's store file cannot be opened or written",
            "check the path, its owner and mode, and the free space of the disk",
        ),
        _entry(
            Reason.CONTROLLER_UNREACHABLE,
            Code.UNAVAILABLE,
            Retry.LATER,
            "no controller answers at the address",
            "start one with 'serve-core run' or 'serve-core controller', or give its address with --controller",
        ),
        _entry(
            Reason.GANG_CHANGED,
            Code.FAILED_PRECONDITION,
            Retry.RESERVE_AGAIN,
            "a member of the gang was replaced since the caller learnt who is in it; nothing was run",
            "reserve the gang again; in a member, act on the new roster",
        ),
        _entry(
            Reason.NODE_UNKNOWN,
            Code.NOT_FOUND,
            Retry.NEVER,
            "no node has this id",
            "look up the nodes with 'serve-core status'",
        ),
        _entry(
            Reason.ACTOR_UNKNOWN,
            Code.NOT_FOUND,
            Retry.NEVER,
            "the deployment has no actor of this name, or the caller is no replica of it",
            "compare with the actors of the deployment's description; ask from inside a replica of it",
        ),
        _entry(
            Reason.ACTOR_UNAVAILABLE,
            Code.UNAVAILABLE,
            Retry.LATER,
            "the deployment actor did not serve within the caller's deadline; nothing was run",
            "allow a longer deadline, or see why it restarts with 'serve-core status'",
        ),
        _entry(
            Reason.ACTOR_DIED,
            Code.UNAVAILABLE,
            Retry.IF_IDEMPOTENT,
            "the deployment actor ended with the call inside; it may have run, and what it changed may be lost",
            "call again if that is harmless; the handle follows the actor to its new incarnation",
        ),
        _entry(
            Reason.ACTOR_FENCED,
            Code.FAILED_PRECONDITION,
            Retry.LATER,
            "another incarnation of the deployment actor lives; nothing was run or stored",
            "nothing to do: the handle follows the actor, and the stale process ends by itself",
        ),
        _entry(
            Reason.DEPLOYMENT_ACTOR_FAILED,
            Code.UNAVAILABLE,
            Retry.NEVER,
            "a deployment actor failed to start as often as it may",
            "see its traceback with 'serve-core status', and deploy a corrected version",
        ),
    )
}


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One thing wrong with a configuration or an argument.

    ``field`` is its path, such as ``applications[0].deployments[1].num_replicas``.
    """

    field: str
    description: str


class ServeError(Exception):
    """An error that serve-core raises on purpose.

    Args:
        message: What happened, to what, and what to do next, in one line.
        details: Every dynamic value of the message, by a lowerCamel name (AIP-193).
        retry_after_s: Seconds after which another try makes sense, if one does.
    """

    reason: ClassVar[Reason]

    def __init__(
        self,
        message: str,
        *,
        details: Mapping[str, str] | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.details: dict[str, str] = dict(details or {})
        self.retry_after_s = retry_after_s

    @property
    def code(self) -> Code:
        """The gRPC status code that this error travels as."""
        return CATALOGUE[self.reason].code


class CallerError(ServeError):
    """The caller's fault: the same request fails again."""


class ConfigInvalidError(CallerError):
    """A configuration or an argument is not valid. Carries everything wrong with it, not only the first."""

    reason = Reason.CONFIG_INVALID

    def __init__(self, violations: Sequence[FieldViolation], *, what: str = "the configuration") -> None:
        listed = "; ".join(f"{violation.field}: {violation.description}" for violation in violations)
        super().__init__(f"{what} is not valid: {listed}", details={"what": what})
        self.violations = tuple(violations)


class DeploymentUnknownError(CallerError):
    """No application or deployment has this name."""

    reason = Reason.DEPLOYMENT_UNKNOWN


class MethodUnknownError(CallerError):
    """The deployment has no such service or method, or it has another shape."""

    reason = Reason.METHOD_UNKNOWN


class MessageTooLargeError(CallerError):
    """A message is larger than the receiving process takes."""

    reason = Reason.MESSAGE_TOO_LARGE


class RevisionConflictError(CallerError):
    """A compare-and-set met another generation than it expected."""

    reason = Reason.REVISION_CONFLICT


class SlotError(CallerError):
    """A slot token cannot be used."""


class SlotUnknownError(SlotError):
    """The token was never issued here."""

    reason = Reason.SLOT_UNKNOWN


class SlotExpiredError(SlotError):
    """The token's lease was over before it was dispatched."""

    reason = Reason.SLOT_EXPIRED


class SlotConsumedError(SlotError):
    """The token was used before."""

    reason = Reason.SLOT_CONSUMED


class SlotFencedError(SlotError):
    """The token is from an earlier epoch of the replica."""

    reason = Reason.SLOT_FENCED


class NodeUnknownError(CallerError):
    """No node has this id."""

    reason = Reason.NODE_UNKNOWN


class ActorUnknownError(CallerError):
    """The deployment has no actor of this name, or this is no place to ask for one."""

    reason = Reason.ACTOR_UNKNOWN


class StateLostError(CallerError):
    """What the caller knew of other processes does not hold any more."""


class GangChangedError(StateLostError):
    """The gang has other members than the caller knew."""

    reason = Reason.GANG_CHANGED


class ActorFencedError(StateLostError):
    """Another incarnation of the actor lives."""

    reason = Reason.ACTOR_FENCED


class CapacityError(ServeError):
    """Nobody's fault: there is no room, or nothing to serve the request, now."""


class QueueFullError(CapacityError):
    """The deployment's queue in this router is full."""

    reason = Reason.QUEUE_FULL


class NoSlotInTimeError(CapacityError):
    """No slot was free within the caller's deadline."""

    reason = Reason.NO_SLOT_IN_TIME


class NoSlotError(CapacityError):
    """Every slot of one replica is taken. Proves that nothing was run."""

    reason = Reason.NO_SLOT


class DrainingError(CapacityError):
    """The replica or router takes nothing new. Proves that nothing was run."""

    reason = Reason.DRAINING


class DeploymentUnavailableError(CapacityError):
    """The deployment has nothing ready and nothing is coming."""

    reason = Reason.DEPLOYMENT_UNAVAILABLE


class ReplicaLostError(ServeError):
    """A replica ended, or cannot be reached."""


class ReplicaUnavailableError(ReplicaLostError):
    """The selected replica was gone before the request reached it. Proves that nothing was run."""

    reason = Reason.REPLICA_UNAVAILABLE


class ReplicaDiedError(ReplicaLostError):
    """The replica ended with the request inside. It may have run."""

    reason = Reason.REPLICA_DIED


class ActorLostError(ServeError):
    """A deployment actor ended, or cannot be reached. Its details name the incarnations."""


class ActorUnavailableError(ActorLostError):
    """The actor did not serve within the caller's deadline. Proves that nothing was run."""

    reason = Reason.ACTOR_UNAVAILABLE


class ActorDiedError(ActorLostError):
    """The actor ended with the call inside. It may have run, and what it changed may be lost."""

    reason = Reason.ACTOR_DIED


class StartError(ServeError):
    """A process could not start."""


class ImportFailedError(StartError):
    """An import path leads to nothing that can be deployed."""

    reason = Reason.IMPORT_FAILED


class ConstructorFailedError(StartError):
    """The user's constructor raised."""

    reason = Reason.CONSTRUCTOR_FAILED


class StartTimedOutError(StartError):
    """A replica was not ready within its start deadline."""

    reason = Reason.START_TIMED_OUT


class DeploymentActorFailedError(StartError):
    """A deployment actor failed to start too often."""

    reason = Reason.DEPLOYMENT_ACTOR_FAILED


class PortTakenError(StartError):
    """Another process listens on the address."""

    reason = Reason.PORT_TAKEN


class StoreUnusableError(StartError):
    """The controller's store file cannot be opened or written."""

    reason = Reason.STORE_UNUSABLE


class ControllerUnreachableError(ServeError):
    """No controller answers at the address."""

    reason = Reason.CONTROLLER_UNREACHABLE


class ApplicationError(ServeError):
    """User code raised an exception, or raises this one to choose the status that its caller sees.

    At the caller, an exception of a type that the caller has loaded too is also an instance of that type.

    Args:
        message: What went wrong, for the caller.
        code: The gRPC status code to answer with; UNKNOWN unless chosen, as grpcio does.
        details: Values for the caller's program, by name.
        remote_type: Where the exception was raised by a replica: ``module:qualified name`` of its class.
        remote_traceback: Where the exception was raised by a replica: its traceback.
        replica_id: Where the exception was raised by a replica: which one.
    """

    reason = Reason.APPLICATION_ERROR

    def __init__(
        self,
        message: str,
        *,
        code: Code | str = Code.UNKNOWN,
        details: Mapping[str, str] | None = None,
        remote_type: str = "",
        remote_traceback: str = "",
        replica_id: str = "",
    ) -> None:
        super().__init__(message, details=details)
        self._code = Code(code)
        self.remote_type = remote_type
        self.remote_traceback = remote_traceback
        self.replica_id = replica_id

    @property
    def code(self) -> Code:
        """The gRPC status code that the user chose."""
        return self._code


class InvariantViolation(Exception):  # noqa: N818 - a bug of ours, kept apart from the errors above
    """Something that cannot be, was. Carries the last events that led there."""

    def __init__(self, message: str, *, story: Sequence[str] = ()) -> None:
        super().__init__("\n".join((message, *story)))
        self.story = tuple(story)


def _leaves(cls: type[ServeError]) -> list[type[ServeError]]:
    children = cls.__subclasses__()
    return [leaf for child in children for leaf in _leaves(child)] if children else [cls]


ERROR_TYPES: Mapping[Reason, type[ServeError]] = {leaf.reason: leaf for leaf in _leaves(ServeError)}
"""The class of each reason."""
