"""What a process keeps of freed memory, and when it gives that back."""

from __future__ import annotations

import subprocess
import sys

import pytest

from serve_core.runtime.memory import WORTH_BYTES, Kept, keep

IN_A_PROCESS = """
from serve_core.runtime import memory
kept = memory.keep({})
assert kept is not None
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096
before = resident()
for _ in range(3):
    held = [bytes([1]) * 10_000_000 for _ in range(5)]
    del held
assert resident() - before > 40_000_000, "nothing is kept"
kept.look()
assert resident() - before > 40_000_000, "it is given back at once"
kept.look()
assert resident() - before < 10_000_000, "it is not given back"
"""


def test_what_is_found_twice_is_given_back_once() -> None:
    free, given = [0], list[int]()
    kept = Kept(lambda: free[0], lambda: given.append(free[0]))
    looks = []
    for free[0] in (0, WORTH_BYTES, 0, WORTH_BYTES - 1, WORTH_BYTES, WORTH_BYTES, WORTH_BYTES, WORTH_BYTES):
        kept.look()
        looks.append(len(given))
    assert looks == [0, 0, 0, 0, 0, 1, 1, 2]


def test_freed_memory_is_kept_and_goes_when_nobody_needs_it() -> None:
    subprocess.run([sys.executable, "-c", IN_A_PROCESS], check=True, timeout=120)


@pytest.mark.parametrize("name", ["MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES"])
def test_what_the_user_has_set_stays(name: str) -> None:
    assert keep({name: "1000000"}) is None
