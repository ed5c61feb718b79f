"""The line that tells a parent that its child is ready."""

from __future__ import annotations

import os

import pytest

from serve_core.runtime import process


def test_what_is_announced_is_parsed(capsys: pytest.CaptureFixture[str]) -> None:
    process.announce("router", address="127.0.0.1:1", http_address=None)

    line = capsys.readouterr().out
    assert line.endswith("\n")
    assert process.parse_announcement(line) == (
        "router",
        {"address": "127.0.0.1:1", "http_address": None, "pid": os.getpid()},
    )


@pytest.mark.parametrize(
    "line",
    [
        "",
        "hello",
        "serve-core router ready",
        "serve-core router ready {",
        "serve-core router ready []",
        "x router ready {}",
    ],
)
def test_other_lines_are_none(line: str) -> None:
    assert process.parse_announcement(line) is None
