"""grpcio's binding to its C core. It has no types."""

from __future__ import annotations

from importlib import import_module
from typing import Any

cygrpc: Any = import_module("grpc._cython.cygrpc")
"""What grpcio's own servers are built on; not public: see ``shape``."""


def constant(path: str) -> Any:
    """What ``cygrpc`` has by this dotted name; None if it has none: then ``shape`` says so, and ``grpc.aio`` serves."""
    found = cygrpc
    for name in path.split("."):
        found = getattr(found, name, None)
    return found
