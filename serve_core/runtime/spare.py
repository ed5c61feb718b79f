"""A channel that is there only while it is needed.

What a process does by ``grpc.aio`` channels costs it more than the calls: they have a thread of gRPC's, which waits for the sockets
of all connections, also of those that the process serves, and hands on what comes there. With the last channel that thread ends.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Self, TypeAlias

import grpc
import grpc.aio

_Kind: TypeAlias = tuple[str, tuple[Any, ...], tuple[tuple[str, Any], ...]]
"""The calls of one method: how the channel is asked for them."""


class SpareChannel(grpc.aio.Channel):
    """A channel that is opened when it is used, and after ``put_away`` anew when it is used again.

    Args:
        new: Makes the channel.
    """

    def __init__(self, new: Callable[[], grpc.aio.Channel]) -> None:
        self._new = new
        self._channel: grpc.aio.Channel | None = None
        self._methods: dict[_Kind, Callable[..., Any]] = {}
        self._uses = 0
        self._closed = False

    @property
    def is_open(self) -> bool:
        """Whether there is a channel now."""
        return self._channel is not None

    async def put_away(self) -> None:
        """Closes it until it is used again; not while a call is under way, or somebody waits for its state to change."""
        if not self._uses:
            await self._drop(None)

    async def close(self, grace: float | None = None) -> None:
        """Closes it for good."""
        self._closed = True
        await self._drop(grace)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *raised: object) -> None:
        await self.close()

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:  # noqa: FBT001, FBT002 - as gRPC has it
        """The state; IDLE while there is no channel, unless that is to connect."""
        if self._closed:
            return grpc.ChannelConnectivity.SHUTDOWN
        if self._channel is None and not try_to_connect:
            return grpc.ChannelConnectivity.IDLE
        return self._opened().get_state(try_to_connect=try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Waits until the state is another one."""
        channel = self._opened()
        self._uses += 1
        try:
            await channel.wait_for_state_change(last_observed_state)
        finally:
            self._uses -= 1

    async def channel_ready(self) -> None:
        """Waits until it is READY."""
        while (state := self.get_state(try_to_connect=True)) is not grpc.ChannelConnectivity.READY:
            await self.wait_for_state_change(state)

    def unary_unary(self, *described: Any, **options: Any) -> Any:
        """Makes calls with one request and one answer."""
        return self._method("unary_unary", described, options)

    def unary_stream(self, *described: Any, **options: Any) -> Any:
        """Makes calls with one request and a stream of answers."""
        return self._method("unary_stream", described, options)

    def stream_unary(self, *described: Any, **options: Any) -> Any:
        """Makes calls with a stream of requests and one answer."""
        return self._method("stream_unary", described, options)

    def stream_stream(self, *described: Any, **options: Any) -> Any:
        """Makes calls with a stream of requests and a stream of answers."""
        return self._method("stream_stream", described, options)

    def _method(self, kind: str, described: tuple[Any, ...], options: dict[str, Any]) -> Callable[..., Any]:
        return partial(self._call, (kind, described, tuple(options.items())))

    def _call(self, kind: _Kind, *arguments: Any, **options: Any) -> Any:
        """Makes a call of one kind by the channel that there is now. It counts as a use until it is over."""
        method = self._methods.get(kind)
        if method is None:
            name, described, more = kind
            method = self._methods[kind] = getattr(self._opened(), name)(*described, **dict(more))
        call: Any = method(*arguments, **options)
        self._uses += 1
        call.add_done_callback(self._over)
        return call

    def _over(self, call: object) -> None:
        del call
        self._uses -= 1

    def _opened(self) -> grpc.aio.Channel:
        if self._closed:
            raise grpc.aio.UsageError("Channel is closed.")
        if self._channel is None:
            self._channel = self._new()
        return self._channel

    async def _drop(self, grace: float | None) -> None:
        channel, self._channel = self._channel, None
        self._methods.clear()  # They hold the channel.
        if channel is not None:
            await channel.close(grace)
