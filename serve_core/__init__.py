"""Serve Python services and models as separate processes over gRPC, with slots on the wire.

The names below are loaded when they are first used, so that importing ``serve_core`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from serve_core.actor_handle import ActorHandle, DirectEndpoint, get_deployment_actor
    from serve_core.api import (
        Application,
        Deployment,
        build,
        close,
        delete,
        deploy,
        deployment,
        get_handle,
        run,
        status,
    )
    from serve_core.broadcast import ChosenGang, MemberResult
    from serve_core.context import (
        ActorContext,
        ReplicaContext,
        RequestContext,
        get_deployment_actor_context,
        get_replica_context,
        get_request_context,
    )
    from serve_core.deployment_actor import DeploymentActor
    from serve_core.errors import ApplicationError, Code, ServeError
    from serve_core.gang import GangContext, get_gang_context
    from serve_core.handle import DeploymentHandle
    from serve_core.model.gang import GangMember, GangRoster
    from serve_core.options import BundleOptions, DeploymentOptions, GangOptions

__version__ = "0.1.0"

__all__ = [
    "ActorContext",
    "ActorHandle",
    "Application",
    "ApplicationError",
    "BundleOptions",
    "ChosenGang",
    "Code",
    "Deployment",
    "DeploymentActor",
    "DeploymentHandle",
    "DeploymentOptions",
    "DirectEndpoint",
    "GangContext",
    "GangMember",
    "GangOptions",
    "GangRoster",
    "MemberResult",
    "ReplicaContext",
    "RequestContext",
    "ServeError",
    "__version__",
    "build",
    "close",
    "delete",
    "deploy",
    "deployment",
    "get_deployment_actor",
    "get_deployment_actor_context",
    "get_gang_context",
    "get_handle",
    "get_replica_context",
    "get_request_context",
    "run",
    "status",
]

_HOMES = {
    "ActorContext": "serve_core.context",
    "ActorHandle": "serve_core.actor_handle",
    "Application": "serve_core.api",
    "ApplicationError": "serve_core.errors",
    "BundleOptions": "serve_core.options",
    "ChosenGang": "serve_core.broadcast",
    "Code": "serve_core.errors",
    "Deployment": "serve_core.api",
    "DeploymentActor": "serve_core.deployment_actor",
    "DeploymentHandle": "serve_core.handle",
    "DeploymentOptions": "serve_core.options",
    "DirectEndpoint": "serve_core.actor_handle",
    "GangContext": "serve_core.gang",
    "GangMember": "serve_core.model.gang",
    "GangOptions": "serve_core.options",
    "GangRoster": "serve_core.model.gang",
    "MemberResult": "serve_core.broadcast",
    "ReplicaContext": "serve_core.context",
    "RequestContext": "serve_core.context",
    "ServeError": "serve_core.errors",
    "build": "serve_core.api",
    "close": "serve_core.api",
    "delete": "serve_core.api",
    "deploy": "serve_core.api",
    "deployment": "serve_core.api",
    "get_deployment_actor": "serve_core.actor_handle",
    "get_deployment_actor_context": "serve_core.context",
    "get_gang_context": "serve_core.gang",
    "get_handle": "serve_core.api",
    "get_replica_context": "serve_core.context",
    "get_request_context": "serve_core.context",
    "run": "serve_core.api",
    "status": "serve_core.api",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'serve_core' has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
