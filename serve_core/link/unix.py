"""A link in a Unix domain socket, between processes of one host.

Where the socket is, and the secret with which a caller begins, the replica tells whoever opens a link by gRPC. The socket is in
a folder that only its user may enter.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import secrets
import shutil
import socket
import tempfile
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol, cast

from serve_core.link.batches import FORMAT, BrokenError, Reading, written
from serve_core.link.channel import LinkChannel
from serve_core.link.core.limits import BATCH_BYTES, WINDOW_BYTES
from serve_core.link.end import Data, LinkEnd
from serve_core.link.frames import PING, Frame
from serve_core.link.service import LinkService, ServedLink
from serve_core.runtime import log
from serve_core.runtime.accepting import accept_no_more
from serve_core.runtime.channel import KEEPALIVE_TIME_S, KEEPALIVE_TIMEOUT_S

CONNECT_TIMEOUT_S = 5.0
"""How long the replica may take to answer on the socket before the link is carried by gRPC instead."""

RECEIVED_BYTES = 2 * BATCH_BYTES
"""The most that is read at once."""

SENT_BYTES = WINDOW_BYTES
"""What the system may hold of what was sent. Its usual 208 KiB are less than a batch: each end then waits for the other twice as often."""

_SECRET_BYTES = 16
_SECRET_TEXT_BYTES = 2 * _SECRET_BYTES
_GREETING_BYTES = _SECRET_TEXT_BYTES + len(FORMAT)
_PREFIX = "serve-core-link-"
_NAME = "socket"
_log = log.get_logger(__name__)


class _Thread(threading.local):
    """A buffer for all links of a thread: its event loop reads from one of them at a time, and what came is used at once."""

    def __init__(self) -> None:
        self.received = memoryview(bytearray(RECEIVED_BYTES))


_thread = _Thread()


class _Link(Protocol):
    """What a carrier serves: either end of a link."""

    @property
    def end(self) -> LinkEnd:
        """What both ends have."""

    def received(self, frames: Iterable[Frame]) -> None:
        """A batch has arrived."""

    def lost(self, why: str) -> None:
        """The connection is no more."""


class UnixCarrier(asyncio.BufferedProtocol):
    """Carries a link in a stream socket.

    Args:
        is_there: Says whether the other process lives and only keeps its event loop from answering; None if nobody wants to
            know whether it answers. A process that has ended closes its socket in any case.
    """

    def __init__(self, is_there: Callable[[], bool] | None = None) -> None:
        self.busy = False
        self.attaches = True
        self.peer = "unix:"
        self._reading = Reading()
        self._is_there = is_there
        self._link: _Link | None = None
        self._transport: asyncio.Transport | None = None
        self._heard = True
        self._asked = False
        self._check: asyncio.TimerHandle | None = None
        self.answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done once anything has arrived, or nothing will."""

    def carry(self, link: _Link) -> None:
        """Begins."""
        self._link = link
        if self._is_there is not None:
            self._check = asyncio.get_running_loop().call_later(KEEPALIVE_TIME_S, self._check_alive)

    def send(self, frames: Sequence[Frame], attached: Sequence[Data]) -> None:
        """Sends a batch, and what is attached."""
        if self._transport is None:
            return
        try:
            self._transport.writelines(written(frames, attached))
        except (
            TypeError,
            ValueError,
            OverflowError,
        ) as error:  # It would be missed: those who wait for it had to wait on.
            self._break(f"a frame has a field that is none: {error}")

    def close(self) -> None:
        """Ends the connection after what was sent."""
        self._end_check()
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's derive from nothing of asyncio
        self._transport.set_write_buffer_limits(high=BATCH_BYTES)
        sock = transport.get_extra_info("socket")
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SENT_BYTES)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Called by asyncio."""
        del sizehint
        return _thread.received

    def buffer_updated(self, nbytes: int) -> None:
        """Called by asyncio."""
        self.received(_thread.received[:nbytes])

    def received(self, data: memoryview) -> None:
        """The other end has sent this."""
        self._heard = True
        try:
            for frames in self._reading.batches(data):
                if self._link is not None:
                    self._link.received(frames)
        except BrokenError as error:
            self._break(str(error))
            return
        if not self.answered.done():
            self.answered.set_result(None)

    def pause_writing(self) -> None:
        """Called by asyncio."""
        self.busy = True

    def resume_writing(self) -> None:
        """Called by asyncio."""
        self.busy = False
        if self._link is not None:
            self._link.end.flush()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by asyncio."""
        self._end_check()
        self._transport = None
        if not self.answered.done():
            self.answered.set_result(None)
        if self._link is not None:
            self._link.lost(str(exc) if exc is not None else "Socket closed")

    def _check_alive(self) -> None:
        if self._link is None or self._is_there is None:
            return
        wait_s = KEEPALIVE_TIME_S
        if self._heard:
            self._heard = self._asked = False
        elif not self._asked:
            self._asked = True
            wait_s = KEEPALIVE_TIMEOUT_S
            self._link.end.say(Frame(PING))
        elif self._is_there():
            wait_s = KEEPALIVE_TIMEOUT_S
        else:
            self._break("the other end does not answer")
            return
        self._check = asyncio.get_running_loop().call_later(wait_s, self._check_alive)

    def _break(self, why: str) -> None:
        _log.warning("link broken", why=why)
        if self._transport is not None:
            self._transport.abort()

    def _end_check(self) -> None:
        if self._check is not None:
            self._check.cancel()
            self._check = None


