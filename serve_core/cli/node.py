"""``serve-core node``: list, drain, undrain."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing

import click

from serve_core.cli.messages import as_dict
from serve_core.cli.parameters import controller_option, timeout_option
from serve_core.cli.reconnect import through_restarts
from serve_core.cli.report import run_async, say, show
from serve_core.cli.tables import nodes_table
from serve_core.client import ControllerClient
from serve_core.errors import ControllerUnreachableError, DeploymentUnavailableError
from serve_core.model.resources import Resources, describe
from serve_core.model.status import ClusterStatus
from serve_core.runtime import clock
from serve_core.wire.status import decode_cluster_status

NAMES_MAX = 5
"""Replicas and actors that are named; what is more is counted."""

_node_argument = click.argument("node_id", metavar="NODE")


@click.group()
def node() -> None:
    """List the nodes, and move what runs on one elsewhere."""


@node.command(name="list")
@controller_option
@click.option(
    "--output", "-o", type=click.Choice(["table", "json"]), default="table", show_default=True, help="The form."
)
def list_nodes(controller: str, output: str) -> None:
    """Show what each node offers, how much of it is held, and whether it is drained."""
    run_async(_list(controller, output))


async def _list(controller: str, output: str) -> None:
    async with ControllerClient(controller) as client:
        message = await client.status_message()
    if output == "json":
        click.echo(json.dumps([as_dict(one) for one in message.nodes], indent=2))
        return
    show(nodes_table(decode_cluster_status(message), clock.wall()))


@node.command()
@_node_argument
@controller_option
@click.option(
    "--deadline",
    "deadline_s",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="After so long, what is still there goes without a replacement; by default it waits for one.",
)
@click.option("--wait", is_flag=True, help="Wait until nothing is left there.")
@timeout_option(3600.0, "For --wait.")
def drain(node_id: str, controller: str, deadline_s: float | None, timeout_s: float, *, wait: bool) -> None:
    """Place nothing new on NODE, and move what runs there elsewhere, gracefully.

    Exit status 0: it is being drained, or with --wait, nothing is left there. 1: something still is when --timeout is over.
    """
    run_async(_drain(node_id, controller, deadline_s, timeout_s if wait else None))


async def _drain(node_id: str, controller: str, deadline_s: float | None, wait_s: float | None) -> None:
    async with ControllerClient(controller) as client:
        await client.drain_node(node_id, deadline_s=deadline_s)
    say(f"node {node_id} is being drained")
    if wait_s is not None:
        await _Leaving(node_id).until_empty(controller, wait_s)
        say(f"nothing is left on node {node_id}")


@node.command()
@_node_argument
@controller_option
def undrain(node_id: str, controller: str) -> None:
    """Use NODE as any other again."""
    run_async(_undrain(node_id, controller))


async def _undrain(node_id: str, controller: str) -> None:
    async with ControllerClient(controller) as client:
        await client.undrain_node(node_id)
    say(f"node {node_id} is used again")


class _Leaving:
    """Follows what is left on a node, and says it whenever that changes."""

    def __init__(self, node_id: str) -> None:
        self._node_id = node_id
        self._said = ""

    async def until_empty(self, controller: str, timeout_s: float) -> None:
        """Returns once nothing is left.

        Raises:
            DeploymentUnavailableError: Something is, after that time.
        """
        try:
            async with asyncio.timeout(timeout_s):
                await through_restarts(controller, self._follow)
        except TimeoutError:
            raise DeploymentUnavailableError(
                f"node {self._node_id} was not empty within {timeout_s:g} s: {self._said or 'nothing is known of it'}",
                details={"node": self._node_id, "timeoutS": f"{timeout_s:g}"},
            ) from None

    async def _follow(self, client: ControllerClient) -> None:
        async with aclosing(client.watch()) as states:
            async for message in states:
                left = what_is_left(decode_cluster_status(message), self._node_id)
                if not left:
                    return
                if left != self._said:
                    self._said = left
                    say(left)
        raise ControllerUnreachableError("the controller ended")


def what_is_left(status: ClusterStatus, node_id: str) -> str:
    """What is still on a node, in a sentence; empty if nothing is, or there is no such node any more."""
    deployments = [deployment for application in status.applications for deployment in application.deployments]
    replicas = [replica.replica for deployment in deployments for replica in deployment.replicas]
    actors = [(actor.name, actor.replica) for deployment in deployments for actor in deployment.actors]
    names: list[str] = [replica.replica_id for replica in replicas if replica.node_id == node_id]
    names += [
        f"{where.replica_id} (actor {name})" for name, where in actors if where is not None and where.node_id == node_id
    ]
    if names:
        more = f" and {len(names) - NAMES_MAX} more" if len(names) > NAMES_MAX else ""
        return f"{len(names)} left on node {node_id}: {', '.join(names[:NAMES_MAX])}{more}"
    used = next((one.used for one in status.nodes if one.node_id == node_id), Resources())
    return "" if used == Resources() else f"node {node_id} still holds {describe(used)}"
