"""What a process costs, of this one."""

import os
import subprocess
import sys

from bench.measure.processes import CpuMeter, cpu_s, family, peak_mb, pss_mb, reset_peak, rss_mb


def test_cpu_time_is_what_the_system_says() -> None:
    spent = os.times()
    assert abs(cpu_s(os.getpid()) - spent.user - spent.system) < 1.0


def test_a_meter_counts_from_when_it_was_made() -> None:
    meter = CpuMeter({"here": [os.getpid()]})
    while not meter.spent_s()["here"]:
        sum(range(1000))
    assert meter.per_request_us(1)["here"] == meter.spent_s()["here"] * 1e6
    assert meter.percent() > 0


def test_a_process_that_has_ended_counts_for_nothing() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        meter = CpuMeter({"both": [os.getpid(), child.pid], "child": [child.pid]})
        child.communicate(b"\n")
    assert meter.spent_s()["child"] == 0
    assert 0 <= meter.spent_s()["both"] < 60
    assert CpuMeter({"child": [child.pid]}).spent_s() == {"child": 0}


def test_the_peak_of_memory_is_seen_after_it_was_freed() -> None:
    pid = os.getpid()
    reset_peak(pid)
    before = rss_mb(pid)
    block = bytearray(b"x") * (32 << 20)
    del block
    assert peak_mb(pid) > before + 30
    assert 0 < pss_mb(pid) <= peak_mb(pid)


def test_a_family_begins_with_its_parent() -> None:
    assert family(os.getpid())[0] == os.getpid()
