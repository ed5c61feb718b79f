from __future__ import annotations

import json
from pathlib import Path

from serve_core.cli.loglines import shown
from serve_core.logs import LogLine, LogReader

OWN = {"role": "replica", "pid": 1, "replica": "r", "event": "draining", "level": "info", "held": 2}


def test_what_users_write_is_shown_as_it_is() -> None:
    assert shown(LogLine("r", "hello")) == "\x1b[2mr\x1b[0m | hello"
    assert shown(LogLine("r", '{"event": "theirs"}')) == '\x1b[2mr\x1b[0m | {"event": "theirs"}'


def test_our_own_records_are_shown_in_short() -> None:
    text = shown(LogLine("r", json.dumps(OWN)))
    assert text is not None
    assert "info: draining (held=2)" in text


def test_announcements_are_not_shown() -> None:
    assert shown(LogLine("r", 'serve-core replica ready {"pid": 1}')) is None


def test_a_record_that_is_cut_is_shown_as_it_is() -> None:
    text = shown(LogLine("r", '{"role": "replica", "pi'))
    assert text is not None
    assert text.endswith('{"role": "replica", "pi')


def test_logs_are_read_line_by_line_as_they_grow(tmp_path: Path) -> None:
    first, second = tmp_path / "a.log", tmp_path / "b.log"
    first.write_bytes(b"one\ntw")
    reader = LogReader(tmp_path)
    assert reader.read() == [("a", "one")]
    assert reader.read() == []
    with first.open("ab") as log:
        log.write(b"o\r\n\xff\nrest")
    second.write_bytes(b"x\n")
    assert reader.read() == [("a", "two"), ("a", "\ufffd"), ("b", "x")]
    assert reader.rest() == [("a", "rest")]
    assert reader.rest() == []


def test_a_line_without_an_end_is_cut(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_bytes(b"x" * 200_000)
    (line,) = LogReader(tmp_path).read()
    assert len(line.text) == 16 * 1024
