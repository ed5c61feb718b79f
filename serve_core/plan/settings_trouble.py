"""Who serves on with an old ``user_config``, as its ``reconfigure`` raised, in a sentence, for people."""

from __future__ import annotations

from collections.abc import Iterable

from serve_core.model.replica import ReplicaPhase
from serve_core.plan.observed import Observed
from serve_core.plan.records import GangRecord

RECONFIGURE_FAILED = "ReconfigureFailed"
"""The reason of Degraded when user code did not take a new configuration."""


def settings_trouble(gangs: Iterable[GangRecord], observed: Observed) -> str:
    """What the oldest replica says that kept its old configuration, and how many others did; empty if none did."""
    failed = [
        (member.replica_id, report.reconfigure_failure)
        for gang in gangs
        if gang.phase is ReplicaPhase.READY
        for member in gang.members
        if (report := observed.replica(member.replica_id, epoch=member.epoch).report) is not None
        and report.reconfigure_failure is not None
    ]
    if not failed:
        return ""
    replica_id, failure = failed[0]
    others = f" and {len(failed) - 1} more" if len(failed) > 1 else ""
    return f"replica {replica_id}{others}: {failure.message}; serves on with the user_config it had"
