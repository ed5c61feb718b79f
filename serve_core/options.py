"""The options of a deployment, as the decorator, ``.options()`` and the YAML file take them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TypedDict

from serve_core.deployment_actor import DeploymentActor
from serve_core.errors import ConfigInvalidError, FieldViolation


class GangOptions(TypedDict, total=False):
    """How replicas belong together. Whatever is not said has the default of ``model.gang.GangPolicy``.

    Attributes:
        size: Members of a gang; ``num_replicas`` is a multiple of it.
        placement: Members on as few nodes as there is room on, or as many; strictly: on one node, each on its own.
        on_member_failure: Replaces the whole gang once its other members have finished what they can, or starts only the
            lost member again.
        start_deadline_s: From the placement until every member is ready, in seconds; by default the deployment's.
        max_restarts: Restarts in a row, without a calm time between, before a gang is given up.
        route: Whether every member takes the requests of callers, or only that of rank 0.
        roles: A name for each rank; none, or one for each.
        abort_in_flight: Whether the other members of a gang that failed are ended at once, with what runs in them.
    """

    size: int
    placement: Literal["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"]
    on_member_failure: Literal["RESTART_GANG", "RESTART_REPLICA"]
    start_deadline_s: float | None
    max_restarts: int
    route: Literal["ALL", "LEADER"]
    roles: Sequence[str]
    abort_in_flight: bool


class AutoscalingOptions(TypedDict, total=False):
    """When there are to be more replicas, and when fewer. Whatever is not said has the default of
    ``model.autoscaling.AutoscalingPolicy``; ``max_replicas`` has to be.

    What is asked of a deployment are its requests that run, its slots that are reserved, and its requests that wait in
    routers.

    Attributes:
        min_replicas: The fewest, in whole gangs; 0 lets a deployment that nobody calls have none. By default one gang.
        max_replicas: The most, in whole gangs.
        target_ongoing_requests: What is to be asked of each replica that takes requests; by default 70 % of its slots.
        look_back_s: What is asked is averaged over so long, in seconds.
        upscale_delay_s: How long more must have been asked for before there are more replicas, in seconds; the first is
            started at once.
        downscale_delay_s: How long less must have been asked for before there are fewer, in seconds.
    """

    min_replicas: int | None
    max_replicas: int
    target_ongoing_requests: float | None
    look_back_s: float
    upscale_delay_s: float
    downscale_delay_s: float


class BundleOptions(TypedDict, total=False):
    """What a replica holds on its node for a child process of its own; as the options of the same names."""

    cpus: float
    gpus: float
    memory: int | str
    resources: Mapping[str, float]


class DeploymentOptions(TypedDict, total=False):
    """What can be said of a deployment. Whatever is not said has the default of ``model.spec.DeploymentSpec``.

    Attributes:
        name: The deployment's name; by default that of its class or function.
        num_replicas: Processes wanted; with ``autoscaling``, those that it begins with.
        autoscaling: Lets the number of replicas follow what is asked of them; None: it does not.
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
        gang: Replicas that only work together; by default each is by itself.
        node_labels: Labels that a node must have to run replicas, each with this value.
        bundles: What each replica holds on its node for child processes of its own, beyond what it needs itself.
        actors: Long-lived objects that the replicas share, ready before any of them; each is a ``DeploymentActor``.
    """

    name: str
    num_replicas: int
    autoscaling: AutoscalingOptions | None
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
    gang: GangOptions
    node_labels: Mapping[str, str]
    bundles: Sequence[BundleOptions]
    actors: Sequence[DeploymentActor]


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
