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
from router.relay import COMPRESSION_KEY, COMPRESSIONS, Context, Relay, parted, told
from router.sent import SentCall
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


class Passage(SentCall, Incoming):
    """One call.

    Args:
        door: What it passes.
        path: The full name of its method.
        key: The deployment.
        context: Its caller's end.
    """

    __slots__ = (
        "_asked",
        "_context",
        "_described",
        "_door",
        "_going",
        "_inside",
        "_request",
        "compression",
        "deadline",
        "key",
        "max_message_bytes",
        "metadata",
        "path",
        "slot_token",
        "slots",
        "wait_until",
    )

    _caller: ServedCall
    _going: Going | Consuming
    _request: bytes

    def __init__(self, door: Door, path: str, key: DeploymentKey, context: Context) -> None:
        self._door = door
        self.path = path
        self.key = key
        self._context = context
        self.max_message_bytes = door.max_message_bytes
        asked, metadata = parted(context.invocation_metadata() or ())
        request_id = asked.get(REQUEST_ID_KEY) or door.new_request_id()
        if REQUEST_ID_KEY not in asked:
            metadata.append((REQUEST_ID_KEY, request_id))
        self.metadata = metadata
        self._asked = asked
        self._described = False
        self._inside = False
        SentCall.__init__(self, door.gate, door.observer, path, request_id)

    async def answer(self, act: Act, requests: Any) -> Any:
        """Serves it by ``act``, and tells the caller what that raises."""
        relay = None
        door, context, request_id = self._door, self._context, self.request_id
        with self:
            try:
                if not self._inside and not door.gate.takes:
                    await door.gate.passed(context.time_remaining())
                self._enter()
                try:
                    if not self._described:
                        self._describe(monotonic())
                    relay = Relay(
                        context,
                        max_message_bytes=self.max_message_bytes,
                        request_id=request_id,
                        compression=self.compression,
                    )
                    return await act(self, relay, requests)
                finally:
                    door.gate.leave()
            except ServeError as error:
                self.failed(error)
                await abort(context, error, extra_trailers=((REQUEST_ID_KEY, request_id),))
            except grpc.aio.AioRpcError as error:
                self.failed(error)
                assert relay is not None
                await relay.failure(error)
            except grpc.aio.InternalError:
                # A write to a caller that has gone, a moment before grpcio cancels this task for that reason.
                raise asyncio.CancelledError from None

    def begin(self, request: bytes, call: ServedCall) -> None:
        """Serves a unary call: by callbacks if it can be sent to a replica now, in the link, and is answered well."""
        door, passthrough = self._door, self._door.passthrough
        if not door.gate.takes or COMPRESSION_KEY in self._asked or len(request) > self.max_message_bytes:
            call.go_on(self.answer(passthrough.unary, request))
            return
        now = monotonic()
        self.enter(now)
        self._inside = True
        try:
            self._describe(now)
            going = passthrough.begin(self)
        except ServeError:  # To be told by who knows how.
            going = None
        if going is None:
            call.go_on(self.answer(passthrough.unary, request))
            return
        try:
            sent = passthrough.send(self, going, request)
        except Exception as error:
            going.end()
            self.leave(error)
            raise
        if sent is None:
            call.go_on(self.answer(partial(passthrough.unary, begun=(going, None)), request))
            return
        self._going, self._request = going, request
        self.wait_for(sent, call)

    def answered(self, sent: LinkCall) -> None:
        """As in ``SentCall``."""
        call, door, going, answer = self._caller, self._door, self._going, sent.answer
        if answer is None or len(answer) > self.max_message_bytes:
            call.go_on(self.answer(partial(door.passthrough.unary, begun=(going, sent)), self._request))
            return
        load, trailers = told(sent.told[1], self.request_id)
        going.end(load)
        self.leave()
        call.answer(answer, trailers)

    def given_up(self, sent: LinkCall) -> None:
        """As in ``SentCall``."""
        sent.cancel()
        self._going.end()

    def _enter(self) -> None:
        if not self._inside:
            self._gate.enter()
            self._inside = True

    def _describe(self, now: float) -> None:
        """Reads what its metadata asks, in this moment. Raises ``ConfigInvalidError``."""
        asked, remaining_s = self._asked, self._context.time_remaining()
        self.slot_token = asked.get(SLOT_KEY, "")
        self.slots = _slots_of(asked[SLOTS_KEY]) if SLOTS_KEY in asked else 1
        self.compression = _compression_of(asked[COMPRESSION_KEY]) if COMPRESSION_KEY in asked else None
        self.deadline = None if remaining_s is None else now + remaining_s
        self.wait_until = now + (QUEUE_TIMEOUT_S if remaining_s is None else patience_s(remaining_s))
        self._described = True


def invalid(field: str, description: str) -> ConfigInvalidError:
    """The error for metadata that asks for what there is not."""
    return ConfigInvalidError([FieldViolation(field, description)], what="the request's metadata")


def _compression_of(name: Any) -> grpc.Compression:
    if name not in COMPRESSIONS:
        raise invalid(COMPRESSION_KEY, f"{name!r} is not one of {', '.join(COMPRESSIONS)}")
    return COMPRESSIONS[name]


def _slots_of(text: Any) -> int:
    if not (text.isascii() and text.isdecimal() and int(text[:SLOTS_DIGITS_MAX]) > 0 and len(text) <= SLOTS_DIGITS_MAX):
        raise invalid(SLOTS_KEY, f"{text!r} is not a number of slots above 0")
    return int(text)
