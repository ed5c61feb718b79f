"""What replicas are together is what a look at each of them tells."""

from __future__ import annotations

import random

from router.core.census import Census
from router.core.load import ReplicaLoad
from serve_core.model.ids import ReplicaId
from serve_core.model.load import Load


def test_it_is_what_they_are() -> None:
    chance = random.Random(5)
    census, present = Census(), set[ReplicaLoad]()
    replicas = [ReplicaLoad(ReplicaId(str(number))) for number in range(5)]
    for _ in range(500):
        replica = chance.choice(replicas)
        match chance.randrange(5):
            case 0 if replica in present:
                census.remove(replica)
                present.discard(replica)
            case 1 if replica not in present:
                census.add(replica)
                present.add(replica)
            case 2:
                replica.unwatched(reachable=chance.choice((True, False)))
            case 3:
                replica.unreachable(replica.pushes)
            case _:
                replica.pushed(Load(0, 0, chance.randint(1, 3)), draining=False)
        # Also of one that left, such as by an answer that comes late.
        census.see(replica)
        assert len(census) == len(present)
        assert census.slots == sum(one.capacity for one in present)
        assert census.largest == max((one.capacity for one in present), default=0)
        assert census.connected == sum(one.connected for one in present)
