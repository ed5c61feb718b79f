"""Structured logs: JSON lines or a readable console, always on stderr.

A logger works in any program. Only a process of ours calls ``configure``; inside a user's program, which has its own
idea of logging, the same events go through the standard library's loggers as text.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import Any, TextIO, cast

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

FORMATS = ("auto", "console", "json")
"""What ``configure`` takes as ``format``: ``auto`` is ``console`` on a terminal and ``json`` otherwise."""

LEVELS = ("debug", "info", "warning", "error")
"""What ``configure`` takes as ``level``."""


class _Stderr(logging.StreamHandler[TextIO]):
    """The one handler that ``configure`` installs."""


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
    handler.setFormatter(_formatter(identity, console=console))
    root = logging.getLogger()
    for old in [old for old in root.handlers if isinstance(old, _Stderr)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """A logger whose calls take an event and its values: ``log.info("replica ready", replica=replica_id)``."""
    return cast(
        "structlog.stdlib.BoundLogger",
        structlog.wrap_logger(
            logging.getLogger(name),
            processors=[structlog.stdlib.filter_by_level, structlog.contextvars.merge_contextvars, _hand_over],
            wrapper_class=structlog.stdlib.BoundLogger,
            cache_logger_on_first_use=True,
        ),
    )


def _formatter(identity: dict[str, Any], *, console: bool) -> logging.Formatter:
    def add_identity(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
        return {**identity, **event}

    shared: list[Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="ts"),
    ]
    last: list[Processor]
    if console:
        last = [structlog.dev.ConsoleRenderer(timestamp_key="ts", colors=sys.stderr.isatty() and _colours_allowed())]
    else:
        last = [
            add_identity,
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(default=str),
        ]
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[structlog.stdlib.ExtraAdder()],
        processors=[*shared, structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
    )


def _colours_allowed() -> bool:
    return "NO_COLOR" not in os.environ


def _hand_over(logger: WrappedLogger, name: str, event: EventDict) -> Any:
    """To our own formatter as values, and to a stranger's as text."""
    if any(isinstance(handler, _Stderr) for handler in logging.getLogger().handlers):
        return structlog.stdlib.ProcessorFormatter.wrap_for_formatter(logger, name, event)
    exc_info = event.pop("exc_info", None)
    text = str(event.pop("event", ""))
    values = " ".join(f"{key}={value!r}" for key, value in event.items())
    return (f"{text} {values}".strip(),), {"exc_info": exc_info}
