"""What a log record looks like as a line."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

_PLAIN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
"""What every record has."""

_BOLD, _DIM, _CYAN, _RESET = "\x1b[1m", "\x1b[2m", "\x1b[36m", "\x1b[0m"
_LEVELS = {"debug": "\x1b[32m", "info": "\x1b[32m", "warning": "\x1b[33m", "error": "\x1b[31m", "critical": "\x1b[31m"}
_EVENT_WIDTH = 30
_LEVEL_WIDTH = 9


class Said:
    """An event with its values, as the message of a record: who does not know of it sees text."""

    __slots__ = ("event", "values")

    def __init__(self, event: str, values: Mapping[str, Any]) -> None:
        self.event = event
        self.values = values

    def __str__(self) -> str:
        return " ".join((self.event, *(f"{name}={value!r}" for name, value in self.values.items())))


class _Lines(logging.Formatter):
    """What both kinds have in common: taking a record apart."""

    def exception_of(self, record: logging.LogRecord) -> str:
        """The traceback, or nothing."""
        if not record.exc_info:
            return ""
        # Kept on the record, as every formatter does: a second handler has no need to make it again.
        record.exc_text = record.exc_text or self.formatException(record.exc_info)
        return record.exc_text


class JsonLines(_Lines):
    """One JSON object a line.

    Args:
        identity: What stands at the beginning of each.
    """

    def __init__(self, identity: Mapping[str, Any]) -> None:
        super().__init__()
        self._identity = identity

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON."""
        event, values = _parts(record)
        line = {
            **self._identity,
            **values,
            "event": event,
            "level": record.levelname.lower(),
            "logger": record.name,
            "ts": _timestamp(record),
        }
        exception = self.exception_of(record)
        if exception:
            line["exception"] = exception
        return json.dumps(line, default=str)


class ConsoleLines(_Lines):
    """For people, the event first.

    Args:
        colours: Whether the terminal shows colours.
    """

    def __init__(self, *, colours: bool) -> None:
        super().__init__()
        self._colours = colours

    def format(self, record: logging.LogRecord) -> str:
        """The record in one line, and its traceback below."""
        event, values = _parts(record)
        level = record.levelname.lower()
        words = [
            self._in(_DIM, _timestamp(record)),
            f"[{self._in(_LEVELS.get(level, _BOLD), f'{level:{_LEVEL_WIDTH}}')}]",
            self._in(_BOLD, f"{event:{_EVENT_WIDTH}}"),
            f"[{self._in(_DIM, record.name)}]",
            *(f"{self._in(_CYAN, name)}={value}" for name, value in values.items()),
        ]
        exception = self.exception_of(record)
        return " ".join(words) + (f"\n{exception}" if exception else "")

    def _in(self, colour: str, text: str) -> str:
        return f"{colour}{text}{_RESET}" if self._colours else text


def _parts(record: logging.LogRecord) -> tuple[str, Mapping[str, Any]]:
    """The event and the values: of another library's record the message, and what was given to it as ``extra``."""
    if isinstance(record.msg, Said):
        return record.msg.event, record.msg.values
    return record.getMessage(), {name: value for name, value in vars(record).items() if name not in _PLAIN}


def _timestamp(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
