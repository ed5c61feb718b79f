"""Options and arguments that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from serve_core.model.ids import DeploymentKey

F = TypeVar("F", bound=Callable[..., Any])


def controller_option(function: F) -> F:
    """``--controller``: where the controller listens."""
    option = click.option(
        "--controller",
        envvar="SERVE_CORE_CONTROLLER",
        default="127.0.0.1:7070",
        show_default=True,
        show_envvar=True,
        metavar="HOST:PORT",
        help="The controller.",
    )
    return option(function)


def timeout_option(default_s: float, help_text: str) -> Callable[[F], F]:
    """``--timeout``: seconds to wait."""
    return click.option(
        "--timeout",
        "timeout_s",
        type=click.FloatRange(min=0, min_open=True),
        default=default_s,
        show_default=True,
        metavar="SECONDS",
        help=help_text,
    )


class DeploymentParam(click.ParamType[DeploymentKey]):
    """APP.DEPLOYMENT, or APP alone where the deployment may be left to the application.

    Args:
        deployment_needed: Whether APP alone is refused.
    """

    name = "APP.DEPLOYMENT"

    def __init__(self, *, deployment_needed: bool) -> None:
        self._needed = deployment_needed

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> DeploymentKey:
        """Splits the text at its first dot."""
        if isinstance(value, DeploymentKey):
            return value
        application, dot, deployment = str(value).partition(".")
        if not application or (dot and not deployment) or (self._needed and not deployment):
            form = "APP.DEPLOYMENT" if self._needed else "APP or APP.DEPLOYMENT"
            self.fail(f"{value!r} is not of the form {form}", param, ctx)
        return DeploymentKey(application, deployment)