class _ServedCarrier(UnixCarrier):
    """The replica's end: nothing is served before the secret has come."""

    def __init__(
        self,
        links: LinkService,
        secret: str,
        strangers: set[_ServedCarrier],
        is_there: Callable[[], bool] | None,
    ) -> None:
        super().__init__(is_there)
        self._links = links
        self._strangers = strangers
        self._strangers.add(self)
        self._aborted = False
        self._secret = secret.encode()
        self._trusted = False
        self._told = b""

    def received(self, data: memoryview) -> None:
        """The caller has sent this."""
        if self._trusted:
            super().received(data)
            return
        begin = _GREETING_BYTES - len(self._told)
        self._told += data[:begin]
        if len(self._told) < _SECRET_TEXT_BYTES:
            return
        if not hmac.compare_digest(self._told[:_SECRET_TEXT_BYTES], self._secret):
            self._break("a caller does not know the secret")
            return
        if len(self._told) < _GREETING_BYTES:
            return
        if self._told[_SECRET_TEXT_BYTES:] != FORMAT:
            self._break(
                "a caller writes frames in another form: its version is another, and its links are carried by gRPC"
            )
            return
        self._trusted = True
        self._strangers.discard(self)
        link: ServedLink = self._links.new()
        self.carry(link)
        link.carried_by(self)
        super().received(data[begin:])

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio."""
        super().connection_made(transport)
        if self._aborted:
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by asyncio."""
        self._strangers.discard(self)
        super().connection_lost(exc)

    def abort(self) -> None:
        """Ends the connection at once, also one that is only being made."""
        self._aborted = True
        if self._transport is not None:
            self._transport.abort()


class UnixListener:
    """Takes links to a replica from processes of the same host.

    Args:
        links: The links.
        asks: Whether callers that have been silent are asked if they are still there; one that does not answer is lost.
    """

    def __init__(self, links: LinkService, *, asks: bool = False) -> None:
        self._links = links
        self._is_there = _not_there if asks else None
        self._folder: Path | None = None
        self._server: asyncio.Server | None = None
        self._strangers: set[_ServedCarrier] = set()
        """Callers that have not told the secret: who starts on this host only looks whether anybody listens."""
        self.path = ""
        """Where it listens; empty while it does not."""
        self.secret = secrets.token_hex(_SECRET_BYTES)
        """What callers begin with."""

    async def start(self) -> None:
        """Listens, if this host lets it."""
        try:
            _sweep()
            self._folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
            path = self._folder / _NAME
            # Under this name only once it listens: so what is there and does not answer is dead, and may be swept away.
            early = self._folder / "new"
            with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as listening:
                listening.bind(str(early))
                listening.listen(128)
                early.rename(path)
                await self._serve(listening.dup())
        except OSError as error:
            _log.warning("no links by a Unix domain socket: they are carried by gRPC", why=str(error))
            await self.close()
            return
        self.path = str(path)

    async def close(self) -> None:
        """Listens no more, and ends connections that carry no link. Links that are open stay so."""
        self.path = ""
        server, self._server = self._server, None
        if server is not None:
            try:
                await accept_no_more(server.sockets)
            finally:
                server.close()
        for carrier in tuple(self._strangers):
            carrier.abort()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    async def _serve(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        try:
            # Not at once: asyncio waits for that, and who is cancelled there has no server to close.
            self._server = await loop.create_unix_server(self._accepted, sock=listening, start_serving=False)
        except BaseException:
            listening.close()
            raise
        await self._server.start_serving()

    def _accepted(self) -> _ServedCarrier:
        carrier = _ServedCarrier(self._links, self.secret, self._strangers, self._is_there)
        if self._server is None:  # It came as this closed.
            carrier.abort()
        return carrier


async def connect(path: str, secret: str, link: LinkChannel) -> bool:
    """Has a socket of this host carry ``link``; False if it does not answer."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            transport, carrier = await loop.create_unix_connection(lambda: UnixCarrier(link.is_there), path)
            transport.write(secret.encode() + FORMAT)
            carrier.carry(link)
            link.carried_by(carrier)
            link.end.say(Frame(PING))
            await carrier.answered
    except (OSError, TimeoutError):
        link.close()
    except BaseException:
        link.close()
        raise
    return link.open


def _not_there() -> bool:
    """What is known of a caller that does not answer: nothing else."""
    return False


def _sweep() -> None:
    """Removes what replicas left that were killed."""
    for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*/{_NAME}"):
        with contextlib.suppress(OSError), contextlib.closing(socket.socket(socket.AF_UNIX)) as probe:
            try:
                probe.settimeout(0.0)
                probe.connect(str(path))
            except ConnectionRefusedError:
                shutil.rmtree(path.parent, ignore_errors=True)
