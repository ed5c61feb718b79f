from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from serve_core.cli import COMMANDS, cli, main
from serve_core.cli.parameters import DeploymentParam
from serve_core.errors import CATALOGUE

UNREACHABLE = "127.0.0.1:1"


def run(*arguments: str) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of the whole program, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", "from serve_core.cli import main; main()", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_lists_every_command(flag: str) -> None:
    result = CliRunner().invoke(cli, [flag])
    assert result.exit_code == 0
    for name in COMMANDS:
        assert f"\n  {name} " in result.output


def test_help_loads_nothing_heavy() -> None:
    code = "import sys; from serve_core.cli import cli; cli(['-h'], standalone_mode=False); " + (
        "print([m for m in ('asyncio', 'grpc', 'rich', 'pydantic', 'msgspec', 'yaml', 'psutil') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.rstrip().endswith("[]")


@pytest.mark.parametrize("name", sorted(set(COMMANDS) - {"controller", "router"}))
def test_every_command_has_help_of_its_own(name: str) -> None:
    result = CliRunner().invoke(cli, [name, "-h"])
    assert result.exit_code == 0, result.output
    assert result.output.startswith("Usage:")


def test_an_unknown_command_is_wrong_use_with_a_suggestion() -> None:
    result = CliRunner().invoke(cli, ["stauts"])
    assert result.exit_code == 2
    assert "Did you mean 'status'?" in result.output


def test_an_unknown_option_is_wrong_use(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["status", "--nonsense"])
    assert ended.value.code == 2
    assert "No such option" in capsys.readouterr().err


def test_version() -> None:
    result = CliRunner().invoke(cli, ["version"])
    assert result.output.startswith("serve-core ")


def test_all_reasons_are_listed() -> None:
    result = CliRunner().invoke(cli, ["errors"])
    assert [line.split()[0] for line in result.output.splitlines()] == [str(reason) for reason in CATALOGUE]


@pytest.mark.parametrize("reason", ["QUEUE_FULL", "queue-full"])
def test_a_reason_is_explained(reason: str) -> None:
    result = CliRunner().invoke(cli, ["errors", reason])
    assert result.exit_code == 0
    assert result.output.startswith("QUEUE_FULL (gRPC status RESOURCE_EXHAUSTED)")
    assert "what to do" in result.output


def test_an_unknown_reason_is_wrong_use() -> None:
    result = CliRunner().invoke(cli, ["errors", "QUEUE_FUL"])
    assert result.exit_code == 2
    assert "did you mean 'QUEUE_FULL'" in result.output


@pytest.mark.parametrize(
    "arguments",
    [
        ["status"],
        ["delete", "app"],
        ["scale", "app.A", "2"],
        ["rollout", "pause", "app.A"],
        ["rollout", "resume", "app.A"],
        ["rollout", "undo", "app.A"],
        ["shutdown", "--yes"],
        ["call", "app", "m"],
    ],
)
def test_without_a_controller_there_is_one_line_that_says_so(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--controller", UNREACHABLE])
    assert ended.value.code == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"error: CONTROLLER_UNREACHABLE: no controller answers at {UNREACHABLE}")
    assert captured.err.count("\n") == 1


def test_without_a_router_there_is_one_line_that_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["call", "app", "m", "--router", UNREACHABLE])
    assert ended.value.code == 1
    captured = capsys.readouterr()
    assert captured.err.startswith(f"error: DEPLOYMENT_UNAVAILABLE: no router answers at {UNREACHABLE}: start one with")
    assert captured.err.count("\n") == 1


def test_every_mistake_in_a_file_gets_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "serve.yaml"
    path.write_text("applications:\n  - name: a\n    import_pth: m:a\n    deployments:\n      - name: 1\n")
    with pytest.raises(SystemExit) as ended:
        main(["deploy", str(path), "--controller", UNREACHABLE])
    assert ended.value.code == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[0] == (
        f"error: CONFIG_INVALID: {path}:3:5: applications[0].import_pth: unknown key 'import_pth'; "
        "did you mean 'import_path'?"
    )
    assert lines[1].startswith(f"error: CONFIG_INVALID: {path}:5:9: applications[0].deployments[0].name: ")


@pytest.mark.parametrize("text", ["A", "a.", ".b"])
def test_what_names_no_deployment_is_refused(text: str) -> None:
    result = CliRunner().invoke(cli, ["scale", text, "1"])
    assert result.exit_code == 2
    assert "APP.DEPLOYMENT" in result.output


def test_an_application_alone_may_be_called() -> None:
    assert DeploymentParam(deployment_needed=False).convert("app", None, None) == ("app", "")
    assert DeploymentParam(deployment_needed=True).convert("app.A", None, None) == ("app", "A")


def test_the_program_exits_with_its_status() -> None:
    assert run("errors", "nonsense")[0] == 2
    status, out, err = run("version")
    assert (status, err) == (0, "")
    assert out.startswith("serve-core ")
