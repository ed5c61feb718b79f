"""Whether routers and replicas of this process share links, and what carries them."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from serve_core.errors import ConfigInvalidError, FieldViolation

VARIABLE = "SERVE_CORE_LINK"
"""The environment variable that chooses. Processes that this one starts inherit it."""


class LinkKind(StrEnum):
    """The best link that this process takes part in."""

    UNIX = "unix"
    """A Unix domain socket with processes of the same host, else as GRPC."""
    GRPC = "grpc"
    """A bidirectional gRPC call."""
    OFF = "off"
    """None: a gRPC call for each call."""


_asked_for: list[LinkKind] = []


def choose(environ: Mapping[str, str]) -> None:
    """Has this process use what ``VARIABLE`` names, if it is set.

    Raises:
        ConfigInvalidError: It names none.
    """
    text = environ.get(VARIABLE, LinkKind.UNIX)
    if text not in tuple(LinkKind):
        names = " or ".join(LinkKind)
        raise ConfigInvalidError([FieldViolation(VARIABLE, f"{text!r} must be {names}")], what="the environment")
    _asked_for[:] = [LinkKind(text)]


def chosen() -> LinkKind:
    """What this process uses."""
    return _asked_for[0] if _asked_for else LinkKind.UNIX
