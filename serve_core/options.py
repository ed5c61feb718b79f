"""The options of a deployment, as the decorator, ``.options()`` and the YAML file take them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, TypedDict

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
        user_config: Given to the user's ``reconfigure()``.
        metadata: Told to callers with every replica of the deployment.
        max_start_failures: Start failures in a row that make the deployment fail.
        thread_count: Threads for methods that are not async; 0 means ``max_ongoing_requests``.
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
    user_config: Any
    metadata: Mapping[str, str]
    max_start_failures: int
    thread_count: int


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
