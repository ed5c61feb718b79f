import asyncio

import pytest

from router import gate as gate_module
from router.gate import Gate
from serve_core.errors import DeploymentUnavailableError, DrainingError
from serve_core.runtime.clock import monotonic


def opened() -> Gate:
    gate = Gate("r1")
    gate.open()
    return gate


async def test_refuses_until_it_is_opened() -> None:
    gate = Gate("r1")
    with pytest.raises(DeploymentUnavailableError, match="controller"):
        gate.check()
    gate.open()
    gate.check()


async def test_closed_stays_closed() -> None:
    gate = opened()
    gate.close()
    gate.open()
    assert gate.closed
    with pytest.raises(DrainingError):
        gate.check()


async def test_counts_what_is_inside() -> None:
    gate = opened()
    async with gate.entered():
        assert gate.inside == 1
        async with gate.entered():
            assert gate.inside == 2
    assert gate.inside == 0


async def test_knows_when_the_last_one_came() -> None:
    gate = opened()
    assert gate.last_at == 0.0
    before = monotonic()
    async with gate.entered():
        came_at = gate.last_at
        assert before <= came_at <= monotonic()
    assert gate.last_at == came_at


async def test_closed_refuses_and_names_the_router() -> None:
    gate = opened()
    gate.close()
    with pytest.raises(DrainingError, match="r1") as raised:
        async with gate.entered():
            pytest.fail("entered")
    assert raised.value.retry_after_s


async def test_drained_once_the_last_has_left() -> None:
    gate = opened()
    assert await gate.drained(0)
    leave = asyncio.Event()

    async def request() -> None:
        async with gate.entered():
            await leave.wait()

    async with asyncio.TaskGroup() as group:
        group.create_task(request())
        await asyncio.sleep(0)
        gate.close()
        waiting = group.create_task(gate.drained(10))
        await asyncio.sleep(0)
        assert not waiting.done()
        leave.set()
        assert await waiting


async def test_drained_gives_up_when_its_budget_is_over() -> None:
    gate = opened()
    async with gate.entered():
        assert not await gate.drained(0)


async def test_holds_a_request_until_it_is_opened() -> None:
    gate = Gate("r1")

    async def request() -> None:
        async with gate.entered(10.0):
            assert gate.inside == 1

    async with asyncio.TaskGroup() as group:
        running = group.create_task(request())
        await asyncio.sleep(0)
        assert (gate.held, gate.inside) == (1, 0)
        gate.open()
        await running
    assert gate.held == 0


async def test_refuses_what_it_holds_when_it_is_closed() -> None:
    gate = Gate("r1")

    async def request() -> None:
        with pytest.raises(DrainingError):
            await gate.passed(None)

    async with asyncio.TaskGroup() as group:
        group.create_task(request())
        await asyncio.sleep(0)
        gate.close()


async def test_holds_nothing_past_its_deadline_and_not_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate("r1")
    with pytest.raises(DeploymentUnavailableError, match="controller"):
        await gate.passed(0.0)
    monkeypatch.setattr(gate_module, "HOLD_TIMEOUT_S", 0.0)
    with pytest.raises(DeploymentUnavailableError):
        await gate.passed(None)
    monkeypatch.setattr(gate_module, "HELD_MAX", 0)
    with pytest.raises(DeploymentUnavailableError):
        await gate.passed(10.0)
