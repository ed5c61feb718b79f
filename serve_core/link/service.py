"""The replica's end of links: each call in them is run by the handlers of the server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

import grpc
import grpc.aio

from serve_core.errors import ReplicaUnavailableError
from serve_core.link.core.incoming import OverrunError
from serve_core.link.end import Carrier, LinkEnd
from serve_core.link.frames import (
    CANCEL,
    CREDIT,
    GOODBYE,
    HALF_CLOSE,
    MESSAGE,
    OPEN,
    PING,
    PONG,
    STATUS,
    BadMetadataError,
    Frame,
    metadata_fields,
)
from serve_core.link.served import LinkedCall
from serve_core.runtime import clock, log
from serve_core.runtime.deadlines import Deadlines
from serve_core.runtime.eager import EagerTasks
from serve_core.wire.errors import encode_error

CALLS_MAX = 16_384
"""Calls in one link; more are refused. Slots and queues refuse long before, with a better reason."""

LINK_METHOD = "/serve_core.v1.ReplicaService/Link"

Find = Callable[[str], Any]
"""Finds the handler of ``/package.Service/Method``; None if there is none."""

_log = log.get_logger(__name__)


class ServedLink:
    """One link, at the replica.

    Args:
        find: Finds handlers.
        tasks: Run them.
        deadlines: Those of the calls.
        limit_bytes: The largest message.
        context: The context of the connection, if it has one.
        on_over: Is called with this once it is lost or ended.
    """

    def __init__(
        self,
        find: Find,
        *,
        tasks: EagerTasks,
        deadlines: Deadlines,
        limit_bytes: int,
        context: Any,
        on_over: Callable[[ServedLink], None],
    ) -> None:
        self.end = LinkEnd()
        self.limit_bytes = limit_bytes
        self.tasks = tasks
        self.deadlines = deadlines
        self.context = context
        self._find = find
        self._on_over = on_over
        self._calls: dict[int, LinkedCall] = {}
        self._closing = False

    @property
    def calls(self) -> int:
        """The calls in it."""
        return len(self._calls)

    def carried_by(self, carrier: Carrier) -> None:
        """The link is there."""
        self.end.carried_by(carrier)
        if self._closing:
            self._end_if_empty()

    def received(self, frames: Iterable[Frame]) -> None:
        """The carrier has a batch from the caller."""
        now = clock.wall()
        try:
            for frame in frames:
                step = frame.step
                if step == OPEN:
                    self._opened(frame, now)
                elif step == PING:
                    self.end.say(Frame(PONG))
                else:
                    self._step(step, frame)
        except OverrunError:
            self.lost("the caller sent more than there was room for")
        except BadMetadataError:
            self.lost("the caller sent metadata that is none")

    def lost(self, why: str) -> None:
        """The connection is no more: nobody waits for the calls in it."""
        if self.end.open:
            _log.debug("link over", why=why, calls=len(self._calls))
        self.end.over()
        for call in tuple(self._calls.values()):
            call.cancel()
        self._on_over(self)

    def close(self) -> None:
        """Takes no new call, and ends the link after those that are in it."""
        self._closing = True
        self._end_if_empty()

    def left(self, call_id: int) -> None:
        """A call is over."""
        self._calls.pop(call_id, None)
        if self._closing:
            self._end_if_empty()

    def _end_if_empty(self) -> None:
        if not self._calls and self.end.open:
            self.end.say(Frame(GOODBYE))
            self.end.end()

    def _opened(self, frame: Frame, now: float) -> None:
        call_id, method, calls = frame.call_id, frame.method, self._calls
        if self._closing:
            self._refuse(call_id, *encode_error(ReplicaUnavailableError("the replica ends: nothing was run")))
            return
        if len(calls) >= CALLS_MAX:
            self._refuse(call_id, grpc.StatusCode.RESOURCE_EXHAUSTED, f"{CALLS_MAX} calls are in this link")
            return
        handler = self._find(method) if method != LINK_METHOD else None
        if handler is None:
            self._refuse(call_id, grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
            return
        call = LinkedCall(self, frame, now)
        if call.serve(handler, frame):
            calls[call_id] = call

    def _refuse(self, call_id: int, code: grpc.StatusCode, message: str, trailers: Iterable[Any] = ()) -> None:
        texts, binary = metadata_fields(trailers)
        self.end.say(Frame(STATUS, call_id, None, texts, binary, code=code.value[0], message=message))

    def _step(self, step: int, frame: Frame) -> None:
        call = self._calls.get(frame.call_id)
        if call is None:
            return  # It has ended here meanwhile.
        if step == MESSAGE:
            call.on_message(frame)
        elif step == HALF_CLOSE:
            call.on_half_close()
        elif step == CANCEL:
            call.cancel()
        elif step == CREDIT:
            call.on_credit(frame.credit)


class LinkService:
    """All links of a replica.

    Args:
        find: Finds the handlers of its server.
        running: Holds the tasks that run handlers; those of the server, which then waits for them when it stops.
        limit_bytes: The largest message.
    """

    def __init__(self, find: Find, *, running: set[asyncio.Task[Any]], limit_bytes: int) -> None:
        self._find = find
        self._tasks = EagerTasks(asyncio.get_running_loop(), running)
        self._deadlines = Deadlines(self._tasks.loop)
        self._limit_bytes = limit_bytes
        self._links: set[ServedLink] = set()
        self._closing = False

    @property
    def count(self) -> int:
        """How many links there are."""
        return len(self._links)

    def new(self, context: Any = None) -> ServedLink:
        """A link that is about to be carried; ``context`` is of the call that carries it, if one does."""
        link = ServedLink(
            self._find,
            tasks=self._tasks,
            deadlines=self._deadlines,
            limit_bytes=self._limit_bytes,
            context=context,
            on_over=self._over,
        )
        self._links.add(link)
        if self._closing:
            link.close()
        return link

    def close(self) -> None:
        """Ends every link after the calls that are in it, and takes no new call in them."""
        self._closing = True
        for link in tuple(self._links):
            link.close()
        self._end_tasks()

    def _over(self, link: ServedLink) -> None:
        self._links.discard(link)
        self._end_tasks()

    def _end_tasks(self) -> None:
        if self._closing and not self._links:
            self._tasks.close()
