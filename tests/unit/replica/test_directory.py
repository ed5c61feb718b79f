"""What a replica knows of its deployment's actors, and which new lives it is told of."""

from __future__ import annotations

from replica.core.directory import ActorDirectory, Restart
from serve_core.model.actor import ActorEndpoint


def at(name: str, incarnation: int, address: str = "h:1") -> ActorEndpoint:
    return ActorEndpoint(name=name, incarnation=incarnation, address=address)


def told(*steps: ActorEndpoint) -> ActorDirectory:
    directory = ActorDirectory()
    for step in steps:
        directory.take([step])
    return directory


def restarts(directory: ActorDirectory) -> list[Restart]:
    found = []
    while (restart := directory.take_restart()) is not None:
        found.append(restart)
    return found


def test_the_first_life_that_is_told_is_no_restart_whatever_its_number() -> None:
    assert restarts(told(at("cache", 4))) == []
    assert restarts(told(at("cache", 4, ""), at("cache", 4))) == []


def test_a_new_life_is_a_restart_once_it_serves_and_only_once() -> None:
    directory = told(at("cache", 1), at("cache", 2, ""))
    assert restarts(directory) == []
    directory.take([at("cache", 2)])
    assert restarts(directory) == [Restart("cache", 2)]
    directory.take([at("cache", 2, "")])
    directory.take([at("cache", 2, "h:2")])
    assert restarts(directory) == []


def test_of_lives_that_began_meanwhile_only_the_newest_is_told() -> None:
    directory = told(at("a", 1), at("b", 1), at("a", 2), at("b", 2), at("a", 3))
    assert restarts(directory) == [Restart("a", 3), Restart("b", 2)]


def test_what_is_about_an_earlier_life_is_left() -> None:
    directory = told(at("cache", 3))
    assert not directory.take([at("cache", 2, "old:1")])
    assert directory.find("cache") == at("cache", 3)
    assert not directory.take([at("cache", 3)])
    assert directory.take([at("cache", 3, "")])


def test_an_actor_that_is_described_has_no_endpoint_before_one_was_told() -> None:
    directory = ActorDirectory()
    directory.describe(["cache", "tree"])
    assert tuple(directory.names) == ("cache", "tree")
    assert directory.find("cache") is None
