"""A steady load through the router: so many calls a second, whatever happens, and what became of each."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import Enum, auto

import grpc
import grpc.aio
import msgspec

from serve_core.v1 import router_pb2, router_pb2_grpc
from serve_core.wire.codec import encode_arguments
from serve_core.wire.errors import decode_error
from serve_core.wire.payload import encode_payload

CALL_TIMEOUT_S = 60.0
CONNECTIONS = 4
TRIES_MAX = 5
"""As many as gRPC allows."""

RETRYING = {
    "methodConfig": [
        {
            "name": [{}],
            "waitForReady": True,
            "retryPolicy": {
                "maxAttempts": TRIES_MAX,
                "initialBackoff": "0.05s",
                "maxBackoff": "1s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ]
}
"""What a plain gRPC client in any language is given for requests that may run twice."""


class Retry(Enum):
    """What a client sends again. What was refused with a time after which to try again is sent again by every one."""

    NOTHING = auto()
    CUT_OFF = auto()
    """What got no answer at all, because its connection ended: of a router that was killed, nobody knows what it had sent on."""
    UNAVAILABLE = auto()
    """Whatever was UNAVAILABLE, by gRPC itself, as ``RETRYING`` says; it may have run, too."""


@dataclass(slots=True, kw_only=True)
class Call:
    """One call. Times are monotonic seconds; ``due_at`` is when the load's rate wanted it sent.

    Of a failed one: its status, and the reason and replica of its details; empty if it has none. ``refused`` counts the
    tries before that were refused with a time after which to try again, ``cut_off`` those whose connection ended.
    """

    number: int
    due_at: float
    sent_at: float
    ended_at: float = 0.0
    pid: int = 0
    version: int = 0
    status: str = ""
    reason: str = ""
    replica_id: str = ""
    details: str = ""
    refused: int = 0
    cut_off: int = 0

    @property
    def failed(self) -> bool:
        """Whether it got no answer."""
        return bool(self.status)

    @property
    def took_s(self) -> float:
        """From when it was due: a late start counts, too."""
        return self.ended_at - self.due_at


class SteadyLoad:
    """Callers that share a schedule of ``rate_per_s`` calls a second, until ``stop``.

    Args:
        address: ``HOST:PORT`` of the router.
        rate_per_s: Calls a second, as long as no more than ``callers`` last at once.
        callers: The most calls at once.
        work_s: How long each call works.
        retry: What the client sends again.
        application: Whom to call.
        first: The number of the first call.
    """

    def __init__(
        self,
        address: str,
        *,
        rate_per_s: float,
        callers: int = 16,
        work_s: float = 0.0,
        retry: Retry = Retry.NOTHING,
        application: str = "steady",
        first: int = 0,
    ) -> None:
        self._address = address
        self.rate_per_s = rate_per_s
        self._callers = callers
        self._work_s = work_s
        self._retry = retry
        self._application = application
        self._started_at = 0.0
        self._first = self._next = first
        self._stopped = asyncio.Event()
        self._ended = asyncio.Condition()
        self.calls: list[Call] = []

    @property
    def failed(self) -> list[Call]:
        """The calls that got no answer."""
        return [call for call in self.calls if call.failed]

    async def run(self) -> None:
        """Calls until ``stop``, and waits for what is under way."""
        self._started_at = time.monotonic()
        channels = [self._channel() for _ in range(CONNECTIONS)]
        try:
            async with asyncio.TaskGroup() as callers:
                for caller in range(self._callers):
                    channel = channels[caller % CONNECTIONS]
                    callers.create_task(self._caller(router_pb2_grpc.RouterServiceStub(channel)))
        finally:
            for channel in channels:
                await channel.close()

    def stop(self) -> None:
        """Begins no further call."""
        self._stopped.set()

    @asynccontextmanager
    async def around(self, *, before: int, after: int) -> AsyncIterator[None]:
        """Calls for as long as the block lasts, and so many times before and after what is done in it."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.run())
            try:
                await self.more(before)
                yield
                await self.more(after)
            finally:
                self.stop()

    async def until(self, enough: Callable[[Sequence[Call]], bool], *, timeout_s: float = CALL_TIMEOUT_S) -> None:
        """Waits until the calls from now on are enough."""
        start = len(self.calls)
        async with asyncio.timeout(timeout_s), self._ended:
            await self._ended.wait_for(lambda: enough(self.calls[start:]))

    async def more(self, count: int, *, timeout_s: float = CALL_TIMEOUT_S) -> None:
        """Waits for so many more calls to end."""
        await self.until(lambda calls: len(calls) >= count, timeout_s=timeout_s)

    def _channel(self) -> grpc.aio.Channel:
        options: list[tuple[str, int | str]] = [
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 1000),
            ("grpc.min_reconnect_backoff_ms", 5000),
        ]
        if self._retry is Retry.UNAVAILABLE:
            options.append(("grpc.service_config", json.dumps(RETRYING)))
        return grpc.aio.insecure_channel(self._address, options=options)

    async def _caller(self, stub: router_pb2_grpc.RouterServiceAsyncStub) -> None:
        while not self._stopped.is_set():
            number = self._next
            self._next += 1
            due_at = self._started_at + (number - self._first) / self.rate_per_s
            if await self._stopped_before(due_at):
                return
            call = Call(number=number, due_at=due_at, sent_at=time.monotonic())
            await self._call(stub, call)
            async with self._ended:
                self.calls.append(call)
                self._ended.notify_all()

    async def _stopped_before(self, due_at: float) -> bool:
        try:
            async with asyncio.timeout(max(0.0, due_at - time.monotonic())):
                await self._stopped.wait()
        except TimeoutError:
            return False
        return True

    async def _call(self, stub: router_pb2_grpc.RouterServiceAsyncStub, call: Call) -> None:
        arguments = encode_payload(encode_arguments((call.number, self._work_s), {}))
        request = router_pb2.RouterServiceDispatchRequest(
            application=self._application, method="work", arguments=arguments
        )
        while not await self._settled(stub, request, call):
            pass
        call.ended_at = time.monotonic()

    async def _settled(
        self,
        stub: router_pb2_grpc.RouterServiceAsyncStub,
        request: router_pb2.RouterServiceDispatchRequest,
        call: Call,
    ) -> bool:
        """One try. False if there is to be another, now: where the answer said when, that time is over."""
        call.status = call.reason = call.replica_id = call.details = ""
        try:
            response = await stub.Dispatch(request, timeout=CALL_TIMEOUT_S, wait_for_ready=True)
        except grpc.aio.AioRpcError as error:
            return await self._settled_by(error, call)
        answer = msgspec.msgpack.decode(response.result.data)
        call.pid, call.version = answer["pid"], answer["version"]
        return True

    async def _settled_by(self, error: grpc.aio.AioRpcError, call: Call) -> bool:
        """Notes how a try failed. False if there is to be another."""
        ours = decode_error(error)
        call.status, call.details = error.code().name, error.details() or ""
        in_time = time.monotonic() - call.sent_at < CALL_TIMEOUT_S
        if ours is None:
            again = self._retry is Retry.CUT_OFF and error.code() is grpc.StatusCode.UNAVAILABLE and in_time
            call.cut_off += again
            return not again
        call.reason, call.replica_id = ours.reason, ours.details.get("replicaId", "")
        if ours.retry_after_s is None or not in_time:
            return True
        call.refused += 1
        await asyncio.sleep(ours.retry_after_s)
        return False


def quantile_s(calls: Sequence[Call], share: float) -> float:
    """The latency below which this share of the calls was; 0 if there are none."""
    if not calls:
        return 0.0
    took = sorted(call.took_s for call in calls)
    return took[min(len(took) - 1, int(len(took) * share))]
