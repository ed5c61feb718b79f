"""What is wrong with how replicas belong together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from serve_core.errors import FieldViolation
from serve_core.model.gang import LAUNCHER_VARIABLES, GangPolicy
from serve_core.plan.rules import count_violations, environment_violations, name_violations, seconds_violations
from serve_core.plan.whole import NotWhole, whole_gangs

NUM_REPLICAS_MAX = 10_000
"""More than one controller is meant for."""


def num_replicas_violations(num_replicas: int, *, size: int, path: str) -> Iterator[FieldViolation]:
    """What is wrong with a number of replicas in gangs of ``size``."""
    if not 0 <= num_replicas <= NUM_REPLICAS_MAX:
        yield FieldViolation(path, f"{num_replicas} must be from 0 to {NUM_REPLICAS_MAX}")
        return
    gangs = whole_gangs(num_replicas, size=size) if size > 0 else 0
    if isinstance(gangs, NotWhole):
        yield FieldViolation(path, str(gangs))


def gang_violations(gang: GangPolicy, path: str) -> Iterator[FieldViolation]:
    """What is wrong with a gang's policy."""
    if not 1 <= gang.size <= NUM_REPLICAS_MAX:
        yield FieldViolation(f"{path}.size", f"{gang.size} must be from 1 to {NUM_REPLICAS_MAX}")
    elif gang.roles and len(gang.roles) != gang.size:
        yield FieldViolation(
            f"{path}.roles", f"names {len(gang.roles)} of {gang.size} ranks; it must name each, or none"
        )
    for index, role in enumerate(gang.roles):
        yield from name_violations(role, f"{path}.roles[{index}]")
    yield from count_violations(path, (("max_restarts", gang.max_restarts, 0),))
    if gang.start_deadline_s is not None:
        yield from seconds_violations(path, (("start_deadline_s", gang.start_deadline_s),))


def member_environment_violations(env: Mapping[str, str], path: str, *, size: int) -> Iterator[FieldViolation]:
    """What is wrong with the environment of replicas: in a gang, part of it is how members find each other."""
    return environment_violations(env, path, taken=LAUNCHER_VARIABLES if size > 1 else (), taken_by="the gang")
