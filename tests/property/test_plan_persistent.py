"""Persistent mappings against plain ones, and what sharing is for."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_core.plan import persistent
from serve_core.plan.persistent import Difference, GroupedMap, PersistentMap, differences, with_changes

KEYS = st.integers(0, 60).map(lambda number: f"key-{number}")
CHANGES = st.lists(st.tuples(st.dictionaries(KEYS, st.integers(0, 3), max_size=30), st.lists(KEYS, max_size=10)))


def _plainly(mapping: dict[str, int], puts: dict[str, int], gone: list[str]) -> dict[str, int]:
    return {**{key: value for key, value in mapping.items() if key not in gone}, **puts}


@settings(deadline=None)
@given(CHANGES)
def test_a_persistent_map_is_what_a_plain_one_would_be(changes: list[tuple[dict[str, int], list[str]]]) -> None:
    plain: dict[str, int] = {}
    shared: PersistentMap[str, int] = PersistentMap()
    grouped: GroupedMap[str, str, int] = GroupedMap(str)
    for puts, gone in changes:
        before, plain = (plain, shared), _plainly(plain, puts, gone)
        shared, grouped = shared.changed(puts, gone), grouped.changed(puts, gone)
        assert dict(shared) == dict(shared.items()) == plain == with_changes(before[0], puts, gone)
        assert shared == plain
        assert grouped == shared
        assert len(shared) == len(plain)
        assert sorted(shared.values()) == sorted(plain.values())
        assert all(key in shared and shared.get(key) == value for key, value in plain.items())
        assert before[1] == before[0], "an earlier one is as it was"
        for group in range(4):
            mine = {key: value for key, value in plain.items() if value == group}
            assert grouped.group(str(group)) == mine
        expected = {
            Difference(key, before[0].get(key), plain.get(key))
            for key in {**before[0], **plain}
            if before[0].get(key) != plain.get(key)
        }
        assert set(differences(before[1], shared)) == expected == set(differences(before[0], plain))


def test_the_order_is_that_of_the_keys() -> None:
    keys = [f"app.d.{number}" for number in range(200)]
    made = PersistentMap(dict.fromkeys(keys, 1))
    assert list(made) == list(PersistentMap(dict.fromkeys(keys, 2)))
    assert made.changed({keys[7]: 1}) is not made.changed({keys[7]: 3})


def test_tuples_are_keys_and_what_is_no_key_is_absent() -> None:
    made: PersistentMap[object, int] = PersistentMap({("app", "a"): 1, ("app", "b"): 2})
    assert made[("app", "b")] == 2
    assert ("ap", "pa") not in made
    assert 7 not in made
    assert "app" not in made
    assert made != 7
    assert "('app', 'a'): 1" in repr(made)


def test_keys_of_the_same_hash_are_kept_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(persistent, "_hash", lambda key: 5)
    plain = {f"key-{number}": number for number in range(50)}
    made = PersistentMap(plain)
    assert made == plain
    assert made.changed({}, ["key-3"]) == {key: value for key, value in plain.items() if key != "key-3"}
