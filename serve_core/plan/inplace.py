"""Sends the settings that change in place to the replicas that do not have them."""

from __future__ import annotations

from serve_core.model.replica import ReplicaPhase
from serve_core.plan.actions import SendReconfigure
from serve_core.plan.plan import Draft, in_order
from serve_core.plan.revision import config_version

_PHASES = frozenset({ReplicaPhase.STARTING, ReplicaPhase.READY})


def reconfigure(draft: Draft) -> None:
    """Brings every attached replica and actor that is to serve up to its revision's newest settings."""
    everything = [*draft.gangs.values(), *draft.actors.values()]
    serving = [gang for gang in in_order(everything) if gang.phase in _PHASES]
    specs = {(gang.revision, gang.actor): draft.spec(gang) for gang in serving}
    configs = {runs: config_version(spec) for runs, spec in specs.items()}
    for gang in serving:
        spec, config = specs[gang.revision, gang.actor], configs[gang.revision, gang.actor]
        for member in gang.members:
            seen = draft.observed.replica(member.replica_id, epoch=member.epoch)
            if seen.attached and seen.config != config:
                draft.actions.append(
                    SendReconfigure(
                        gang_id=gang.gang_id,
                        replica_id=member.replica_id,
                        epoch=member.epoch,
                        spec=spec,
                        config=config,
                    )
                )
