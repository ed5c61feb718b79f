"""Follows the replicas' logs, one file each, as they grow."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

from watchfiles import awatch

_CHUNK_BYTES = 256 * 1024
_LINE_BYTES_MAX = 16 * 1024
_CATCH_UP_MS = 500


class LogLine(NamedTuple):
    """One line of a replica's output; ``source`` is the replica's id."""

    source: str
    text: str


class LogReader:
    """Remembers how far each log was read."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._positions: dict[str, int] = {}
        self._partial: dict[str, bytes] = {}

    def read(self) -> list[LogLine]:
        """The whole lines that were written since the last time, of each log in turn; a bounded amount."""
        lines: list[LogLine] = []
        for path in sorted(self._folder.glob("*.log")):
            lines += self._read_one(path)
        return lines

    def rest(self) -> list[LogLine]:
        """What is left, with last lines that have no end yet."""
        lines: list[LogLine] = []
        while more := self.read():
            lines += more
        lines += [LogLine(name, _text(part)) for name, part in self._partial.items() if part]
        self._partial.clear()
        return lines

    def _read_one(self, path: Path) -> list[LogLine]:
        name = path.stem
        try:
            with path.open("rb") as log:
                log.seek(self._positions.get(name, 0))
                data = log.read(_CHUNK_BYTES)
        except OSError:
            return []
        if not data:
            return []
        self._positions[name] = self._positions.get(name, 0) + len(data)
        *whole, last = (self._partial.pop(name, b"") + data).split(b"\n")
        if len(last) > _LINE_BYTES_MAX:
            whole, last = [*whole, last], b""
        self._partial[name] = last
        return [LogLine(name, _text(line)) for line in whole]


def _text(line: bytes) -> str:
    return line[:_LINE_BYTES_MAX].decode(errors="replace").rstrip("\r")


async def follow(reader: LogReader, folder: Path) -> AsyncIterator[LogLine]:
    """Every line that is written to the logs in ``folder``, until cancelled."""
    for line in reader.read():
        yield line
    changes = awatch(folder, step=50, debounce=200, rust_timeout=_CATCH_UP_MS, yield_on_timeout=True, recursive=False)
    async for _ in changes:
        while lines := reader.read():
            for line in lines:
                yield line
