"""The hooks of user code, each of which may be there or not, asynchronous or not."""

from __future__ import annotations

import threading

import pytest

from replica.hooks import Hooks
from replica.methods import methods_of


class Sync:
    def __init__(self) -> None:
        self.warm = False
        self.threads: set[str] = set()

    def warm_up(self) -> None:
        self.threads.add(threading.current_thread().name)
        self.warm = True

    def is_ready(self) -> bool:
        self.threads.add(threading.current_thread().name)
        return self.warm


class Async:
    def __init__(self) -> None:
        self.warm = False

    async def warm_up(self) -> None:
        self.warm = True

    async def is_ready(self) -> bool:
        return self.warm


class Returns:
    def is_ready(self) -> object:
        async def answer() -> bool:
            return False

        return answer()


class Blocks:
    def __init__(self) -> None:
        self.gate = threading.Event()

    def is_ready(self) -> bool:
        return self.gate.wait(30)


@pytest.mark.parametrize("kind", [Sync, Async])
async def test_hooks_are_called_in_either_form(kind: type[Sync | Async]) -> None:
    hooks = Hooks(kind())
    assert hooks.says_ready
    assert not await hooks.is_ready()
    await hooks.warm_up()
    assert await hooks.is_ready()


async def test_those_that_are_not_asynchronous_run_in_threads_of_their_own() -> None:
    instance = Sync()
    await Hooks(instance).warm_up()
    await Hooks(instance).is_ready()
    assert instance.threads == {"warm_up", "is_ready"}


async def test_an_object_without_hooks_is_ready() -> None:
    hooks = Hooks(object())
    assert not hooks.says_ready
    await hooks.warm_up()
    assert await hooks.is_ready()


async def test_what_a_hook_returns_is_awaited() -> None:
    assert not await Hooks(Returns()).is_ready()


async def test_a_question_waits_for_no_other_that_still_runs() -> None:
    instance = Blocks()
    hooks = Hooks(instance)
    try:
        with pytest.raises(TimeoutError):
            await hooks_within(hooks, 0.0)
        with pytest.raises(TimeoutError, match="still runs"):
            await hooks.is_ready()
    finally:
        instance.gate.set()


async def hooks_within(hooks: Hooks, seconds: float) -> bool:
    import asyncio

    async with asyncio.timeout(seconds):
        return await hooks.is_ready()


def test_hooks_are_not_offered_to_callers() -> None:
    assert methods_of(Sync()).described == ()
