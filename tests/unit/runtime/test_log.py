"""Log records: JSON for machines, text inside a stranger's program."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from serve_core.runtime import log


@pytest.fixture
def stderr(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[[], str]]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield lambda: capsys.readouterr().err
    root.handlers[:] = handlers
    root.setLevel(level)


def records(stream: Callable[[], str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream().splitlines()]


def test_ours_and_a_librarys_records_are_json_lines_with_the_process_in_them(stderr: Callable[[], str]) -> None:
    log.configure("replica", "json", replica="r-1")

    log.get_logger("a.b").info("slot freed", slots=2, progress="50%")
    logging.getLogger("library").warning("plain %s", "words", extra={"key": "value"})

    ours, theirs = records(stderr)
    assert ours["event"] == "slot freed"
    assert (ours["slots"], ours["progress"]) == (2, "50%")
    assert (ours["role"], ours["replica"], ours["logger"], ours["level"]) == ("replica", "r-1", "a.b", "info")
    assert str(ours["ts"]).endswith("Z")
    assert (theirs["event"], theirs["logger"], theirs["key"]) == ("plain words", "library", "value")


def test_an_exception_is_in_the_record(stderr: Callable[[], str]) -> None:
    log.configure("router", "json")
    try:
        raise LookupError("lost")
    except LookupError as error:
        log.get_logger("x").error("it failed", exc_info=error)

    (record,) = records(stderr)
    assert "LookupError: lost" in str(record["exception"])


def test_the_exception_that_is_handled_is_in_the_record(stderr: Callable[[], str]) -> None:
    log.configure("router", "json")
    try:
        raise LookupError("lost")
    except LookupError:
        log.get_logger("x").exception("it failed", part=1)
        logging.getLogger("library").exception("theirs")

    ours, theirs = records(stderr)
    assert (ours["level"], ours["part"], theirs["event"]) == ("error", 1, "theirs")
    assert "LookupError: lost" in str(ours["exception"])
    assert "LookupError: lost" in str(theirs["exception"])


def test_what_json_does_not_know_is_text(stderr: Callable[[], str]) -> None:
    log.configure("router", "json")
    log.get_logger("x").info("at", place=Path("/tmp/x"))

    assert records(stderr)[0]["place"] == "/tmp/x"


def test_the_level_decides_what_is_shown(stderr: Callable[[], str]) -> None:
    log.configure("router", "json", level="warning")

    log.get_logger("x").info("no")
    log.get_logger("x").warning("yes")

    assert [record["event"] for record in records(stderr)] == ["yes"]


def test_configuring_again_replaces_the_handler(stderr: Callable[[], str]) -> None:
    log.configure("one", "json")
    log.configure("two", "json")

    log.get_logger("x").info("once")

    assert [record["role"] for record in records(stderr)] == ["two"]


def test_the_console_is_for_people(stderr: Callable[[], str]) -> None:
    log.configure("router", "console")

    log.get_logger("x").info("table changed", version=3)

    line = stderr()
    assert "table changed" in line
    assert "version=3" in line
    assert "\x1b" not in line


def test_a_terminal_gets_colours(stderr: Callable[[], str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    log.configure("router")
    log.get_logger("x").warning("table changed")
    monkeypatch.setenv("NO_COLOR", "1")
    log.configure("router")
    log.get_logger("x").warning("table changed")

    coloured, plain = stderr().splitlines()
    assert "\x1b[33m" in coloured
    assert "\x1b" not in plain


def test_without_configuring_records_are_text_of_the_standard_library(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        log.get_logger("embedded").info("50% done", left=2)

    assert [(r.name, r.getMessage()) for r in caplog.records] == [("embedded", "50% done left=2")]


@pytest.mark.parametrize(("format", "level", "named"), [("xml", "info", "xml"), ("json", "loud", "loud")])
def test_what_is_no_format_or_level_is_refused(format: str, level: str, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        log.configure("router", format, level=level)
