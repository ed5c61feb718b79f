"""What a process costs: of one that does nothing else, wherever what that did before would count."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator

from bench.measure.processes import CpuMeter, cpu_s, family, peak_mb, pss_mb, reset_peak, rss_mb

SPEND = """
import time
print(1, flush=True)
input()
start_s = time.process_time()
while time.process_time() - start_s < 0.1:
    pass
print(1, flush=True)
input()
"""
FREE = "print(1, flush=True); input(); block = bytearray(b'x') * (64 << 20); del block; print(1, flush=True); input()"


class Child:
    """A fresh process that runs ``code``, and stands still where that prints until it is told to go on."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.pid = process.pid
        self._stands_still()

    def goes_on(self) -> None:
        """Returns when it stands still again."""
        assert self._process.stdin
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        self._stands_still()

    def _stands_still(self) -> None:
        assert self._process.stdout
        assert self._process.stdout.readline() == "1\n"


@contextlib.contextmanager
def child(code: str) -> Iterator[Child]:
    command = (sys.executable, "-c", code)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Child(process)
        finally:
            process.kill()


def test_cpu_time_is_what_the_system_says() -> None:
    before = os.times()
    told = cpu_s(os.getpid())
    after = os.times()
    slack_s = 2 / os.sysconf("SC_CLK_TCK")
    assert before.user + before.system - slack_s <= told <= after.user + after.system + slack_s


def test_a_meter_counts_from_when_it_was_made() -> None:
    with child(SPEND) as one:
        meter = CpuMeter({"one": [one.pid]})
        one.goes_on()
        before = meter.spent_s()["one"]
        told = meter.per_request_us(10)["one"]
        after = meter.spent_s()["one"]
        assert 0 < before * 1e5 <= told <= after * 1e5 < 60e5
        assert meter.percent() > 0


def test_a_process_that_has_ended_counts_for_nothing() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as ended:
        meter = CpuMeter({"both": [os.getpid(), ended.pid], "ended": [ended.pid]})
        ended.communicate(b"\n")
    assert meter.spent_s()["ended"] == 0
    assert 0 <= meter.spent_s()["both"] < 60
    assert CpuMeter({"ended": [ended.pid]}).spent_s() == {"ended": 0}


def test_the_peak_of_memory_is_seen_after_it_was_freed() -> None:
    with child(FREE) as one:
        reset_peak(one.pid)
        before = rss_mb(one.pid)
        one.goes_on()
        assert peak_mb(one.pid) > before + 60
        assert rss_mb(one.pid) < before + 30
        assert 0 < pss_mb(one.pid) <= peak_mb(one.pid)


def test_a_family_begins_with_its_parent() -> None:
    assert family(os.getpid())[0] == os.getpid()
