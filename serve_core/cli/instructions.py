"""How to call what was started: lines that can be copied."""

from __future__ import annotations

from collections.abc import Iterator

from serve_core.model.status import ClusterStatus


def how_to_call(
    status: ClusterStatus, controller_address: str, router_address: str, http_address: str
) -> Iterator[str]:
    """What to print once everything is ready."""
    yield f"gRPC        {router_address}"
    if http_address:
        yield f"HTTP        http://{http_address}"
    yield f"controller  {controller_address}"
    for application in status.applications:
        name = application.name
        yield f"call        serve-core call --router {router_address} {name} METHOD JSON"
        if http_address:
            yield f"call        curl -H 'Content-Type: application/json' -d JSON http://{http_address}/{name}/METHOD"
        yield f"call        serve_core.get_handle({name!r}, controller={controller_address!r})   # Python"
