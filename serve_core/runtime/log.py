"""Structured logs: JSON lines or a readable console, always on stderr.

A logger works in any program. Only a process of ours calls ``configure``; inside a user's program, which has its own
idea of logging, the same events go through the standard library's loggers as text.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import Any, TextIO

from serve_core.runtime.log_lines import ConsoleLines, JsonLines, Said

FORMATS = ("auto", "console", "json")
"""What ``configure`` takes as ``format``: ``auto`` is ``console`` on a terminal and ``json`` otherwise."""

LEVELS = ("debug", "info", "warning", "error")
"""What ``configure`` takes as ``level``."""


class _Stderr(logging.StreamHandler[TextIO]):
    """The one handler that ``configure`` installs."""


class Logger:
    """Takes events and their values: ``log.info("replica ready", replica=replica_id)``.

    Args:
        name: Whose events they are, as for ``logging.getLogger``.
    """

    __slots__ = ("_logger",)

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def debug(self, event: str, **values: Any) -> None:
        """For who looks for a mistake."""
        self._log(logging.DEBUG, event, values)

    def info(self, event: str, **values: Any) -> None:
        """What goes as it should."""
        self._log(logging.INFO, event, values)

    def warning(self, event: str, **values: Any) -> None:
        """What somebody may have to look at."""
        self._log(logging.WARNING, event, values)

    def error(self, event: str, *, exc_info: Any = None, **values: Any) -> None:
        """What went wrong; ``exc_info`` is an exception, or True for the one that is handled now."""
        self._log(logging.ERROR, event, values, exc_info)

    def critical(self, event: str, *, exc_info: Any = None, **values: Any) -> None:
        """What ends the process."""
        self._log(logging.CRITICAL, event, values, exc_info)

    def exception(self, event: str, **values: Any) -> None:
        """What went wrong, with the exception that is handled now."""
        self._log(logging.ERROR, event, values, exc_info=True)

    def _log(self, level: int, event: str, values: dict[str, Any], exc_info: Any = None) -> None:
        if self._logger.isEnabledFor(level):
            self._logger.log(level, Said(event, values), exc_info=exc_info, stacklevel=3)


def configure(role: str, format: str = "auto", *, level: str = "info", **context: str) -> None:
    """Send every log record of this process to stderr, ours and other libraries' alike.

    Args:
        role: Which process this is: ``controller``, ``router``, ``replica``, ...
        format: One of ``FORMATS``.
        level: One of ``LEVELS``: the least serious records to show.
        context: Pairs that every record of this process carries, such as ``replica="..."``.

    Raises:
        ValueError: ``format`` or ``level`` is not one of those.
    """
    if format not in FORMATS:
        raise ValueError(f"the log format must be one of {', '.join(FORMATS)}, not {format!r}")
    if level not in LEVELS:
        raise ValueError(f"the log level must be one of {', '.join(LEVELS)}, not {level!r}")
    console = format == "console" or (format == "auto" and sys.stderr.isatty())
    identity = {"role": role, "pid": os.getpid(), **context}
    handler = _Stderr(sys.stderr)
    handler.setFormatter(ConsoleLines(colours=_colours_allowed()) if console else JsonLines(identity))
    root = logging.getLogger()
    for old in [old for old in root.handlers if isinstance(old, _Stderr)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())


def get_logger(name: str) -> Logger:
    """A logger whose calls take an event and its values."""
    return Logger(name)


def _colours_allowed() -> bool:
    return sys.stderr.isatty() and "NO_COLOR" not in os.environ
