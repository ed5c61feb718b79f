"""Processes that a fork server starts: not to be told from new ones, and never in its hands alone."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import psutil
import pytest

from serve_core.backend import forking
from serve_core.backend.children import Child, Launch, SpawnedChild
from serve_core.backend.forking import ForkServer
from serve_core.backend.identity import find_marked, identify
from tests.contract.test_backend import FOREVER, PROGRAM, ROOT, _python

MARK = "SERVE_CORE_TEST_PROCESS"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
LOOK = """
import json, os, random, signal, sys, threading
print(json.dumps({
    'argv': sys.argv[1:], 'path': sys.path, 'folder': os.getcwd(), 'environment': dict(os.environ),
    'leads': [os.getsid(0) == os.getpid(), os.getpgid(0) == os.getpid()], 'umask': os.umask(0),
    'files': {name: os.readlink(f'/proc/self/fd/{name}') for name in '012'},
    'open': len(os.listdir('/proc/self/fd')), 'threads': threading.active_count(), 'buffered': sys.stdout.line_buffering,
    'signals': {number: str(signal.getsignal(number)) for number in sorted(signal.valid_signals())},
    'blocked': sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])), 'main': hasattr(sys.modules['__main__'], 'main'),
    'flags': str(sys.flags),
}))
"""


@pytest.fixture
async def server() -> AsyncIterator[ForkServer]:
    made = ForkServer(PROGRAM, ENVIRONMENT, MARK)
    made.open()
    yield made
    await made.close()


def launch(
    tmp_path: Path,
    command: tuple[str, ...] = FOREVER,
    *,
    process_id: str = "a",
    working_dir: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Launch:
    folder = working_dir or tmp_path
    path = os.pathsep.join((str(folder), str(ROOT)))
    return Launch(
        process_id=process_id,
        command=command,
        environment={**ENVIRONMENT, "PYTHONPATH": path, **(environment or {}), MARK: process_id},
        working_dir=str(folder),
        log_path=tmp_path / "log",
    )


async def until_ended(child: Child) -> int | None:
    ended = asyncio.Event()
    pidfd = os.pidfd_open(child.pid)
    loop = asyncio.get_running_loop()
    loop.add_reader(pidfd, ended.set)
    try:
        async with asyncio.timeout(60):
            await ended.wait()
    finally:
        loop.remove_reader(pidfd)
        os.close(pidfd)
    return child.exit_code()


def until_environment(pid: int) -> None:
    """Waits until a process that was started has its environment: for a moment it has none."""
    late = time.monotonic() + 60.0
    while not Path(f"/proc/{pid}/environ").read_bytes():
        assert time.monotonic() < late


async def end(*children: Child) -> None:
    for child in children:
        os.kill(child.pid, signal.SIGKILL)
        await until_ended(child)


def parent_of(child: Child) -> int:
    return psutil.Process(child.pid).ppid()


async def test_it_cannot_be_told_from_a_new_process(server: ForkServer, tmp_path: Path) -> None:
    seen: list[Mapping[str, object]] = []
    one = launch(tmp_path, _python(LOOK, "x", "y z"), environment={"OWN": "1"})
    for child in (SpawnedChild(one), await server.start(one)):
        assert await until_ended(child) == 0
        seen.append(json.loads(one.log_path.read_text().splitlines()[-1]))
    assert seen[1] == seen[0]
    assert seen[1]["argv"] == ["x", "y z"]


async def test_it_is_forked(server: ForkServer, tmp_path: Path) -> None:
    child = await server.start(launch(tmp_path, process_id=f"own-{os.getpid()}"))
    try:
        assert parent_of(child) == server.pid
        marked = find_marked(f"{MARK}=own-{os.getpid()}".encode())
        assert marked == identify(child.pid)
    finally:
        await end(child)


async def test_what_a_program_imports_late_is_imported_before_it_is_forked(server: ForkServer, tmp_path: Path) -> None:
    child = await server.start(
        launch(tmp_path, _python("from tests.contract import program; print(program.PRELOADED_IN)"))
    )
    assert await until_ended(child) == 0
    assert (tmp_path / "log").read_text() == f"{server.pid}\n"


async def test_others_see_its_own_environment(server: ForkServer, tmp_path: Path) -> None:
    one = launch(tmp_path, environment={"OWN": "1"})
    child = await server.start(one)
    try:
        assert psutil.Process(child.pid).environ() == one.environment
    finally:
        await end(child)


async def test_of_an_environment_that_is_too_large_to_show_the_mark_is_shown(
    server: ForkServer, tmp_path: Path
) -> None:
    large = {f"LARGE_{number}": "x" * 1000 for number in range(100)}
    child = await server.start(launch(tmp_path, process_id="b", environment=large))
    try:
        assert psutil.Process(child.pid).environ()[MARK] == "b"
    finally:
        await end(child)


async def test_two_have_their_own_chance(server: ForkServer, tmp_path: Path) -> None:
    one = launch(tmp_path, _python("import random, uuid; print(random.random(), uuid.uuid4())"))
    for _ in range(2):
        await until_ended(await server.start(one))
    first, second = one.log_path.read_text().splitlines()
    assert not set(first.split()) & set(second.split())


async def test_its_id_is_given_back_when_its_end_was_seen(server: ForkServer, tmp_path: Path) -> None:
    child = await server.start(launch(tmp_path))
    me = identify(child.pid)
    await end(child)
    await end(await server.start(launch(tmp_path)))
    assert me is not None
    assert identify(me.pid) != me


async def test_an_environment_may_be_larger_than_what_is_sent_at_once(server: ForkServer, tmp_path: Path) -> None:
    large = {f"LARGE_{number}": "x" * 100_000 for number in range(10)}
    child = await server.start(
        launch(tmp_path, _python("import os; print(len(os.environ['LARGE_9']))"), environment=large)
    )
    await until_ended(child)
    assert (tmp_path / "log").read_text() == "100000\n"


@pytest.mark.parametrize(
    "variable",
    ["PYTHONHASHSEED", "LD_LIBRARY_PATH", "GRPC_VERBOSITY", "SERVE_CORE_SERVER", "TZ", "HOME", "MALLOC_ARENA_MAX"],
)
async def test_what_is_read_at_the_start_takes_a_new_process(server: ForkServer, tmp_path: Path, variable: str) -> None:
    value = {"PYTHONHASHSEED": "7"}.get(variable, str(tmp_path))
    child = await server.start(launch(tmp_path, environment={variable: value}))
    try:
        assert parent_of(child) == os.getpid()
    finally:
        await end(child)


@pytest.mark.parametrize(
    ("name", "forked"),
    [
        ("json.py", False),
        ("socket/__init__.py", False),
        ("sitecustomize.py", False),
        ("models.py", True),
        ("json/x", True),
    ],
)
async def test_modules_that_hide_what_is_imported_take_a_new_process(
    server: ForkServer, tmp_path: Path, name: str, *, forked: bool
) -> None:
    folder = tmp_path / "work"
    (folder / name).parent.mkdir(parents=True)
    (folder / name).write_text("from time import *\n" if name == "json.py" else "")
    child = await server.start(launch(tmp_path, working_dir=folder))
    try:
        assert parent_of(child) == (server.pid if forked else os.getpid())
    finally:
        await end(child)


async def test_one_that_cannot_settle_in_says_why(server: ForkServer, tmp_path: Path) -> None:
    one = launch(tmp_path, environment={"A": "\0"})
    child = await server.start(one)
    assert await until_ended(child) == 1
    assert "null byte" in one.log_path.read_text()


async def test_another_program_is_not_forked(server: ForkServer, tmp_path: Path) -> None:
    child = await server.start(launch(tmp_path, (FOREVER[0], "-c", "import signal; signal.pause()")))
    try:
        assert parent_of(child) == os.getpid()
    finally:
        await end(child)


async def test_its_children_outlive_it_and_others_start_without_it(server: ForkServer, tmp_path: Path) -> None:
    orphan = await server.start(launch(tmp_path))
    os.kill(server.pid, signal.SIGKILL)
    heir = await server.start(launch(tmp_path, process_id="b"))
    try:
        assert parent_of(heir) == os.getpid()
        assert psutil.Process(orphan.pid).is_running()
        assert server.pid == 0
    finally:
        await end(heir)
        os.kill(orphan.pid, signal.SIGKILL)
    assert orphan.exit_code() in (None, -signal.SIGKILL)  # It is known for as long as nobody waits for it.


async def test_one_that_does_not_answer_is_done_without(
    server: ForkServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await end(await server.start(launch(tmp_path)))
    monkeypatch.setattr(forking, "ANSWER_TIMEOUT_S", 0.05)
    os.kill(server.pid, signal.SIGSTOP)
    child = await server.start(launch(tmp_path, process_id=f"late-{os.getpid()}"))
    try:
        assert parent_of(child) == os.getpid()
        until_environment(child.pid)
        assert find_marked(f"{MARK}=late-{os.getpid()}".encode()) == identify(child.pid)
    finally:
        await end(child)


async def test_one_that_cannot_import_its_program_is_done_without(tmp_path: Path) -> None:
    broken = ForkServer("no_such_program", {**ENVIRONMENT, "PYTHONWARNINGS": "ignore"}, MARK)
    broken.open()
    command = (FOREVER[0], "-m", "no_such_program")
    child = await broken.start(launch(tmp_path, command, environment={"PYTHONWARNINGS": "ignore"}))
    assert await until_ended(child) == 1
    assert "no_such_program" in (tmp_path / "log").read_text()
    await broken.close()


async def test_a_folder_that_is_not_there_is_said_at_once(server: ForkServer, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="missing"):
        await server.start(launch(tmp_path, working_dir=tmp_path / "missing"))
    await end(await server.start(launch(tmp_path)))


async def test_it_ends_with_its_owner(server: ForkServer, tmp_path: Path) -> None:
    child = await server.start(launch(tmp_path))
    process = psutil.Process(server.pid)
    await server.close()
    assert not process.is_running()
    os.kill(child.pid, signal.SIGKILL)
