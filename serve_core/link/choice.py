"""Whether routers and replicas of this process share links, and what carries them."""

from __future__ import annotations

from enum import StrEnum

from serve_core.runtime.environment import Choice


class LinkKind(StrEnum):
    """The best link that this process takes part in."""

    UNIX = "unix"
    """A Unix domain socket with processes of the same host, else as GRPC."""
    GRPC = "grpc"
    """A bidirectional gRPC call."""
    OFF = "off"
    """None: a gRPC call for each call."""


_choice = Choice("SERVE_CORE_LINK", LinkKind.UNIX)

VARIABLE = _choice.variable
"""The environment variable that chooses."""

choose = _choice.choose


def chosen() -> LinkKind:
    """What this process uses."""
    return _choice.chosen
