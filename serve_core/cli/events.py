"""``serve-core events``."""

from __future__ import annotations

import json
from contextlib import aclosing
from datetime import UTC, datetime

import click

from serve_core.cli.messages import as_dict
from serve_core.cli.parameters import DeploymentParam, controller_option
from serve_core.cli.reconnect import through_restarts
from serve_core.cli.report import one_line, run_async
from serve_core.client import ControllerClient
from serve_core.model.event import Event
from serve_core.model.ids import DeploymentKey
from serve_core.v1 import controller_pb2 as pb
from serve_core.wire.events import decode_event


@click.command()
@click.argument("target", metavar="[APP[.DEPLOYMENT]]", required=False, type=DeploymentParam(deployment_needed=False))
@controller_option
@click.option(
    "--output",
    "-o",
    type=click.Choice(["text", "json", "yaml"]),
    default="text",
    show_default=True,
    help="The form: lines, one JSON object per line, or YAML documents.",
)
@click.option("--follow", "-f", is_flag=True, help="Show what happens from now on, too, until Ctrl-C.")
@click.option(
    "--after", type=click.IntRange(min=0), default=0, metavar="SEQUENCE", help="Only what happened after this event."
)
def events(target: DeploymentKey | None, controller: str, output: str, after: int, *, follow: bool) -> None:
    """Show what happened, oldest first: to everything, to an application, or to a deployment."""
    key = target or DeploymentKey("", "")
    run_async(_Events(key, output, after, follow=follow).show(controller))


class _Events:
    """Shows events, each once, however often the connection breaks."""

    def __init__(self, key: DeploymentKey, output: str, after: int, *, follow: bool) -> None:
        self._key = key
        self._output = output
        self._after = after
        self._follow = follow

    async def show(self, controller: str) -> None:
        """Until there are no more."""
        if self._follow:
            await through_restarts(controller, self._take)
            return
        async with ControllerClient(controller) as client:
            await self._take(client)

    async def _take(self, client: ControllerClient) -> None:
        stream = client.events(
            self._key.application, self._key.deployment, after_sequence=self._after, follow=self._follow
        )
        async with aclosing(stream) as messages:
            async for message in messages:
                click.echo(event_text(message, self._output))
                self._after = message.sequence


def event_text(message: pb.Event, output: str) -> str:
    """An event in one of the forms."""
    if output == "text":
        return event_line(decode_event(message))
    value = as_dict(message)
    if output == "json":
        return json.dumps(value)
    import yaml

    return "---\n" + yaml.safe_dump(value, sort_keys=False).rstrip()


def event_line(event: Event) -> str:
    """An event as one line: when, about what, what, and why."""
    when = datetime.fromtimestamp(event.time, tz=UTC).astimezone().isoformat(" ", "seconds")
    about = event.subject or str(event.key).removesuffix(".")
    return f"{when}  {'!' if event.warning else ' '} {about}  {event.reason}: {one_line(event.message)}"
