"""The shapes of the YAML file and of a deployment's options, with every rule that can be checked without a cluster."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from serve_core.model.ids import NAME_PATTERN
from serve_core.model.share import Share

_MEMORY_PATTERN = r"^[0-9]+(\.[0-9]+)?(k|M|G|T|Ki|Mi|Gi|Ti)?$"
_MEMORY = re.compile(_MEMORY_PATTERN)
_UNITS = {
    "": 1,
    "k": 10**3,
    "M": 10**6,
    "G": 10**9,
    "T": 10**12,
    "Ki": 2**10,
    "Mi": 2**20,
    "Gi": 2**30,
    "Ti": 2**40,
}

SHARE_PATTERN = r"^(0|[1-9][0-9]{0,6})%?$"
"""A number of replicas, or a percentage of them."""

IMPORT_PATH_PATTERN = r"^[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_.]*$"
"""MODULE:ATTRIBUTE."""


def parse_memory(value: object) -> object:
    """Bytes of a text such as ``512Mi``; what is no text is passed on.

    Raises:
        ValueError: The text is no amount of memory.
    """
    if not isinstance(value, str):
        return value
    match = _MEMORY.fullmatch(value)
    if match is None:
        raise ValueError("is no amount of memory: write bytes, or a number with k, M, G, T, Ki, Mi, Gi or Ti")
    unit = match[2] or ""
    return int(float(value.removesuffix(unit)) * _UNITS[unit])


def parse_share(value: object) -> object:
    """The share that a number or a text such as ``25%`` spells; anything else is passed on.

    Raises:
        ValueError: The text or number is no share of replicas.
    """
    if isinstance(value, bool) or not isinstance(value, int | str):
        return value
    share = Share.parse(str(value))
    if share is None:
        raise ValueError(f"should be a number of replicas, or a percentage such as '25%', not {value!r}")
    return share


Name = Annotated[str, StringConstraints(pattern=f"^{NAME_PATTERN.pattern}$")]
ImportPath = Annotated[str, StringConstraints(pattern=IMPORT_PATH_PATTERN)]
Memory = Annotated[
    int,
    BeforeValidator(parse_memory),
    Field(ge=0),
    WithJsonSchema(
        {"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": _MEMORY_PATTERN}]},
    ),
]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
ShareOfReplicas = Annotated[
    Share,
    BeforeValidator(parse_share),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": SHARE_PATTERN}]}),
]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class StrictModel(BaseModel):
    """Takes what it names, of the right type, and nothing else."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True)


