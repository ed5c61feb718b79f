"""Which implementation serves gRPC in this process, as it was asked for. Knows nothing of gRPC, so that it can be asked first."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from serve_core.errors import ConfigInvalidError, FieldViolation

VARIABLE = "SERVE_CORE_SERVER"
"""The environment variable that chooses. Processes that this one starts inherit it."""


class Engine(StrEnum):
    """An implementation of a gRPC server."""

    CORE = "core"
    """On grpcio's own core: several times the calls per second."""
    AIO = "aio"
    """``grpc.aio.server``."""


_asked_for: list[Engine] = []


def choose(environ: Mapping[str, str]) -> None:
    """Has this process use the engine that ``VARIABLE`` names, if it is set.

    Raises:
        ConfigInvalidError: It names none.
    """
    text = environ.get(VARIABLE, Engine.CORE)
    if text not in tuple(Engine):
        names = " or ".join(Engine)
        raise ConfigInvalidError([FieldViolation(VARIABLE, f"{text!r} must be {names}")], what="the environment")
    _asked_for[:] = [Engine(text)]


def asked_for() -> Engine:
    """What was chosen; our own if nothing was."""
    return _asked_for[0] if _asked_for else Engine.CORE
