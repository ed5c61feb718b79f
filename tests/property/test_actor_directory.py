"""Whatever a replica is told of its actors, and how often: it is told of a new life once, and never of an old one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from replica.core.directory import ActorDirectory
from serve_core.model.actor import ActorEndpoint

ENDPOINTS = st.builds(
    ActorEndpoint,
    name=st.sampled_from(["cache", "tree"]),
    incarnation=st.integers(1, 5),
    address=st.sampled_from(["", "h:1", "h:2"]),
)


@given(told=st.lists(st.tuples(ENDPOINTS, st.booleans()), max_size=30))
def test_each_life_is_told_at_most_once_in_rising_order_and_only_if_it_serves(
    told: list[tuple[ActorEndpoint, bool]],
) -> None:
    directory = ActorDirectory()
    newest: dict[str, int] = {}
    first: dict[str, int] = {}
    served: dict[str, int] = {}
    heard: dict[str, list[int]] = {"cache": [], "tree": []}
    for endpoint, looks in told:
        directory.take([endpoint])
        name = endpoint.name
        if endpoint.incarnation >= newest.get(name, 0):
            newest[name] = endpoint.incarnation
            assert directory.find(name) == endpoint
            if endpoint.address:
                first.setdefault(name, endpoint.incarnation)
                served[name] = endpoint.incarnation
        while looks and (restart := directory.take_restart()) is not None:
            heard[restart.name].append(restart.incarnation)
    while (restart := directory.take_restart()) is not None:
        heard[restart.name].append(restart.incarnation)
    for name, lives in heard.items():
        assert lives == sorted(set(lives))
        assert all(life > first[name] for life in lives)
        newest_told = lives[-1] if lives else first.get(name)
        assert newest_told == served.get(name)
