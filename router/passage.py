"""One call that passes through, from its arrival to its end: as a coroutine, or by callbacks where nothing has to wait."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import grpc
import grpc.aio

from router.core.queue import patience_s
from router.gate import Gate
from router.going import Consuming, Going
from router.observe import Observer
from router.passthrough import Incoming, Passthrough
from router.relay import COMPRESSION_KEY, COMPRESSIONS, Context, Relay, for_caller, forwarded
from router.service import QUEUE_TIMEOUT_S
from serve_core.errors import ConfigInvalidError, FieldViolation, ServeError
from serve_core.link.call import LinkCall
from serve_core.model.ids import DeploymentKey
from serve_core.runtime.clock import monotonic
from serve_core.runtime.served import ServedCall
from serve_core.wire.errors import abort
from serve_core.wire.metadata import REQUEST_ID_KEY, SLOT_KEY, SLOTS_KEY

SLOTS_DIGITS_MAX = 6

Act = Callable[[Incoming, Relay, Any], Awaitable[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """What every call passes.

    Attributes:
        passthrough: Sends calls to replicas.
        gate: Refuses new calls while the router drains.
        observer: Counts calls.
        max_message_bytes: Largest message that passes.
        new_request_id: Names a call that has no name.
    """

    passthrough: Passthrough
    gate: Gate
    observer: Observer
    max_message_bytes: int
    new_request_id: Callable[[], str]


class Passage:
    """One call.

    Args:
        door: What it passes.
        path: The full name of its method.
        key: The deployment.
        context: Its caller's end.
    """

    __slots__ = ("_asked", "_context", "_door", "_incoming", "_inside", "_key", "_observed", "_path", "_request_id")

    def __init__(self, door: Door, path: str, key: DeploymentKey, context: Context) -> None:
        self._door = door
        self._path = path
        self._key = key
        self._context = context
        self._asked = last_values(context.invocation_metadata())
        self._request_id = self._asked.get(REQUEST_ID_KEY) or door.new_request_id()
        self._observed = door.observer.call(path, self._request_id)
        self._incoming: Incoming | None = None
        self._inside = False

    async def answer(self, act: Act, requests: Any) -> Any:
        """Serves it by ``act``, and tells the caller what that raises."""
        relay = None
        door, context, request_id = self._door, self._context, self._request_id
        with self._observed as observed:
            try:
                if not self._inside and not door.gate.takes:
                    await door.gate.passed(context.time_remaining())
                self._enter()
                try:
                    incoming = self._described()
                    relay = Relay(
                        context,
                        max_message_bytes=door.max_message_bytes,
                        request_id=request_id,
                        compression=incoming.compression,
                    )
                    return await act(incoming, relay, requests)
                finally:
                    door.gate.leave()
            except ServeError as error:
                observed.failed(error)
                await abort(context, error, extra_trailers=((REQUEST_ID_KEY, request_id),))
            except grpc.aio.AioRpcError as error:
                observed.failed(error)
                assert relay is not None
                await relay.failure(error)
            except grpc.aio.InternalError:
                # A write to a caller that has gone, a moment before grpcio cancels this task for that reason.
                raise asyncio.CancelledError from None

    def begin(self, request: bytes, call: ServedCall) -> None:
        """Serves a unary call: by callbacks if it can be sent to a replica now, in the link, and is answered well."""
        passthrough = self._door.passthrough
        if not self._may_go_directly(request):
            call.go_on(self.answer(passthrough.unary, request))
            return
        self._observed.begin()
        self._enter()
        try:
            incoming = self._described()
            going = passthrough.begin(incoming)
        except ServeError:  # To be told by who knows how.
            going = None
        if going is None:
            call.go_on(self.answer(passthrough.unary, request))
            return
        try:
            sent = passthrough.send(incoming, going, request)
        except Exception as error:
            self.gave_up(going, error)
            raise
        if sent is None:
            call.go_on(self.answer(partial(passthrough.unary, begun=(going, None)), request))
        else:
            _Sent(self, going, sent, request, call)

    def ended(self, going: Going | Consuming, sent: LinkCall, request: bytes, call: ServedCall) -> None:
        """A call that was sent is over. Unless it went well it goes on as a coroutine, which knows what that means."""
        assert self._incoming is not None
        passthrough, answer = self._door.passthrough, sent.answer
        if answer is None or len(answer) > self._door.max_message_bytes:
            call.go_on(self.answer(partial(passthrough.unary, begun=(going, sent)), request))
            return
        trailers = sent.told[1]
        passthrough.ended_well(self._incoming, going, trailers)
        self._door.gate.leave()
        self._observed.end()
        call.answer(answer, for_caller(trailers, self._request_id))

    def gave_up(self, going: Going | Consuming, why: BaseException) -> None:
        """Nothing comes of a call that was to be sent, or was."""
        going.end()
        self._door.gate.leave()
        self._observed.failed(why)
        self._observed.end()

    def _may_go_directly(self, request: bytes) -> bool:
        asked, door = self._asked, self._door
        return door.gate.takes and COMPRESSION_KEY not in asked and len(request) <= door.max_message_bytes

    def _enter(self) -> None:
        if not self._inside:
            self._door.gate.enter()
            self._inside = True

    def _described(self) -> Incoming:
        if self._incoming is None:
            self._incoming = self._describe()
        return self._incoming

    def _describe(self) -> Incoming:
        context, asked = self._context, self._asked
        now, remaining_s = monotonic(), context.time_remaining()
        metadata = forwarded(context.invocation_metadata() or ())
        if REQUEST_ID_KEY not in asked:
            metadata.append((REQUEST_ID_KEY, self._request_id))
        return Incoming(
            path=self._path,
            key=self._key,
            metadata=tuple(metadata),
            slot_token=asked.get(SLOT_KEY, ""),
            slots=_slots_of(asked),
            compression=_compression_of(asked),
            deadline=None if remaining_s is None else now + remaining_s,
            wait_until=now + (QUEUE_TIMEOUT_S if remaining_s is None else patience_s(remaining_s)),
            max_message_bytes=self._door.max_message_bytes,
        )


class _Sent:
    """A call that was sent in the link, until it is over or its caller is gone."""

    __slots__ = ("_call", "_going", "_passage", "_request", "_sent")

    def __init__(
        self, passage: Passage, going: Going | Consuming, sent: LinkCall, request: bytes, call: ServedCall
    ) -> None:
        self._passage: Passage | None = passage
        self._going = going
        self._sent = sent
        self._request = request
        self._call = call
        call.wait(self._gone)
        sent.add_done_callback(self._over)

    def _over(self, sent: LinkCall) -> None:
        passage, self._passage = self._passage, None
        if passage is None:
            return
        try:
            passage.ended(self._going, sent, self._request, self._call)
        except Exception as error:  # noqa: BLE001 - the link must not suffer
            self._call.fail(error)

    def _gone(self) -> None:
        passage, self._passage = self._passage, None
        if passage is not None:
            self._sent.cancel()
            passage.gave_up(self._going, asyncio.CancelledError())


def last_values(metadata: Any) -> dict[str, Any]:
    """Metadata by key; of values with the same key, the last."""
    return dict(metadata or ())


def invalid(field: str, description: str) -> ConfigInvalidError:
    """The error for metadata that asks for what there is not."""
    return ConfigInvalidError([FieldViolation(field, description)], what="the request's metadata")


def _compression_of(asked: dict[str, Any]) -> grpc.Compression | None:
    name = asked.get(COMPRESSION_KEY)
    if name is None:
        return None
    if name not in COMPRESSIONS:
        raise invalid(COMPRESSION_KEY, f"{name!r} is not one of {', '.join(COMPRESSIONS)}")
    return COMPRESSIONS[name]


def _slots_of(asked: dict[str, Any]) -> int:
    text = asked.get(SLOTS_KEY)
    if text is None:
        return 1
    if not (text.isascii() and text.isdecimal() and int(text[:SLOTS_DIGITS_MAX]) > 0 and len(text) <= SLOTS_DIGITS_MAX):
        raise invalid(SLOTS_KEY, f"{text!r} is not a number of slots above 0")
    return int(text)
