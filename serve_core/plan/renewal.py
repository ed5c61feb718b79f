"""Which gangs are to be replaced though they run the right revision: those from before an actor that lost its state."""

from __future__ import annotations

from serve_core.plan.records import DeploymentRecord, GangRecord


def is_outdated(record: DeploymentRecord, gang: GangRecord) -> bool:
    """Whether a gang is older than the present life of an actor whose replicas are to be replaced after it.

    Not before that life serves: until then a new gang would be no better. Nor while the revision changes, or has failed: then
    gangs are started and stopped for that, and those of the last good revision for the target's that do not serve.
    """
    if record.terminal is not None or record.last_good not in (None, record.target):
        return False
    return any(
        gang.created_at < actor.renewed_at and actor.address and actor.key in record.actor_keys(gang.revision)
        for actor in record.actors
    )


def is_current(record: DeploymentRecord, gang: GangRecord) -> bool:
    """Whether a gang is as wanted: of the target, and not to be replaced. All others go as those of an old revision do."""
    return gang.revision == record.target and not is_outdated(record, gang)
