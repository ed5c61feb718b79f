"""Mappings that are never changed: another one shares with it all that is the same.

Making one that differs in a few keys costs what differs, and so does finding what differs between two. The order of iteration
is that of the keys' own hash: the same in every process.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, ItemsView, Iterable, Iterator, Mapping, ValuesView
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar, cast, overload

K = TypeVar("K")
V = TypeVar("V")
G = TypeVar("G")
D = TypeVar("D")

LEAF_MAX = 16
"""Entries of a leaf before it is split."""

_BITS = 5
_WIDTH = 1 << _BITS
_DEPTH_MAX = 30 // _BITS

_Node: TypeAlias = "dict[K, V] | tuple[_Node[K, V], ...]"


class Difference(NamedTuple, Generic[K, V]):
    """A key whose value differs; None where it is absent."""

    key: K
    before: V | None
    after: V | None


class PersistentMap(Mapping[K, V]):
    """An immutable mapping whose keys are strings, or tuples of strings."""

    __slots__ = ("_root", "_size")

    def __init__(self, entries: Mapping[K, V] | None = None) -> None:
        self._root: _Node[K, V] = {}
        self._size = 0
        if entries:
            made = self.changed(entries)
            self._root, self._size = made._root, made._size

    def changed(self, puts: Mapping[K, V], gone: Iterable[K] = ()) -> PersistentMap[K, V]:
        """The same mapping but for these keys."""
        root, size = self._root, self._size
        for key in gone:
            root, by = _removed(root, key, _hash(key))
            size -= by
        for key, value in puts.items():
            root, by = _stored(root, key, value, _hash(key), depth=0)
            size += by
        if root is self._root:
            return self
        made: PersistentMap[K, V] = PersistentMap()
        made._root, made._size = root, size
        return made

    def __getitem__(self, key: K) -> V:
        return self._leaf(key)[key]

    @overload
    def get(self, key: K, /) -> V | None: ...
    @overload
    def get(self, key: K, /, default: V | D) -> V | D: ...
    def get(self, key: K, /, default: V | D | None = None) -> V | D | None:
        """The value of a key, or the default. What is asked most, so without an exception where it is absent."""
        root = self._root
        return (root if isinstance(root, dict) else self._leaf(key)).get(key, default)

    def _leaf(self, key: K) -> dict[K, V]:
        """The entries among which a key is, if it is there."""
        node = self._root
        if isinstance(node, tuple):
            rest = _hash(key)
            while isinstance(node, tuple):
                node, rest = node[rest % _WIDTH], rest >> _BITS
        return node

    def __contains__(self, key: object) -> bool:
        try:
            self[cast("K", key)]
        except (KeyError, TypeError):
            return False
        return True

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[K]:
        return (key for key, _ in _walk(self._root))

    def items(self) -> ItemsView[K, V]:
        """The entries, without a look-up for each."""
        return _Items(self, self._root)

    def values(self) -> ValuesView[V]:
        """The values, without a look-up for each."""
        return _Values(self, self._root)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Mapping):
            return NotImplemented
        return len(self) == len(other) and next(differences(self, other), None) is None

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"PersistentMap({dict(_walk(self._root))!r})"


class GroupedMap(Mapping[K, V], Generic[G, K, V]):
    """The same, which also knows its values by the group that each belongs to.

    Args:
        group_of: The group of a value: a string, or a tuple of strings.
        entries: What is in it.
    """

    __slots__ = ("_all", "_group_of", "_groups")

    def __init__(self, group_of: Callable[[V], G], entries: Mapping[K, V] | None = None) -> None:
        self._group_of = group_of
        self._all: PersistentMap[K, V] = PersistentMap()
        self._groups: PersistentMap[G, PersistentMap[K, V]] = PersistentMap()
        if entries:
            made = self.changed(entries)
            self._all, self._groups = made._all, made._groups

    def group(self, group: G) -> Mapping[K, V]:
        """What belongs to a group."""
        return self._groups.get(group) or PersistentMap()

    def changed(self, puts: Mapping[K, V], gone: Iterable[K] = ()) -> GroupedMap[G, K, V]:
        """The same mapping but for these keys."""
        put_by_group: dict[G, dict[K, V]] = {}
        gone_by_group: dict[G, list[K]] = {}
        gone = tuple(gone)
        for key, value in puts.items():
            put_by_group.setdefault(self._group_of(value), {})[key] = value
        for key in (*gone, *puts):
            before = self._all.get(key)
            if before is not None:
                gone_by_group.setdefault(self._group_of(before), []).append(key)
        made: GroupedMap[G, K, V] = GroupedMap(self._group_of)
        made._all = self._all.changed(puts, gone)
        made._groups = self._groups
        for group in {**put_by_group, **gone_by_group}:
            put = put_by_group.get(group, {})
            left = [key for key in gone_by_group.get(group, ()) if key not in put]
            inside = self._groups.get(group, PersistentMap()).changed(put, left)
            made._groups = made._groups.changed({group: inside}) if inside else made._groups.changed({}, (group,))
        return made

    def __getitem__(self, key: K) -> V:
        return self._all[key]

    @overload
    def get(self, key: K, /) -> V | None: ...
    @overload
    def get(self, key: K, /, default: V | D) -> V | D: ...
    def get(self, key: K, /, default: V | D | None = None) -> V | D | None:
        """The value of a key, or the default."""
        return self._all.get(key, default)

    def __contains__(self, key: object) -> bool:
        return key in self._all

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[K]:
        return iter(self._all)

    def items(self) -> ItemsView[K, V]:
        """The entries, without a look-up for each."""
        return self._all.items()

    def values(self) -> ValuesView[V]:
        """The values, without a look-up for each."""
        return self._all.values()

    def __eq__(self, other: object) -> bool:
        return self._all == (other._all if isinstance(other, GroupedMap) else other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"GroupedMap({dict(self.items())!r})"


class _Items(ItemsView[K, V]):
    def __init__(self, mapping: Mapping[K, V], root: _Node[K, V]) -> None:
        super().__init__(mapping)
        self._root = root

    def __iter__(self) -> Iterator[tuple[K, V]]:
        return _walk(self._root)


class _Values(ValuesView[V]):
    def __init__(self, mapping: Mapping[Any, V], root: _Node[Any, V]) -> None:
        super().__init__(mapping)
        self._root = root

    def __iter__(self) -> Iterator[V]:
        return (value for _, value in _walk(self._root))


def with_changes(mapping: Mapping[K, V], puts: Mapping[K, V], gone: Iterable[K] = ()) -> Mapping[K, V]:
    """Any mapping but for these keys: shared where it can be, copied where it is a plain one."""
    if isinstance(mapping, PersistentMap | GroupedMap):
        return mapping.changed(puts, gone)
    copied = {**mapping, **puts}
    for key in gone:
        if key not in puts:
            copied.pop(key, None)
    return copied


def differences(before: Mapping[K, V], after: Mapping[K, V]) -> Iterator[Difference[K, V]]:
    """The keys whose values differ. What two mappings share is not looked at."""
    old, new = _root_of(before), _root_of(after)
    if old is None or new is None:
        return _different_entries(before, after)
    return _different_nodes(old, new)


def _root_of(mapping: Mapping[K, V]) -> _Node[K, V] | None:
    if isinstance(mapping, GroupedMap):
        mapping = mapping._all
    return mapping._root if isinstance(mapping, PersistentMap) else None


def _different_nodes(old: _Node[K, V], new: _Node[K, V]) -> Iterator[Difference[K, V]]:
    if old is new:
        return
    if isinstance(old, tuple) and isinstance(new, tuple):
        for one, other in zip(old, new, strict=True):
            if one is not other:
                yield from _different_nodes(one, other)
    elif isinstance(old, dict) and isinstance(new, dict):
        yield from _different_entries(old, new)
    else:
        yield from _different_entries(dict(_walk(old)), dict(_walk(new)))


def _different_entries(old: Mapping[K, V], new: Mapping[K, V]) -> Iterator[Difference[K, V]]:
    for key, before in old.items():
        after = new.get(key)
        if before is not after and before != after:
            yield Difference(key, before, after)
    for key, after in new.items():
        if key not in old:
            yield Difference(key, None, after)


def _hash(key: Any) -> int:
    return zlib.crc32((key if isinstance(key, str) else "\0".join(key)).encode())


def _walk(node: _Node[K, V]) -> Iterator[tuple[K, V]]:
    if isinstance(node, tuple):
        for child in node:
            yield from _walk(child)
    else:
        yield from node.items()


def _stored(node: _Node[K, V], key: K, value: V, rest: int, *, depth: int) -> tuple[_Node[K, V], int]:
    """The node with the key, and by how much it has grown."""
    if isinstance(node, tuple):
        index = rest % _WIDTH
        child, by = _stored(node[index], key, value, rest >> _BITS, depth=depth + 1)
        return (node if child is node[index] else (*node[:index], child, *node[index + 1 :])), by
    if key in node:
        return (node if node[key] is value else {**node, key: value}), 0
    leaf = {**node, key: value}
    return (leaf if len(leaf) <= LEAF_MAX or depth >= _DEPTH_MAX else _split(leaf, depth)), 1


def _split(leaf: dict[K, V], depth: int) -> _Node[K, V]:
    children: list[dict[K, V]] = [{} for _ in range(_WIDTH)]
    for key, value in leaf.items():
        children[(_hash(key) >> (depth * _BITS)) % _WIDTH][key] = value
    return tuple(
        child if len(child) <= LEAF_MAX or depth + 1 >= _DEPTH_MAX else _split(child, depth + 1) for child in children
    )


def _removed(node: _Node[K, V], key: K, rest: int) -> tuple[_Node[K, V], int]:
    """The node without the key, and by how much it has shrunk."""
    if isinstance(node, tuple):
        index = rest % _WIDTH
        child, by = _removed(node[index], key, rest >> _BITS)
        return ((*node[:index], child, *node[index + 1 :]) if by else node), by
    if key not in node:
        return node, 0
    return {kept: value for kept, value in node.items() if kept != key}, 1
