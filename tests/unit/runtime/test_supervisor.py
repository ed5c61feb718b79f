"""Tasks with an owner: none outlives it, and a crash of one ends it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import pytest

from serve_core.runtime.supervisor import Supervisor


async def forever() -> None:
    await asyncio.Event().wait()


async def fail(error: BaseException) -> None:
    raise error


async def until_cancelled(ended: Callable[[], None]) -> None:
    try:
        await forever()
    finally:
        ended()


async def test_leaving_cancels_the_youngest_first_and_waits_for_each() -> None:
    ended: list[str] = []

    async def slow_to_end(name: str) -> None:
        try:
            await forever()
        finally:
            await asyncio.sleep(0)
            ended.append(name)

    async with Supervisor() as tasks:
        for name in ("first", "second", "third"):
            tasks.spawn(slow_to_end(name), name=name)
        assert tasks.names == ("first", "second", "third")
        await asyncio.sleep(0)

    assert ended == ["third", "second", "first"]
    assert not tasks.names


async def test_a_crash_cancels_the_body_and_is_raised_as_it_is() -> None:
    ended: list[str] = []
    with pytest.raises(LookupError, match="lost") as caught:  # noqa: PT012
        async with Supervisor("owner") as tasks:
            tasks.spawn(until_cancelled(lambda: ended.append("sibling")), name="sibling")
            await asyncio.sleep(0)
            tasks.spawn(fail(LookupError("lost")), name="watcher")
            await forever()

    assert ended == ["sibling"]
    assert caught.value.__notes__ == ["in task owner/watcher"]
    current = asyncio.current_task()
    assert current is not None
    assert current.cancelling() == 0


async def test_a_task_that_returns_is_forgotten() -> None:
    async def answer() -> int:
        return 42

    async with Supervisor() as tasks:
        task = tasks.spawn(answer(), name="answer")
        assert await task == 42
        await asyncio.sleep(0)
        assert tasks.names == ()


async def test_a_crash_just_before_the_body_ends_is_still_raised() -> None:
    with pytest.raises(LookupError):  # noqa: PT012
        async with Supervisor() as tasks:
            tasks.spawn(fail(LookupError("late")), name="late")
            await asyncio.sleep(0)


async def test_an_error_of_the_body_wins_over_a_crash(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ValueError, match="body"):  # noqa: PT012
        async with Supervisor() as tasks:
            tasks.spawn(fail(LookupError("task")), name="task")
            await asyncio.sleep(0)
            raise ValueError("body")

    assert isinstance(tasks.error, LookupError)


async def test_the_second_crash_goes_to_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async def fail_at_the_end() -> None:
        try:
            await forever()
        finally:
            raise KeyError("second")

    with caplog.at_level(logging.ERROR), pytest.raises(LookupError, match="first"):  # noqa: PT012
        async with Supervisor() as tasks:
            tasks.spawn(fail_at_the_end(), name="b")
            await asyncio.sleep(0)
            tasks.spawn(fail(LookupError("first")), name="a")
            await forever()

    assert "another task crashed" in caplog.text


async def test_a_cancellation_from_outside_stays_one_and_ends_the_tasks() -> None:
    ended: list[str] = []
    entered = asyncio.Event()

    async def own() -> None:
        async with Supervisor() as tasks:
            tasks.spawn(until_cancelled(lambda: ended.append("task")), name="task")
            await asyncio.sleep(0)
            entered.set()
            await forever()

    owner = asyncio.ensure_future(own())
    await entered.wait()
    owner.cancel()
    with pytest.raises(asyncio.CancelledError):
        await owner

    assert ended == ["task"]


async def test_a_second_cancellation_leaves_no_task_behind() -> None:
    stuck, let_go, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def slow_to_end() -> None:
        try:
            await forever()
        finally:
            stuck.set()
            await let_go.wait()
            ended.set()

    async def own() -> None:
        async with Supervisor() as tasks:
            tasks.spawn(slow_to_end(), name="slow")
            await asyncio.sleep(0)

    owner = asyncio.ensure_future(own())
    await stuck.wait()
    owner.cancel()
    await asyncio.sleep(0)
    assert not owner.done()
    let_go.set()
    with pytest.raises(asyncio.CancelledError):
        await owner

    assert ended.is_set()


async def test_a_cancellation_together_with_a_crash_stays_a_cancellation() -> None:
    entered, crash = asyncio.Event(), asyncio.Event()

    async def crash_when_told() -> None:
        await crash.wait()
        raise LookupError("crash")

    async def own() -> None:
        async with Supervisor() as tasks:
            tasks.spawn(crash_when_told(), name="task")
            entered.set()
            await forever()

    owner = asyncio.ensure_future(own())
    await entered.wait()
    crash.set()
    await asyncio.sleep(0)
    owner.cancel()
    with pytest.raises((asyncio.CancelledError, LookupError)) as caught:
        await owner

    assert caught.type is asyncio.CancelledError


async def test_a_task_that_ignores_its_cancellation_is_left_with_an_error_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    let_go = asyncio.Event()

    async def stubborn() -> None:
        while not let_go.is_set():
            try:
                await let_go.wait()
            except asyncio.CancelledError:
                continue

    async with Supervisor(cancel_timeout_s=0.01) as tasks:
        task = tasks.spawn(stubborn(), name="stubborn")
        await asyncio.sleep(0)

    assert "does not end" in caplog.text
    let_go.set()
    await task


async def test_without_a_block_a_crash_is_told_to_the_callback_and_raised_by_close() -> None:
    told: list[BaseException] = []
    tasks = Supervisor(on_crash=told.append)
    tasks.open()
    error = LookupError("lost")
    task = tasks.spawn(fail(error), name="task")
    await asyncio.wait({task})
    await asyncio.sleep(0)

    assert told == [error]
    with pytest.raises(LookupError):
        await tasks.close()


async def test_nothing_is_started_before_opening_or_after_closing() -> None:
    tasks = Supervisor("closed")
    with pytest.raises(RuntimeError, match="closed is not open, so early was not started"):
        tasks.spawn(forever(), name="early")
    async with tasks:
        pass
    with pytest.raises(RuntimeError, match="late"):
        tasks.spawn(forever(), name="late")
