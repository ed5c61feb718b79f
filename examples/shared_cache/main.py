"""A cache that replicas share, killed twice under load: serve digits, kill -9 the cache, print what it lost and who noticed.

Run from anywhere: ``python examples/shared_cache/main.py``.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from sklearn.datasets import load_digits  # noqa: E402
from sklearn.model_selection import train_test_split  # noqa: E402

import serve_core  # noqa: E402
from cached.app import CACHE, SNAPSHOT_INTERVAL_S, Answer, Classifier  # noqa: E402
from cached.cache import Report  # noqa: E402
from serve_core.client import ControllerClient  # noqa: E402
from serve_core.launch import LocalCluster, LocalClusterConfig  # noqa: E402
from serve_core.model.status import ActorStatus  # noqa: E402

CALLERS = 8
TIMEOUT_S = 60.0
ACCURACY_MIN = 0.97
STORED_WITHIN_S = 1.0
"""The snapshot that was due when the cache was killed may have been on its way still."""


class Asked(NamedTuple):
    """A picture that was asked about, the answer, and when that came, in monotonic seconds."""

    picture: int
    answer: Answer
    at: float


class Load:
    """Callers that ask about the pictures, one after the other and over again, until they are told to stop."""

    def __init__(self, handle: serve_core.DeploymentHandle[Classifier], pixels: list[list[int]]) -> None:
        self._handle = handle
        self._pixels = pixels
        self._next = 0
        self._stopped = False
        self._news = asyncio.Condition()
        self.answers: list[Asked] = []
        self.errors: Counter[str] = Counter()
        self.longest_s = 0.0

    async def run(self) -> None:
        """Asks."""
        await asyncio.gather(*(self._caller() for _ in range(CALLERS)))

    def stop(self) -> None:
        """Asks no more."""
        self._stopped = True

    async def more(self, count: int, *, incarnation: int = 0) -> list[Asked]:
        """Waits for so many more answers, with the help of this life of the cache or a later one, and gives them."""
        begin = len(self.answers)

        def found() -> list[Asked]:
            return [one for one in self.answers[begin:] if one.answer.incarnation >= incarnation]

        async with asyncio.timeout(TIMEOUT_S), self._news:
            await self._news.wait_for(lambda: len(found()) >= count)
        return found()

    async def round(self, incarnation: int) -> list[Asked]:
        """Waits until each picture was asked about with the help of this life of the cache or a later one, and gives all of that."""

        def found() -> list[Asked]:
            return [one for one in self.answers if one.answer.incarnation >= incarnation]

        async with asyncio.timeout(TIMEOUT_S), self._news:
            await self._news.wait_for(lambda: len({one.picture for one in found()}) == len(self._pixels))
        return found()

    async def _caller(self) -> None:
        while not self._stopped:
            index = self._next % len(self._pixels)
            self._next += 1
            began = time.monotonic()
            try:
                answer: Answer = await self._handle.classify(self._pixels[index])
            except serve_core.ServeError as error:
                self.errors[f"{error.reason}: {error.message}"] += 1
                continue
            ended = time.monotonic()
            self.longest_s = max(self.longest_s, ended - began)
            async with self._news:
                self.answers.append(Asked(index, answer, ended))
                self._news.notify_all()


def hit_rate(asked: list[Asked]) -> float:
    """The share of answers that came from the cache."""
    return sum(one.answer.cached for one in asked) / len(asked)


async def cache_status(controller: str) -> ActorStatus:
    """The cache, as the controller sees it."""
    status = await serve_core.status("digits", controller=controller)
    return status.applications[0].deployments[0].actors[0]


async def kill_cache(load: Load, controller: str) -> float:
    """Kills the cache, and waits for an answer with the help of its next life. Returns when it was killed."""
    cache = await cache_status(controller)
    killed_at = time.monotonic()
    os.kill(cache.pid, signal.SIGKILL)
    print(f"killed the cache (-9), process {cache.pid}, while {CALLERS} callers ask")
    await load.more(1, incarnation=cache.incarnation + 1)
    print(f"  back        incarnation {cache.incarnation + 1} answers after {time.monotonic() - killed_at:.2f} s")
    return killed_at


def lost_at(killed_at: float, answers: list[Asked], since: list[Asked]) -> list[float]:
    """Prints how many pictures the cache had known, but not when the life after that was asked for the first time.

    Returns for how long it had known each of them, in seconds.
    """
    known_for = {
        one.picture: killed_at - one.at for one in reversed(answers) if one.at < killed_at
    }  # from the first time
    found = {one.picture: one.answer.cached for one in reversed(since)}  # the first time
    lost = [age_s for picture, age_s in known_for.items() if not found[picture]]
    ages = f", the oldest {max(lost):.2f} s old (a snapshot each {SNAPSHOT_INTERVAL_S:g} s)" if lost else ""
    print(f"  lost        {len(lost)} of {len(known_for)} entries{ages}")
    return lost


async def main() -> int:
    pixels, digits = load_digits(return_X_y=True)
    _, asked, _, shown = train_test_split(pixels, digits, test_size=0.5, random_state=0, stratify=digits)
    pictures = asked.astype(int).tolist()
    async with LocalCluster(LocalClusterConfig(cpus=2.0)) as cluster:
        controller = cluster.controller_address
        app = Classifier.options(working_dir=str(HERE)).bind()
        await serve_core.deploy(app, name="digits", controller=controller, timeout_s=120)
        before = await cache_status(controller)
        print(
            f"two replicas serve, and share the actor '{CACHE}': incarnation {before.incarnation}, process {before.pid}"
        )
        handle = serve_core.get_handle("digits", controller=controller, target=Classifier.target)
        load = Load(handle, pictures)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(load.run())
            first = await load.more(len(pictures) * 2 // 3)
            print(f"  hit rate    {hit_rate(first):.0%} of the first {len(first)} questions")
            killed_at = await kill_cache(load, controller)
            second = await load.round(incarnation=2)
            unsaved = lost_at(killed_at, load.answers, second)
            third = await load.more(len(pictures))
            print(f"  hit rate    {hit_rate(second):.0%} of the next {len(second)}, {hit_rate(third):.0%} of the next")
            async with ControllerClient(controller) as client:
                stored = await client.snapshot_actor("digits", "Classifier", CACHE, timeout_s=TIMEOUT_S)
            print(f"  snapshot    {stored.size_bytes:,} bytes of incarnation {stored.incarnation} are stored")
            killed_at = await kill_cache(load, controller)
            fourth = await load.round(incarnation=3)
            saved = lost_at(killed_at, load.answers, fourth)
            load.stop()
        report: Report = await handle.cache_report()
        after = await cache_status(controller)
        why = after.failure.message if after.failure is not None else "?"
        right = sum(shown[one.picture] == one.answer.digit for one in load.answers) / len(load.answers)
        print(f"  restored    {report.restored} of {len(pictures)} entries; incarnation 2 ended: {why}")
        print(f"  hit rate    {hit_rate(fourth):.0%} of the {len(fourth)} questions since")
        print(f"  told        a replica heard of the incarnations {await handle.restarts()}")
        print(
            f"  requests    {len(load.answers)}, errors {sum(load.errors.values())} {dict(load.errors) or ''}".rstrip()
        )
        print(f"  longest     {load.longest_s:.2f} s, of those that waited for the cache")
        print(f"  accuracy    {right:.1%}")
        await serve_core.close(controller)
    print("drained; nothing is left running")
    kept = max(unsaved, default=0.0) <= SNAPSHOT_INTERVAL_S + STORED_WITHIN_S and not saved
    return 0 if kept and not load.errors and after.incarnation == 3 and right >= ACCURACY_MIN else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
