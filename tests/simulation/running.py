"""A call whose user code runs, and how its router is answered."""

from __future__ import annotations

from collections.abc import Callable

from serve_core.errors import ServeError
from serve_core.model.load import Load
from serve_core.model.slots import Lease
from serve_core.model.spec import DeploymentSpec
from tests.simulation.calls import Call
from tests.simulation.network import Stream

Reply = Callable[[ServeError | None, Load, Lease | None], None]
"""Answers a router: the error or none, the load after the call, and what was promised."""


class Running:
    """One call whose user code runs."""

    def __init__(self, call: Call, number: int, stream: Stream, reply: Reply) -> None:
        self.call = call
        self.number = number
        self.stream = stream
        self.reply = reply


def spec_budget(spec: DeploymentSpec | None) -> float:
    """What a deployment gives its replicas to finish, in seconds."""
    return spec.graceful_shutdown_timeout_s if spec is not None else 0.0
