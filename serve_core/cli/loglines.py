"""Shows a replica's output to people."""

from __future__ import annotations

import json

import click

from serve_core.logs import LogLine
from serve_core.runtime.process import parse_announcement

_COLOURS = {"warning": "yellow", "error": "red", "critical": "red"}
_KNOWN = frozenset({"role", "pid", "replica", "level", "logger", "ts", "event", "exception"})


def shown(line: LogLine) -> str | None:
    """The line with the replica's name before it; our own log records in short; None for what people need not see."""
    if parse_announcement(line.text) is not None:
        return None
    record = _record(line.text)
    text = line.text if record is None else _short(record)
    return f"{click.style(line.source, dim=True)} | {text}"


def _record(text: str) -> dict[str, object] | None:
    """Our own log record, if the line is one; what users log as JSON is theirs."""
    if not text.startswith('{"role": "replica"'):
        return None
    try:
        record = json.loads(text)
    except ValueError:
        return None
    return record if isinstance(record, dict) and "event" in record else None


def _short(record: dict[str, object]) -> str:
    level = str(record.get("level", "info"))
    values = " ".join(f"{name}={value}" for name, value in record.items() if name not in _KNOWN)
    text = f"{level}: {record['event']}" + (f" ({values})" if values else "")
    trace = str(record.get("exception") or "")
    return click.style(text, fg=_COLOURS.get(level)) + (f"\n{trace}" if trace else "")
