"""The cache itself. It is back the sooner, the less it has to import: so it is not where the model is."""

from __future__ import annotations

import json
from collections import OrderedDict
from dataclasses import dataclass

import serve_core


@dataclass
class Report:
    """What a cache did in this life of it."""

    incarnation: int
    restored: int
    entries: int
    hits: int
    misses: int

    @property
    def hit_rate(self) -> float:
        """The share of the questions that it knew the answer to."""
        return self.hits / max(1, self.hits + self.misses)


class Cache:
    """Remembers answers, the latest ones first.

    Args:
        entries_max: How many.
    """

    def __init__(self, entries_max: int) -> None:
        self._entries_max = entries_max
        self._entries: OrderedDict[str, int] = OrderedDict()
        self._restored = self._hits = self._misses = 0

    def restore_state(self, state: bytes) -> None:
        """Begins with what an earlier life knew."""
        self._entries.update(json.loads(state))
        self._restored = len(self._entries)

    async def save_state(self) -> bytes:
        """What a later life is to know. It runs on the event loop, so no call changes anything meanwhile."""
        return json.dumps(self._entries).encode()

    async def get(self, key: str) -> int | None:
        """The answer that was put under this key, if it is still known."""
        answer = self._entries.get(key)
        if answer is None:
            self._misses += 1
            return None
        self._entries.move_to_end(key)
        self._hits += 1
        return answer

    async def put(self, key: str, answer: int) -> None:
        """Remembers an answer, and forgets the one that was not asked for longest if there are too many."""
        self._entries[key] = answer
        if len(self._entries) > self._entries_max:
            self._entries.popitem(last=False)

    async def report(self) -> Report:
        """What it did so far."""
        incarnation = serve_core.get_deployment_actor_context().incarnation
        return Report(incarnation, self._restored, len(self._entries), self._hits, self._misses)
