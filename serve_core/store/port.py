"""The store's port: an ordered key-value map with transactions and compare-and-set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from serve_core.errors import RevisionConflictError


class Entry(NamedTuple):
    """A key's value, and the store's revision at which it was last written."""

    key: str
    value: bytes
    revision: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Transaction:
    """Changes that are made all together, or not at all.

    ``expected`` names the revision that a key must have, 0 for a key that must be absent.
    """

    puts: Mapping[str, bytes] = field(default_factory=dict)
    deletes: frozenset[str] = frozenset()
    expected: Mapping[str, int] = field(default_factory=dict)


class Store(Protocol):
    """Ordered, durable and transactional. Every method may raise StoreUnusableError when the medium fails."""

    async def open(self) -> None:
        """Makes the store ready for use.

        Raises:
            StoreUnusableError: It cannot be opened or written, or another process uses it.
        """

    async def get(self, key: str) -> Entry | None:
        """The entry of ``key``, or None."""

    async def scan(self, prefix: str = "") -> list[Entry]:
        """All entries whose key starts with ``prefix``, in the order of their keys' code points."""

    async def commit(self, transaction: Transaction) -> int:
        """Makes the changes durable and returns the store's new revision.

        Raises:
            RevisionConflictError: A key does not have the expected revision; nothing was changed.
        """

    async def close(self) -> None:
        """Ends the use of the store. Closing twice is harmless."""


def conflict(key: str, expected: int, actual: int) -> RevisionConflictError:
    """The error of a failed comparison."""
    return RevisionConflictError(
        f"the record '{key}' is at revision {actual}, not {expected}; read it again and decide anew",
        details={"key": key, "expectedRevision": str(expected), "actualRevision": str(actual)},
    )
