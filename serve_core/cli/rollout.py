"""``serve-core rollout``: pause, resume, undo."""

from __future__ import annotations

import click

from serve_core.cli.parameters import DeploymentParam, controller_option
from serve_core.cli.report import run_async, say
from serve_core.client import ControllerClient
from serve_core.model.ids import DeploymentKey

_deployment = click.argument("deployment", type=DeploymentParam(deployment_needed=True))


@click.group()
def rollout() -> None:
    """Hold, continue or undo a deployment's change of revision."""


@rollout.command()
@_deployment
@controller_option
def pause(deployment: DeploymentKey, controller: str) -> None:
    """Hold a change of revision where it is."""

    async def main() -> None:
        async with ControllerClient(controller) as client:
            await client.pause_rollout(deployment.application, deployment.deployment)

    run_async(main())
    say(f"{deployment}: paused")


@rollout.command()
@_deployment
@controller_option
def resume(deployment: DeploymentKey, controller: str) -> None:
    """Let a held change of revision go on."""

    async def main() -> None:
        async with ControllerClient(controller) as client:
            await client.resume_rollout(deployment.application, deployment.deployment)

    run_async(main())
    say(f"{deployment}: resumed")


@rollout.command()
@_deployment
@click.option("--to", "revision", default="", metavar="REVISION", help="The revision; by default the one before.")
@controller_option
def undo(deployment: DeploymentKey, revision: str, controller: str) -> None:
    """Go back to an earlier revision."""

    async def main() -> str:
        async with ControllerClient(controller) as client:
            return await client.roll_back(deployment.application, deployment.deployment, revision)

    say(f"{deployment}: going back to revision {run_async(main())}")
