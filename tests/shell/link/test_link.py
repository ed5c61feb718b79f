"""Calls that share a link: fairness, bounds, loss, and the end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc
import grpc.aio
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_core.errors import ReplicaUnavailableError
from serve_core.link.core.limits import BATCH_BYTES, BATCH_FRAMES, CHUNK_BYTES, WINDOW_BYTES
from serve_core.link.frames import MESSAGE, OPEN, Frame
from serve_core.link.service import LINK_METHOD
from serve_core.wire.errors import decode_error
from tests.more_time import error_in_time
from tests.shell.link.pipes import Linked, linked, settled

MIB = 1024 * 1024


async def echo(request: bytes, context: Any) -> bytes:
    return request


def size_of(batch: Sequence[Frame]) -> int:
    return len(msgspec.msgpack.encode(batch))


async def failure(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    return raised.value


class Waiting:
    """A handler that runs until it is let go or cancelled."""

    def __init__(self) -> None:
        self.inside = 0
        self.cancelled = 0
        self.let_go = asyncio.Event()

    async def __call__(self, request: bytes, context: Any) -> bytes:
        self.inside += 1
        try:
            await self.let_go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return b"done"


def waiting(handler: Waiting) -> Any:
    async def one(request: bytes, context: Any) -> bytes:
        return await handler(request, context)

    return one


async def test_calls_of_one_turn_travel_in_few_batches() -> None:
    async with linked(one=echo) as pair:
        assert await asyncio.gather(*(pair.one(request=b"%d" % n) for n in range(50))) == [b"%d" % n for n in range(50)]
        full = [BATCH_FRAMES] * (50 // BATCH_FRAMES)
        assert [len(batch) for batch in pair.there.batches] == [*full, 50 % BATCH_FRAMES]
        assert len(pair.back.batches) <= len(full) + 2


async def test_a_full_batch_goes_before_the_turn_is_over() -> None:
    async with linked(one=echo) as pair:
        calls = [pair.one(request=b"%d" % n) for n in range(BATCH_FRAMES + 1)]
        assert [len(batch) for batch in pair.there.batches] == [BATCH_FRAMES]
        # What has gone may have arrived; what has not is certain not to have.
        pair.cut()
        assert {decode_error(await failure(call)) for call in calls[:BATCH_FRAMES]} == {None}
        assert isinstance(decode_error(await failure(calls[BATCH_FRAMES])), ReplicaUnavailableError)


async def test_a_large_message_is_whole_and_delays_others_by_a_batch_only() -> None:
    async with linked(one=echo) as pair:
        pair.there.hold()
        large = asyncio.ensure_future(_ask(pair, b"L" * 3 * MIB))
        await settled()
        small = [asyncio.ensure_future(_ask(pair, b"%d" % n)) for n in range(20)]
        await settled()
        pair.there.let_go()
        done, _ = await asyncio.wait((large, *small), return_when=asyncio.FIRST_COMPLETED)
        assert large not in done
        assert [await one for one in small] == [b"%d" % n for n in range(20)]
        first = pair.there.batches[0]
        assert size_of(first) <= BATCH_BYTES + 2 * CHUNK_BYTES
        assert sum(bool(frame.half_close) for frame in first) == 20
        assert await large == b"L" * 3 * MIB
        assert max(size_of(batch) for batch in pair.there.batches + pair.back.batches) < BATCH_BYTES + 2 * CHUNK_BYTES


async def _ask(pair: Linked, request: bytes) -> bytes:
    answer: bytes = await pair.one(request=request)
    return answer


async def test_a_stream_that_nobody_reads_stops_itself_and_nobody_else() -> None:
    sent = 0

    async def many(request: bytes, context: Any) -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            yield request * 10_000
            sent += 1

    async def many_short(request: bytes, context: Any) -> AsyncIterator[bytes]:
        for number in range(300):
            yield b"%d" % number * 1000

    async with linked(one=echo, many=many, many_short=many_short) as pair:
        stuck = pair.many()
        await settled()
        before = sent
        assert [len(item) for item in [item async for item in pair.many("many_short")]][-1] == 3000
        assert await pair.one() == b"x"
        assert sent == before
        assert sent * 10_000 <= WINDOW_BYTES
        for _ in range(100):
            assert await stuck.read() == b"x" * 10_000
        await settled()
        assert sent > before
        stuck.cancel()


async def test_a_replica_that_does_not_read_stops_the_writer() -> None:
    written = 0

    async def chat(requests: Any, context: Any) -> AsyncIterator[bytes]:
        await asyncio.Event().wait()
        yield b""

    async with linked(one=echo, chat=chat) as pair:
        call = pair.chat()

        async def write() -> None:
            nonlocal written
            while True:
                await call.write(b"x" * 1000)
                written += 1

        writing = asyncio.ensure_future(write())
        await settled()
        await settled()
        before = written
        assert await pair.one() == b"x"
        assert written * 1000 <= WINDOW_BYTES
        await settled()
        assert written == before
        writing.cancel()
        await asyncio.wait((writing,))
        assert call.cancelled()


async def test_what_was_in_a_link_that_breaks_is_lost_and_what_was_not_is_not() -> None:
    inside = Waiting()
    async with linked(one=waiting(inside)) as pair:
        delivered = asyncio.ensure_future(_ask(pair, b"in"))
        await settled()
        pair.there.hold()
        unsent = asyncio.ensure_future(_ask(pair, b"out"))
        await settled()
        pair.cut()
        lost = await failure(delivered)
        assert (lost.code(), lost.details()) == (grpc.StatusCode.UNAVAILABLE, "Connection reset")
        assert decode_error(lost) is None
        assert isinstance(decode_error(await failure(unsent)), ReplicaUnavailableError)
        assert isinstance(decode_error(await failure(_ask(pair, b"later"))), ReplicaUnavailableError)
        await settled()
        assert (inside.inside, inside.cancelled) == (1, 1)


async def test_a_replica_that_ends_answers_what_is_inside_and_says_what_it_did_not_run() -> None:
    inside = Waiting()
    async with linked(one=waiting(inside)) as pair:
        running = asyncio.ensure_future(_ask(pair, b"in"))
        await settled()
        pair.service.close()
        refused = await failure(_ask(pair, b"late"))
        assert isinstance(decode_error(refused), ReplicaUnavailableError)
        inside.let_go.set()
        assert await running == b"done"
        await settled()
        assert not pair.link.open
        assert pair.there.closed
        assert inside.inside == 1


async def test_a_call_that_crosses_the_goodbye_was_not_run() -> None:
    async with linked(one=echo) as pair:
        pair.back.hold()
        pair.service.close()
        crossing = asyncio.ensure_future(_ask(pair, b"x"))
        pair.back.let_go()
        assert isinstance(decode_error(await failure(crossing)), ReplicaUnavailableError)


async def test_a_caller_that_gives_up_cancels_the_handler() -> None:
    inside = Waiting()
    async with linked(one=waiting(inside)) as pair:
        call = asyncio.ensure_future(_ask(pair, b"x"))
        await settled()
        call.cancel()
        await asyncio.wait((call,))
        await settled()
        assert inside.cancelled == 1
        assert pair.link.open


async def test_a_deadline_ends_both_ends() -> None:
    inside = Waiting()
    async with linked(one=waiting(inside)) as pair:
        error = await error_in_time(lambda timeout_s: pair.one(timeout=timeout_s), lambda _: inside.inside)
        assert isinstance(error, grpc.aio.AioRpcError)
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await settled()
        assert inside.cancelled == inside.inside


async def test_only_calls_that_last_have_their_deadlines_set() -> None:
    inside = Waiting()
    async with linked(one=echo, one_waiting=waiting(inside)) as pair:
        before = pair.one("one_waiting")
        assert await pair.one(timeout=3600) == b"x"
        lasting = [pair.one("one_waiting", timeout=3600) for _ in range(2)]
        assert not len(pair.link.deadlines)
        while not len(pair.link.deadlines):
            await pair.one(timeout=3600)
        assert len(pair.link.deadlines) == 2
        later = pair.one("one_waiting", timeout=3600)
        while len(pair.link.deadlines) == 2:
            await pair.one(timeout=3600)
        for call in (before, *lasting, later):
            call.cancel()
        assert not len(pair.link.deadlines)


@pytest.mark.parametrize("timeout", [float("inf"), float("nan")])
async def test_a_timeout_that_is_no_number_of_seconds_is_the_callers_fault(timeout: float) -> None:
    async with linked(one=echo) as pair:
        with pytest.raises((OverflowError, ValueError)):
            pair.one(timeout=timeout)
        assert pair.link.calls == 0


async def test_a_timeout_beyond_all_times_is_as_good_as_none() -> None:
    async with linked(one=echo) as pair:
        assert await pair.one(timeout=1e300) == b"x"


async def test_a_handler_that_does_not_wait_is_over_with_the_batch() -> None:
    async with linked(one=echo) as pair:
        call = pair.one()
        pair.link.end.flush()
        pair.served.received(pair.there.batches[0])
        assert not pair.running
        assert await call == b"x"


@pytest.mark.parametrize(
    "metadata", [(("Upper", "x"),), (("a", "é"),), (("a", 5),), (("a-bin", "text"),), (("a", "x" * 70_000),)]
)
async def test_metadata_that_cannot_be_sent_is_the_callers_fault(metadata: Any) -> None:
    async with linked(one=echo) as pair:
        with pytest.raises((TypeError, ValueError)):
            pair.one(metadata=metadata)
        assert await pair.one() == b"x"


async def test_metadata_passes_as_it_is_and_in_order() -> None:
    asked: list[Any] = []

    async def one(request: bytes, context: Any) -> bytes:
        asked.append(context.invocation_metadata())
        context.set_trailing_metadata((("b-bin", bytes(range(256))), ("empty", ""), ("b-bin", b""), ("a", "x y")))
        return request

    metadata = (("a", "1"), ("b-bin", b"\x00\n\xff"), ("a", "-bin"), ("big-bin", b"\xff" * 60_000))
    async with linked(one=one) as pair:
        call = pair.one(metadata=metadata)
        assert await call == b"x"
        assert asked == [metadata]
        assert tuple(await call.trailing_metadata()) == (
            *(("b-bin", bytes(range(256))), ("b-bin", b"")),
            *(("empty", ""), ("a", "x y")),
        )


async def test_who_sends_metadata_that_is_none_loses_the_link() -> None:
    async with linked(one=echo) as pair:
        pair.served.received([Frame(OPEN, 1, method="/test/one", metadata=(("a-bin", "no base64!"),), binary=True)])
        assert not pair.served.end.open


async def test_who_sends_more_than_there_is_room_for_loses_the_link() -> None:
    async with linked(chat=None) as pair:
        pair.methods["chat"] = _never
        pair.chat()
        for _ in range(WINDOW_BYTES // CHUNK_BYTES + 2):
            pair.link.end.say(Frame(MESSAGE, 1, b"x" * CHUNK_BYTES))
        await settled()
        assert pair.back.closed


async def _never(requests: Any, context: Any) -> AsyncIterator[bytes]:
    await asyncio.Event().wait()
    yield b""


STEPS = st.integers(0, 12)
WHATEVER = st.builds(
    Frame,
    STEPS,
    st.integers(0, 12),
    st.none() | st.binary(max_size=8),
    st.just(()) | st.just((("a-bin", "AA=="),)),
    method=st.sampled_from(["/test/one_none", "/test/one", "/test/chat", LINK_METHOD]),
    timeout_us=st.integers(0, 2**64 - 1),
    half_close=st.booleans(),
    more=st.booleans(),
    attached=st.integers(0, 2**32),
    message_bytes=st.integers(0, 2**64 - 1),
    credit=st.integers(0, 2**64 - 1),
    code=st.integers(0, 2**64 - 1),
    message=st.text(max_size=5),
)


@given(st.lists(WHATEVER, max_size=6))
@settings(max_examples=60, deadline=None)
async def test_whatever_frames_come_neither_end_falls(frames: list[Frame]) -> None:
    async with linked(one=echo, chat=_never) as pair:
        calls = [pair.one(), pair.chat(), pair.many()]
        for number, frame in enumerate(frames):
            if frame.step == OPEN:
                frame.call_id = 10 + number  # No number comes twice.
        pair.served.received(frames)
        pair.link.received(frames)
        await settled()
        for call in calls:
            call.cancel()
