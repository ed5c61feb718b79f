"""What operators and probes ask over HTTP: ``/livez``, ``/readyz``, ``/metrics``, ``/version``; and errors as JSON."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping

from aiohttp import web

from serve_core import __version__

Checks = Callable[[], Mapping[str, bool]]
"""What readiness is made of: whether each holds, by name."""

Metrics = Callable[[str], Awaitable[tuple[bytes, str]]]
"""Gives the metrics and their content type; takes the scraper's ``Accept`` header."""

Siblings = Callable[[], Mapping[int, bool]]
"""Whether each of the other workers behind the same ports takes requests, by number."""

_REASON_OF_STATUS = {404: ("DEPLOYMENT_UNKNOWN", "NOT_FOUND"), 405: ("METHOD_UNKNOWN", "UNIMPLEMENTED")}


class AdminPages:
    """The pages.

    Args:
        metrics: Gives the metrics.
        checks: What readiness is made of.
        router_id: Told by ``/version``.
        siblings: The other workers. The readiness that is told is that of all of them: one that serves is enough.
    """

    def __init__(self, metrics: Metrics, checks: Checks, *, router_id: str, siblings: Siblings = dict) -> None:
        self._metrics = metrics
        self._checks = checks
        self._router_id = router_id
        self._siblings = siblings

    def add_routes(self, app: web.Application) -> None:
        """Adds the pages' routes."""
        app.router.add_get("/livez", self.livez)
        app.router.add_get("/readyz", self.readyz)
        app.router.add_get("/metrics", self.metrics)
        app.router.add_get("/version", self.version)

    async def livez(self, request: web.Request) -> web.Response:
        """200 as long as the process answers: it depends on nobody else."""
        del request
        return web.Response(text="ok\n")

    async def readyz(self, request: web.Request) -> web.Response:
        """200 once requests can be routed, else 503; with ``?verbose``, each condition, and each of the other workers."""
        checks = dict(self._checks())
        siblings = self._siblings()
        ready = all(checks.values()) or any(siblings.values())
        checks |= {f"worker {number}": serves for number, serves in siblings.items()}
        lines = [f"[{'+' if fine else '-'}]{name} {'ok' if fine else 'failed'}" for name, fine in checks.items()]
        verdict = "readyz check passed" if ready else "readyz check failed"
        text = "\n".join((*lines, verdict)) if "verbose" in request.query else ("ok" if ready else "not ready")
        return web.Response(status=200 if ready else 503, text=f"{text}\n")

    async def metrics(self, request: web.Request) -> web.Response:
        """The metrics, as Prometheus or OpenMetrics text."""
        body, content_type = await self._metrics(request.headers.get("accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def version(self, request: web.Request) -> web.Response:
        """Which serve-core this is."""
        del request
        return web.json_response({"version": __version__, "routerId": self._router_id})


@web.middleware
async def json_errors(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Answers a path or verb that is not served in the form of every other error."""
    try:
        return await handler(request)
    except web.HTTPClientError as error:
        reason, code = _REASON_OF_STATUS.get(error.status, ("CONFIG_INVALID", "INVALID_ARGUMENT"))
        message = f"{request.method} {request.path}: {error.reason}; call a method with POST /APPLICATION/METHOD"
        described = {"reason": reason, "code": code, "message": message, "details": {"path": request.path}}
        kept = {name: value for name, value in error.headers.items() if name.lower() == "allow"}
        return web.Response(
            status=error.status,
            body=json.dumps({"error": described}).encode(),
            content_type="application/json",
            headers=kept,
        )