class OptionsModel(StrictModel):
    """The options of a deployment, but for its name."""

    num_replicas: Annotated[int, Field(ge=0, le=10_000)] = 1
    """Processes wanted."""
    cpus: Amount = 1.0
    """CPU cores of each replica; fractions allowed."""
    gpus: Amount = 0.0
    """GPUs of each replica: whole numbers, or one fraction below 1."""
    memory: Memory = 0
    """Memory of each replica: bytes, or a text such as 512Mi."""
    resources: dict[str, Amount] = {}
    """Anything else that is counted, by name."""
    env: dict[str, str] = {}
    """Environment variables of the replica's process."""
    working_dir: str = ""
    """Working directory of the replica's process, and first place of import; by default that of the deployer."""
    interpreter: str = ""
    """The Python interpreter of the replica's process; by default the controller's."""
    max_ongoing_requests: Annotated[int, Field(ge=1, le=1_000_000)] = 5
    """Slots of each replica."""
    max_queued_requests: Annotated[int, Field(ge=-1, le=1_000_000)] = 1000
    """Requests that wait in each router before more are refused; -1 means no limit."""
    slot_ttl_s: Seconds = 10.0
    """Time to live of a slot token when none is asked for, in seconds."""
    slot_ttl_max_s: Seconds = 60.0
    """The longest time to live that is granted, in seconds."""
    start_deadline_s: Seconds = 300.0
    """From the start of the process until it is ready, in seconds."""
    graceful_shutdown_timeout_s: Amount = 30.0
    """For a drain in all, in seconds."""
    health_check_period_s: Seconds = 10.0
    """Between the starts of two health checks, in seconds."""
    health_check_timeout_s: Seconds = 30.0
    """For one health check, in seconds."""
    health_check_failure_threshold: Annotated[int, Field(ge=1)] = 3
    """Failed checks in a row that make a replica ill."""
    readiness_period_s: Seconds = 1.0
    """Between two questions to the user's is_ready(), in seconds."""
    heartbeat_period_s: Seconds = 1.0
    """Between two heartbeats of a replica, in seconds."""
    suspect_after_missed: Annotated[int, Field(ge=1, le=1_000_000)] = 3
    """Heartbeats missed in a row after which routers leave a replica out until the next one."""
    lost_after_missed: Annotated[int, Field(ge=1, le=1_000_000)] = 10
    """Heartbeats missed in a row after which a replica is ended and replaced."""
    user_config: Any = None
    """Given to the user's reconfigure()."""
    metadata: dict[str, str] = {}
    """Told to callers with every replica of the deployment."""
    max_start_failures: Annotated[int, Field(ge=1)] = 5
    """Start failures in a row that make the deployment fail."""
    thread_count: Annotated[int, Field(ge=0, le=10_000)] = 0
    """Threads for methods that are not async; 0 means max_ongoing_requests."""
    max_surge: ShareOfReplicas = Field("25%", validate_default=True)
    """Replicas beyond num_replicas during a rollout: a number, or a percentage, rounded up."""
    max_unavailable: ShareOfReplicas = Field(0, validate_default=True)
    """Replicas fewer than num_replicas that may take requests during a rollout: a number, or a percentage, rounded down."""
    min_ready_s: Amount = 0.0
    """How long a replica must be ready before it counts, in seconds."""
    progress_deadline_s: Seconds = 600.0
    """A rollout without progress for so long has failed, in seconds."""
    pause_at: ShareOfReplicas | None = None
    """Share of replicas of the new revision at which a rollout pauses by itself, until it is resumed."""
    on_failure: Literal["rollback", "hold"] = "rollback"
    """Puts the last good revision back when a rollout fails (rollback), or leaves it where it is (hold)."""
    max_concurrent_starts: Annotated[int, Field(ge=0, le=10_000)] = 0
    """Replicas that may start at once; 0 means no limit."""

    @field_validator("max_unavailable", "pause_at")
    @classmethod
    def _no_more_than_all(cls, value: Share | None) -> Share | None:
        if value is not None and value.percent and value.value > 100:
            raise ValueError(f"{value} is more than all replicas")
        return value

    @field_validator("pause_at")
    @classmethod
    def _more_than_none(cls, value: Share | None) -> Share | None:
        if value is not None and value.value == 0:
            raise ValueError(f"{value} must be more than 0; leave it out to not pause")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.suspect_after_missed > self.lost_after_missed:
            raise ValueError(
                f"suspect_after_missed ({self.suspect_after_missed}) is more than "
                f"lost_after_missed ({self.lost_after_missed})"
            )
        if self.slot_ttl_s > self.slot_ttl_max_s:
            raise ValueError(
                f"slot_ttl_s ({self.slot_ttl_s:g}) is longer than slot_ttl_max_s ({self.slot_ttl_max_s:g})"
            )
        if self.min_ready_s >= self.progress_deadline_s:
            raise ValueError(
                f"min_ready_s ({self.min_ready_s:g}) is not shorter than "
                f"progress_deadline_s ({self.progress_deadline_s:g})"
            )
        if self.gpus > 1 and not self.gpus.is_integer():
            raise ValueError(f"gpus ({self.gpus:g}) is neither a whole number nor below 1")
        return self


class DeploymentModel(OptionsModel):
    """A deployment: with import_path it is defined here, without it overrides the one of this name in the code."""

    name: Name
    """The deployment's name, unique in its application."""
    import_path: ImportPath | None = None
    """MODULE:ATTRIBUTE of the class or function."""
    args: list[Any] = []
    """Positional arguments of the constructor; {$deployment: NAME} arrives as a handle."""
    kwargs: dict[str, Any] = {}
    """Keyword arguments of the constructor; {$deployment: NAME} arrives as a handle."""

    @model_validator(mode="after")
    def _arguments_need_a_target(self) -> Self:
        if self.import_path is None and self.model_fields_set & {"args", "kwargs"}:
            raise ValueError("args and kwargs need an import_path in the same deployment")
        return self


class ApplicationModel(StrictModel):
    """An application: a bound one from the code, deployments that are defined here, or both."""

    name: Name
    """The application's name, unique."""
    import_path: ImportPath | None = None
    """MODULE:ATTRIBUTE of a bound application, a deployment or a class."""
    ingress: Name | None = None
    """The deployment that calls to the application go to; by default that of the code, else the first one here."""
    deployments: list[DeploymentModel] = []
    """Overrides by name, and full definitions."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        names = [deployment.name for deployment in self.deployments]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"deployments are listed twice: {', '.join(twice)}")
        if self.import_path is None:
            if not self.deployments:
                raise ValueError("needs an import_path, or deployments with one each")
            missing = [deployment.name for deployment in self.deployments if deployment.import_path is None]
            if missing:
                raise ValueError(f"has no import_path, so these deployments need one: {', '.join(missing)}")
            if self.ingress is not None and self.ingress not in names:
                raise ValueError(f"ingress '{self.ingress}' is none of the deployments: {', '.join(names)}")
        return self


class ServeFile(StrictModel):
    """A file for `serve-core deploy` and `serve-core run`."""

    applications: Annotated[list[ApplicationModel], Field(min_length=1)]
    """Applications to deploy."""

    @model_validator(mode="after")
    def _unique(self) -> Self:
        names = [application.name for application in self.applications]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"applications are listed twice: {', '.join(twice)}")
        return self
