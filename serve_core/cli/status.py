"""``serve-core status``."""

from __future__ import annotations

import json
import sys

import click

from serve_core.cli.messages import as_dict
from serve_core.cli.parameters import controller_option
from serve_core.cli.report import run_async, show
from serve_core.cli.tables import render
from serve_core.client import ControllerClient
from serve_core.errors import DeploymentUnknownError
from serve_core.v1 import controller_pb2 as pb
from serve_core.wire.status import decode_cluster_status


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
        show(render(decode_cluster_status(message)))
        return
    value = as_dict(message)
    if output == "json":
        click.echo(json.dumps(value, indent=2))
        return
    import yaml

    click.echo("---\n" + yaml.safe_dump(value, sort_keys=False).rstrip())
