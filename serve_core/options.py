"""The options of a deployment, as the decorator, ``.options()`` and the YAML file take them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypedDict

from serve_core.errors import ConfigInvalidError, FieldViolation


class DeploymentOptions(TypedDict, total=False):
    """What can be said of a deployment. Whatever is not said has the default of ``model.spec.DeploymentSpec``.

    Attributes:
        name: The deployment's name; by default that of its class or function.
        num_replicas: Processes wanted.
        cpus: CPU cores of each replica; fractions allowed.
        gpus: GPUs of each replica: whole numbers, or one fraction below 1.
        memory: Memory of each replica: bytes, or a text such as ``"512Mi"``.
        resources: Anything else that is counted, by name.
        env: Environment variables of the replica's process.
        working_dir: Working directory of the replica's process, and first place of import.
        interpreter: The Python interpreter of the replica's process.
        max_ongoing_requests: Slots of each replica.
        max_queued_requests: Requests that wait in each router before more are refused; -1 means no limit.
        slot_ttl_s: Time to live of a slot token when none is asked for, in seconds.
        slot_ttl_max_s: The longest time to live that is granted, in seconds.
        start_deadline_s: From the start of the process until it is ready, in seconds.
        graceful_shutdown_timeout_s: For a drain in all, in seconds.
        health_check_period_s: Between the starts of two health checks, in seconds.
        health_check_timeout_s: For one health check, in seconds.
        health_check_failure_threshold: Failed checks in a row that make a replica ill.
        readiness_period_s: Between two questions to the user's ``is_ready``, in seconds.
        heartbeat_period_s: Between two heartbeats of a replica, in seconds.
        suspect_after_missed: Heartbeats missed in a row after which routers leave a replica out until the next one.
        lost_after_missed: Heartbeats missed in a row after which a replica is ended and replaced.
        user_config: Given to the user's ``reconfigure()``.
        metadata: Told to callers with every replica of the deployment.
        max_start_failures: Start failures in a row that make the deployment fail.
        thread_count: Threads for methods that are not async; 0 means ``max_ongoing_requests``.
        max_surge: Replicas beyond ``num_replicas`` during a rollout: a number, or a percentage such as ``"25%"``, which
            rounds up. With 0 here and in ``max_unavailable``, it is one.
        max_unavailable: Replicas fewer than ``num_replicas`` that may take requests during a rollout: a number, or a
            percentage, which rounds down.
        min_ready_s: How long a replica must be ready before it counts, in seconds.
        progress_deadline_s: A rollout without progress for so long has failed, in seconds.
        pause_at: Share of replicas of the new revision at which a rollout pauses by itself, until it is resumed.
        on_failure: ``"rollback"`` puts the last good revision back when a rollout fails, ``"hold"`` leaves it where it is.
        max_concurrent_starts: Replicas that may start at once; 0 means no limit.
    """

    name: str
    num_replicas: int
    cpus: float
    gpus: float
    memory: int | str
    resources: Mapping[str, float]
    env: Mapping[str, str]
    working_dir: str
    interpreter: str
    max_ongoing_requests: int
    max_queued_requests: int
    slot_ttl_s: float
    slot_ttl_max_s: float
    start_deadline_s: float
    graceful_shutdown_timeout_s: float
    health_check_period_s: float
    health_check_timeout_s: float
    health_check_failure_threshold: int
    readiness_period_s: float
    heartbeat_period_s: float
    suspect_after_missed: int
    lost_after_missed: int
    user_config: Any
    metadata: Mapping[str, str]
    max_start_failures: int
    thread_count: int
    max_surge: int | str
    max_unavailable: int | str
    min_ready_s: float
    progress_deadline_s: float
    pause_at: int | str | None
    on_failure: Literal["rollback", "hold"]
    max_concurrent_starts: int


OPTION_NAMES = frozenset(DeploymentOptions.__annotations__)
"""The names of all options."""


def unknown_name(name: str, known: Iterable[str], *, what: str = "option") -> str:
    """Says that ``name`` is not known, and which of ``known`` may have been meant."""
    near = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.6)
    return f"unknown {what} '{name}'" + (f"; did you mean '{near[0]}'?" if near else "")


def check_names(options: Mapping[str, Any], *, where: str) -> None:
    """Refuses options that do not exist; all of them at once.

    Raises:
        ConfigInvalidError: Some name is not that of an option.
    """
    violations = [
        FieldViolation(name, unknown_name(name, OPTION_NAMES)) for name in options if name not in OPTION_NAMES
    ]
    if violations:
        raise ConfigInvalidError(violations, what=where)
