"""The durable store of one machine: an SQLite file, used by one thread."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from serve_core.errors import StoreUnusableError
from serve_core.store.port import Entry, Transaction, conflict

SCHEMA_VERSION = 1
"""Kept in the file's ``user_version``; a file of a later version is refused."""

_LOCK_TIMEOUT_S = 2.0
_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS entries (key TEXT PRIMARY KEY, value BLOB NOT NULL, revision INTEGER NOT NULL)"
    " WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID",
    "INSERT OR IGNORE INTO counters VALUES ('revision', 0)",
    f"PRAGMA user_version = {SCHEMA_VERSION}",
)

T = TypeVar("T")


class SqliteStore:
    """One file, in WAL mode, synced at every commit, and held exclusively while it is open.

    Args:
        path: The file; it and its folder are made when they are not there.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None
        # SQLite calls block: a thread of their own keeps them off the event loop, and in order.
        self._executor: ThreadPoolExecutor | None = None

    async def open(self) -> None:
        """See ``Store.open``."""
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="store")
        try:
            await self._run(self._open)
        except BaseException:
            await self.close()
            raise

    async def get(self, key: str) -> Entry | None:
        """See ``Store.get``."""
        return await self._run(lambda: self._get(key))

    async def scan(self, prefix: str = "") -> list[Entry]:
        """See ``Store.scan``."""
        return await self._run(lambda: self._scan(prefix))

    async def commit(self, transaction: Transaction) -> int:
        """See ``Store.commit``."""
        return await self._run(lambda: self._commit(transaction))

    async def close(self) -> None:
        """See ``Store.close``."""
        executor, self._executor = self._executor, None
        if executor is None:
            return
        await asyncio.shield(asyncio.get_running_loop().run_in_executor(executor, self._close))
        executor.shutdown(wait=False)

    async def _run(self, work: Callable[[], T]) -> T:
        if self._executor is None:
            raise self._unusable("it is not open")
        # Shielded, because a commit that the thread has begun goes on whether or not its caller still waits.
        return await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._executor, self._guarded, work))

    def _guarded(self, work: Callable[[], T]) -> T:
        try:
            return work()
        except (sqlite3.Error, OSError) as error:
            raise self._unusable(str(error)) from error

    def _unusable(self, why: str) -> StoreUnusableError:
        return StoreUnusableError(
            f"cannot use the store file '{self._path}': {why}; check the path, its owner and mode, the free space of "
            "the disk, and that no other controller uses it, or choose another folder with --state-dir",
            details={"path": str(self._path), "cause": why},
        )

    def _open(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(self._path, timeout=_LOCK_TIMEOUT_S, isolation_level=None)
        self._connection = connection
        # Exclusive: a second controller on the same file would undo the first one's decisions.
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version > SCHEMA_VERSION:
            raise self._unusable(f"it is of schema version {version}, and this serve-core knows {SCHEMA_VERSION}")
        connection.execute("BEGIN IMMEDIATE")
        for statement in _SCHEMA:
            connection.execute(statement)
        connection.execute("UPDATE counters SET value = value WHERE name = 'revision'")
        connection.execute("COMMIT")

    def _open_connection(self) -> sqlite3.Connection:
        if self._connection is None:
            raise self._unusable("it is not open")
        return self._connection

    def _get(self, key: str) -> Entry | None:
        row = (
            self._open_connection().execute("SELECT key, value, revision FROM entries WHERE key = ?", (key,)).fetchone()
        )
        return Entry(*row) if row is not None else None

    def _scan(self, prefix: str) -> list[Entry]:
        rows = self._open_connection().execute(
            "SELECT key, value, revision FROM entries WHERE key >= ? AND substr(key, 1, ?) = ? ORDER BY key",
            (prefix, len(prefix), prefix),
        )
        return [Entry(*row) for row in rows]

    def _commit(self, transaction: Transaction) -> int:
        connection = self._open_connection()
        connection.execute("BEGIN IMMEDIATE")
        try:
            revision = self._apply(connection, transaction)
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")
        return revision

    def _apply(self, connection: sqlite3.Connection, transaction: Transaction) -> int:
        for key, expected in transaction.expected.items():
            entry = self._get(key)
            actual = entry.revision if entry is not None else 0
            if actual != expected:
                raise conflict(key, expected, actual)
        row = connection.execute(
            "UPDATE counters SET value = value + 1 WHERE name = 'revision' RETURNING value"
        ).fetchone()
        revision = int(row[0])
        connection.executemany("DELETE FROM entries WHERE key = ?", [(key,) for key in transaction.deletes])
        connection.executemany(
            "INSERT INTO entries VALUES (?, ?, ?)"
            " ON CONFLICT (key) DO UPDATE SET value = excluded.value, revision = excluded.revision",
            [(key, value, revision) for key, value in transaction.puts.items()],
        )
        return revision

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
