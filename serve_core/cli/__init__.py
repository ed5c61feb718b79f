"""The command line. Each command is loaded when it is used, so that help is immediate."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import click

from serve_core.cli.lazy import LazyGroup
from serve_core.cli.report import report_error
from serve_core.errors import ServeError

EXIT_INTERRUPTED = 130

COMMANDS = {
    "run": ("serve_core.cli.run:run", "Start everything for one machine, deploy, and serve until Ctrl-C."),
    "controller": ("serve_core.cli.processes:controller", "Start a controller in the foreground."),
    "router": ("serve_core.cli.processes:router", "Start a router in the foreground."),
    "deploy": ("serve_core.cli.deploy:deploy", "Make applications be as a file describes."),
    "status": ("serve_core.cli.status:status", "Show the state of everything."),
    "call": ("serve_core.cli.call:call", "Call a method of a deployment."),
    "scale": ("serve_core.cli.deploy:scale", "Change how many replicas a deployment has."),
    "rollout": ("serve_core.cli.rollout:rollout", "Follow, pause, resume or undo a change of revision."),
    "actor": ("serve_core.cli.actor:actor", "List deployment actors, or have one save its state."),
    "events": ("serve_core.cli.events:events", "Show what happened."),
    "node": ("serve_core.cli.node:node", "List nodes, and drain one."),
    "delete": ("serve_core.cli.deploy:delete", "Drain and remove an application."),
    "shutdown": ("serve_core.cli.deploy:shutdown", "Drain and remove everything, and end the controller."),
    "errors": ("serve_core.cli.errors:errors", "Explain the reasons that errors carry."),
    "version": ("serve_core.cli.errors:version", "Show the version."),
}


@click.group(
    cls=LazyGroup,
    commands_by_path=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
def cli() -> None:
    """Serve Python services and models as separate processes over gRPC."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line and exits: 0 done, 1 failed, 2 wrong use."""
    try:
        status = cli.main(args=arguments, prog_name="serve-core", standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(EXIT_INTERRUPTED)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except ServeError as error:
        report_error(error)
        sys.exit(1)
    except BrokenPipeError:
        # Whoever read our output has seen enough; the interpreter must not fail at its last flush.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(1)
    sys.exit(status if isinstance(status, int) else 0)
