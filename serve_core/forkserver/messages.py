"""What the backend and its fork server say to each other: JSON lines over a socket pair, of which the server never has
more than one to answer. The log and the working directory of a child travel as descriptors beside its request.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

DESCRIPTORS = 2
"""How many come with a ``Fork``: its log, and its working directory."""

ROOM_ENV = "SERVE_CORE_FORK_ROOM"
"""A long variable of the fork server alone: the room in which each child shows its own environment to others."""


@dataclass(frozen=True, slots=True)
class Fork:
    """Fork, and run the program with these arguments, and this environment; ``mark`` is the variable to be found by."""

    arguments: Sequence[str]
    environment: Mapping[str, str]
    mark: str


@dataclass(frozen=True, slots=True)
class Reap:
    """The child has ended, and nobody needs its process id any more."""

    pid: int


@dataclass(frozen=True, slots=True)
class Ready:
    """The program is imported."""


@dataclass(frozen=True, slots=True)
class Forked:
    """The child that was asked for."""

    pid: int


@dataclass(frozen=True, slots=True)
class Refused:
    """A child would not be what a new process is, and why."""

    why: str


Message = Fork | Reap | Ready | Forked | Refused

_KINDS: dict[str, type[Message]] = {kind.__name__: kind for kind in (Fork, Reap, Ready, Forked, Refused)}


def encode(message: Message) -> bytes:
    """One line."""
    return json.dumps([type(message).__name__, asdict(message)]).encode() + b"\n"


def decode(line: bytes) -> Message:
    """What ``encode`` made a line of."""
    kind, fields = json.loads(line)
    return _KINDS[kind](**fields)


class Lines:
    """Takes a stream of bytes apart."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[Message]:
        """The messages that are whole by now."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [decode(line) for line in lines]
