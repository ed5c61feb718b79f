"""``serve-core rollout``: status, history, pause, resume, undo."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import click

from serve_core.cli.parameters import DeploymentParam, controller_option
from serve_core.cli.reconnect import through_restarts
from serve_core.cli.report import run_async, say
from serve_core.client import ControllerClient
from serve_core.errors import ControllerUnreachableError, DeploymentUnavailableError, DeploymentUnknownError
from serve_core.model.ids import DeploymentKey
from serve_core.model.status import ApplicationStatus, ClusterStatus, DeploymentStatus
from serve_core.rollouts import rollout_progress
from serve_core.wire.status import decode_cluster_status

_deployment = click.argument("deployment", metavar="APP[.DEPLOYMENT]", type=DeploymentParam(deployment_needed=False))


@click.group()
def rollout() -> None:
    """Follow, hold, continue or undo a deployment's change of revision.

    APP alone means its only deployment; for 'status', all of them.
    """


@rollout.command()
@_deployment
@controller_option
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=0, min_open=True),
    default=None,
    metavar="SECONDS",
    help="Seconds to wait; by default as long as it takes.",
)
def status(deployment: DeploymentKey, controller: str, timeout_s: float | None) -> None:
    """Wait until a change of revision is complete, and say how it goes on.

    Exit status 0: it is complete. 1: it failed or was rolled back, or is not complete in time.
    """
    run_async(_Follower(deployment).until_complete(controller, timeout_s))


class _Follower:
    """Follows rollouts to their end, and says each step once."""

    def __init__(self, key: DeploymentKey) -> None:
        self._key = key
        self._lines: dict[str, str] = {}

    async def until_complete(self, controller: str, timeout_s: float | None) -> None:
        """Returns once everything is complete, and raises the error of what fails."""
        try:
            async with asyncio.timeout(timeout_s):
                await through_restarts(controller, self._follow)
        except TimeoutError:
            known = "; ".join(self._lines.values()) or "nothing is known of it"
            raise DeploymentUnavailableError(
                f"the rollout was not complete within {timeout_s:g} s: {known}",
                details={"application": self._key.application, "deployment": self._key.deployment},
            ) from None

    async def _follow(self, client: ControllerClient) -> None:
        async with aclosing(client.watch(self._key.application)) as states:
            async for message in states:
                application, deployments = find(decode_cluster_status(message), self._key)
                # All of them are looked at, so that each says how far it is.
                complete = [self._is_complete(application, one) for one in deployments]
                if all(complete):
                    return
        raise ControllerUnreachableError("the controller ended")

    def _is_complete(self, application: ApplicationStatus, deployment: DeploymentStatus) -> bool:
        progress = rollout_progress(application, deployment)
        if self._lines.get(deployment.name) != progress.line:
            self._lines[deployment.name] = progress.line
            say(progress.line)
        if progress.error is not None:
            raise progress.error
        return progress.complete


@rollout.command()
@_deployment
@controller_option
def history(deployment: DeploymentKey, controller: str) -> None:
    """List the revisions that can be gone back to, newest first."""

    async def main() -> DeploymentStatus:
        async with ControllerClient(controller) as client:
            return (await only_deployment(client, deployment))[1]

    for line in history_lines(run_async(main())):
        click.echo(line)


@rollout.command()
@_deployment
@controller_option
def pause(deployment: DeploymentKey, controller: str) -> None:
    """Hold a change of revision where it is."""

    async def main() -> DeploymentKey:
        async with ControllerClient(controller) as client:
            key, _ = await only_deployment(client, deployment)
            await client.pause_rollout(key.application, key.deployment)
            return key

    say(f"{run_async(main())}: paused")


@rollout.command()
@_deployment
@controller_option
def resume(deployment: DeploymentKey, controller: str) -> None:
    """Let a held change of revision go on."""

    async def main() -> DeploymentKey:
        async with ControllerClient(controller) as client:
            key, _ = await only_deployment(client, deployment)
            await client.resume_rollout(key.application, key.deployment)
            return key

    say(f"{run_async(main())}: resumed")


@rollout.command()
@_deployment
@click.option(
    "--revision", "--to", "revision", default="", metavar="REVISION", help="The revision; by default the one before."
)
@controller_option
def undo(deployment: DeploymentKey, revision: str, controller: str) -> None:
    """Go back to an earlier revision; 'rollout history' lists them."""

    async def main() -> tuple[DeploymentKey, str]:
        async with ControllerClient(controller) as client:
            key, _ = await only_deployment(client, deployment)
            return key, await client.roll_back(key.application, key.deployment, revision)

    key, target = run_async(main())
    say(f"{key}: going back to revision {target}")


async def only_deployment(client: ControllerClient, key: DeploymentKey) -> tuple[DeploymentKey, DeploymentStatus]:
    """The one deployment that is meant.

    Raises:
        DeploymentUnknownError: There is none.
        click.UsageError: There are several.
    """
    _, deployments = find(await client.status(key.application), key)
    if len(deployments) != 1:
        names = ", ".join(f"{key.application}.{one.name}" for one in deployments)
        raise click.UsageError(f"application '{key.application}' has several deployments: say which of {names}")
    return DeploymentKey(key.application, deployments[0].name), deployments[0]


def find(status: ClusterStatus, key: DeploymentKey) -> tuple[ApplicationStatus, tuple[DeploymentStatus, ...]]:
    """An application and its deployment of this name, or all of them if the name is empty.

    Raises:
        DeploymentUnknownError: There is none.
    """
    application = next((one for one in status.applications if one.name == key.application), None)
    if application is None:
        raise DeploymentUnknownError(
            f"there is no application '{key.application}'; 'serve-core status' lists those that are",
            details={"application": key.application},
        )
    found = tuple(one for one in application.deployments if key.deployment in ("", one.name))
    if not found:
        known = ", ".join(one.name for one in application.deployments) or "none"
        raise DeploymentUnknownError(
            f"application '{key.application}' has no deployment '{key.deployment}'; it has: {known}",
            details={"application": key.application, "deployment": key.deployment},
        )
    return application, found


def history_lines(deployment: DeploymentStatus) -> list[str]:
    """One line for each kept revision: its id, and what it is now."""
    lines = []
    for revision in deployment.revisions:
        running = sum(one.replica.revision == revision for one in deployment.replicas)
        rollout_status = deployment.rollout
        notes = {
            "target": revision == deployment.revision,
            "last good": revision == deployment.last_good_revision,
            "failed": rollout_status is not None and rollout_status.failed_revision == revision,
            f"{running} replica{'s' * (running != 1)}": running > 0,
        }
        lines.append(f"{revision}  {', '.join(note for note, holds in notes.items() if holds)}".rstrip())
    return lines
