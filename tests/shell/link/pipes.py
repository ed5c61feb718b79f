"""Both ends of a link in one process, and between them pipes that tests open and close."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import grpc
import grpc.aio

from serve_core.link.channel import LinkChannel
from serve_core.link.end import LinkEnd
from serve_core.link.frames import Frame
from serve_core.link.service import LinkService, ServedLink

LIMIT_BYTES = 4 * 1024 * 1024


class Pipe:
    """One direction. While it is held it takes nothing, as a full connection does."""

    def __init__(self, end: LinkEnd, other: LinkChannel | ServedLink) -> None:
        self.busy = False
        self.attaches = False
        self.peer = "pipe:"
        self.batches: list[Sequence[Frame]] = []
        self.closed = False
        self._end = end
        self._other = other

    def send(self, frames: Sequence[Frame], attached: Sequence[Any]) -> None:
        assert not attached
        self.batches.append(frames)
        asyncio.get_running_loop().call_soon(self._other.received, frames)

    def close(self) -> None:
        self.closed = True

    def hold(self) -> None:
        self.busy = True

    def let_go(self) -> None:
        self.busy = False
        self._end.flush()


class Linked:
    """A link to some handlers, by name."""

    def __init__(self, **methods: Any) -> None:
        self.methods = methods
        self.running: set[asyncio.Task[Any]] = set()
        self.service = LinkService(self._find, running=self.running, limit_bytes=LIMIT_BYTES)
        self.served = self.service.new()
        self.is_there = True
        plain: Any = SimpleNamespace(
            unary_unary=None, unary_stream=None, stream_unary=None, stream_stream=None, get_state=self._state
        )
        self.link = LinkChannel(plain, limit_bytes=LIMIT_BYTES)
        self.there = Pipe(self.link.end, self.served)
        self.back = Pipe(self.served.end, self.link)
        self.served.carried_by(self.back)
        self.link.carried_by(self.there)

    def _find(self, path: str) -> Any:
        name = path.rpartition("/")[2]
        make = {
            "one": grpc.unary_unary_rpc_method_handler,
            "many": grpc.unary_stream_rpc_method_handler,
            "join": grpc.stream_unary_rpc_method_handler,
            "chat": grpc.stream_stream_rpc_method_handler,
        }[name.partition("_")[0]]
        return make(self.methods[name]) if name in self.methods else None

    def _state(self, *, try_to_connect: bool) -> grpc.ChannelConnectivity:
        assert try_to_connect
        return grpc.ChannelConnectivity.READY if self.is_there else grpc.ChannelConnectivity.TRANSIENT_FAILURE

    def one(self, name: str = "one", request: bytes = b"x", **options: Any) -> Any:
        return self.link.unary_unary(f"/test/{name}")(request, **options)

    def many(self, name: str = "many", request: bytes = b"x", **options: Any) -> Any:
        return self.link.unary_stream(f"/test/{name}")(request, **options)

    def chat(self, name: str = "chat", **options: Any) -> Any:
        return self.link.stream_stream(f"/test/{name}")(**options)

    def cut(self) -> None:
        """The connection breaks: both ends hear of it."""
        self.link.lost("Connection reset")
        self.served.lost("Connection reset")


@asynccontextmanager
async def linked(**methods: Any) -> AsyncIterator[Linked]:
    """A link for a block, after which nothing may be left of it."""
    one = Linked(**methods)
    async with asyncio.timeout(60):
        yield one
        one.cut()
        if one.running:
            await asyncio.wait(tuple(one.running))
    assert one.link.calls == 0


async def settled() -> None:
    """Lets everything run that can."""
    for _ in range(50):
        await asyncio.sleep(0)
