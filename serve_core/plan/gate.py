"""The gate of a revision: none of its replicas is placed before each of its actors was ready once."""

from __future__ import annotations

from collections.abc import Sequence

from serve_core.model.ids import RevisionId
from serve_core.plan.records import DeploymentRecord


def is_open(record: DeploymentRecord, revision: RevisionId) -> bool:
    """Whether replicas of a revision may be started. It stays so when an actor is lost later: nothing else waits for that."""
    return not awaited(record, revision)


def awaited(record: DeploymentRecord, revision: RevisionId) -> Sequence[str]:
    """The names of the actors that a revision's replicas wait for."""
    return [
        key.name
        for key in record.actor_keys(revision)
        if (actor := record.actor(key)) is None or not actor.first_ready_at
    ]
