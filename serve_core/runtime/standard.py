"""What every server of ours serves besides its own services: health and reflection."""

from __future__ import annotations

from dataclasses import dataclass

from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_health.v1 import health_pb2_grpc

from serve_core.runtime import health, reflection
from serve_core.runtime.descriptors import DescriptorIndex, collect_files, renamed
from serve_core.runtime.server import Server

OWN_SOURCE = "serve-core"
"""The source of the reflection table that holds the server's own services."""


@dataclass(frozen=True, slots=True)
class StandardServices:
    """How a process changes what its standard services tell."""

    health: health.HealthServicer
    reflection: reflection.ReflectionTable


def add_standard_services(server: Server) -> StandardServices:
    """Serve health and reflection of all services that were added so far. Call it last, before ``server.start``.

    Health begins alive and not ready. Stopping the server tells the watchers, and ends the streams of both.
    """
    own = server.services
    health_servicer = health.HealthServicer(own)
    table = reflection.ReflectionTable()
    names = (*own, health.SERVICE_NAME, reflection.V1ALPHA_SERVICE)
    files = [*collect_files(names), _reflection_v1_file()]
    table.put(OWN_SOURCE, DescriptorIndex((*names, reflection.V1_SERVICE), files))
    reflection_servicer = reflection.ReflectionServicer(table)
    server.add(health_pb2_grpc.add_HealthServicer_to_server, health_servicer)
    server.add(reflection.add_ReflectionServicer_to_server, reflection_servicer)
    server.add_stop_hook(health_servicer.close)
    server.add_stop_hook(reflection_servicer.close)
    return StandardServices(health_servicer, table)


def _reflection_v1_file() -> FileDescriptorProto:
    (alpha,) = collect_files([reflection.V1ALPHA_SERVICE])
    return renamed(alpha, name="grpc/reflection/v1/reflection.proto", package="grpc.reflection.v1")
