"""What a local backend leaves on disk for the next one: a file for each process and each placement."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from serve_core.backend.identity import ProcessIdentity
from serve_core.backend.port import Placement
from serve_core.errors import StoreUnusableError

_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._~-]{0,200}")
_DRAFT = ".draft"

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessRecord:
    """A process that was started, or, without identity, was about to be."""

    process_id: str
    placement_id: str
    bundle: int
    node_id: str
    log_name: str
    identity: ProcessIdentity | None = None


class Journal:
    """Small JSON files, replaced atomically. Every write may raise StoreUnusableError.

    Args:
        state_dir: The folder that holds ``processes``, ``placements`` and ``logs``.
    """

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir

    def open(self) -> None:
        """Makes the folders, and clears them of what an earlier life was killed in the middle of writing.

        Raises:
            StoreUnusableError: They cannot be made or written.
        """
        try:
            for name in ("processes", "placements", "logs"):
                folder = self._state_dir / name
                folder.mkdir(parents=True, exist_ok=True)
                for draft in folder.glob(f"*{_DRAFT}"):
                    draft.unlink()
                probe = folder / ".writable"
                probe.touch()
                probe.unlink()
        except OSError as error:
            raise self._unusable(error) from error

    def log_path(self, log_name: str) -> Path:
        """Where the output of a process goes."""
        return self._state_dir / "logs" / f"{_checked(log_name)}.log"

    def write_process(self, record: ProcessRecord) -> None:
        """Notes a process."""
        self._write("processes", record.process_id, record)

    def remove_process(self, process_id: str) -> None:
        """Forgets a process."""
        self._path("processes", process_id).unlink(missing_ok=True)

    def processes(self) -> list[ProcessRecord]:
        """Every process that is noted."""
        return list(self._read("processes", ProcessRecord))

    def write_placement(self, placement: Placement) -> None:
        """Notes a placement."""
        self._write("placements", placement.placement_id, placement)

    def remove_placement(self, placement_id: str) -> None:
        """Forgets a placement."""
        self._path("placements", placement_id).unlink(missing_ok=True)

    def placements(self) -> list[Placement]:
        """Every placement that is noted."""
        return list(self._read("placements", Placement))

    def _path(self, kind: str, name: str) -> Path:
        return self._state_dir / kind / f"{_checked(name)}.json"

    def _write(self, kind: str, name: str, value: object) -> None:
        path = self._path(kind, name)
        draft = path.with_suffix(_DRAFT)
        try:
            draft.write_bytes(msgspec.json.encode(value))
            os.replace(draft, path)
        except OSError as error:
            raise self._unusable(error) from error

    def _unusable(self, error: OSError) -> StoreUnusableError:
        return StoreUnusableError(
            f"cannot use the state folder '{self._state_dir}': {error}; check its owner, mode and free space, "
            "or choose another folder with --state-dir",
            details={"path": str(self._state_dir), "cause": str(error)},
        )

    def _read(self, kind: str, value_type: type[T]) -> Iterator[T]:
        for path in sorted((self._state_dir / kind).glob("*.json")):
            try:
                value = msgspec.json.decode(path.read_bytes(), type=value_type)
            except (msgspec.DecodeError, OSError) as error:
                raise StoreUnusableError(
                    f"cannot read '{path}': {error}; remove this file, or start with an empty --state-dir",
                    details={"path": str(path), "cause": str(error)},
                ) from error
            yield value


def _checked(name: str) -> str:
    if _SAFE_NAME.fullmatch(name) is None:
        raise ValueError(f"'{name}' cannot be the name of a file")
    return name
