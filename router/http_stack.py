"""Everything that answers HTTP, put together. Imported only once somebody asks over HTTP: see ``router.http_door``."""

from __future__ import annotations

import socket
from collections.abc import Callable

from aiohttp import web

from router.admin import AdminPages, Checks, Metrics, Siblings, json_errors
from router.gate import Gate
from router.http import HttpEntrance
from router.http_calls import HttpCalls
from router.http_server import HttpServer
from router.observe import Observer


def http_server(
    listening: socket.socket,
    *,
    calls: HttpCalls,
    gate: Gate,
    observer: Observer,
    metrics: Metrics,
    checks: Checks,
    siblings: Siblings,
    router_id: str,
    max_message_bytes: int,
    new_request_id: Callable[[], str],
    is_leaving: Callable[[], bool],
    cancel_grace_s: float,
) -> HttpServer:
    """The entrance and the pages for operators, on a socket; to be started. See ``HttpEntrance``, ``AdminPages``, ``HttpServer``."""
    app = web.Application(client_max_size=max_message_bytes, middlewares=[json_errors])
    entrance = HttpEntrance(
        calls, gate=gate, observer=observer, max_message_bytes=max_message_bytes, new_request_id=new_request_id
    )
    entrance.add_routes(app)
    AdminPages(metrics, checks, router_id=router_id, siblings=siblings).add_routes(app)
    return HttpServer(app, listening, is_leaving=is_leaving, cancel_grace_s=cancel_grace_s)
