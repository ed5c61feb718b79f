"""``serve-core run`` as users start it: a process of its own, in a folder with a small module."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

import serve_core
from serve_core.errors import ApplicationError, ControllerUnreachableError

pytestmark = pytest.mark.integration

MODULE = """
import asyncio
import time
from collections.abc import AsyncIterator

from serve_core import DeploymentHandle, deployment, get_replica_context


class TooLong(ValueError):
    pass


@deployment(cpus=0.1)
class Words:
    def count(self, text: str) -> int:
        if len(text) > 100:
            raise TooLong(f"{len(text)} is more than 100")
        return len(text.split())


@deployment(cpus=0.1, max_ongoing_requests=10)
class Front:
    def __init__(self, words: DeploymentHandle[Words], *, factor: int) -> None:
        self.words = words
        self.factor = factor
        print("the front is up", flush=True)

    async def count(self, text: str) -> int:
        return self.factor * await self.words.count(text)

    async def numbers(self, n: int) -> AsyncIterator[int]:
        for number in range(n):
            yield number

    async def slow(self, seconds: float) -> str:
        print("slow has begun", flush=True)
        await asyncio.sleep(seconds)
        return get_replica_context().deployment


@deployment(cpus=0.1)
class Broken:
    def __init__(self) -> None:
        raise OSError("the model file is missing")


@deployment(cpus=0.1, start_deadline_s=1.5)
class Hanging:
    def __init__(self) -> None:
        time.sleep(3600)


app = Front.bind(Words.bind(), factor=10)
broken = Broken.bind()
hanging = Hanging.bind()
endless = Hanging.options(name="Endless", start_deadline_s=600.0).bind()
"""


class Run:
    """One ``serve-core run`` in ``folder``; whatever it starts carries a mark by which it is found."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.mark = uuid.uuid4().hex
        self.stderr_path = folder / f"stderr-{self.mark}"
        ports = () if "--port" in arguments else ("--port", "0")
        with self.stderr_path.open("wb") as stderr:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-P",
                    "-m",
                    "serve_core.cli",
                    "run",
                    *arguments,
                    *ports,
                    "--http-port",
                    "0",
                    "--controller-port",
                    "0",
                    "--cpus",
                    "4",
                    "--drain-timeout",
                    "20",
                ],
                cwd=folder,
                env={**os.environ, "SERVE_CORE_TEST_MARK": self.mark},
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )
        self.addresses: dict[str, str] = {}

    def wait_serving(self) -> None:
        """Reads the addresses, which are printed once everything takes requests."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            word, _, rest = line.partition(" ")
            self.addresses.setdefault(word, rest.strip())
            if "# Python" in line:
                return
        raise AssertionError(f"it ended with {self.process.wait()}:\n{self.stderr}")

    @property
    def stderr(self) -> str:
        return self.stderr_path.read_text()

    def ended(self) -> int:
        """The exit status."""
        assert self.process.stdout is not None
        self.process.stdout.read()
        return self.process.wait(timeout=60)

    def left(self) -> list[str]:
        """What still runs of all that was started."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("SERVE_CORE_TEST_MARK") == self.mark:
                    found.append(" ".join(process.cmdline()) or process.name())
            except (psutil.Error, OSError):
                continue
        return found

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


class Runs:
    """Starts runs, and ends them after the test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.started: list[Run] = []

    def start(self, *arguments: str) -> Run:
        run = Run(self.folder, *arguments)
        self.started.append(run)
        return run


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[Runs]:
    (tmp_path / "small.py").write_text(MODULE)
    runs = Runs(tmp_path)
    yield runs
    for run in runs.started:
        run.close()


def command(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "serve_core.cli", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def post(url: str, body: object) -> tuple[int, object]:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


async def test_everything_is_served_and_ctrl_c_leaves_nothing(runs: Runs) -> None:
    run = runs.start("small:app")
    run.wait_serving()
    controller, router, http = (run.addresses[name] for name in ("controller", "gRPC", "HTTP"))

    handle = serve_core.get_handle("default", controller=controller)
    try:
        assert await handle.count("one two three") == 30
        assert [number async for number in handle.numbers(3)] == [0, 1, 2]
        assert await serve_core.get_handle("default", "Words", controller=controller).count("a b") == 2
        async with handle.choose_replica(timeout_s=60) as selection:
            assert selection.replica_id.startswith("default.Front.")
            assert await handle.dispatch(selection).count("one") == 10
        with pytest.raises(ApplicationError, match="101 is more than 100") as caught:
            await serve_core.get_handle("default", "Words", controller=controller).count("x" * 101)
        assert "small.py" in caught.value.remote_traceback
    finally:
        await serve_core.close()

    called = command("call", "default", "count", '{"text": "one two"}', "--router", router)
    assert (called.returncode, called.stdout) == (0, "20\n"), called.stderr
    called = command("call", "default.Words", "count", "-", "--controller", controller, stdin='["one two"]')
    assert (called.returncode, called.stdout) == (0, "2\n"), called.stderr
    called = command("call", "default", "numbers", "3", "--router", router)
    assert (called.returncode, called.stdout) == (0, "0\n1\n2\n"), called.stderr
    called = command("call", "default", "nonsense", "3", "--router", router)
    assert called.returncode == 1
    assert called.stderr.startswith("error: METHOD_UNKNOWN: ")
    called = command("call", "nonsense", "count", "--router", router)
    assert called.returncode == 1
    assert called.stderr.startswith("error: DEPLOYMENT_UNKNOWN: ")
    assert command("call", "default", "count", "{no json", "--router", router).returncode == 2

    assert post(f"{http}/default/count", {"text": "one two"}) == (200, 20)

    shown = command("status", "--controller", controller, "-o", "json")
    status = json.loads(shown.stdout)
    assert [one["state"] for one in status["applications"][0]["deployments"]] == ["DEPLOYMENT_STATE_HEALTHY"] * 2
    assert "default.Front" in command("status", "--controller", controller).stdout

    run.process.send_signal(signal.SIGINT)
    assert run.ended() == 0, run.stderr
    assert run.left() == []
    assert "| the front is up" in run.stderr
    assert "stopped" in run.stderr
    with pytest.raises(ControllerUnreachableError):
        await serve_core.status(controller=controller)


def test_what_runs_is_finished_after_ctrl_c(runs: Runs) -> None:
    run = runs.start("small:app")
    run.wait_serving()
    call = subprocess.Popen(
        [
            sys.executable,
            "-P",
            "-m",
            "serve_core.cli",
            "call",
            "default",
            "slow",
            "2",
            "--router",
            run.addresses["gRPC"],
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for_text(run, "| slow has begun")
    run.process.send_signal(signal.SIGINT)
    out, err = call.communicate(timeout=60)
    assert (call.returncode, out) == (0, '"Front"\n'), err
    assert run.ended() == 0
    assert run.left() == []


def wait_for_text(run: Run, text: str) -> None:
    """Waits until the run's stderr holds ``text``, told by the system when the file grows."""
    from watchfiles import watch

    if text in run.stderr:
        return
    for _ in watch(run.stderr_path, step=20, rust_timeout=200, yield_on_timeout=True):
        if text in run.stderr:
            return
        assert run.process.poll() is None, run.stderr


