"""Who is chosen for a weight is who a look at everyone would choose, whatever changed since the last choice."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from router.core.choice import Candidates
from router.core.gangs import GangLoad, Gangs
from router.core.load import PROBE_S, Fit, ReplicaLoad
from router.core.ranking import WEIGHTS_MAX, Ranking
from serve_core.model.ids import GangId, ReplicaId
from serve_core.model.load import Load
from serve_core.model.replica import Gang

REPLICAS = 6
GANG_SIZE = 2
CAPACITIES = (2, 4, 12)
"""More weights than there are lists for fit on the largest."""

PLACES = st.integers(0, REPLICAS - 1)
WEIGHTS = st.sampled_from((1, 2, 2, 2)) | st.integers(1, max(CAPACITIES))
STEPS = st.lists(st.tuples(st.sampled_from("tpprslcDCCC"), PLACES, WEIGHTS), max_size=60)


class Scene:
    """A few replicas, idle at first, of which each is told of, called and lost at random."""

    def __init__(self) -> None:
        self.now = 0.0
        self.replicas = [ReplicaLoad(ReplicaId(str(number))) for number in range(REPLICAS)]
        for place in range(REPLICAS):
            self.change("p", place, 1)

    def change(self, step: str, place: int, weight: int) -> ReplicaLoad:
        replica = self.replicas[place]
        capacity = CAPACITIES[place % len(CAPACITIES)]
        self.now += PROBE_S / 4
        if step == "t":
            replica.told(Load(min(weight, capacity), 0, capacity))
        elif step == "p":
            replica.pushed(Load(min(weight - 1, capacity), 0, capacity), draining=weight == max(CAPACITIES))
        elif step == "r":
            replica.refused(weight, replica.pushes)
        elif step == "s":
            replica.settle_probe(self.now)
        elif step == "l":
            replica.unwatched(reachable=weight % 2 == 0)
        elif replica.own and weight % 2:
            replica.finished(1)
        elif replica.fit(weight) is not Fit.CLOSED:
            replica.started(weight, self.now)
        return replica


@settings(deadline=None)
@given(STEPS)
def test_the_least_utilised_replica_that_a_weight_fits_on(steps: list[tuple[str, int, int]]) -> None:
    scene, candidates = Scene(), Candidates()
    for replica in scene.replicas:
        candidates.add(replica)
    for step, place, weight in steps:
        if step == "D":
            replica = scene.replicas[place]
            (candidates.remove if replica.candidate else candidates.add)(replica)
        elif step != "C":
            candidates.sort(scene.change(step, place, weight))
        else:
            chosen = candidates.least_utilised(weight)
            fits = {one: one.fit(weight) for one in candidates.everyone}
            best = max(fits.values(), default=Fit.CLOSED)
            if best is Fit.CLOSED:
                assert chosen is None
            else:
                assert chosen is not None
                assert fits[chosen] is best
                assert chosen.utilisation == min(one.utilisation for one, fit in fits.items() if fit is best)


@settings(deadline=None)
@given(STEPS)
def test_the_least_full_gang_that_had_to_wait_longest(steps: list[tuple[str, int, int]]) -> None:
    scene, gangs = Scene(), Gangs()
    for place, replica in enumerate(scene.replicas):
        gangs.put(seat(place), replica)
    for step, place, weight in steps:
        if step == "D":
            replica = scene.replicas[place]
            if gangs.drop(replica) is None:
                gangs.put(seat(place), replica)
        elif step != "C":
            gangs.changed(scene.change(step, place, weight))
        else:
            wanted = dict.fromkeys(best_of(list(gangs), weight))
            chosen = gangs.choose(weight)
            assert chosen in wanted if wanted else chosen is None


def seat(place: int) -> Gang:
    return Gang(gang_id=GangId(f"g{place // GANG_SIZE}"), rank=place % GANG_SIZE, size=GANG_SIZE)


def best_of(gangs: list[GangLoad], weight: int) -> list[GangLoad]:
    """Those that are as good as any, by a look at all of them."""
    best = max((gang.fit(weight) for gang in gangs), default=Fit.CLOSED)
    fitting = [gang for gang in gangs if gang.fit(weight) is best] if best is not Fit.CLOSED else []
    least = min(map(rank_of, fitting), default=None)
    return [gang for gang in fitting if rank_of(gang) == least]


def rank_of(gang: GangLoad) -> tuple[float, int]:
    return max(member.utilisation for _, member in gang), gang.chosen


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3) | st.none()), max_size=300))
def test_a_ranking_is_in_order_and_bounded(steps: list[tuple[int, int | None]]) -> None:
    ranking: Ranking[int] = Ranking()
    ranks: dict[int, int] = {}
    for item, rank in steps:
        if rank is None:
            ranking.discard(item)
            ranks.pop(item, None)
        else:
            ranking.put(item, (rank,))
            ranks[item] = rank
        # Of equals a plain dict has the one first that came in first.
        assert ranking.first() == min(ranks, key=lambda one: ranks[one], default=None)
        assert len(ranking) == len(ranks)
    assert len(ranking._heap) <= 2 * 10 + 65


def test_only_so_many_weights_have_a_list() -> None:
    candidates, replica = Candidates(), ReplicaLoad(ReplicaId("r"))
    candidates.add(replica)
    replica.pushed(Load(0, 0, 100), draining=False)
    candidates.sort(replica)
    for weight in range(2, 3 * WEIGHTS_MAX):
        assert candidates.least_utilised(weight) is replica
    assert len(candidates._shortlists._by_weight) == WEIGHTS_MAX
