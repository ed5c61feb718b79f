"""Policies."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

import pytest

from router.core.choice import Candidates, IndexedSet, Policy, PowerOfTwo, RoundRobin
from router.core.load import ReplicaLoad
from serve_core.model.ids import ReplicaId
from serve_core.model.load import Load


def loaded(name: str, held: int, capacity: int = 10) -> ReplicaLoad:
    replica = ReplicaLoad(ReplicaId(name))
    replica.pushed(Load(held, 0, capacity), draining=False)
    return replica


def among(*replicas: ReplicaLoad) -> Candidates:
    candidates = Candidates()
    for replica in replicas:
        candidates.add(replica)
    return candidates


POLICIES: list[Callable[[], Policy]] = [lambda: PowerOfTwo(random.Random(7).random), RoundRobin]


def test_two_choices_take_the_less_utilised() -> None:
    policy = PowerOfTwo(random.Random(7).random)
    candidates = among(loaded("a", 5), loaded("b", 1))
    assert {choice.replica_id for _ in range(20) if (choice := policy.choose(candidates, 1))} == {"b"}


def test_two_choices_draw_every_pair_alike() -> None:
    policy = PowerOfTwo(random.Random(7).random)
    candidates = among(*(loaded(name, held) for held, name in enumerate("abcd")))
    drawn = Counter(choice.replica_id for _ in range(6000) if (choice := policy.choose(candidates, 1)))
    # Of six pairs, three have a as their less utilised one, two b, one c, none d.
    assert [round(drawn[ReplicaId(name)] / 1000) for name in "abcd"] == [3, 2, 1, 0]


def test_utilisation_counts_and_not_the_number() -> None:
    policy = PowerOfTwo(random.Random(7).random)
    choice = policy.choose(among(loaded("small", 2, 4), loaded("large", 10, 100)), 1)
    assert choice is not None
    assert choice.replica_id == "large"


def test_round_robin_goes_round_and_passes_over_the_full() -> None:
    policy = RoundRobin()
    closed = ReplicaLoad(ReplicaId("closed"))
    candidates = among(loaded("a", 0), closed, loaded("b", 0), loaded("c", 0))
    chosen = [choice.replica_id for _ in range(6) if (choice := policy.choose(candidates, 1))]
    assert chosen == ["a", "b", "c", "a", "b", "c"]


@pytest.mark.parametrize("make", POLICIES)
def test_doubtful_only_where_none_is_open(make: Callable[[], Policy]) -> None:
    policy = make()
    looks_full = loaded("full", 10)
    with_room = among(looks_full, loaded("open", 9))
    assert {choice.replica_id for _ in range(10) if (choice := policy.choose(with_room, 1))} == {"open"}
    assert policy.choose(among(looks_full), 1) is looks_full
    assert policy.choose(among(ReplicaLoad(ReplicaId("closed"))), 1) is None
    assert policy.choose(among(), 1) is None


@pytest.mark.parametrize("make", POLICIES)
def test_a_heavy_request_goes_where_it_fits(make: Callable[[], Policy]) -> None:
    roomy, tight = loaded("roomy", 6), loaded("tight", 8)
    assert make().choose(among(tight, roomy), 3) is roomy
    assert make().choose(among(tight, roomy), 11) is None
    assert make().choose(among(tight), 3) is tight


def test_an_indexed_set_keeps_its_index() -> None:
    members = IndexedSet()
    replicas = [ReplicaLoad(ReplicaId(str(number))) for number in range(6)]
    for replica in (*replicas, replicas[0]):
        members.add(replica)
    for gone in (replicas[0], replicas[5], replicas[2], replicas[2]):
        members.discard(gone)
    assert {replica.replica_id for replica in members} == {"1", "3", "4"}
    assert [members[index] in members for index in range(len(members))] == [True] * 3
    assert replicas[0] not in members
