"""Where processes that share a folder report, and for how long one has not."""

from __future__ import annotations

from pathlib import Path


def report_path(folder: Path, place: int) -> Path:
    """The file of the process in this place, which is replaced with each report."""
    return folder / f"{place}.report"


class Silence:
    """Counts the looks at a process between which it has not reported.

    Looks are counted, and not seconds: what holds up the onlooker, too, is no fault of the process.
    """

    def __init__(self, folder: Path, place: int) -> None:
        self._path = report_path(folder, place)
        self._last: tuple[int, int] | None = None
        self._looks = 0

    def look(self, pid: int) -> int:
        """How many looks in a row have found no new report of the process with this id."""
        try:
            seen = (pid, self._path.stat().st_mtime_ns)
        except FileNotFoundError:
            seen = (pid, 0)
        self._looks = self._looks + 1 if seen == self._last else 0
        self._last = seen
        return self._looks
