from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest
import uvloop

from serve_core.runtime.eager import TASKS_AHEAD, WAITED_MAX, EagerTasks
from serve_core.runtime.stacks import describe_tasks

PATIENCE_S = 60.0
variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="outside")


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop])
def run(request: pytest.FixtureRequest) -> Callable[[Callable[[EagerTasks], Coroutine[Any, Any, None]]], None]:
    def run(test: Callable[[EagerTasks], Coroutine[Any, Any, None]]) -> None:
        async def main() -> None:
            tasks = EagerTasks(asyncio.get_running_loop(), set())
            async with asyncio.timeout(PATIENCE_S):
                await test(tasks)
            tasks.close()
            await asyncio.sleep(0)
            assert not tasks.running

        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(main())

    return run


class Steps:
    """What coroutines of a test did."""

    def __init__(self) -> None:
        self.done: list[Any] = []

    async def at_once(self, name: str) -> None:
        variable.set(name)
        assert asyncio.current_task() is not None
        self.done.append(name)

    async def after(self, future: asyncio.Future[Any], name: str) -> None:
        task = asyncio.current_task()
        variable.set(name)
        try:
            self.done.append((name, await future))
        except asyncio.CancelledError as error:
            self.done.append((name, *error.args))
            raise
        finally:
            assert asyncio.current_task() is task
            assert variable.get() == name


def test_what_need_not_wait_is_over_at_once_in_a_context_of_its_own(run: Any) -> None:
    async def test(tasks: EagerTasks) -> None:
        steps, outer = Steps(), asyncio.current_task()
        for name in ("a", "b"):
            assert tasks.start(steps.at_once(name)) is None
        assert steps.done == ["a", "b"]
        assert variable.get() == "outside"
        assert asyncio.current_task() is outer

    run(test)


def test_what_waits_goes_on_in_the_task_that_it_began_in_and_in_its_context(run: Any) -> None:
    async def test(tasks: EagerTasks) -> None:
        steps, future = Steps(), asyncio.get_running_loop().create_future()
        # Two wait for the same future: each of them has told that it does before anybody has taken note.
        begun = [tasks.start(steps.after(future, name)) for name in ("a", "b")]
        assert len({*begun}) == 2
        assert tasks.running == {*begun}
        future.set_result(1)
        for task in begun:
            assert task is not None
            await task
        assert steps.done == [("a", 1), ("b", 1)]

    run(test)


@pytest.mark.parametrize("turns", [0, 1, 3])
def test_a_cancellation_finds_it_wherever_it_is(run: Any, turns: int) -> None:
    async def test(tasks: EagerTasks) -> None:
        steps, future = Steps(), asyncio.get_running_loop().create_future()
        tasks.start(steps.at_once("before"))
        await asyncio.sleep(0)
        task = tasks.start(steps.after(future, "a"))
        assert task is not None
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel("enough")
        with pytest.raises(asyncio.CancelledError):
            await task
        assert future.cancelled()
        assert steps.done[1] in [("a", "enough"), ("a",)]

    run(test)


def test_a_cancellation_that_is_not_passed_on_is_thrown(run: Any) -> None:
    async def test(tasks: EagerTasks) -> None:
        caught: list[bool] = []

        async def turn() -> None:
            try:
                await asyncio.sleep(0)
            except asyncio.CancelledError:
                caught.append(True)

        task = tasks.start(turn())
        assert task is not None
        task.cancel()
        await asyncio.wait((task,))
        assert caught == [True]

    run(test)


def test_who_cancels_itself_and_ends_leaves_nothing_to_the_next(run: Any) -> None:
    async def test(tasks: EagerTasks) -> None:
        async def cancel() -> None:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()

        steps, future = Steps(), asyncio.get_running_loop().create_future()
        assert tasks.start(cancel()) is None
        task = tasks.start(steps.after(future, "a"))
        assert task is not None
        await asyncio.sleep(0)
        future.set_result(1)
        await task
        assert steps.done == [("a", 1)]

    run(test)


def test_a_timeout_that_began_at_once_ends_what_waits(run: Any) -> None:
    async def test(tasks: EagerTasks) -> None:
        outcome: list[str] = []

        async def limited(seconds: float) -> None:
            try:
                async with asyncio.timeout(seconds):
                    await asyncio.get_running_loop().create_future()
            except TimeoutError:
                outcome.append("over")

        for seconds in (0.0, 0.001):
            task = tasks.start(limited(seconds))
            assert task is not None
            await task
        assert outcome == ["over", "over"]

    run(test)


def test_groups_sleeps_generators_and_failures_are_as_in_any_task(run: Any) -> None:
    async def test(tasks: EagerTasks) -> None:
        async def items() -> AsyncIterator[int]:
            for item in range(3):
                await asyncio.sleep(0)
                yield item

        found: list[int] = []

        async def busy() -> None:
            async with asyncio.TaskGroup() as group:
                group.create_task(asyncio.sleep(0))
            found.extend([item async for item in items()])
            await asyncio.sleep(0.001)
            raise LookupError("in the end")

        task = tasks.start(busy())
        assert task is not None
        with pytest.raises(LookupError, match="in the end"):
            await task
        assert found == [0, 1, 2]

    run(test)


def test_what_fails_at_once_raises_where_it_was_begun(run: Any) -> None:
    async def test(tasks: EagerTasks) -> None:
        async def fail() -> None:
            raise LookupError("at once")

        with pytest.raises(LookupError, match="at once"):
            tasks.start(fail())
        steps = Steps()
        assert tasks.start(steps.at_once("a")) is None

    run(test)


def test_one_may_begin_another(run: Any) -> None:
    async def test(tasks: EagerTasks) -> None:
        steps, future = Steps(), asyncio.get_running_loop().create_future()
        inner: list[asyncio.Task[Any] | None] = []

        async def outer() -> None:
            mine = asyncio.current_task()
            inner.append(tasks.start(steps.after(future, "inner")))
            assert asyncio.current_task() is mine

        assert tasks.start(outer()) is None
        future.set_result(2)
        assert inner[0] is not None
        await inner[0]
        assert steps.done == [("inner", 2)]

    run(test)


def test_the_stacks_of_tasks_show_where_it_waits(run: Any) -> None:
    async def test(tasks: EagerTasks) -> None:
        future = asyncio.get_running_loop().create_future()
        task = tasks.start(Steps().after(future, "a"))
        assert task is not None
        assert "in Steps.after" in describe_tasks(asyncio.get_running_loop())
        future.set_result(None)
        await task

    run(test)


def test_where_all_wait_most_begin_in_a_task_until_one_need_not_wait(run: Any) -> None:
    async def test(tasks: EagerTasks) -> None:
        steps, future = Steps(), asyncio.get_running_loop().create_future()
        waiting = [tasks.start(steps.after(future, str(number))) for number in range(WAITED_MAX)]
        later = [tasks.start(steps.at_once(f"later {number}")) for number in range(TASKS_AHEAD)]
        assert steps.done == []
        assert tasks.start(steps.at_once("at once")) is None
        assert tasks.start(steps.at_once("again")) is None
        assert steps.done == ["at once", "again"]
        future.set_result(0)
        for task in (*waiting, *later):
            assert task is not None
            await task
        assert len(steps.done) == 2 + WAITED_MAX + TASKS_AHEAD

    run(test)
