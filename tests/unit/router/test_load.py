"""The estimate of a replica's load."""

from __future__ import annotations

import pytest

from router.core.load import PROBE_S, Fit, ReplicaLoad
from serve_core.model.ids import ReplicaId
from serve_core.model.load import Load


@pytest.fixture
def replica() -> ReplicaLoad:
    replica = ReplicaLoad(ReplicaId("r"))
    replica.pushed(Load(0, 0, 2), draining=False)
    return replica


def test_nothing_goes_to_a_replica_before_it_is_connected() -> None:
    assert ReplicaLoad(ReplicaId("r")).fit() is Fit.CLOSED


def test_own_requests_fill_it(replica: ReplicaLoad) -> None:
    replica.started(1, 0.0)
    assert (replica.fit(1), replica.fit(2)) == (Fit.OPEN, Fit.CLOSED)
    replica.started(1, 0.0)
    assert (replica.fit(), replica.utilisation) == (Fit.CLOSED, 1.0)
    replica.finished(1)
    assert replica.fit() is Fit.OPEN


def test_a_reply_corrects_what_others_hold(replica: ReplicaLoad) -> None:
    replica.started(1, 0.0)
    replica.told(Load(1, 1, 2), freed=1)
    assert replica.others == 2
    replica.told(Load(1, 0, 2))
    assert (replica.others, replica.held) == (0, 1)


def test_refused_means_full_until_told(replica: ReplicaLoad) -> None:
    replica.started(1, 0.0)
    replica.finished(1)
    replica.refused(1, replica.pushes)
    assert replica.fit() is Fit.CLOSED
    replica.told(Load(1, 0, 2))
    assert replica.fit() is Fit.OPEN


def test_a_refused_weight_says_nothing_of_a_lighter_one(replica: ReplicaLoad) -> None:
    replica.started(2, 0.0)
    replica.finished(2)
    replica.refused(2, replica.pushes)
    assert (replica.fit(2), replica.fit(1)) == (Fit.CLOSED, Fit.OPEN)


def test_a_push_that_overtakes_the_refusal_counts(replica: ReplicaLoad) -> None:
    since = replica.pushes
    replica.started(1, 0.0)
    replica.pushed(Load(0, 0, 2), draining=False)
    replica.finished(1)
    replica.refused(1, since)
    assert replica.fit() is Fit.OPEN


def test_one_probe_finds_out_where_nobody_would_tell(replica: ReplicaLoad) -> None:
    replica.told(Load(2, 0, 2))
    assert replica.fit() is Fit.DOUBTFUL
    replica.started(1, 10.0)
    assert replica.fit() is Fit.CLOSED
    assert replica.probe_ends_at == 10.0 + PROBE_S
    assert not replica.settle_probe(10.0)
    assert replica.settle_probe(10.0 + PROBE_S)
    assert replica.fit() is Fit.DOUBTFUL


def test_a_broken_watch_owes_nothing(replica: ReplicaLoad) -> None:
    replica.started(1, 0.0)
    replica.finished(1)
    replica.refused(1, replica.pushes)
    replica.unwatched(reachable=True)
    assert replica.fit() is Fit.DOUBTFUL
    replica.unwatched(reachable=False)
    assert replica.fit() is Fit.CLOSED


def test_draining_and_unreachable_until_news(replica: ReplicaLoad) -> None:
    replica.drains(replica.pushes)
    assert replica.fit() is Fit.CLOSED
    replica.pushed(Load(0, 0, 2), draining=False)
    replica.drains(replica.pushes - 1)
    assert replica.fit() is Fit.OPEN
    replica.unreachable(replica.pushes - 1)
    assert replica.fit() is Fit.OPEN
    replica.unreachable(replica.pushes)
    assert replica.fit() is Fit.CLOSED


def test_a_lowered_capacity_closes_it(replica: ReplicaLoad) -> None:
    replica.started(1, 0.0)
    replica.pushed(Load(1, 0, 1), draining=False)
    assert replica.fit() is Fit.CLOSED


def test_a_push_that_is_owed_to_a_heavier_request_is_not_waited_for(replica: ReplicaLoad) -> None:
    replica.started(2, 0.0)
    replica.finished(2)
    replica.refused(2, replica.pushes)
    replica.told(Load(0, 2, 2))
    # The replica will tell of two free slots, not of one.
    assert (replica.fit(2), replica.fit(1)) == (Fit.CLOSED, Fit.DOUBTFUL)
    replica.refused(1, replica.pushes)
    assert (replica.fit(2), replica.fit(1)) == (Fit.CLOSED, Fit.CLOSED)


@pytest.mark.parametrize(("held", "capacity"), [(0, 1), (1, 2), (2, 4), (3, 4), (5, 4), (1, 100)])
def test_fuller_is_more_utilised(replica: ReplicaLoad, held: int, capacity: int) -> None:
    other = ReplicaLoad(ReplicaId("o"))
    other.pushed(Load(held, 0, capacity), draining=False)
    replica.pushed(Load(1, 0, 2), draining=False)
    assert replica.fuller_than(other) == (replica.utilisation > other.utilisation)
    assert other.fuller_than(replica) == (other.utilisation > replica.utilisation)
