"""How our own processes import gRPC."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from serve_core.runtime import choice, polling
from serve_core.runtime.polling import VARIABLE, import_grpc

PROGRAM = """
import os, socket, sys, threading
from serve_core.runtime import choice, polling
choice.choose(os.environ)
polling.import_grpc(os.environ)
assert os.environ.get('GRPC_EXPERIMENTS') == (sys.argv[1] or None)
from grpc._cython import cygrpc
queue = cygrpc.CompletionQueue()
server = cygrpc.Server((), False)
server.register_completion_queue(queue)
port = server.add_http2_port(b'127.0.0.1:0')
server.start()
client = socket.create_connection(('127.0.0.1', port))
client.settimeout(float(sys.argv[2]))
try:
    client.recv(1)
    print('its own threads', flush=True)
except TimeoutError:
    threading.Thread(target=queue.poll, args=(None,), daemon=True).start()
    client.settimeout(20.0)
    client.recv(1)
    print('who polls', flush=True)
os._exit(0)
"""
"""Says who reads the sockets of a server, by whether a client is greeted before anybody polls."""

OURS = "-event_engine_listener"
THEIRS = "event_engine_listener"


@pytest.mark.parametrize(
    ("before", "server", "seen"),
    [
        (None, "core", OURS),
        ("", "core", OURS),
        ("promise_based, other", "core", f"promise_based,other,{OURS}"),
        (OURS, "core", OURS),
        (THEIRS, "core", THEIRS),
        (f"other, {THEIRS}", "core", f"other, {THEIRS}"),
        (None, "aio", None),
        ("other", "aio", "other"),
    ],
)
def test_what_grpc_is_told_when_it_is_imported(
    monkeypatch: pytest.MonkeyPatch, before: str | None, server: str, seen: str | None
) -> None:
    environ = {} if before is None else {VARIABLE: before}
    was = dict(environ)
    told: list[str | None] = []
    monkeypatch.setattr(polling, "import_module", lambda _: told.append(environ.get(VARIABLE)))
    choice.choose({choice.VARIABLE: server})
    import_grpc(environ)
    assert told == [seen]
    assert environ == was


def test_the_environment_is_as_before_also_where_there_is_no_grpc(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(polling, "import_module", fail)
    environ: dict[str, str] = {}
    with pytest.raises(ModuleNotFoundError):
        import_grpc(environ)
    assert environ == {}


@pytest.mark.integration
@pytest.mark.parametrize(
    ("experiments", "server", "patience_s", "who"),
    [
        ("", "core", 0.3, "who polls"),
        (THEIRS, "core", 20.0, "its own threads"),
        ("", "aio", 20.0, "its own threads"),
    ],
)
def test_grpc_does_as_it_is_told(experiments: str, server: str, patience_s: float, who: str) -> None:
    environ = {name: value for name, value in os.environ.items() if name != VARIABLE}
    environ |= {choice.VARIABLE: server} | ({VARIABLE: experiments} if experiments else {})
    command = [sys.executable, "-c", PROGRAM, experiments, str(patience_s)]
    ended = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.stdout, ended.stderr) == (f"{who}\n", "")


@pytest.mark.integration
@pytest.mark.parametrize(
    ("program", "arguments"),
    [
        ("router", ["--controller", "127.0.0.1:1", "--port", "0", "--http-port", "0"]),
        ("serve_core.controller", ["--port", "0", "--state-dir", "/nonexistent"]),
        ("replica", ["--controller", "127.0.0.1:1", "--replica-id", "d#1", "--epoch", "1"]),
    ],
)
def test_our_processes_import_it_so(program: str, arguments: list[str]) -> None:
    code = f"""
import os, runpy, sys
from serve_core.runtime import polling
def asked(environ):
    print(environ is os.environ, 'grpc' in sys.modules, flush=True)
    os._exit(0)
polling.import_grpc = asked
sys.argv[1:] = {arguments}
runpy.run_module({program!r}, run_name='__main__')
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (ended.stdout, ended.stderr) == ("True False\n", "")
