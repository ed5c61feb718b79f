"""The skeleton of a process, in real processes: signals, errors, and ending with another."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from typing import TypeAlias

import pytest

from serve_core.runtime.process import FILES_MAX, parse_announcement

pytestmark = pytest.mark.integration

END_S = 60.0
Process: TypeAlias = "subprocess.Popen[str]"
Start = Callable[[str], Process]

PRELUDE = """
import asyncio, os, sys, threading, time
from serve_core.errors import PortTakenError
from serve_core.runtime.process import announce, die_with, run_process
"""


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a process whose ``main`` has this body."""
    started: list[Process] = []

    def start(body: str) -> Process:
        main = "async def main(signals):\n" + textwrap.indent(textwrap.dedent(body), "    ")
        program = f"{PRELUDE}\n{main}\nrun_process(main, role='tester', log_format='json', replica='r-1')\n"
        process = subprocess.Popen(
            [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def until_ready(process: Process) -> dict[str, object]:
    assert process.stdout is not None
    announcement = parse_announcement(process.stdout.readline())
    assert announcement is not None
    role, fields = announcement
    assert role == "tester"
    return fields


def ended(process: Process) -> tuple[int, str]:
    _, stderr = process.communicate(timeout=END_S)
    return process.returncode, stderr


def test_what_main_returns_is_the_exit_status(start: Start) -> None:
    assert ended(start("return 3")) == (3, "")


def test_it_may_have_as_many_files_open_as_the_system_allows(start: Start) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 1024), hard))
    try:
        process = start(
            "import resource; announce('tester', files=resource.getrlimit(resource.RLIMIT_NOFILE)); return 0"
        )
        fields = until_ready(process)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert fields["files"] == [FILES_MAX if hard == resource.RLIM_INFINITY else min(hard, FILES_MAX), hard]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_asks_to_stop(start: Start, number: signal.Signals) -> None:
    process = start("announce('tester', address='a'); await signals.stop.wait(); return 0")
    assert until_ready(process) == {"pid": process.pid, "address": "a"}

    process.send_signal(number)

    assert ended(process) == (0, "")


def test_the_second_signal_ends_it_at_once_even_when_the_loop_is_blocked(start: Start) -> None:
    process = start(
        """
        announce('tester')
        await signals.stop.wait()
        announce('tester', stopping=True)
        while True:
            time.sleep(0.01)
        """
    )
    until_ready(process)
    process.send_signal(signal.SIGTERM)
    until_ready(process)
    process.send_signal(signal.SIGINT)

    assert ended(process) == (70, "")


def test_an_error_of_ours_is_one_line_and_status_1(start: Start) -> None:
    assert ended(start("raise PortTakenError('choose another port')")) == (
        1,
        "error: PORT_TAKEN: choose another port\n",
    )


def test_any_other_error_is_logged_once_and_status_1(start: Start) -> None:
    status, stderr = ended(start("raise LookupError('lost')"))

    assert status == 1
    assert len(stderr.splitlines()) == 1
    assert stderr.count("LookupError: lost") == 1
    assert '"replica": "r-1"' in stderr


def test_a_thread_that_never_ends_does_not_keep_it(start: Start) -> None:
    body = "threading.Thread(target=threading.Event().wait).start(); return 5"
    assert ended(start(body)) == (5, "")


def test_a_worker_thread_that_never_ends_does_not_keep_it_either(start: Start) -> None:
    body = """
    working = asyncio.Event()
    loop = asyncio.get_running_loop()
    def work():
        loop.call_soon_threadsafe(working.set)
        threading.Event().wait()
    loop.run_in_executor(None, work)
    await working.wait()
    return 5
    """
    assert ended(start(body)) == (5, "")


def test_sigusr1_tells_where_tasks_and_threads_are(start: Start) -> None:
    process = start(
        """
        async def lingering():
            await signals.stop.wait()
        task = asyncio.get_running_loop().create_task(lingering(), name='the-lingerer')
        await asyncio.sleep(0)
        announce('tester')
        await task
        return 0
        """
    )
    until_ready(process)
    process.send_signal(signal.SIGUSR1)
    assert process.stderr is not None
    lines: list[str] = []
    while not any(line.endswith("in main.<locals>.lingering\n") for line in lines):
        lines.append(process.stderr.readline())
    process.send_signal(signal.SIGTERM)

    assert ended(process)[0] == 0
    assert any("Task the-lingerer" in line for line in lines)
    assert any("most recent call first" in line for line in lines)


def test_it_ends_when_the_process_that_it_belongs_to_ends_even_when_the_loop_is_blocked(start: Start) -> None:
    owner = start("announce('tester'); await signals.stop.wait(); return 0")
    until_ready(owner)
    process = start(
        f"""
        die_with({owner.pid})
        announce('tester')
        while True:
            time.sleep(0.01)
        """
    )
    until_ready(process)

    owner.kill()

    assert ended(process) == (70, "")


def test_it_ends_at_once_when_that_process_has_ended(start: Start) -> None:
    owner = start("return 0")
    ended(owner)

    assert ended(start(f"die_with({owner.pid}); await asyncio.Event().wait()"))[0] == 70


def test_its_name_says_what_it_is(start: Start) -> None:
    process = start("announce('tester'); await signals.stop.wait(); return 0")
    until_ready(process)

    with open(f"/proc/{process.pid}/cmdline", encoding="utf-8") as file:
        assert file.read().rstrip("\0 ").startswith("serve-core tester")


def test_nobody_reading_its_output_is_no_reason_to_fail(start: Start) -> None:
    process = start("announce('tester'); await signals.stop.wait(); announce('tester'); return 4")
    until_ready(process)
    assert process.stdout is not None
    process.stdout.close()
    process.stdout = None

    process.send_signal(signal.SIGTERM)

    assert ended(process) == (4, "")
