"""Where every task waits, in words."""

from __future__ import annotations

import asyncio

from serve_core.runtime import stacks


async def inner(entered: asyncio.Event) -> None:
    entered.set()
    await asyncio.Event().wait()


async def outer(entered: asyncio.Event) -> None:
    await inner(entered)


async def test_the_whole_chain_of_a_waiting_task_is_told() -> None:
    entered = asyncio.Event()
    task = asyncio.get_running_loop().create_task(outer(entered), name="the-waiter")
    await entered.wait()

    text = stacks.describe_tasks(asyncio.get_running_loop())

    task.cancel()
    assert "Task the-waiter:" in text
    assert text.index("in outer") < text.index("in inner") < text.index("in Event.wait")
