"""The caller's end of a link, as a channel: the stubs of generated code work on it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import grpc
import grpc.aio

from serve_core.errors import ReplicaUnavailableError
from serve_core.link.call import LinkCall
from serve_core.link.core.incoming import OverrunError
from serve_core.link.core.limits import CHUNK_BYTES, OVERDUE_S
from serve_core.link.end import Carrier, LinkEnd
from serve_core.link.frames import (
    GOODBYE,
    OPEN,
    PING,
    PONG,
    STATUS,
    BadMetadataError,
    Frame,
    checked_message,
    metadata_fields,
    metadata_of,
)
from serve_core.runtime.deadlines import Deadlines
from serve_core.wire.errors import encode_error

_UNAVAILABLE = grpc.StatusCode.UNAVAILABLE.value[0]
_INTERNAL = grpc.StatusCode.INTERNAL.value[0]
_WHOLE = True
_TIMEOUT_MAX_US = 2**63 - 1
_THERE = (grpc.ChannelConnectivity.READY, grpc.ChannelConnectivity.IDLE)


class LinkChannel:
    """Makes calls in a link, for as long as that lasts. Its calls are like those of ``grpc.aio.Channel``.

    A call that wants compression takes the plain channel. Streams of requests are written, not given as an iterator.

    Args:
        plain: A channel to the same replica.
        limit_bytes: The largest message.
    """

    def __init__(self, plain: grpc.aio.Channel, *, limit_bytes: int) -> None:
        self.end = LinkEnd()
        self.limit_bytes = limit_bytes
        self.in_a_call = False
        """Whether a call of gRPC carries it: then a call that is alone is quicker by itself."""
        self._plain = plain
        self._calls: dict[int, LinkCall] = {}
        self.left = self._calls.pop
        """Is called with the number of a call that is over, and None."""
        self._last_id = 0
        self._looked_id = 0
        self._looks = False
        self.deadlines = Deadlines(self.end.loop)

    @property
    def open(self) -> bool:
        """Whether calls can be made."""
        return self.end.open

    @property
    def calls(self) -> int:
        """The calls in it."""
        return len(self._calls)

    def is_there(self) -> bool:
        """Whether the replica's process answers by the plain channel. There, gRPC answers though the event loop may not.

        Also while that is not known, as the channel only begins to connect.
        """
        return self._plain.get_state(try_to_connect=True) in _THERE

    def unary_unary(
        self,
        method: str,
        request_serializer: Callable[[Any], bytes] | None = None,
        response_deserializer: Callable[[bytes], Any] | None = None,
        _registered_method: bool | None = None,  # noqa: FBT001 - as generated code calls it
    ) -> Callable[..., Any]:
        """Makes calls with one request and one answer."""
        return _Method(self, self._plain.unary_unary, method, request_serializer, response_deserializer).call

    def unary_stream(
        self,
        method: str,
        request_serializer: Callable[[Any], bytes] | None = None,
        response_deserializer: Callable[[bytes], Any] | None = None,
        _registered_method: bool | None = None,  # noqa: FBT001
    ) -> Callable[..., Any]:
        """Makes calls with one request and a stream of answers."""
        return _Method(self, self._plain.unary_stream, method, request_serializer, response_deserializer).call

    def stream_unary(
        self,
        method: str,
        request_serializer: Callable[[Any], bytes] | None = None,
        response_deserializer: Callable[[bytes], Any] | None = None,
        _registered_method: bool | None = None,  # noqa: FBT001
    ) -> Callable[..., Any]:
        """Makes calls with a stream of requests and one answer."""
        return _Method(self, self._plain.stream_unary, method, request_serializer, response_deserializer).call

    def stream_stream(
        self,
        method: str,
        request_serializer: Callable[[Any], bytes] | None = None,
        response_deserializer: Callable[[bytes], Any] | None = None,
        _registered_method: bool | None = None,  # noqa: FBT001
    ) -> Callable[..., Any]:
        """Makes calls with a stream of requests and a stream of answers."""
        return _Method(self, self._plain.stream_stream, method, request_serializer, response_deserializer).call

    def opened(
        self,
        method: str,
        raw: bytes | None,
        serialize: Callable[[Any], bytes] | None,
        deserialize: Callable[[bytes], Any] | None,
        timeout_s: float | None,
        metadata: Any,
    ) -> LinkCall:
        """Opens a call of ``method``, which has to be UTF-8; ``raw`` is its only request, None if there will be a stream of them."""
        self._last_id = call_id = self._last_id + 1
        end = self.end
        call = LinkCall(self, call_id, serialize, deserialize, timeout_s)
        if not end.open:
            self._fail_unsent(call)
            return call
        timeout_us = 0
        try:
            texts, binary = metadata_fields(metadata) if metadata else ((), False)
            if raw.__class__ is not bytes and raw is not None:
                checked_message(raw)
            if timeout_s is not None:
                timeout_us = int(timeout_s * 1e6)
        except BaseException:
            call.finish(_INTERNAL, "the call could not be opened")
            raise
        self._calls[call_id] = call
        if timeout_s is not None:
            if not 0 < timeout_us <= _TIMEOUT_MAX_US:
                timeout_us = min(max(1, timeout_us), _TIMEOUT_MAX_US)
            if not self._looks:
                self._looks, self._looked_id = True, call_id - 1
                end.loop.call_later(OVERDUE_S, self._look)
        if raw is not None and not end.crowded and (size := len(raw)) <= CHUNK_BYTES:
            frame = Frame(OPEN, call_id, raw, texts, binary, method, timeout_us, _WHOLE)
            call.batch_number = end.say(frame, 64 + size)
            return call
        call.batch_number = end.say(Frame(OPEN, call_id, None, texts, binary, method, timeout_us), 64)
        if raw is not None:
            call.send_whole(raw)
        return call

    def _look(self) -> None:
        """Has the deadlines of calls set that were opened since the last look, and last: none is due before that."""
        self._looks = False
        calls = self._calls
        for call_id in range(self._looked_id + 1, self._last_id + 1):
            call = calls.get(call_id)
            if call is not None:
                call.lasts()

    def carried_by(self, carrier: Carrier) -> None:
        """The link is there."""
        self.end.carried_by(carrier)

    def received(self, frames: Iterable[Frame]) -> None:
        """The carrier has a batch from the replica."""
        calls = self._calls
        try:
            for frame in frames:
                call = calls.get(frame.call_id)
                if call is not None:
                    if frame.step == STATUS:
                        trailers = metadata_of(frame) if frame.binary else frame.metadata
                        call.finish(frame.code, frame.message, trailers, frame.data)
                    else:
                        call.on_frame(frame)
                elif frame.step == PING:
                    self.end.say(Frame(PONG))
                elif frame.step == GOODBYE:
                    self._over("the replica has ended the link", 0)
        except OverrunError:
            self.lost("the replica sent more than there was room for")
        except BadMetadataError:
            self.lost("the replica sent metadata that is none")

    def lost(self, why: str) -> None:
        """The connection is no more. What the replica may have of each call decides what its caller is told."""
        self._over(why, self.end.batches_handed)

    def close(self) -> None:
        """Ends the link, with whatever is still in it."""
        self._over("the link was closed", self.end.batches_handed)

    def _over(self, why: str, handed: int) -> None:
        """Ends all calls: those in batches before ``handed`` as lost, the others as never sent."""
        self.end.over()
        for call in tuple(self._calls.values()):
            if call.batch_number < handed:
                call.finish(_UNAVAILABLE, why)
            else:
                self._fail_unsent(call)

    def _fail_unsent(self, call: LinkCall) -> None:
        code, message, trailers = encode_error(ReplicaUnavailableError("the link was over before the call was sent"))
        call.finish(code.value[0], message, trailers)


class _Method:
    """Makes calls of one method; as ``grpc.aio.UnaryUnaryMultiCallable`` and the other kinds."""

    __slots__ = ("_channel", "_deserialize", "_method", "_plain", "_serialize")

    def __init__(
        self,
        channel: LinkChannel,
        plain: Any,
        method: str,
        serialize: Callable[[Any], bytes] | None,
        deserialize: Callable[[bytes], Any] | None,
    ) -> None:
        self._channel = channel
        self._plain = plain
        self._method = method
        method.encode()  # Raises for what cannot be sent.
        self._serialize = serialize
        self._deserialize = deserialize

    def call(
        self,
        request: Any = None,
        *,
        timeout: float | None = None,
        metadata: Any = None,
        compression: grpc.Compression | None = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
    ) -> Any:
        """Opens one. As a method, as calling an object costs more."""
        if compression is not None:
            arguments = () if request is None else (request,)
            plain = self._plain(self._method, self._serialize, self._deserialize)
            return plain(
                *arguments,
                timeout=timeout,
                metadata=metadata,
                compression=compression,
                credentials=credentials,
                wait_for_ready=wait_for_ready,
            )
        serialize = self._serialize
        raw = request if request is None or serialize is None else serialize(request)
        return self._channel.opened(self._method, raw, serialize, self._deserialize, timeout, metadata)