def test_ctrl_c_while_something_starts_leaves_nothing(runs: Runs) -> None:
    run = runs.start("small:endless")
    wait_for_text(run, "Endless: updating")
    run.process.send_signal(signal.SIGINT)
    assert run.ended() == 0, run.stderr
    assert run.left() == []


def test_a_run_that_is_killed_leaves_nothing(runs: Runs) -> None:
    run = runs.start("small:app")
    run.wait_serving()
    started = list(psutil.Process(run.process.pid).children(recursive=True))
    assert len(started) >= 4
    run.process.kill()
    _, alive = psutil.wait_procs(started, timeout=60)
    assert alive == []


def test_a_second_ctrl_c_ends_everything_at_once(runs: Runs) -> None:
    run = runs.start("small:app")
    run.wait_serving()
    call = subprocess.Popen(
        [
            sys.executable,
            "-P",
            "-m",
            "serve_core.cli",
            "call",
            "default",
            "slow",
            "50",
            "--router",
            run.addresses["gRPC"],
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_for_text(run, "| slow has begun")
    run.process.send_signal(signal.SIGINT)
    wait_for_text(run, "draining")
    run.process.send_signal(signal.SIGINT)
    assert run.ended() == 70
    assert run.left() == []
    assert call.wait(timeout=60) == 1


@pytest.mark.parametrize(
    ("target", "reason", "said", "trace"),
    [
        ("nowhere:app", "IMPORT_FAILED", "there is no module 'nowhere'", ""),
        ("small:nothing", "IMPORT_FAILED", "has no 'nothing'", ""),
        ("small:broken", "CONSTRUCTOR_FAILED", "the model file is missing", "OSError: the model file is missing"),
        ("small:hanging", "START_TIMED_OUT", "start_deadline_s", ""),
    ],
)
def test_what_cannot_start_is_explained(runs: Runs, target: str, reason: str, said: str, trace: str) -> None:
    run = runs.start(target, "--no-logs")
    assert run.ended() == 1
    (error,) = [line for line in run.stderr.splitlines() if line.startswith("error: ")]
    assert error.startswith(f"error: {reason}: ")
    assert said in error
    assert trace in run.stderr
    assert run.left() == []


def test_a_port_that_is_taken_is_named(runs: Runs) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        run = runs.start("small:app", "--port", str(port))
        assert run.ended() == 1
    (error,) = [line for line in run.stderr.splitlines() if line.startswith("error: ")]
    assert error.startswith("error: PORT_TAKEN: ")
    assert str(port) in error
    assert run.left() == []


def test_a_file_is_run_and_its_mistakes_are_shown(runs: Runs) -> None:
    path = runs.folder / "serve.yaml"
    path.write_text("applications:\n  - name: words\n    import_path: small:app\n    deployment: []\n")
    run = runs.start("serve.yaml")
    assert run.ended() == 1
    assert run.stderr.splitlines() == [
        "error: CONFIG_INVALID: serve.yaml:4:5: applications[0].deployment: unknown key 'deployment'; "
        "did you mean 'deployments'?"
    ]
    path.write_text("applications:\n  - name: words\n    import_path: small:app\n")
    run = runs.start("serve.yaml")
    run.wait_serving()
    called = command("call", "words", "count", '["a b"]', "--router", run.addresses["gRPC"])
    assert called.stdout == "20\n", called.stderr
    run.process.send_signal(signal.SIGTERM)
    assert run.ended() == 0
    assert run.left() == []
