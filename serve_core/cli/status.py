"""``serve-core status``."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click

from serve_core.cli.parameters import controller_option
from serve_core.cli.report import run_async
from serve_core.client import ControllerClient
from serve_core.errors import DeploymentUnknownError
from serve_core.model.status import ClusterStatus, DeploymentState, DeploymentStatus
from serve_core.v1 import controller_pb2 as pb
from serve_core.wire.status import decode_cluster_status

if TYPE_CHECKING:
    from rich.console import RenderableType

_COLOURS = {
    DeploymentState.HEALTHY: "green",
    DeploymentState.UPDATING: "yellow",
    DeploymentState.DEGRADED: "yellow",
    DeploymentState.DEPLOY_FAILED: "red",
    DeploymentState.DELETING: "dim",
}


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


def as_dict(message: pb.ClusterStatus) -> dict[str, Any]:
    """The status as JSON has it: the fields of ``serve_core.v1.ClusterStatus``, those without a value too."""
    from google.protobuf import json_format

    return json_format.MessageToDict(message, always_print_fields_with_no_presence=True)


def render(status: ClusterStatus) -> RenderableType:
    """The status as tables."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    parts: list[RenderableType] = []
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("DEPLOYMENT", "STATE", "READY", "LOAD", "REVISION", "MESSAGE"):
        table.add_column(column, overflow="fold")
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
    parts.append(table if status.applications else Text("no applications"))
    for replicas in _replica_rows(status):
        parts += [Text(), replicas]
    routers = ", ".join(
        f"{router.router_id} at {router.address or 'a caller'}"
        + (f" and http://{router.http_address}" if router.http_address else "")
        for router in status.routers
    )
    parts += [Text(), Text(f"routers: {routers or 'none'}"), Text(f"table {status.table_version}, pid {status.pid}")]
    return Group(*parts)


def _load(deployment: DeploymentStatus) -> str:
    loads = [replica.load for replica in deployment.replicas]
    return f"{sum(load.held for load in loads)}/{sum(load.capacity for load in loads)}"


def _replica_rows(status: ClusterStatus) -> list[RenderableType]:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("REPLICA", "PHASE", "PID", "ADDRESS", "NODE", "ONGOING", "RESERVED", "SLOTS"):
        table.add_column(column, overflow="fold")
    for application in status.applications:
        for deployment in application.deployments:
            for one in deployment.replicas:
                table.add_row(
                    one.replica.replica_id,
                    one.phase.name.lower(),
                    str(one.pid or "-"),
                    one.replica.address or "-",
                    one.replica.node_id,
                    *(str(number) for number in one.load),
                )
    return [table] if table.row_count else []
