"""For how long a process has not reported."""

from __future__ import annotations

import os
from pathlib import Path

from serve_core.runtime.reports import Silence, report_path


def report(folder: Path, at: int) -> None:
    draft = folder / "draft"
    draft.touch()
    os.utime(draft, ns=(at, at))
    draft.replace(report_path(folder, 1))


def test_looks_without_a_report_are_counted(tmp_path: Path) -> None:
    silence = Silence(tmp_path, 1)
    assert [silence.look(7) for _ in range(3)] == [0, 1, 2]
    report(tmp_path, 1)
    assert [silence.look(7) for _ in range(3)] == [0, 1, 2]
    report(tmp_path, 2)
    assert silence.look(7) == 0


def test_a_successor_is_not_blamed_for_the_silence_of_the_one_before(tmp_path: Path) -> None:
    silence = Silence(tmp_path, 1)
    report(tmp_path, 1)
    assert [silence.look(7), silence.look(7), silence.look(8)] == [0, 1, 0]
