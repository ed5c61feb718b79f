"""``serve-core deploy``, ``delete``, ``scale`` and ``shutdown``."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Mapping
from functools import partial

import click

from serve_core.cli.parameters import DeploymentParam, controller_option, timeout_option
from serve_core.cli.reconnect import through_restarts
from serve_core.cli.report import run_async, say
from serve_core.cli.targets import load_target
from serve_core.client import ControllerClient
from serve_core.errors import DeploymentUnavailableError
from serve_core.model.ids import DeploymentKey
from serve_core.model.spec import ApplicationSpec
from serve_core.model.status import ClusterStatus
from serve_core.progress import held_lines
from serve_core.runtime import clock


@click.command()
@click.argument("file", metavar="FILE.yaml")
@controller_option
@click.option("--wait/--no-wait", default=True, show_default=True, help="Wait until everything takes requests.")
@click.option(
    "--dry-run", is_flag=True, help="Show what would restart, what would change in place, and whether it fits."
)
@click.option(
    "--expect",
    type=click.IntRange(min=0),
    default=None,
    metavar="GENERATION",
    help="Refuse unless the application is at this generation; 0: unless it is new.",
)
@timeout_option(600.0, "Seconds to wait.")
def deploy(file: str, controller: str, timeout_s: float, expect: int | None, *, wait: bool, dry_run: bool) -> None:
    """Make applications be as FILE.yaml describes. MODULE:ATTR works too, as the application 'default'.

    Exit status with --wait: 0 if everything takes requests, or if what does not is paused (by pause_at, or an operator) and
    waits to be resumed. 1 if it failed, was rolled back, is not ready in time, or was superseded by a newer deploy.
    """
    specs = load_target(file, name="default")
    if expect is not None and len(specs) != 1:
        raise click.UsageError(f"--expect is for one application, and {file} describes {len(specs)}")
    if dry_run:
        run_async(_propose(specs, controller, expect))
    else:
        run_async(_deploy(specs, controller, timeout_s, expect, wait=wait))


async def _propose(specs: list[ApplicationSpec], controller: str, expect: int | None) -> None:
    from serve_core.cli.plans import plan_lines

    async with ControllerClient(controller) as client:
        for spec in specs:
            for line in plan_lines(spec.name, await client.propose(spec, expected_generation=expect)):
                click.echo(line)
    say("valid; nothing was changed")


async def _deploy(
    specs: list[ApplicationSpec], controller: str, timeout_s: float, expect: int | None, *, wait: bool
) -> None:
    from serve_core.cli.progress import ProgressLines

    lines = ProgressLines(say)
    async with ControllerClient(controller) as client:
        if wait:
            lines.skip_failures(await client.status())
        generations = {spec.name: await client.deploy(spec, expected_generation=expect) for spec in specs}
        revisions = {name: client.revisions_of(name) for name in generations}
        for name, generation in generations.items():
            say(f"{name}: recorded as generation {generation}")
    if not wait:
        return
    for name, generation in generations.items():
        ready = partial(
            _ready,
            application=name,
            generation=generation,
            revisions=revisions[name],
            ends_at=clock.monotonic() + timeout_s,
            report=lines.report,
        )
        status = await through_restarts(controller, ready)
        held = [line for application in status.applications for line in held_lines(application)]
        for line in held or [f"{name}: ready"]:
            say(line)


async def _ready(
    client: ControllerClient,
    *,
    application: str,
    generation: int,
    revisions: Mapping[str, str],
    ends_at: float,
    report: Callable[[ClusterStatus], None],
) -> ClusterStatus:
    left_s = max(ends_at - clock.monotonic(), 0.0)
    return await client.wait_ready(
        application, generation=generation, revisions=revisions, timeout_s=left_s, report=report
    )


@click.command()
@click.argument("application")
@controller_option
@click.option("--wait/--no-wait", default=True, show_default=True, help="Wait until it is gone.")
@timeout_option(120.0, "Seconds to wait.")
def delete(application: str, controller: str, timeout_s: float, *, wait: bool) -> None:
    """Drain and remove APPLICATION."""
    run_async(_delete(application, controller, timeout_s, wait=wait))


async def _delete(application: str, controller: str, timeout_s: float, *, wait: bool) -> None:
    async with ControllerClient(controller) as client:
        await client.delete(application)
        if wait:
            await _gone(client, application, timeout_s)
    say(f"{application}: {'deleted' if wait else 'is being deleted'}")


async def _gone(client: ControllerClient, application: str, timeout_s: float) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            async for status in client.watch():
                if all(one.name != application for one in status.applications):
                    return
    except TimeoutError:
        raise DeploymentUnavailableError(
            f"application '{application}' was not gone within {timeout_s:g} s; see 'serve-core status'",
            details={"application": application},
        ) from None


@click.command()
@click.argument("deployment", type=DeploymentParam(deployment_needed=True))
@click.argument("replicas", type=click.IntRange(min=0))
@controller_option
def scale(deployment: DeploymentKey, replicas: int, controller: str) -> None:
    """Have REPLICAS replicas of APP.DEPLOYMENT."""
    run_async(_scale(deployment, replicas, controller))


async def _scale(key: DeploymentKey, replicas: int, controller: str) -> None:
    async with ControllerClient(controller) as client:
        await client.scale(key.application, key.deployment, replicas)
    say(f"{key}: {replicas} replicas wanted")


@click.command()
@controller_option
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
def shutdown(controller: str, *, yes: bool) -> None:
    """Drain and remove everything, and end the controller."""
    if not yes and sys.stdin.isatty():
        click.confirm(f"End everything that the controller at {controller} runs?", abort=True, err=True)
    run_async(_shutdown(controller))


async def _shutdown(controller: str) -> None:
    async with ControllerClient(controller) as client:
        await client.shutdown()
    say("shutting down")
