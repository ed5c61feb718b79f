"""Who reads the sockets of a server's connections: threads of gRPC's own, or whoever polls the server's completion queue."""

from __future__ import annotations

from collections.abc import MutableMapping
from importlib import import_module

from serve_core.runtime.choice import Engine, asked_for

VARIABLE = "GRPC_EXPERIMENTS"
"""What gRPC reads when it is imported: names of its experiments, each with a ``-`` before it if it is to be off."""

OWN_THREADS = "event_engine_listener"
"""The experiment by which gRPC's own threads read those sockets. It is on unless it is switched off."""


def import_grpc(environ: MutableMapping[str, str]) -> None:
    """Imports gRPC into a process of ours, so that whoever polls reads the sockets of its servers.

    Only where our own engine serves; its ``CompletionLoop`` polls also while something blocks the event loop. It is without
    effect where gRPC was imported before, and where the user has said something about that experiment himself.

    Args:
        environ: That of this process. It is afterwards as it was before, for the processes that this one starts.
    """
    before = environ.get(VARIABLE)
    asked = [name.strip() for name in (before or "").split(",") if name.strip()]
    if asked_for() is Engine.CORE and OWN_THREADS not in {name.removeprefix("-") for name in asked}:
        environ[VARIABLE] = ",".join((*asked, f"-{OWN_THREADS}"))
    try:
        import_module("grpc")
    finally:
        if before is not None:
            environ[VARIABLE] = before
        else:
            environ.pop(VARIABLE, None)
