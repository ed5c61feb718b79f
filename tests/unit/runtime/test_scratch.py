"""Folders that live as long as the process that made them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from serve_core.runtime import scratch
from serve_core.runtime.scratch import scratch_folder

MAKER = """
import pathlib, sys
from serve_core.runtime import scratch
scratch._MEMORY = pathlib.Path(sys.argv[1])
with scratch.scratch_folder("test-") as folder:
    (folder / "file").touch()
    print(folder, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(scratch, "_MEMORY", tmp_path)
    return tmp_path


def test_it_is_private_and_goes_with_its_block(place: Path) -> None:
    with scratch_folder("test-") as folder, scratch_folder("test-") as other:
        assert folder != other
        assert folder.stat().st_mode & 0o777 == 0o700
        (folder / "file").touch()
    assert list(place.iterdir()) == []


def test_what_a_killed_process_left_is_removed_by_the_next(place: Path) -> None:
    command = [sys.executable, "-c", MAKER, str(place)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as maker:
        assert maker.stdout is not None
        left = Path(maker.stdout.readline().strip())
        with scratch_folder("test-"):
            assert (left / "file").exists(), "its maker lives"
        maker.kill()
    assert (left / "file").exists()
    with scratch_folder("other-"):
        assert left.exists()
    with scratch_folder("test-") as folder:
        assert list(place.iterdir()) == [folder]


def test_without_memory_it_is_in_the_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scratch, "_MEMORY", tmp_path / "none")
    with scratch_folder("serve-core-test-") as folder:
        assert folder.is_dir()
    assert not folder.exists()
