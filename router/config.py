"""What a router process is told when it starts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from serve_core.errors import ConfigInvalidError, FieldViolation
from serve_core.runtime import address

MESSAGE_BYTES_MIN = 1024
PORT_MAX = 65535
WORKERS_MAX = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterConfig:
    """Configuration of one router process.

    Attributes:
        controller: ``host:port`` of the controller.
        router_id: Unique for this process.
        host: Where both servers listen.
        port: gRPC port; 0 lets the system choose.
        http_port: HTTP port; 0 lets the system choose.
        max_message_bytes: Largest message that passes, in bytes.
        reuse_port: Whether other processes may listen on the same ports. Then it listens only once it has a table, unless
            none comes and nobody else listens.
        drain_timeout_s: How long the router may take to end once it is told to stop, in seconds.
        linger_timeout_s: How much of that it serves on at most, as it waits for its callers to leave, in seconds.
        quiet_s: It serves on until no call has come for this long, unless another router has its ports, in seconds.
        connection_age_s: gRPC clients are told to connect anew after about this long, so that they find new routers,
            and leave those that end, in seconds; 0 means never.
        access_log: Whether each call is logged.
        workers: How many router processes share the ports, started and ended together.
        worker: Which of them this is, from 1. Of several, 0 is their parent, which routes nothing itself.
        folder: Where they share their metrics; of a worker only.
    """

    controller: str
    router_id: str
    host: str = "127.0.0.1"
    port: int = 8000
    http_port: int = 8080
    max_message_bytes: int = 64 * 1024 * 1024
    reuse_port: bool = False
    drain_timeout_s: float = 30.0
    linger_timeout_s: float = 12.0
    quiet_s: float = 2.0
    connection_age_s: float = 10.0
    access_log: bool = False
    workers: int = 1
    worker: int = 0
    folder: Path | None = None

    def __post_init__(self) -> None:
        violations = [
            FieldViolation(field, description)
            for field, description, fine in (
                ("controller", f"{self.controller!r} is not HOST:PORT", is_address(self.controller)),
                ("router_id", "must not be empty", bool(self.router_id)),
                ("host", "must not be empty", bool(self.host)),
                ("port", f"{self.port} is not within 0 to {PORT_MAX}", 0 <= self.port <= PORT_MAX),
                ("http_port", f"{self.http_port} is not within 0 to {PORT_MAX}", 0 <= self.http_port <= PORT_MAX),
                (
                    "http_port",
                    f"{self.http_port} is the gRPC port too; give each its own",
                    self.http_port != self.port or self.port == 0,
                ),
                (
                    "max_message_bytes",
                    f"{self.max_message_bytes} is less than {MESSAGE_BYTES_MIN}",
                    self.max_message_bytes >= MESSAGE_BYTES_MIN,
                ),
                ("workers", f"{self.workers} is not within 1 to {WORKERS_MAX}", 1 <= self.workers <= WORKERS_MAX),
                (
                    "worker",
                    f"{self.worker} is none of {self.workers}, or has no folder",
                    self.worker == 0 or (1 <= self.worker <= self.workers and self.folder is not None),
                ),
                *(
                    (name, f"{value} is negative", value >= 0)
                    for name, value in (
                        ("drain_timeout_s", self.drain_timeout_s),
                        ("linger_timeout_s", self.linger_timeout_s),
                        ("quiet_s", self.quiet_s),
                        ("connection_age_s", self.connection_age_s),
                    )
                ),
            )
            if not fine
        ]
        if violations:
            raise ConfigInvalidError(violations, what="the router's configuration")


def is_address(text: str) -> bool:
    """Whether ``text`` has the form ``host:port``."""
    try:
        return address.split(text)[1] > 0
    except ValueError:
        return False
