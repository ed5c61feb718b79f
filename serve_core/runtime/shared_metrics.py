"""Metrics of processes that share their ports: whichever of them is asked tells of all, also of what ended ones counted.

Each has one file in a folder that is theirs alone, and writes into it what it has to say: about each second, and when
another one is asked. Its successor goes on with what was counted there. So no count ever goes back, whoever dies; all that a killed
process takes along is what it counted since it wrote.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Collection
from pathlib import Path

import msgspec
from prometheus_client import CollectorRegistry

from serve_core.runtime.clock import monotonic
from serve_core.runtime.log import get_logger
from serve_core.runtime.merging import Family, Sample, Share, carried_on, families_of, merged, registry_of
from serve_core.runtime.metrics import exposition
from serve_core.runtime.reports import report_path

PUBLISH_S = 1.0
"""Between two reports of a process that nobody asks, in seconds; more where reports cost much."""

PUBLISH_MAX_S = 5.0
COST_MAX = 0.005
"""The share of its time that a process spends on reports that nobody asked for."""

SILENT_AFTER_S = 10.0
"""A process whose last report is older is not there, or stands still: only what it has counted is told."""

ANSWER_TIMEOUT_S = 0.25
"""How long the others have to report when one is asked; then their last reports do."""

WORKERS = "serve_core_workers"

_ASK, _DONE, _PROBE = "ask", "done", "probe"
_MESSAGE_BYTES_MAX = 64
_log = get_logger(__name__)


class Report(msgspec.Struct, frozen=True, array_like=True):
    """What one process says.

    Attributes:
        at: When, in monotonic seconds, which all processes of a machine count alike.
        ready: Whether it takes requests.
        families: Its metrics, with what those before it in its place had counted.
    """

    at: float
    ready: bool
    families: tuple[Family, ...]


class SharedMetrics:
    """One process's place among those that share.

    Args:
        folder: Where all of them write; nobody else may.
        place: Which of them this is, from 1. No two that run have the same.
        places: How many they are.
        registry: This process's own metrics.
        ready: Whether it takes requests now.
        amounts: The names of gauges that are added up (see ``merging.merged``).
    """

    def __init__(
        self,
        folder: Path,
        place: int,
        places: int,
        *,
        registry: CollectorRegistry,
        ready: Callable[[], bool],
        amounts: Collection[str] = (),
    ) -> None:
        self._folder = folder
        self._place = place
        self._others = tuple(other for other in range(1, places + 1) if other != place)
        self._registry = registry
        self._ready = ready
        self._amounts = frozenset(amounts)
        self._inherited: tuple[Family, ...] = ()
        self._post: _Post | None = None

    def open(self) -> None:
        """Takes over from whoever had this place, and reports. Needs a running event loop.

        Raises:
            OSError: The folder cannot be used.
        """
        before = self._read(self._place)
        self._inherited = before.families if before is not None else ()
        self._post = _Post(self._folder, self._place, self.publish)
        self.publish()

    async def run(self) -> None:
        """Reports each ``PUBLISH_S`` or so, until cancelled."""
        pause_s = PUBLISH_S
        while True:
            await asyncio.sleep(pause_s)
            began = monotonic()
            self.publish()
            pause_s = min(max(PUBLISH_S, (monotonic() - began) / COST_MAX), PUBLISH_MAX_S)

    def publish(self) -> None:
        """Reports, while it is open."""
        if self._post is None:
            return
        families = carried_on(self._inherited, families_of(self._registry))
        report = Report(monotonic(), self._ready(), tuple(families))
        # Put in place as a whole: others read it at any moment, and this process may be killed at any moment.
        draft = self._folder / f"{self._place}.draft"
        try:
            draft.write_bytes(msgspec.msgpack.encode(report))
            draft.replace(report_path(self._folder, self._place))
        except OSError as error:
            _log.warning("the others cannot be told of this process's metrics", cause=str(error))

    async def exposition(self, accept: str = "") -> tuple[bytes, str]:
        """What a scrape of any of them gets: see ``metrics.exposition``."""
        assert self._post is not None
        there = {self._place, *await self._post.ask(self._others, ANSWER_TIMEOUT_S)}
        # What this process tells it writes down first: another one must never tell less of it later.
        self.publish()
        # In a thread: the calls of this process are not to wait for the sums of all of them.
        return await asyncio.to_thread(self._sums, there, accept)

    def _sums(self, there: Collection[int], accept: str) -> tuple[bytes, str]:
        now = monotonic()
        reports = {place: self._read(place) for place in sorted((self._place, *self._others))}
        shares = [
            Share(str(place), report.families, present=place in there and _is_fresh(report, now))
            for place, report in reports.items()
            if report is not None
        ]
        families = merged(shares, amounts=self._amounts)
        count = Sample(WORKERS, (), float(sum(share.present for share in shares)))
        families.append(Family(WORKERS, "Processes that share these metrics and their ports.", "gauge", (count,)))
        return exposition(registry_of(families), accept)

    def others_ready(self) -> dict[int, bool]:
        """Whether each of the others takes requests, by its place."""
        assert self._post is not None
        now = monotonic()
        there = {place: self._read(place) for place in self._others if self._post.reaches(place)}
        return {
            place: (report := there.get(place)) is not None and report.ready and _is_fresh(report, now)
            for place in self._others
        }

    def close(self) -> None:
        """Reports for the last time."""
        if self._post is not None:
            self.publish()
            self._post.close()
            self._post = None

    def _read(self, place: int) -> Report | None:
        try:
            return msgspec.msgpack.decode(report_path(self._folder, place).read_bytes(), type=Report)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.MsgspecError) as error:
            _log.warning("the metrics of another process cannot be read", place=place, cause=str(error))
            return None


class _Post:
    """Asks the others to report, and does so when they ask: datagrams between sockets in the folder."""

    def __init__(self, folder: Path, place: int, publish: Callable[[], None]) -> None:
        self._publish = publish
        self._place = place
        self._round = 0
        self._missing: dict[int, set[int]] = {}
        self._complete: dict[int, asyncio.Event] = {}
        self._folder = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        (folder / f"{place}.sock").unlink(missing_ok=True)
        self._socket.bind(self._address(place))
        asyncio.get_running_loop().add_reader(self._socket, self._arrived)

    def reaches(self, place: int) -> bool:
        """Whether there is a process in that place."""
        return self._send(place, _PROBE, 0)

    async def ask(self, others: Collection[int], timeout_s: float) -> frozenset[int]:
        """Waits until each of the others that are there has reported, ``timeout_s`` seconds at most; says which are there."""
        self._round += 1
        asked = self._round
        missing = {other for other in others if self._send(other, _ASK, asked)}
        there = frozenset(missing)
        if not there:
            return there
        self._missing[asked], self._complete[asked] = missing, asyncio.Event()
        try:
            async with asyncio.timeout(timeout_s):
                await self._complete[asked].wait()
        except TimeoutError:
            _log.debug("not all have reported", missing=sorted(missing))
        finally:
            del self._missing[asked], self._complete[asked]
        return there

    def close(self) -> None:
        """Is not asked any more."""
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()
        os.close(self._folder)

    def _address(self, place: int) -> str:
        # By a descriptor, because the path of a socket may be no longer than 107 bytes.
        return f"/proc/self/fd/{self._folder}/{place}.sock"

    def _send(self, place: int, verb: str, number: int) -> bool:
        """Whether there is somebody, who may take it."""
        try:
            self._socket.sendto(f"{verb} {self._place} {number}".encode(), self._address(place))
        except BlockingIOError:
            return True  # It takes nothing at present.
        except OSError:
            return False
        return True

    def _arrived(self) -> None:
        questions: list[tuple[int, int]] = []
        with contextlib.suppress(BlockingIOError):
            while True:
                verb, place, number = self._socket.recv(_MESSAGE_BYTES_MAX).decode().split()
                if verb == _ASK:
                    questions.append((int(place), int(number)))
                elif verb == _DONE:
                    self._reported(int(place), int(number))
        if questions:
            self._publish()
        for asker, asked in questions:
            self._send(asker, _DONE, asked)

    def _reported(self, place: int, number: int) -> None:
        missing = self._missing.get(number)
        if missing is not None:
            missing.discard(place)
            if not missing:
                self._complete[number].set()


def _is_fresh(report: Report, now: float) -> bool:
    return now - report.at <= SILENT_AFTER_S
