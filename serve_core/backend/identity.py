"""Which process a pid means: a pid alone is used again by the system, so it is never trusted alone."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_STATE, _START_TICKS, _EXIT_STATUS = 0, 19, 49


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessIdentity:
    """One process for ever: its pid, when the kernel started it (clock ticks since boot), and which boot that was."""

    pid: int
    start_ticks: int
    boot_id: str


def boot_id() -> str:
    """Names the time since the machine was started."""
    return (_PROC / "sys/kernel/random/boot_id").read_text().strip()


def identify(pid: int) -> ProcessIdentity | None:
    """Who has this pid now; a process that ended but was not waited for yet still has it."""
    stat = _stat(pid)
    return ProcessIdentity(pid=pid, start_ticks=int(stat[_START_TICKS]), boot_id=boot_id()) if stat else None


def exit_code_of(identity: ProcessIdentity) -> int | None:
    """How a process ended that nobody has waited for yet, negative for a signal; None if it runs or is gone."""
    stat = _stat(identity.pid)
    if not stat or int(stat[_START_TICKS]) != identity.start_ticks or stat[_STATE] != "Z":
        return None
    return os.waitstatus_to_exitcode(int(stat[_EXIT_STATUS]))


def _stat(pid: int) -> list[str]:
    """The fields of ``/proc/PID/stat`` behind the command, which may hold spaces and parentheses; none if it is gone."""
    try:
        return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def open_pidfd(identity: ProcessIdentity) -> int | None:
    """A descriptor of exactly this process, readable once it has ended; None when it is gone.

    The check comes after the opening: a descriptor stays with its process, whoever gets the pid later.
    """
    try:
        pidfd = os.pidfd_open(identity.pid)
    except ProcessLookupError:
        return None
    if identify(identity.pid) != identity:
        os.close(pidfd)
        return None
    return pidfd


def end_group(identity: ProcessIdentity) -> None:
    """Kills what is left in the process group that this process leads, as long as the group is provably its own.

    A leader that ended but was not waited for keeps its pid, and with it the group's id, from being used again.
    """
    if identify(identity.pid) != identity:
        return
    try:
        if os.getpgid(identity.pid) == identity.pid:
            os.killpg(identity.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


def find_marked(marker: bytes) -> ProcessIdentity | None:
    """The oldest process whose environment holds ``marker`` as a whole entry, such as ``NAME=value``."""
    found: list[ProcessIdentity] = []
    for folder in _PROC.iterdir():
        if not folder.name.isdigit():
            continue
        try:
            entries = (folder / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        identity = identify(int(folder.name)) if marker in entries else None
        if identity is not None:
            found.append(identity)
    return min(found, key=lambda identity: identity.start_ticks, default=None)
