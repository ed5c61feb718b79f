"""What every store must do, on each of them."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from serve_core.errors import RevisionConflictError, StoreUnusableError
from serve_core.model.payload import Encoding, Payload
from serve_core.model.resources import Resources
from serve_core.model.spec import DeploymentSpec
from serve_core.store.memory import MemoryStore
from serve_core.store.port import Store, Transaction
from serve_core.store.records import decode_record, encode_record
from serve_core.store.sqlite import SqliteStore


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    made: Store = MemoryStore() if request.param == "memory" else SqliteStore(tmp_path / "state" / "store.db")
    await made.open()
    yield made
    await made.close()


async def test_a_key_that_was_never_written_has_no_entry(store: Store) -> None:
    assert await store.get("a") is None
    assert await store.scan() == []


async def test_a_commit_is_read_back_with_its_revision(store: Store) -> None:
    revision = await store.commit(Transaction(puts={"a": b"1"}))
    entry = await store.get("a")
    assert entry is not None
    assert entry == ("a", b"1", revision)


async def test_revisions_rise_with_every_commit(store: Store) -> None:
    first = await store.commit(Transaction(puts={"a": b"1"}))
    second = await store.commit(Transaction(puts={"b": b"2"}))
    assert second > first
    assert [entry.revision for entry in await store.scan()] == [first, second]


async def test_a_scan_is_ordered_and_bounded_by_its_prefix(store: Store) -> None:
    await store.commit(Transaction(puts={"b/2": b"", "a": b"", "b/10": b"", "c": b"", "b": b"", "b0": b""}))
    assert [entry.key for entry in await store.scan("b/")] == ["b/10", "b/2"]
    assert [entry.key for entry in await store.scan()] == ["a", "b", "b/10", "b/2", "b0", "c"]


async def test_prefixes_are_literal(store: Store) -> None:
    await store.commit(Transaction(puts={"a%b": b"", "a_b": b"", "axb": b"", "é/ü": b""}))
    assert [entry.key for entry in await store.scan("a%")] == ["a%b"]
    assert [entry.key for entry in await store.scan("a_")] == ["a_b"]
    assert [entry.key for entry in await store.scan("é")] == ["é/ü"]


async def test_puts_and_deletes_are_made_together(store: Store) -> None:
    await store.commit(Transaction(puts={"a": b"1", "b": b"1"}))
    await store.commit(Transaction(puts={"c": b"1"}, deletes=frozenset({"a", "absent"})))
    assert [entry.key for entry in await store.scan()] == ["b", "c"]


async def test_a_key_that_is_deleted_and_put_at_once_is_there(store: Store) -> None:
    await store.commit(Transaction(puts={"a": b"1"}))
    await store.commit(Transaction(puts={"a": b"2"}, deletes=frozenset({"a"})))
    entry = await store.get("a")
    assert entry is not None
    assert entry.value == b"2"


async def test_a_met_expectation_commits(store: Store) -> None:
    first = await store.commit(Transaction(puts={"a": b"1"}, expected={"a": 0}))
    await store.commit(Transaction(puts={"a": b"2"}, expected={"a": first}))
    entry = await store.get("a")
    assert entry is not None
    assert entry.value == b"2"


async def test_a_stale_expectation_changes_nothing(store: Store) -> None:
    first = await store.commit(Transaction(puts={"a": b"1"}))
    await store.commit(Transaction(puts={"a": b"2"}))
    with pytest.raises(RevisionConflictError) as caught:
        await store.commit(Transaction(puts={"a": b"3", "b": b"3"}, deletes=frozenset({"c"}), expected={"a": first}))
    assert caught.value.details["key"] == "a"
    assert [(entry.key, entry.value) for entry in await store.scan()] == [("a", b"2")]


async def test_an_expected_absence_is_refused_when_the_key_is_there(store: Store) -> None:
    await store.commit(Transaction(puts={"a": b"1"}))
    with pytest.raises(RevisionConflictError):
        await store.commit(Transaction(puts={"a": b"2"}, expected={"a": 0}))


async def test_of_many_at_once_only_one_wins_a_comparison(store: Store) -> None:
    first = await store.commit(Transaction(puts={"a": b""}))
    results = await asyncio.gather(
        *(store.commit(Transaction(puts={"a": bytes([n])}, expected={"a": first})) for n in range(8)),
        return_exceptions=True,
    )
    assert sum(isinstance(result, int) for result in results) == 1
    assert sum(isinstance(result, RevisionConflictError) for result in results) == 7


async def test_entries_survive_a_close(store: Store) -> None:
    revision = await store.commit(Transaction(puts={"a": b"1"}))
    await store.close()
    await store.open()
    entry = await store.get("a")
    assert entry is not None
    assert entry.revision == revision
    assert await store.commit(Transaction(puts={"b": b""})) > revision


async def test_closing_twice_is_harmless(store: Store) -> None:
    await store.close()
    await store.close()


# What concerns files only.


async def _refusal(path: Path) -> StoreUnusableError:
    with pytest.raises(StoreUnusableError) as caught:
        await SqliteStore(path).open()
    assert str(path) in caught.value.message
    assert "--state-dir" in caught.value.message
    return caught.value


async def test_a_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("")
    await _refusal(tmp_path / "state" / "store.db")


async def test_a_folder_in_place_of_the_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "store.db").mkdir()
    await _refusal(tmp_path / "store.db")


async def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "store.db").write_bytes(b"not a database, but long enough to be read as one" * 100)
    await _refusal(tmp_path / "store.db")


async def test_a_file_of_a_later_version_is_refused(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "store.db") as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    error = await _refusal(tmp_path / "store.db")
    assert "99" in error.message


async def test_a_second_user_of_the_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve_core.store.sqlite._LOCK_TIMEOUT_S", 0.01)
    first = SqliteStore(tmp_path / "store.db")
    await first.open()
    await _refusal(tmp_path / "store.db")
    await first.close()


async def test_a_store_that_was_never_opened_says_so(tmp_path: Path) -> None:
    with pytest.raises(StoreUnusableError, match="not open"):
        await SqliteStore(tmp_path / "store.db").get("a")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Record:
    spec: DeploymentSpec
    note: str = ""


def test_records_survive_the_way_through_json() -> None:
    spec = DeploymentSpec(
        name="d",
        import_path="m:A",
        init_arguments=Payload(Encoding.MSGPACK, b"\x00\xff"),
        resources=Resources(cpus=0.25, custom={"x": 1.5}),
        env={"A": "ü"},
    )
    assert decode_record("k", encode_record(_Record(spec=spec)), _Record) == _Record(spec=spec)


def test_a_record_that_cannot_be_read_names_its_key() -> None:
    with pytest.raises(StoreUnusableError, match="'k'"):
        decode_record("k", b'{"spec": 1}', _Record)
