"""``python -m router``: the router process."""

from __future__ import annotations

import os
import secrets
import sys
from functools import partial
from pathlib import Path

import click

from router.config import RouterConfig
from router.workers import serve_workers
from serve_core.errors import ConfigInvalidError
from serve_core.link.choice import VARIABLE as LINK_VARIABLE
from serve_core.link.choice import LinkKind
from serve_core.link.choice import choose as choose_link
from serve_core.runtime import log, polling
from serve_core.runtime.choice import VARIABLE, Engine, choose
from serve_core.runtime.limits import DEFAULT_MAX_MESSAGE_BYTES
from serve_core.runtime.process import Signals, die_with, run_process

USAGE_ERROR = 2


@click.command(name="python -m router", context_settings={"auto_envvar_prefix": "SERVE_CORE_ROUTER"})
@click.option("--controller", required=True, metavar="HOST:PORT", help="The controller's address.", show_envvar=True)
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen.", show_envvar=True)
@click.option("--port", type=int, default=8000, show_default=True, help="gRPC port; 0: any.", show_envvar=True)
@click.option("--http-port", type=int, default=8080, show_default=True, help="HTTP port; 0: any.", show_envvar=True)
@click.option("--router-id", default="", help="Its name, unique for the process; made up if empty.", show_envvar=True)
@click.option(
    "--max-message-bytes",
    type=int,
    default=DEFAULT_MAX_MESSAGE_BYTES,
    show_default=True,
    help="Largest message that passes.",
    show_envvar=True,
)
@click.option(
    "--workers",
    type=int,
    default=1,
    show_default=True,
    help="Router processes that share both ports, with one view of their metrics.",
    show_envvar=True,
)
@click.option("--worker", type=int, default=0, hidden=True, help="Which of the workers this is; 0: their parent.")
@click.option("--folder", type=click.Path(path_type=Path), hidden=True, help="Where the workers share their metrics.")
@click.option("--reuse-port", is_flag=True, help="Let other routers share both ports.", show_envvar=True)
@click.option(
    "--drain-timeout-s",
    type=float,
    default=30.0,
    show_default=True,
    help="Seconds that it may take to end once it is told to stop.",
    show_envvar=True,
)
@click.option(
    "--linger-timeout-s",
    type=float,
    default=12.0,
    show_default=True,
    help="Seconds of those that it serves on at most, until its callers have left.",
    show_envvar=True,
)
@click.option(
    "--quiet-s",
    type=float,
    default=2.0,
    show_default=True,
    help="Seconds without a call after which it takes its callers for gone.",
    show_envvar=True,
)
@click.option(
    "--connection-age-s",
    type=float,
    default=10.0,
    show_default=True,
    help="Seconds after which gRPC clients are told to connect anew; 0: never.",
    show_envvar=True,
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
@click.option("--access-log", is_flag=True, help="Log each call.", show_envvar=True)
@click.option("--log-format", type=click.Choice(log.FORMATS), default="auto", show_default=True, show_envvar=True)
@click.option("--log-level", type=click.Choice(log.LEVELS), default="info", show_default=True, show_envvar=True)
@click.option("--die-with", "die_with_pid", type=int, metavar="PID", help="End when that process does.")
def main(
    *,
    controller: str,
    host: str,
    port: int,
    http_port: int,
    router_id: str,
    max_message_bytes: int,
    workers: int,
    worker: int,
    folder: Path | None,
    reuse_port: bool,
    drain_timeout_s: float,
    linger_timeout_s: float,
    quiet_s: float,
    connection_age_s: float,
    server: str | None,
    link: str | None,
    access_log: bool,
    log_format: str,
    log_level: str,
    die_with_pid: int | None,
) -> None:
    """Takes requests over gRPC and HTTP, and brings each to a replica."""
    if server is not None:
        os.environ[VARIABLE] = server
    if link is not None:
        os.environ[LINK_VARIABLE] = link
    choose(os.environ)
    choose_link(os.environ)
    try:
        config = RouterConfig(
            controller=controller,
            router_id=router_id or f"router-{secrets.token_hex(6)}",
            host=host,
            port=port,
            http_port=http_port,
            max_message_bytes=max_message_bytes,
            reuse_port=reuse_port,
            drain_timeout_s=drain_timeout_s,
            linger_timeout_s=linger_timeout_s,
            quiet_s=quiet_s,
            connection_age_s=connection_age_s,
            access_log=access_log,
            workers=workers,
            worker=worker,
            folder=folder,
        )
    except ConfigInvalidError as error:
        click.echo(f"error: {error.reason}: {error.message}", err=True)
        sys.exit(USAGE_ERROR)
    if die_with_pid is not None:
        die_with(die_with_pid)
    run = partial(_serve, config)
    if workers > 1 and not worker:
        run = partial(serve_workers, config, ("--log-format", log_format, "--log-level", log_level))
    run_process(
        run,
        role="router",
        title=f"router {config.router_id}",
        log_format=log_format,
        log_level=log_level,
        # Its parent forces it, if need be.
        forced_by_signals=not worker,
        router=config.router_id,
    )


async def _serve(config: RouterConfig, signals: Signals) -> int:
    # Not for the parent of workers, which starts the sooner, and stays small.
    polling.import_grpc(os.environ)
    from router.app import serve

    return await serve(config, signals)


if __name__ == "__main__":
    main()
