"""``python -m serve_core.controller``: the controller process."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from serve_core.controller.config import ControllerConfig, StartMethod
from serve_core.errors import ConfigInvalidError
from serve_core.link.choice import VARIABLE as LINK_VARIABLE
from serve_core.link.choice import LinkKind
from serve_core.link.choice import choose as choose_link
from serve_core.plan.policy import Policy
from serve_core.runtime import log, polling
from serve_core.runtime.choice import VARIABLE, Engine, choose
from serve_core.runtime.limits import DEFAULT_MAX_MESSAGE_BYTES
from serve_core.runtime.process import die_with, run_process

USAGE_ERROR = 2


@click.command(name="python -m serve_core.controller", context_settings={"auto_envvar_prefix": "SERVE_CORE_CONTROLLER"})
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen.", show_envvar=True)
@click.option("--port", type=int, default=7070, show_default=True, help="gRPC port; 0: any.", show_envvar=True)
@click.option(
    "--state-dir",
    required=True,
    type=click.Path(path_type=Path),
    help="Folder of the store, the logs and the notes on processes; made if it is not there.",
    show_envvar=True,
)
@click.option("--cpus", type=float, help="CPUs that this machine offers; all of them if not given.", show_envvar=True)
@click.option("--gpus", type=float, help="GPUs that this machine offers; all of them if not given.", show_envvar=True)
@click.option("--memory-bytes", type=int, help="Memory that it offers; all of it if not given.", show_envvar=True)
@click.option(
    "--nodes",
    "nodes_file",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    metavar="FILE",
    help="YAML file that divides this machine into virtual nodes; then it offers what that says.",
    show_envvar=True,
)
@click.option(
    "--max-message-bytes",
    type=int,
    default=DEFAULT_MAX_MESSAGE_BYTES,
    show_default=True,
    help="Largest message that is taken or sent.",
    show_envvar=True,
)
@click.option(
    "--max-concurrent-starts-per-node",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Replicas of all deployments that may start on one node at once; 0: no limit.",
    show_envvar=True,
)
@click.option(
    "--start",
    type=click.Choice([method.value for method in StartMethod]),
    default=StartMethod.FORK.value,
    show_default=True,
    show_envvar=True,
    help="How replicas are started: forked from a process that has imported what they need, where they can be, or as new processes.",
)
@click.option(
    "--server",
    type=click.Choice([engine.value for engine in Engine]),
    envvar=VARIABLE,
    show_envvar=True,
    help="What serves gRPC: our own on grpcio's core (the default where it can), or grpc.aio.",
)
@click.option(
    "--link",
    type=click.Choice([kind.value for kind in LinkKind]),
    envvar=LINK_VARIABLE,
    show_envvar=True,
    help="What carries calls from routers to replicas together: a socket on one host (the default), gRPC, or nothing.",
)
@click.option("--advertise-host", default="", help="How replicas reach this controller, if not by --host.")
@click.option("--log-format", type=click.Choice(log.FORMATS), default="auto", show_default=True, show_envvar=True)
@click.option("--log-level", type=click.Choice(log.LEVELS), default="info", show_default=True, show_envvar=True)
@click.option("--die-with", "die_with_pid", type=int, default=0, metavar="PID", help="End when that process does.")
def main(
    *,
    host: str,
    port: int,
    state_dir: Path,
    cpus: float | None,
    gpus: float | None,
    memory_bytes: int | None,
    nodes_file: Path | None,
    max_message_bytes: int,
    max_concurrent_starts_per_node: int,
    start: str,
    server: str | None,
    link: str | None,
    advertise_host: str,
    log_format: str,
    log_level: str,
    die_with_pid: int,
) -> None:
    """Keeps applications as they are wanted: starts, watches and replaces replicas, and tells routers of them."""
    if server is not None:
        os.environ[VARIABLE] = server
    if link is not None:
        os.environ[LINK_VARIABLE] = link
    choose(os.environ)
    choose_link(os.environ)
    try:
        config = ControllerConfig(
            host=host,
            port=port,
            state_dir=state_dir.absolute(),
            cpus=cpus,
            gpus=gpus,
            memory_bytes=memory_bytes,
            nodes_file=nodes_file.absolute() if nodes_file is not None else None,
            max_message_bytes=max_message_bytes,
            advertise_host=advertise_host,
            start=StartMethod(start),
            die_with=die_with_pid,
            policy=Policy(max_concurrent_starts_per_node=max_concurrent_starts_per_node),
        )
    except ConfigInvalidError as error:
        click.echo(f"error: {error.reason}: {error.message}", err=True)
        sys.exit(USAGE_ERROR)
    if die_with_pid:
        die_with(die_with_pid)
    polling.import_grpc(os.environ)
    from serve_core.controller.app import serve

    environment = dict(os.environ)
    run_process(
        lambda signals: serve(config, signals, environment=environment),
        role="controller",
        log_format=log_format,
        log_level=log_level,
    )


if __name__ == "__main__":
    main()
