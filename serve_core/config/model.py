"""The shapes of the YAML file and of a deployment's options, with every rule that can be checked without a cluster."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from serve_core.config.actor import ActorModel
from serve_core.config.autoscaling import AutoscalingModel
from serve_core.config.fields import (
    Amount,
    Counted,
    Environment,
    ImportPath,
    Labels,
    Listed,
    Name,
    Seconds,
    ShareOfReplicas,
    StrictModel,
)
from serve_core.config.gang import BundleModel, GangModel
from serve_core.config.process import HealthModel, NeedsModel
from serve_core.model.share import Share
from serve_core.plan.bounds import autoscaling_violations
from serve_core.plan.validate_gang import member_environment_violations
from serve_core.plan.whole import NotWhole, whole_gangs


class OptionsModel(NeedsModel, HealthModel):
    """The options of a deployment, but for its name."""

    num_replicas: Annotated[int, Field(ge=0, le=10_000)] = 1
    """Processes wanted; with autoscaling, those that it begins with, by default min_replicas, but one gang."""
    autoscaling: AutoscalingModel | None = None
    """Lets the number of replicas follow what is asked of them; by default it does not."""
    cpus: Counted = 1.0
    """CPU cores of each replica; fractions allowed."""
    env: Environment = {}
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
    gang: GangModel = GangModel()
    """Replicas that only work together; by default each is by itself."""
    node_labels: Labels = {}
    """Labels that a node must have to run replicas, each with this value."""
    bundles: Annotated[list[BundleModel], Field(max_length=100), Listed] = []
    """What each replica holds on its node for child processes of its own, beyond what it needs itself."""
    actors: Annotated[list[ActorModel], Field(max_length=100), Listed] = []
    """Long-lived objects that the replicas share, ready before any of them."""

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

    @field_validator("actors")
    @classmethod
    def _unique_actors(cls, value: list[ActorModel]) -> list[ActorModel]:
        names = [actor.name for actor in value]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"actors are listed twice: {', '.join(twice)}")
        return value

    def _contradictions(self) -> Iterator[str]:
        yield from super()._contradictions()
        if self._says("slot_ttl_s", "slot_ttl_max_s") and self.slot_ttl_s > self.slot_ttl_max_s:
            yield f"slot_ttl_s ({self.slot_ttl_s:g}) is longer than slot_ttl_max_s ({self.slot_ttl_max_s:g})"
        if self._says("min_ready_s", "progress_deadline_s") and self.min_ready_s >= self.progress_deadline_s:
            yield (
                f"min_ready_s ({self.min_ready_s:g}) is not shorter than "
                f"progress_deadline_s ({self.progress_deadline_s:g})"
            )
        gangs = whole_gangs(self.first_replicas(), size=self.gang.size)
        if self._says("num_replicas", "gang") and isinstance(gangs, NotWhole):
            yield f"num_replicas: {gangs}"
        if self._says("autoscaling", "gang"):
            yield from self._autoscaling_contradictions()
        if self._says("env", "gang"):
            yield from (
                f"env: {found.description}"
                for found in member_environment_violations(self.env, "env", size=self.gang.size)
            )

    def _autoscaling_contradictions(self) -> Iterator[str]:
        if self.autoscaling is not None:
            policy = self.autoscaling.policy(size=self.gang.size)
            found = autoscaling_violations(policy, num_replicas=self.first_replicas(), size=self.gang.size)
            yield from (f"{one.field}: {one.description}" for one in found)

    def first_replicas(self) -> int:
        """How many replicas it is to begin with."""
        if self.autoscaling is None or "num_replicas" in self.model_fields_set:
            return self.num_replicas
        return self.autoscaling.policy(size=self.gang.size).first_replicas(size=self.gang.size)


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

    def _is_whole(self) -> bool:
        return self.import_path is not None

    def _contradictions(self) -> Iterator[str]:
        yield from super()._contradictions()
        if self.import_path is None and self.model_fields_set & {"args", "kwargs"}:
            yield "args and kwargs need an import_path in the same deployment"


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
