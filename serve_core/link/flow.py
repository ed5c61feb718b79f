"""The messages of one call, each way, at one end of a link."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from serve_core.link.core.incoming import Incoming
from serve_core.link.core.outgoing import Outgoing
from serve_core.link.end import LinkEnd
from serve_core.link.frames import CREDIT, Frame, checked_message


class Bell:
    """Wakes everybody who waits."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: list[asyncio.Future[None]] = []

    async def wait(self) -> None:
        """Waits for the next ring."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        await waiter

    def ring(self) -> None:
        """Wakes those who wait now."""
        if not self._waiting:
            return
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(None)


def _ignore() -> None:
    """Nobody asks."""


class Flow:
    """What one call sends and receives. It waits where the other end has no room, and where nothing has come yet.

    Args:
        end: This end of the link.
        call_id: The call.
        limit_bytes: The largest message.
        on_last: Is called once what was given to ``last`` has left.
    """

    __slots__ = (
        "_call_id",
        "_end",
        "_gone",
        "_in",
        "_last_waits",
        "_on_last",
        "_on_news",
        "_out",
        "_readable",
        "_said_all",
        "_writable",
    )

    def __init__(self, end: LinkEnd, call_id: int, limit_bytes: int, on_last: Callable[[], None] = _ignore) -> None:
        self._end = end
        self._on_last = on_last
        self._last_waits = False
        self._call_id = call_id
        self._in = Incoming(limit_bytes)
        self._out: Outgoing[Frame] = Outgoing()
        self._on_news: Callable[[], None] | None = None
        self._readable = Bell()
        self._writable = Bell()
        self._said_all = False
        self._gone = False

    @property
    def ready(self) -> bool:
        """Whether there is a message to take."""
        return self._in.ready

    @property
    def ended(self) -> bool:
        """Whether no message will come any more, beside those that have."""
        return self._said_all

    @property
    def waiting(self) -> bool:
        """Whether a message waits to be sent."""
        return self._out.waiting

    def feed(self, data: bytes | memoryview, *, more: bool, message_bytes: int = 0) -> None:
        """A message, or a piece of one, has arrived. Arguments and errors as of ``Incoming.feed``."""
        self._in.feed(data, more=more, message_bytes=message_bytes)
        if more:
            self._grant()
        else:
            self._has_news()

    def tell(self, on_news: Callable[[], None] | None) -> None:
        """Has this called with each message that has come, and the end; None ends that."""
        self._on_news = on_news

    def end_input(self) -> None:
        """The other end sends no more."""
        self._said_all = True
        self._has_news()

    def take(self) -> bytes:
        """The next message. Only while ``ready``."""
        message = self._in.take()
        self._grant()
        return message

    async def receive(self) -> bytes | None:
        """The next message; None once there will be none."""
        while not self._in.ready:
            if self._said_all:
                return None
            await self._readable.wait()
        return self.take()

    async def send(self, message: bytes) -> bool:
        """Sends a message, and waits until it has left. False if the call is over before that.

        Raises:
            TypeError: It is not bytes.
        """
        if self._is_over():
            return False
        checked_message(message)
        if not self._end.crowded and self._out.pass_by(len(message)):
            self._end.say_message(self._call_id, message)
            return True
        number = self.put(message)
        while self._out.sent < number:
            if self._is_over():
                return False
            await self._writable.wait()
        return True

    def put(self, message: bytes) -> int:
        """Has a message sent in its turn, which is bytes."""
        if self._gone:
            return 0
        number = self._out.put(message)
        self._end.take_turns(self._call_id, self._out, self._pulled)
        return number

    def last(self, frame: Frame, size: int = 0) -> None:
        """Says this after all messages."""
        if self._gone:
            return
        if self._out.put_last(frame):
            self._last_waits = True
        else:
            self._end.say(frame, size)
            self._on_last()

    def grant(self, size: int) -> None:
        """The other end has room for so much more."""
        self._out.grant(size)
        self._end.take_turns(self._call_id, self._out, self._pulled)

    def over(self) -> None:
        """The call is over: nothing is sent any more. What has arrived can still be taken."""
        self._gone = self._said_all = True
        self._on_last = _ignore  # Whoever is called holds this.
        self._out.clear()
        self._end.forget(self._call_id)
        self._writable.ring()
        self._has_news()

    def _has_news(self) -> None:
        if self._on_news is not None:
            self._on_news()
        self._readable.ring()

    def _is_over(self) -> bool:
        return self._gone

    def _pulled(self) -> None:
        self._writable.ring()
        if self._last_waits and not self._out.waiting:
            self._last_waits = False
            self._on_last()

    def _grant(self) -> None:
        if not self._gone and (size := self._in.grant()):
            self._end.say(Frame(CREDIT, self._call_id, credit=size))
