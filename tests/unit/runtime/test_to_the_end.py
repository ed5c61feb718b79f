"""What has begun ends, though its caller is cancelled, who hears of that afterwards."""

from __future__ import annotations

import asyncio

import pytest

from serve_core.runtime.to_the_end import to_the_end


class Work:
    """Ends when it is let go."""

    def __init__(self) -> None:
        self.may_end = asyncio.Event()
        self.ended = False

    async def __call__(self, error: Exception | None = None) -> str:
        await self.may_end.wait()
        self.ended = True
        if error is not None:
            raise error
        return "done"


async def test_it_returns_what_the_work_does() -> None:
    work = Work()
    work.may_end.set()
    assert await to_the_end(work()) == "done"


async def test_it_raises_what_the_work_does() -> None:
    work = Work()
    work.may_end.set()
    with pytest.raises(LookupError, match="lost"):
        await to_the_end(work(LookupError("lost")))


@pytest.mark.parametrize("error", [None, LookupError("lost")])
async def test_a_caller_who_is_cancelled_hears_of_it_once_the_work_has_ended(error: Exception | None) -> None:
    work = Work()
    caller = asyncio.ensure_future(to_the_end(work(error)))
    for _ in range(3):
        await asyncio.sleep(0)
        caller.cancel()
    await asyncio.sleep(0)
    assert not caller.done()
    work.may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert work.ended


async def test_a_timeout_of_the_caller_is_one() -> None:
    work = Work()
    asyncio.get_running_loop().call_later(0.02, work.may_end.set)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await to_the_end(work())
    assert work.ended
