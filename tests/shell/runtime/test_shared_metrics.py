"""Processes that share their ports tell of all of them, whichever is asked. Here each is one in the same loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge

from serve_core.runtime import shared_metrics
from serve_core.runtime.shared_metrics import SharedMetrics


class Worker:
    """One life of one place."""

    def __init__(self, folder: Path, place: int, places: int) -> None:
        self.ready = True
        self.registry = CollectorRegistry()
        self.calls = Counter("calls", "C.", registry=self.registry)
        self.waiting = Gauge("waiting", "W.", registry=self.registry)
        self.version = Gauge("version", "V.", registry=self.registry)
        self.shared = SharedMetrics(
            folder, place, places, registry=self.registry, ready=lambda: self.ready, amounts=("waiting",)
        )
        self.shared.open()

    async def told(self, name: str) -> float | None:
        body, _ = await self.shared.exposition()
        lines = (line.rsplit(" ", 1) for line in body.decode().splitlines())
        return next((float(figure) for figure_of, figure in lines if figure_of == name), None)


Start = Callable[[int], Worker]


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here the others always answer, however long that takes."""
    monkeypatch.setattr(shared_metrics, "ANSWER_TIMEOUT_S", 30.0)


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    with ExitStack() as stack:

        def started(place: int) -> Worker:
            worker = Worker(tmp_path, place, 2)
            stack.callback(worker.shared.close)
            return worker

        yield started


def kill(worker: Worker) -> None:
    """Ends it without a last report."""
    post = worker.shared._post
    assert post is not None
    post.close()
    worker.shared._post = None


async def test_whoever_is_asked_tells_of_all_of_them_as_of_now(start: Start) -> None:
    one, two = start(1), start(2)
    for worker, calls in ((one, 3), (two, 4)):
        worker.calls.inc(calls)
        worker.waiting.set(calls)
        worker.version.set(calls)
    for asked in (one, two):
        assert await asked.told("calls_total") == 7
        assert await asked.told("waiting") == 7
        assert (await asked.told('version{worker="1"}'), await asked.told('version{worker="2"}')) == (3, 4)
        assert await asked.told("serve_core_workers") == 2


async def test_two_that_are_asked_at_once_answer_each_other(start: Start) -> None:
    one, two = start(1), start(2)
    one.calls.inc()
    two.calls.inc()
    told = await asyncio.gather(*(worker.told("calls_total") for worker in (one, two, one, two)))
    assert told == [2] * 4


async def test_no_count_goes_back_when_one_dies_and_another_takes_its_place(start: Start) -> None:
    one, two = start(1), start(2)
    one.calls.inc(5)
    two.calls.inc(6)
    assert await one.told("calls_total") == 11
    kill(two)
    assert await one.told("calls_total") == 11
    assert await one.told("serve_core_workers") == 1
    assert one.shared.others_ready() == {2: False}
    successor = start(2)
    assert await one.told("calls_total") == await successor.told("calls_total") == 11
    successor.calls.inc()
    kill(successor)
    third = start(2)
    third.calls.inc()
    # What a killed one counted since it wrote is lost; nothing else is.
    assert await one.told("calls_total") == 12


async def test_what_was_told_is_never_taken_back(start: Start) -> None:
    one, two = start(1), start(2)
    one.calls.inc()
    assert await one.told("calls_total") == 1
    kill(one)
    assert await two.told("calls_total") == 1


async def test_one_that_ends_in_order_leaves_every_count(start: Start) -> None:
    one, two = start(1), start(2)
    two.calls.inc(2)
    two.shared.close()
    assert await one.told("calls_total") == 2


async def test_one_that_stands_still_is_not_waited_for_long(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = start(1), start(2)
    two.calls.inc()
    two.shared.publish()
    post = two.shared._post
    assert post is not None
    asyncio.get_running_loop().remove_reader(post._socket)
    monkeypatch.setattr(shared_metrics, "ANSWER_TIMEOUT_S", 0.01)
    assert await one.told("calls_total") == 1
    assert await one.told("serve_core_workers") == 2
    # Silent for too long, it is told of as one that is gone.
    monkeypatch.setattr(shared_metrics, "SILENT_AFTER_S", -1.0)
    assert one.shared.others_ready() == {2: False}
    assert await one.told("serve_core_workers") == 0
    assert await one.told("calls_total") == 1


async def test_each_knows_who_else_takes_requests(start: Start) -> None:
    one = start(1)
    assert one.shared.others_ready() == {2: False}
    two = start(2)
    assert (one.shared.others_ready(), two.shared.others_ready()) == ({2: True}, {1: True})
    two.ready = False
    two.shared.publish()
    assert one.shared.others_ready() == {2: False}


async def test_a_long_path_is_no_hindrance(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 120)
    folder.mkdir()
    one, two = Worker(folder, 1, 2), Worker(folder, 2, 2)
    two.calls.inc()
    assert await one.told("calls_total") == 1
    one.shared.close()
    two.shared.close()


async def test_what_cannot_be_read_counts_as_nothing(start: Start, tmp_path: Path) -> None:
    one = start(1)
    one.calls.inc()
    (tmp_path / "2.report").write_bytes(b"\xff not a report")
    assert await one.told("calls_total") == 1
