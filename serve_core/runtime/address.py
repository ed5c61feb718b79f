"""Network addresses, and why one cannot be listened on."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket

from serve_core.errors import ConfigInvalidError, FieldViolation, PortTakenError, ServeError


def join(host: str, port: int) -> str:
    """``HOST:PORT``, with brackets around an IPv6 host."""
    return f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}"


def split(address: str) -> tuple[str, int]:
    """The host, without brackets, and the port of ``HOST:PORT``.

    Raises:
        ValueError: It is not of that form.
    """
    host, colon, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise ValueError(f"{address!r} is not of the form HOST:PORT")
    return host, int(port)


async def check_free(host: str, port: int) -> None:
    """Find out, without listening, whether this process could listen on an address.

    Raises:
        PortTakenError: Another process listens there.
        ConfigInvalidError: Nobody can listen there: no such host, no permission.
    """
    error = await _try_bind(host, port)
    if error is not None:
        raise _explained(host, port, error)


async def why_unusable(host: str, port: int) -> ServeError:
    """The error that says why listening on this address failed."""
    return _explained(host, port, await _try_bind(host, port) or OSError(errno.EADDRINUSE, "address in use"))


def listening_socket(host: str, port: int, *, reuse_port: bool = False) -> socket.socket:
    """A socket that listens on an address, for servers that take one.

    Args:
        host: The address or name to listen on.
        port: 0 lets the system choose.
        reuse_port: Let several processes that all say so listen on one port (SO_REUSEPORT).

    Raises:
        PortTakenError: Another process listens there.
        ConfigInvalidError: Nobody can listen there.
    """
    sock = held_port(host, port, reuse_port=reuse_port)
    try:
        sock.listen(1024)
    except OSError as error:
        sock.close()
        raise _explained(host, port, error) from error
    return sock


def held_port(host: str, port: int, *, reuse_port: bool = False) -> socket.socket:
    """A socket that keeps a port without listening on it; the arguments and errors are those of ``listening_socket``.

    Connections come to those that listen: processes that share the port with this one.
    """
    bare = host.removeprefix("[").removesuffix("]")
    with contextlib.ExitStack() as undo:
        try:
            found = socket.getaddrinfo(bare, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            family, kind, protocol, _, where = found[0]
            sock = undo.enter_context(socket.socket(family, kind, protocol))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if reuse_port:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.bind(where)
        except OSError as error:
            raise _explained(host, port, error) from error
        sock.settimeout(0.0)  # non-blocking
        undo.pop_all()
        return sock


async def _try_bind(host: str, port: int) -> OSError | None:
    bare = host.removeprefix("[").removesuffix("]")
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            bare, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        for family, kind, protocol, _, where in found:
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(where)
                # A port in SO_REUSEPORT use by others can be bound with SO_REUSEADDR, but not listened on.
                probe.listen(1)
    except OSError as error:
        return error
    return None


def _explained(host: str, port: int, error: OSError) -> ServeError:
    where = join(host, port)
    if error.errno == errno.EADDRINUSE:
        return PortTakenError(
            f"the address {where} is taken by another process: choose another port (0 lets the system choose), "
            "or end that process",
            details={"address": where},
        )
    field = "port" if error.errno in (errno.EACCES, errno.EPERM) else "host"
    cause = error.strerror or str(error)
    return ConfigInvalidError(
        [FieldViolation(field, f"cannot listen on {where}: {cause}")], what="the address to listen on"
    )
