"""The two ports of a router, and which of them an error is about."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from router.config import RouterConfig
from serve_core.errors import PortTakenError
from serve_core.runtime import address


def http_socket(config: RouterConfig) -> socket.socket:
    """Listens on the HTTP port.

    Raises:
        PortTakenError, ConfigInvalidError: It cannot.
    """
    with http_named():
        return address.listening_socket(config.host, config.http_port, reuse_port=config.reuse_port)


async def hold(config: RouterConfig) -> tuple[socket.socket, socket.socket]:
    """Keeps the gRPC and the HTTP port for workers that listen on them, and takes free ones where the system is to choose.

    Raises:
        PortTakenError, ConfigInvalidError: Nobody could listen there.
    """
    with grpc_named():
        grpc = await _held(config, config.port)
    try:
        with http_named():
            return grpc, await _held(config, config.http_port)
    except BaseException:
        grpc.close()
        raise


async def _held(config: RouterConfig, port: int) -> socket.socket:
    if port and not config.reuse_port:
        # Workers share their ports, and so could with anybody's: those are refused here.
        await address.check_free(config.host, port)
    return address.held_port(config.host, port, reuse_port=True)


def grpc_named() -> AbstractContextManager[None]:
    """Has an error say that it is about the gRPC port."""
    return _named("gRPC", "--port")


def http_named() -> AbstractContextManager[None]:
    """Has an error say that it is about the HTTP port."""
    return _named("HTTP", "--http-port")


@contextmanager
def _named(which: str, option: str) -> Iterator[None]:
    try:
        yield
    except PortTakenError as error:
        details = {**error.details, "port": which, "option": option}
        raise PortTakenError(f"for {which} ({option}), {error.message}", details=details) from None
