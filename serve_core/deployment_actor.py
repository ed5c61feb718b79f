"""Says which long-lived objects the replicas of a deployment share."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, slots=True, eq=False)
class DeploymentActor:
    """An object that the replicas of a deployment share, in a process of its own, ready before any of them.

    ::

        @deployment(actors=[DeploymentActor("cache", Cache, args=(1000,), on_failure="RESTART_FROM_SNAPSHOT")])
        class Search: ...

    Attributes:
        name: Its name, unique in the deployment.
        target: Its class, or MODULE:ATTRIBUTE of that.
        args: Positional arguments of the constructor; bound deployments arrive as handles.
        kwargs: Keyword arguments of the constructor.
        cpus: CPU cores; fractions allowed.
        gpus: GPUs: whole numbers, or one fraction below 1.
        memory: Memory: bytes, or a text such as ``"512Mi"``.
        resources: Anything else that is counted, by name.
        env: Environment variables, on top of the deployment's.
        max_concurrency: Calls that run in it at once.
        start_deadline_s: From the start of its process until it is ready, in seconds.
        max_restarts: Failures in a row before it is given up, and its revision with it if it was never ready.
        on_failure: When it ends: start it again empty, or from the last state that it saved, or empty and then the
            replicas anew, in whole gangs and within ``max_unavailable``.
        snapshot_interval_s: Between two snapshots of its state, in seconds; 0 means none by time.
        shared: Whether each revision has its own, or all revisions that describe it in the same way share it.
        health_check_period_s: Between the starts of two health checks, in seconds.
        health_check_timeout_s: For one health check, in seconds.
        health_check_failure_threshold: Failed checks in a row after which it is ill.
        readiness_period_s: Between two questions to the user's ``is_ready``, in seconds.
        heartbeat_period_s: Between two heartbeats, in seconds.
        suspect_after_missed: Heartbeats missed in a row after which calls to it wait until the next one.
        lost_after_missed: Heartbeats missed in a row after which it is ended and replaced.

    Raises:
        TypeError: The constructor does not take these arguments.
    """

    name: str
    target: Callable[..., Any] | str
    _: KW_ONLY
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    cpus: float = 0.0
    gpus: float = 0.0
    memory: int | str = 0
    resources: Mapping[str, float] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    max_concurrency: int = 100
    start_deadline_s: float = 60.0
    max_restarts: int = 5
    on_failure: Literal["RESTART", "RESTART_FROM_SNAPSHOT", "RESTART_REPLICAS"] = "RESTART"
    snapshot_interval_s: float = 0.0
    shared: Literal["revision", "deployment"] = "revision"
    health_check_period_s: float = 10.0
    health_check_timeout_s: float = 30.0
    health_check_failure_threshold: int = 3
    readiness_period_s: float = 1.0
    heartbeat_period_s: float = 1.0
    suspect_after_missed: int = 3
    lost_after_missed: int = 10

    def __post_init__(self) -> None:
        if inspect.isclass(self.target):
            inspect.signature(self.target).bind(*self.args, **self.kwargs)
