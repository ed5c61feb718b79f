"""``serve-core actor``: list, snapshot."""

from __future__ import annotations

import click

from serve_core.cli.parameters import DeploymentParam, controller_option, timeout_option
from serve_core.cli.report import run_async, say, show
from serve_core.cli.rollout import only_deployment
from serve_core.cli.tables import render_actors
from serve_core.client import ActorSnapshot, ControllerClient
from serve_core.errors import DeploymentUnknownError
from serve_core.model.ids import DeploymentKey
from serve_core.model.resources import bytes_text
from serve_core.model.status import ClusterStatus


@click.group()
def actor() -> None:
    """See a deployment's actors, or have one save its state."""


@actor.command(name="list")
@click.argument("application", required=False, default="")
@controller_option
def list_actors(application: str, controller: str) -> None:
    """List the actors of everything, or of APPLICATION."""

    async def main() -> ClusterStatus:
        async with ControllerClient(controller) as client:
            return await client.status(application)

    status = run_async(main())
    if application and not status.applications:
        raise DeploymentUnknownError(
            f"there is no application '{application}'; 'serve-core status' lists those that are",
            details={"application": application},
        )
    show(render_actors(status))


@actor.command()
@click.argument("deployment", metavar="APP[.DEPLOYMENT]", type=DeploymentParam(deployment_needed=False))
@click.argument("name", metavar="ACTOR")
@timeout_option(60.0, "Seconds to wait until it is stored.")
@controller_option
def snapshot(deployment: DeploymentKey, name: str, timeout_s: float, controller: str) -> None:
    """Have ACTOR save its state as it is now, and wait until that is stored.

    APP alone means its only deployment.
    """

    async def main() -> tuple[DeploymentKey, ActorSnapshot]:
        async with ControllerClient(controller) as client:
            key, _ = await only_deployment(client, deployment)
            return key, await client.snapshot_actor(key.application, key.deployment, name, timeout_s=timeout_s)

    key, stored = run_async(main())
    say(f"{key}: {bytes_text(stored.size_bytes)} of incarnation {stored.incarnation} of actor '{name}' are stored")
