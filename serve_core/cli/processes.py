"""``serve-core controller`` and ``router``: the processes as they are, for containers and service managers."""

from __future__ import annotations

import os
import sys

import click

_AS_IT_IS = {"ignore_unknown_options": True, "allow_interspersed_args": False}


def _become(module: str, arguments: tuple[str, ...]) -> None:
    arguments = tuple("--help" if argument == "-h" else argument for argument in arguments)
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, "-P", "-m", module, *arguments])


@click.command(context_settings=_AS_IT_IS, add_help_option=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def controller(arguments: tuple[str, ...]) -> None:
    """Start a controller in the foreground, with the flags of ``python -m serve_core.controller``."""
    _become("serve_core.controller", arguments)


@click.command(context_settings=_AS_IT_IS, add_help_option=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def router(arguments: tuple[str, ...]) -> None:
    """Start a router in the foreground, with the flags of ``python -m router``."""
    _become("router", arguments)
