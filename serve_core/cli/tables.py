"""The state of everything as tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from serve_core.cli.report import one_line
from serve_core.model.replica import Failure, Gang, ReplicaPhase
from serve_core.model.resources import bytes_text, describe
from serve_core.model.status import (
    ActorStatus,
    ApplicationStatus,
    ClusterStatus,
    ConditionType,
    DeploymentState,
    DeploymentStatus,
    NodeStatus,
    ReplicaStatus,
    RolloutPhase,
)
from serve_core.rollouts import rollout_line
from serve_core.runtime import clock

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

_COLOURS = {
    DeploymentState.HEALTHY: "green",
    DeploymentState.UPDATING: "yellow",
    DeploymentState.DEGRADED: "yellow",
    DeploymentState.DEPLOY_FAILED: "red",
    DeploymentState.DELETING: "dim",
}
_UNITS = ((86_400, "d"), (3_600, "h"), (60, "m"), (1, "s"))


def render(status: ClusterStatus, *, now: float | None = None) -> RenderableType:
    """The status as tables, with ages as of ``now`` (seconds, Unix; by default this moment)."""
    from rich.console import Group
    from rich.text import Text

    at = clock.wall() if now is None else now
    deployments = _all(status)
    parts: list[RenderableType] = [
        _deployments(status) if status.applications else Text("no applications"),
    ]
    for table in (
        _conditions(deployments, at),
        _replicas(status, at),
        _actors(deployments, at),
        nodes_table(status, at),
    ):
        if table.row_count:
            parts += [Text(), table]
    notes = [note for key, _, one in deployments for note in _notes(key, one)]
    if notes:
        parts += [Text(), *(Text(note) for note in notes)]
    parts += [
        Text(),
        Text(f"routers: {_routers(status) or 'none'}"),
        Text(f"table {status.table_version}, pid {status.pid}"),
    ]
    return Group(*parts)


def _routers(status: ClusterStatus) -> str:
    """Where they are, those that share their ports together."""
    places: dict[tuple[str, str], list[str]] = {}
    for router in status.routers:
        late = f" (on table {router.acknowledged_version})" * (router.acknowledged_version < status.table_version)
        places.setdefault((router.address, router.http_address), []).append(f"{router.router_id}{late}")
    return ", ".join(
        f"{' and '.join(routers)} at {address or ('a caller' if len(routers) == 1 else 'callers')}"
        + (f" and http://{http_address}" if http_address else "")
        for (address, http_address), routers in places.items()
    )


def render_actors(status: ClusterStatus) -> RenderableType:
    """The actors of every deployment, as a table."""
    from rich.text import Text

    table = _actors(_all(status), clock.wall())
    return table if table.row_count else Text("no actors")


def _all(status: ClusterStatus) -> list[tuple[str, ApplicationStatus, DeploymentStatus]]:
    return [(f"{app.name}.{one.name}", app, one) for app in status.applications for one in app.deployments]


def _table(*columns: str) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _deployments(status: ClusterStatus) -> Table:
    from rich.text import Text

    table = _table("DEPLOYMENT", "STATE", "READY", "LOAD", "REVISION", "MESSAGE")
    for application in status.applications:
        for deployment in application.deployments:
            table.add_row(
                f"{application.name}.{deployment.name}" + (" *" if deployment.name == application.ingress else ""),
                Text(deployment.state.name.lower(), style=_COLOURS.get(deployment.state, "")),
                _ready(deployment),
                _load(deployment),
                deployment.revision,
                Text(deployment.message),
            )
    return table


def _conditions(deployments: list[tuple[str, ApplicationStatus, DeploymentStatus]], now: float) -> Table:
    from rich.text import Text

    table = _table("DEPLOYMENT", "CONDITION", "HOLDS", "SINCE", "REASON", "MESSAGE")
    for key, _, deployment in deployments:
        for condition in deployment.conditions:
            good = condition.status is not (condition.type is ConditionType.DEGRADED)
            table.add_row(
                key,
                condition.type.value,
                Text("yes" if condition.status else "no", style="" if good else "yellow"),
                duration_text(now - condition.last_transition_time),
                condition.reason,
                Text(condition.message),
            )
    return table


def _replicas(status: ClusterStatus, now: float) -> Table:
    from rich.text import Text

    replicas = [one for app in status.applications for deployment in app.deployments for one in deployment.replicas]
    gangs = any(one.replica.gang.size > 1 for one in replicas)
    of_gang = ("GANG", "RANK") if gangs else ()
    table = _table(
        "REPLICA", *of_gang, "PHASE", "REVISION", "NODE", "PID", "ADDRESS", "LOAD", "AGE", "RESTARTS", "NOTE"
    )
    for one in replicas:
        table.add_row(
            one.replica.replica_id,
            *(_membership(one.replica.gang) if gangs else ()),
            one.phase.name.lower(),
            one.replica.revision,
            one.replica.node_id,
            str(one.pid or "-"),
            one.replica.address or "-",
            f"{one.load.ongoing}+{one.load.reserved}/{one.load.capacity}",
            duration_text(now - one.create_time),
            str(one.restarts),
            Text(replica_note(one)),
        )
    return table


def _membership(gang: Gang) -> tuple[str, str]:
    if gang.size == 1:
        return "-", "-"
    return gang.gang_id, f"{gang.rank}/{gang.size} {gang.role}".rstrip()


def _actors(deployments: list[tuple[str, ApplicationStatus, DeploymentStatus]], now: float) -> Table:
    from rich.text import Text

    table = _table(
        "ACTOR", "PHASE", "REVISION", "INCARNATION", "NODE", "PID", "ADDRESS", "RESTARTS", "SNAPSHOT", "NOTE"
    )
    for key, _, deployment in deployments:
        for one in deployment.actors:
            table.add_row(
                f"{key}/{one.name}",
                "-" if one.phase is None else one.phase.name.lower(),
                one.revision or "shared",
                str(one.incarnation),
                "-" if one.replica is None else one.replica.node_id,
                str(one.pid or "-"),
                "-" if one.replica is None else one.replica.address or "-",
                str(one.restarts),
                _snapshot(one, now),
                Text(actor_note(one)),
            )
    return table


def _snapshot(one: ActorStatus, now: float) -> str:
    if one.snapshot_time is None:
        return "-"
    return (
        f"{duration_text(now - one.snapshot_time)} ago, {bytes_text(one.snapshot_bytes)}, of {one.snapshot_incarnation}"
    )


def nodes_table(status: ClusterStatus, now: float) -> Table:
    """What each node offers, how much of it is held, and whether it is drained."""
    from rich.text import Text

    table = _table("NODE", "ZONE", "USED", "OF", "LABELS", "NOTE")
    for node in status.nodes:
        table.add_row(
            node.node_id,
            node.zone or "-",
            describe(node.used),
            describe(node.total),
            Text(_labels(node.labels)),
            Text(_drain(node, now), style="yellow"),
        )
    return table


def _labels(labels: Mapping[str, str]) -> str:
    return " ".join(f"{name}={value}" for name, value in sorted(labels.items())) or "-"


def _drain(node: NodeStatus, now: float) -> str:
    if not node.draining:
        return ""
    if node.drain_deadline_time is None:
        return "draining"
    left_s = node.drain_deadline_time - now
    return f"draining, {duration_text(left_s)} left" if left_s > 0 else "draining, its time is over"


def _notes(key: str, deployment: DeploymentStatus) -> list[str]:
    """What is not as usual, in a sentence each."""
    notes = [f"{key}: environments differ: {difference}" for difference in deployment.environment_differences]
    rollout = deployment.rollout
    if rollout is not None and rollout.phase is not RolloutPhase.COMPLETE:
        notes.insert(0, f"{key}: rollout {_words(rollout.phase)}: {rollout_line(deployment, rollout)}")
    return notes


def _words(phase: RolloutPhase) -> str:
    return phase.name.lower().replace("_", " ")


def replica_note(one: ReplicaStatus) -> str:
    """What is not as usual with a replica, in one line; empty if nothing is."""
    notes = []
    if one.suspicion:
        notes.append(one.suspicion)
    elif one.phase is ReplicaPhase.READY and not one.in_rotation:
        notes.append("out of rotation")
    if one.drain_remaining_s is not None:
        notes.append(f"{one.drain_remaining_s:.0f} s left to drain")
    return one_line("; ".join([*notes, *_failure(one.failure)]))


def actor_note(one: ActorStatus) -> str:
    """What is not as usual with an actor, in one line; empty if nothing is."""
    notes = [f"{one.start_failures} failure{'s' * (one.start_failures != 1)} in a row"] if one.start_failures else []
    return one_line("; ".join([*notes, *_failure(one.failure)]))


def _failure(failure: Failure | None) -> Iterator[str]:
    if failure is not None:
        yield f"{failure.reason}: {failure.message}"


def duration_text(seconds: float) -> str:
    """A duration in its two largest units, such as ``3d4h``."""
    left = max(0, int(seconds))
    parts: list[str] = []
    for unit, name in _UNITS:
        if left >= unit or (unit == 1 and not parts):
            parts.append(f"{left // unit}{name}")
        left %= unit
    return "".join(parts[:2])


def _ready(deployment: DeploymentStatus) -> str:
    """How many of how many are ready, and between which numbers it scales by itself."""
    counts, scales = f"{deployment.ready_replicas}/{deployment.num_replicas}", deployment.autoscaling
    return counts if scales is None else f"{counts} ({scales.min_replicas} to {scales.max_replicas})"


def _load(deployment: DeploymentStatus) -> str:
    loads = [replica.load for replica in deployment.replicas]
    waiting = f" +{deployment.queued_requests}" if deployment.queued_requests else ""
    return f"{sum(load.held for load in loads)}/{sum(load.capacity for load in loads)}{waiting}"
