"""Tokens that have ended, and how: using one again is so told from a forgery."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Generic, NamedTuple, TypeVar

S = TypeVar("S")


class Ended(NamedTuple, Generic[S]):
    """How a token ended, and the epoch that it was of."""

    epoch: int
    state: S


class History(Generic[S]):
    """The tokens that ended last, by their secrets.

    What is kept of one is its secret and how it ended, of which there is one object for all: as many objects as there are
    tokens would keep the garbage collector busy.

    Args:
        limit: So many are kept; the oldest are forgotten first.
    """

    __slots__ = ("_endings", "_known", "known", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._known: OrderedDict[str, Ended[S]] = OrderedDict()
        self.known: Mapping[str, Ended[S]] = self._known
        """They, for whoever has no time for a call."""
        self._endings: dict[tuple[int, S], Ended[S]] = {}

    def __len__(self) -> int:
        return len(self._known)

    def __contains__(self, secret: str) -> bool:
        return secret in self._known

    def add(self, secret: str, epoch: int, state: S) -> None:
        """A token has ended."""
        ended = self._endings.get((epoch, state))
        if ended is None:
            ended = self._endings[epoch, state] = Ended(epoch, state)
        self._known[secret] = ended
        if len(self._known) > self.limit:
            self._known.popitem(last=False)

    def get(self, secret: str) -> Ended[S] | None:
        """How a token ended; None if it did not, or is forgotten."""
        return self._known.get(secret)
