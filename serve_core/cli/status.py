"""``serve-core status``."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import click

from serve_core.cli.messages import as_dict
from serve_core.cli.parameters import controller_option
from serve_core.cli.report import one_line, run_async
from serve_core.client import ControllerClient
from serve_core.errors import DeploymentUnknownError
from serve_core.model.replica import ReplicaPhase
from serve_core.model.status import (
    ApplicationStatus,
    ClusterStatus,
    ConditionType,
    DeploymentState,
    DeploymentStatus,
    ReplicaStatus,
    RolloutPhase,
)
from serve_core.rollouts import rollout_line
from serve_core.runtime import clock
from serve_core.v1 import controller_pb2 as pb
from serve_core.wire.status import decode_cluster_status

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


@click.command()
@click.argument("application", required=False, default="")
@controller_option
@click.option(
    "--output", "-o", type=click.Choice(["table", "json", "yaml"]), default="table", show_default=True, help="The form."
)
@click.option("--watch", "-w", is_flag=True, help="Show each change until Ctrl-C.")
def status(application: str, controller: str, output: str, *, watch: bool) -> None:
    """Show the state of everything, or of APPLICATION."""
    run_async(_watch(application, controller, output) if watch else _once(application, controller, output))


async def _once(application: str, controller: str, output: str) -> None:
    async with ControllerClient(controller) as client:
        message = await client.status_message(application)
    if application and not message.applications:
        raise DeploymentUnknownError(
            f"there is no application '{application}'; 'serve-core status' lists those that are",
            details={"application": application},
        )
    _show(message, output)


async def _watch(application: str, controller: str, output: str) -> None:
    async with ControllerClient(controller) as client:
        async for message in client.watch(application):
            if output == "table" and sys.stdout.isatty():
                click.clear()
            _show(message, output)


def _show(message: pb.ClusterStatus, output: str) -> None:
    if output == "table":
        from rich.console import Console

        Console(soft_wrap=True).print(render(decode_cluster_status(message)))
        return
    value = as_dict(message)
    if output == "json":
        click.echo(json.dumps(value, indent=2))
        return
    import yaml

    click.echo("---\n" + yaml.safe_dump(value, sort_keys=False).rstrip())


def render(status: ClusterStatus, *, now: float | None = None) -> RenderableType:
    """The status as tables, with ages as of ``now`` (seconds, Unix; by default this moment)."""
    from rich.console import Group
    from rich.text import Text

    at = clock.wall() if now is None else now
    deployments = [(f"{app.name}.{one.name}", app, one) for app in status.applications for one in app.deployments]
    parts: list[RenderableType] = [
        _deployments(status) if status.applications else Text("no applications"),
    ]
    for table in (_conditions(deployments, at), _replicas(status, at)):
        if table.row_count:
            parts += [Text(), table]
    notes = [note for key, _, one in deployments for note in _notes(key, one)]
    if notes:
        parts += [Text(), *(Text(note) for note in notes)]
    routers = ", ".join(
        f"{router.router_id} at {router.address or 'a caller'}"
        + (f" and http://{router.http_address}" if router.http_address else "")
        + (f" (on table {router.acknowledged_version})" * (router.acknowledged_version < status.table_version))
        for router in status.routers
    )
    parts += [Text(), Text(f"routers: {routers or 'none'}"), Text(f"table {status.table_version}, pid {status.pid}")]
    return Group(*parts)


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
                f"{deployment.ready_replicas}/{deployment.num_replicas}",
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

    table = _table("REPLICA", "PHASE", "REVISION", "NODE", "PID", "ADDRESS", "LOAD", "AGE", "RESTARTS", "NOTE")
    for application in status.applications:
        for deployment in application.deployments:
            for one in deployment.replicas:
                table.add_row(
                    one.replica.replica_id,
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
    if one.failure is not None:
        notes.append(f"{one.failure.reason}: {one.failure.message}")
    return one_line("; ".join(notes))


def duration_text(seconds: float) -> str:
    """A duration in its two largest units, such as ``3d4h``."""
    left = max(0, int(seconds))
    parts: list[str] = []
    for unit, name in _UNITS:
        if left >= unit or (unit == 1 and not parts):
            parts.append(f"{left // unit}{name}")
        left %= unit
    return "".join(parts[:2])


def _load(deployment: DeploymentStatus) -> str:
    loads = [replica.load for replica in deployment.replicas]
    return f"{sum(load.held for load in loads)}/{sum(load.capacity for load in loads)}"
