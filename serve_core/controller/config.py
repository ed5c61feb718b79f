"""How a controller is set up. Read once, by ``__main__``."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from serve_core.errors import ConfigInvalidError, FieldViolation
from serve_core.plan.policy import Policy
from serve_core.runtime.limits import DEFAULT_MAX_MESSAGE_BYTES


class StartMethod(StrEnum):
    """How replicas are started."""

    FORK = "fork"
    """By a fork server, which has imported all they need, wherever that comes to the same as a new process."""

    SPAWN = "spawn"
    """As new processes, always."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ControllerConfig:
    """The controller's own settings; what concerns one deployment is in its spec. All times are in seconds.

    Attributes:
        state_dir: Holds the store, the logs of the replicas, and notes on their processes.
        host: The address to listen on.
        port: 0 lets the system choose; then replicas do not find the next controller.
        advertise_host: What replicas on this machine connect to; empty means ``host``, or loopback if that is a wildcard.
        cpus: What this machine offers to replicas, if not all of its cores.
        gpus: The same for GPUs.
        memory_bytes: The same for memory.
        nodes_file: A file that divides this machine into virtual nodes, instead of those three.
        max_message_bytes: The largest message that is taken and sent.
        start: How replicas are started.
        die_with: The process with which the controller and what it starts end at once; 0 means none.
        hello_timeout_s: What a new stream has for its first message.
        last_words_s: What a process that has ended by itself has for what it said to arrive.
        stop_grace_s: What running calls have when the controller ends.
        status_interval_s: The least time between two states on a WatchStatus stream.
        actor_state_timeout_s: What an actor has for an upload of its state, and to answer when it is asked for one.
        lag_check_s: How often it is checked that the controller could listen.
        lag_limit_s: A gap beyond this counts as not having listened.
        policy: How patient the planner is.
    """

    state_dir: Path
    host: str = "127.0.0.1"
    port: int = 7070
    advertise_host: str = ""
    cpus: float | None = None
    gpus: float | None = None
    memory_bytes: int | None = None
    nodes_file: Path | None = None
    max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES
    start: StartMethod = StartMethod.FORK
    die_with: int = 0
    hello_timeout_s: float = 10.0
    last_words_s: float = 0.5
    stop_grace_s: float = 2.0
    status_interval_s: float = 0.1
    actor_state_timeout_s: float = 60.0
    lag_check_s: float = 0.5
    lag_limit_s: float = 1.5
    policy: Policy = field(default_factory=Policy)

    def __post_init__(self) -> None:
        checks = (
            ("port", 0 <= self.port <= 65535, f"{self.port} is not between 0 and 65535"),
            ("cpus", self.cpus is None or self.cpus >= 0, f"{self.cpus} is negative"),
            (
                "gpus",
                self.gpus is None or (self.gpus >= 0 and self.gpus == int(self.gpus)),
                f"{self.gpus} is not a whole number of GPUs",
            ),
            ("memory_bytes", self.memory_bytes is None or self.memory_bytes >= 0, f"{self.memory_bytes} is negative"),
            (
                "nodes",
                self.nodes_file is None or (self.cpus, self.gpus, self.memory_bytes) == (None, None, None),
                "says what there is, so cpus, gpus and memory_bytes cannot be given",
            ),
            ("max_message_bytes", self.max_message_bytes > 0, f"{self.max_message_bytes} is not positive"),
            ("die_with", self.die_with >= 0, f"{self.die_with} is not a process id"),
        )
        violations = [FieldViolation(name, why) for name, holds, why in checks if not holds]
        if violations:
            raise ConfigInvalidError(violations, what="the controller's configuration")

    @property
    def store_path(self) -> Path:
        """The store's file."""
        return self.state_dir / "store.db"

    @property
    def replica_host(self) -> str:
        """The host by which replicas on this machine reach the controller."""
        if self.advertise_host:
            return self.advertise_host
        return {"0.0.0.0": "127.0.0.1", "::": "::1", "[::]": "::1", "": "127.0.0.1"}.get(self.host, self.host)

    @classmethod
    def for_test(cls, state_dir: Path, **changes: object) -> ControllerConfig:
        """Loopback, a port of the system's choice, and times that fit a test."""
        settings: dict[str, object] = {
            "state_dir": state_dir,
            "port": 0,
            "hello_timeout_s": 5.0,
            "stop_grace_s": 0.2,
            "status_interval_s": 0.0,
            **changes,
        }
        return cls(**settings)  # type: ignore[arg-type]
