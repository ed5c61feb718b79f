"""Rules that parts of a description have in common."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from serve_core.errors import FieldViolation
from serve_core.model.health import HealthPolicy
from serve_core.model.ids import LABEL_PATTERN, NAME_PATTERN
from serve_core.model.resources import Resources
from serve_core.plan.amounts import is_countable

RESERVED_PREFIX = "SERVE_CORE_"
"""Environment variables whose names begin so are for serve-core itself."""

_IMPORT_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")
_NAME_RULE = "must be a letter followed by at most 62 letters, digits, '_' or '-'"
_LABEL_RULE = "must be up to 127 letters, digits, '_', '-', '.' or '/', with a letter or digit at both ends"


def name_violations(name: str, path: str) -> Iterator[FieldViolation]:
    """What is wrong with a name."""
    if not NAME_PATTERN.fullmatch(name):
        yield FieldViolation(path, f"{name!r} {_NAME_RULE}")


def import_path_violations(import_path: str, path: str) -> Iterator[FieldViolation]:
    """What is wrong with where a class or function is imported from."""
    if not _IMPORT_PATH.fullmatch(import_path):
        yield FieldViolation(path, f"{import_path!r} must be MODULE:ATTRIBUTE")


def count_violations(path: str, counts: Iterable[tuple[str, int, int]]) -> Iterator[FieldViolation]:
    """Which counts are too low, of names, values and the least that each may be."""
    for name, value, least in counts:
        if value < least:
            yield FieldViolation(f"{path}.{name}", f"{value} must be at least {least}")


def seconds_violations(path: str, times: Iterable[tuple[str, float]]) -> Iterator[FieldViolation]:
    """Which times are none, of names and values."""
    for name, value in times:
        if not (math.isfinite(value) and value > 0):
            yield FieldViolation(f"{path}.{name}", f"{value:g} must be a time above 0 seconds")


def environment_violations(
    env: Mapping[str, str], path: str, *, taken: Sequence[str] = (), taken_by: str = ""
) -> Iterator[FieldViolation]:
    """What is wrong with environment variables; those that are ``taken`` are set by ``taken_by`` already."""
    for name, value in env.items():
        if not name or "=" in name or "\0" in name + value:
            yield FieldViolation(path, f"{name!r} cannot be an environment variable")
        elif name.startswith(RESERVED_PREFIX):
            yield FieldViolation(path, f"{name!r} cannot be set: {RESERVED_PREFIX}* is for serve-core itself")
        elif name in taken:
            yield FieldViolation(path, f"{name!r} cannot be set: {taken_by} sets it")


def label_violations(labels: Mapping[str, str], path: str) -> Iterator[FieldViolation]:
    """What is wrong with labels of nodes; a value may be empty."""
    for name, value in labels.items():
        if not LABEL_PATTERN.fullmatch(name):
            yield FieldViolation(path, f"the name {name!r} {_LABEL_RULE}")
        if value and not LABEL_PATTERN.fullmatch(value):
            yield FieldViolation(f"{path}[{name}]", f"{value!r} {_LABEL_RULE}")


def resources_violations(resources: Resources, path: str) -> Iterator[FieldViolation]:
    """What of it cannot be counted."""
    amounts = [("cpus", resources.cpus), ("gpus", resources.gpus)]
    amounts += [(f"custom[{name!r}]", amount) for name, amount in resources.custom.items()]
    for name, amount in amounts:
        if not is_countable(amount):
            yield FieldViolation(f"{path}.{name}", f"{amount:g} must be at least 0, in steps of 0.0001")
    if resources.gpus > 1 and not float(resources.gpus).is_integer():
        yield FieldViolation(f"{path}.gpus", f"{resources.gpus:g} must be a whole number, or one fraction below 1")
    yield from count_violations(path, (("memory_bytes", resources.memory_bytes, 0),))


def health_violations(health: HealthPolicy, path: str) -> Iterator[FieldViolation]:
    """What is wrong with when a process counts as ill."""
    yield from seconds_violations(
        path,
        (
            ("period_s", health.period_s),
            ("timeout_s", health.timeout_s),
            ("heartbeat_period_s", health.heartbeat_period_s),
            ("readiness_period_s", health.readiness_period_s),
        ),
    )
    yield from count_violations(
        path,
        (
            ("failure_threshold", health.failure_threshold, 1),
            ("suspect_after_missed", health.suspect_after_missed, 1),
            ("lost_after_missed", health.lost_after_missed, 1),
        ),
    )
    if health.suspect_after_missed > health.lost_after_missed:
        yield FieldViolation(
            f"{path}.suspect_after_missed",
            f"{health.suspect_after_missed} must not be above lost_after_missed = {health.lost_after_missed}",
        )
