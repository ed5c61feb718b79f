"""What processes cost: CPU time and memory, as ``/proc`` tells them."""

from __future__ import annotations

import contextlib
import os
import resource
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import psutil

_TICKS_S = os.sysconf("SC_CLK_TCK")
_MB_OF_KIB = 1.024 / 1000
_RESET_PEAK = "5"


def cpu_s(pid: int) -> float:
    """CPU seconds that a process has used, its threads included."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_S


def children_s() -> float:
    """CPU seconds that all processes have used which were started here and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _kib(path: Path, name: str) -> int:
    for line in path.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise ValueError(f"{path} does not tell {name}")


def pss_mb(pid: int) -> float:
    """Memory of a process in MB; of what it shares with others, its share."""
    return _kib(Path(f"/proc/{pid}/smaps_rollup"), "Pss") * _MB_OF_KIB


def rss_mb(pid: int) -> float:
    """Memory in MB that a process has in its pages, shared ones included."""
    return _kib(Path(f"/proc/{pid}/status"), "VmRSS") * _MB_OF_KIB


def peak_mb(pid: int) -> float:
    """The most that its ``rss_mb`` was since ``reset_peak``."""
    return _kib(Path(f"/proc/{pid}/status"), "VmHWM") * _MB_OF_KIB


def reset_peak(pid: int) -> None:
    """Begins ``peak_mb`` anew."""
    Path(f"/proc/{pid}/clear_refs").write_text(_RESET_PEAK)


def family(pid: int) -> list[int]:
    """A process and everything below it."""
    process = psutil.Process(pid)
    return [pid, *(child.pid for child in process.children(recursive=True))]


class CpuMeter:
    """CPU time of named processes from one moment to another. One that has ended meanwhile counts for nothing.

    Args:
        processes: The process ids of each name.
    """

    def __init__(self, processes: Mapping[str, Sequence[int]]) -> None:
        self._processes = processes
        self._before = {name: _by_process(pids) for name, pids in processes.items()}
        self._start = time.perf_counter()

    def spent_s(self) -> dict[str, float]:
        """Since this meter was made."""
        spent_s = {}
        for name, pids in self._processes.items():
            before = self._before[name]
            spent_s[name] = sum(now - before[pid] for pid, now in _by_process(pids).items() if pid in before)
        return spent_s

    def per_request_us(self, requests: float) -> dict[str, float]:
        """The same, by request."""
        return {name: spent / requests * 1e6 for name, spent in self.spent_s().items()}

    def percent(self) -> float:
        """Of one core, all together."""
        return sum(self.spent_s().values()) / (time.perf_counter() - self._start) * 100


def _by_process(pids: Iterable[int]) -> dict[int, float]:
    known = {}
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            known[pid] = cpu_s(pid)
    return known
