"""``python -m replica``: one replica of a deployment, started by the controller."""

from __future__ import annotations

import os
import sys
from importlib import import_module

from replica.config import ENV_PREFIX, parse
from serve_core.link.choice import choose as choose_link
from serve_core.model.ids import gang_of, rank_of
from serve_core.runtime import polling
from serve_core.runtime.choice import choose
from serve_core.runtime.process import Signals, announce, die_with, run_process


def preload() -> None:
    """Imports what the process needs. The fork server has it done once for all that it forks.

    Raises:
        ConfigInvalidError: The environment names no engine of gRPC servers that there is.
    """
    choose(os.environ)
    polling.import_grpc(os.environ)
    import_module("replica.app")


def main() -> None:
    """Runs the process."""
    config = parse(sys.argv[1:], os.environ)
    preload()
    choose_link(os.environ)
    if config.die_with:
        die_with(config.die_with)
    # Handles that user code makes by itself find their way by this.
    os.environ[f"{ENV_PREFIX}CONTROLLER"] = config.controller
    os.environ[f"{ENV_PREFIX}MAX_MESSAGE_BYTES"] = str(config.max_message_bytes)

    from replica.app import ReplicaApp

    async def run(signals: Signals) -> int:
        app = ReplicaApp(config, on_listening=lambda address: announce("replica", address=address), environ=os.environ)
        return await app.run(signals.stop)

    run_process(
        run,
        role=config.role,
        title=f"{config.role} {config.replica_id}",
        log_format=config.log_format,
        log_level=config.log_level,
        replica=config.replica_id,
        gang=gang_of(config.replica_id),
        rank=rank_of(config.replica_id),
    )


if __name__ == "__main__":
    main()
