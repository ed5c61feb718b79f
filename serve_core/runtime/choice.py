"""Which implementation serves gRPC in this process, as it was asked for. Knows nothing of gRPC, so that it can be asked first."""

from __future__ import annotations

from enum import StrEnum

from serve_core.runtime.environment import Choice


class Engine(StrEnum):
    """An implementation of a gRPC server."""

    CORE = "core"
    """On grpcio's own core: several times the calls per second."""
    AIO = "aio"
    """``grpc.aio.server``."""


_choice = Choice("SERVE_CORE_SERVER", Engine.CORE)

VARIABLE = _choice.variable
"""The environment variable that chooses."""

choose = _choice.choose


def asked_for() -> Engine:
    """What was chosen; our own if nothing was."""
    return _choice.chosen
