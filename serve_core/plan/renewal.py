"""Which gangs are to be replaced though they run the right revision: those from before an actor that lost its state."""

from __future__ import annotations

from serve_core.plan.records import DeploymentRecord, GangRecord


def is_outdated(record: DeploymentRecord, gang: GangRecord) -> bool:
    """Whether a gang is older than the present life of an actor whose replicas are to be replaced after it.

    Not before that life serves: until then a new gang would be no better.
    """
    return any(
        actor.address and gang.created_at < actor.renewed_at
        for key in (record.actor_keys(gang.revision) if record.actors else ())
        if (actor := record.actor(key)) is not None and actor.renewed_at
    )


def is_current(record: DeploymentRecord, gang: GangRecord) -> bool:
    """Whether a gang is as wanted: of the target, and not to be replaced. All others go as those of an old revision do."""
    return gang.revision == record.target and not is_outdated(record, gang)
