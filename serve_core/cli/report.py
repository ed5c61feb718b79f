"""How the command line says things: data to stdout, messages to stderr, errors in one line with their reason."""

from __future__ import annotations

import sys
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

import click

from serve_core.errors import ApplicationError, ConfigInvalidError, ServeError

if TYPE_CHECKING:
    from rich.console import RenderableType

T = TypeVar("T")

_PIPE_WIDTH = 1_000


def say(message: str) -> None:
    """A message for people."""
    click.echo(message, err=True)


def show(table: RenderableType) -> None:
    """A table, as wide as the terminal. A pipe has no width: one row stays one line there."""
    from rich.console import Console

    Console(soft_wrap=True, width=None if sys.stdout.isatty() else _PIPE_WIDTH).print(table)


def report_error(error: ServeError) -> None:
    """What went wrong, in one line for each thing, and the user's traceback if user code raised."""
    trace = error.details.get("traceback", "")
    if isinstance(error, ApplicationError):
        trace = error.remote_traceback
    if trace:
        say(trace.rstrip())
    if isinstance(error, ConfigInvalidError):
        for violation in error.violations:
            say(one_line(f"error: {error.reason}: {violation.field}: {violation.description}"))
    else:
        say(one_line(f"error: {error.reason}: {error.message}"))


def one_line(text: str) -> str:
    """``text`` without line breaks."""
    return " ".join(text.split())


def run_async(main: Coroutine[Any, Any, T]) -> T:
    """Runs a command's coroutine; Ctrl-C ends it as it ends any other program.

    Raises:
        ClickException: gRPC failed in a way that has no reason of ours.
    """
    import asyncio

    import grpc.aio

    try:
        return asyncio.run(main)
    except grpc.aio.AioRpcError as error:
        raise click.ClickException(one_line(f"{error.code().name}: {error.details()}")) from None
