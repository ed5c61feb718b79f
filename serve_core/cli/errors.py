"""``serve-core errors`` and ``version``."""

from __future__ import annotations

import click

from serve_core import __version__
from serve_core.errors import CATALOGUE, Reason
from serve_core.options import unknown_name


@click.command()
@click.argument("reason", required=False)
def errors(reason: str | None) -> None:
    """Explain REASON, or list all reasons."""
    if reason is None:
        width = max(len(entry) for entry in CATALOGUE)
        for entry in CATALOGUE.values():
            click.echo(f"{entry.reason:<{width}}  {entry.code:<19}  {entry.situation}")
        return
    name = reason.upper().replace("-", "_")
    if name not in Reason.__members__:
        raise click.UsageError(unknown_name(name, Reason.__members__, what="reason"))
    entry = CATALOGUE[Reason(name)]
    click.echo(f"{entry.reason} (gRPC status {entry.code})")
    click.echo(f"  what happened: {entry.situation}")
    click.echo(f"  what to do:    {entry.next_step}")
    click.echo(f"  send again:    {entry.retry}")


@click.command()
def version() -> None:
    """Show the version."""
    click.echo(f"serve-core {__version__}")
