"""The configuration of a replica's process: flags, each also an environment variable."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from serve_core.errors import ConfigInvalidError
from serve_core.model.bundles import BUNDLES_ENV, ChildBundle, parse_bundles
from serve_core.model.ids import NodeId, ReplicaId
from serve_core.runtime.limits import DEFAULT_MAX_MESSAGE_BYTES
from serve_core.runtime.log import FORMATS, LEVELS

ENV_PREFIX = "SERVE_CORE_REPLICA_"
DEFAULT_ORPHAN_TIMEOUT_S = 3600.0
REPLICA = "replica"
ACTOR = "actor"
_DEFAULT_NODE = NodeId("node-0")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaConfig:
    """How a replica's process runs. What it runs, the controller tells it.

    Attributes:
        controller: ``HOST:PORT`` of the controller.
        replica_id: The id that the controller gave.
        epoch: The epoch that the controller gave.
        host: The address to listen on, which others reach this replica by.
        port: The port to listen on; 0 lets the system choose.
        node_id: The node that this process runs on.
        max_message_bytes: The largest message that it takes.
        die_with: The process to end with, by its id; 0 is none.
        orphan_timeout_s: Without a word from any controller for so many seconds it drains and ends; 0 is never.
        log_format: One of ``auto``, ``console`` and ``json``.
        log_level: The least serious records to log.
        bundles: What it may use for child processes.
        role: ``replica``, or ``actor`` for a deployment actor.
    """

    controller: str
    replica_id: ReplicaId
    epoch: int
    host: str = "127.0.0.1"
    port: int = 0
    node_id: NodeId = _DEFAULT_NODE
    max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES
    die_with: int = 0
    orphan_timeout_s: float = DEFAULT_ORPHAN_TIMEOUT_S
    log_format: str = "auto"
    log_level: str = "info"
    bundles: tuple[ChildBundle, ...] = ()
    role: str = REPLICA


def parse(arguments: Sequence[str], environ: Mapping[str, str]) -> ReplicaConfig:
    """The configuration of a command line; a flag goes before its environment variable.

    Raises:
        SystemExit: It is not valid (status 2), or help was asked for (status 0). The reason is on stderr.
    """
    parser = argparse.ArgumentParser(
        prog="python -m replica",
        description="One replica of a deployment, or one of its actors. Controllers start it; it asks the controller what to run.",
        epilog=f"Each flag is also an environment variable, such as {ENV_PREFIX}CONTROLLER.",
        allow_abbrev=False,
    )

    def flag(name: str, text: str, *, kind: Callable[[str], Any] = str, default: Any = None, **more: Any) -> None:
        variable = ENV_PREFIX + name.upper().replace("-", "_")
        value = environ.get(variable) or default
        parser.add_argument(f"--{name}", help=text, type=kind, default=value, required=value is None, **more)

    flag("controller", "where the controller listens", kind=_address, metavar="HOST:PORT")
    flag("replica-id", "the id that the controller gave", metavar="ID")
    flag("epoch", "the epoch that the controller gave", kind=_whole, metavar="N")
    flag("role", "what it is (default: %(default)s)", default=REPLICA, choices=(REPLICA, ACTOR))
    flag("host", "the address to listen on (default: %(default)s)", default="127.0.0.1")
    flag("port", "the port to listen on; 0 lets the system choose", kind=_whole, default=0, metavar="N")
    flag("node-id", "the node that it runs on (default: %(default)s)", default=_DEFAULT_NODE, metavar="ID")
    flag(
        "max-message-bytes",
        "the largest message that it takes (default: %(default)s)",
        kind=_positive,
        default=DEFAULT_MAX_MESSAGE_BYTES,
        metavar="N",
    )
    flag("die-with", "end at once when this process does", kind=_whole, default=0, metavar="PID")
    flag(
        "orphan-timeout-s",
        "drain and end after so many seconds without a word from any controller; 0 is never (default: %(default)s)",
        kind=_seconds,
        default=DEFAULT_ORPHAN_TIMEOUT_S,
        metavar="SECONDS",
    )
    flag("log-format", "how to log", default="auto", choices=FORMATS)
    flag("log-level", "the least serious records to log", default="info", choices=LEVELS)
    values = vars(parser.parse_args(arguments))
    try:
        bundles = parse_bundles(environ.get(BUNDLES_ENV, ""))
    except ConfigInvalidError as error:
        parser.error(error.message)
    return ReplicaConfig(**values, bundles=bundles)


def _address(text: str) -> str:
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT")
    return text


def _whole(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = -1
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 0 or more")
    return number


def _seconds(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0.0 <= number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds of 0 or more")
    return number


def _positive(text: str) -> int:
    number = _whole(text)
    if number == 0:
        raise argparse.ArgumentTypeError("must be above 0")
    return number
