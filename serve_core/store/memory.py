"""A store that forgets when its process ends."""

from __future__ import annotations

from serve_core.store.port import Entry, Transaction, conflict


class MemoryStore:
    """Keeps everything in memory. For tests, and for clusters that need not survive their controller."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self._revision = 0

    async def open(self) -> None:
        """Nothing to do: a memory store can be closed and opened again, and still has its entries."""

    async def get(self, key: str) -> Entry | None:
        """See ``Store.get``."""
        return self._entries.get(key)

    async def scan(self, prefix: str = "") -> list[Entry]:
        """See ``Store.scan``."""
        return [self._entries[key] for key in sorted(self._entries) if key.startswith(prefix)]

    async def commit(self, transaction: Transaction) -> int:
        """See ``Store.commit``."""
        for key, expected in transaction.expected.items():
            entry = self._entries.get(key)
            actual = entry.revision if entry is not None else 0
            if actual != expected:
                raise conflict(key, expected, actual)
        self._revision += 1
        for key in transaction.deletes:
            self._entries.pop(key, None)
        for key, value in transaction.puts.items():
            self._entries[key] = Entry(key, value, self._revision)
        return self._revision

    async def close(self) -> None:
        """Nothing to do."""
