"""What the chaos of kills takes for an explanation, and what not."""

from __future__ import annotations

import pytest

from bench.chaos import NOTICED_WITHIN_S, Kill, Outcome, judge
from bench.journal import Run
from bench.steady import TRIES_MAX, Call, SteadyLoad

REPLICA = Kill(kind="replica", pid=7, at=10.0, replica_id="r")
ROUTER = Kill(kind="router", pid=8, at=10.0)
CONTROLLER = Kill(kind="controller", pid=9, at=10.0)
SPARED_PID = 70


def failed(reason: str, *, status: str = "UNAVAILABLE", ended_at: float = 10.1) -> Call:
    return Call(
        number=1,
        due_at=9.9,
        sent_at=9.9,
        ended_at=ended_at,
        status=status,
        reason=reason,
        replica_id="r" if reason else "",
    )


def judged(*kills: Kill, call: Call | None = None, runs: tuple[Run, ...] = (), repeatable: bool = False) -> Outcome:
    load = SteadyLoad("nowhere:1", rate_per_s=1.0)
    load.calls.append(call or Call(number=1, due_at=9.9, sent_at=9.9, ended_at=11.0, pid=7))
    return judge(load, kills, {1: list(runs), 2: [Run(1.0, 7), Run(1.1, 7)]}, repeatable=repeatable)


@pytest.mark.parametrize("repeatable", [False, True])
@pytest.mark.parametrize("kill", [REPLICA, ROUTER, CONTROLLER])
def test_a_run_again_needs_the_kill_of_what_held_the_one_before(kill: Kill, repeatable: bool) -> None:
    outcome = judged(kill, runs=(Run(9.95, 7), Run(10.5, 70)), repeatable=repeatable)

    accounted = kill is ROUTER or (kill is REPLICA and repeatable)
    assert (outcome.again, outcome.twice) == ((1, []) if accounted else (0, [1]))


@pytest.mark.parametrize(
    ("runs", "kill"),
    [
        ((Run(9.95, 7), Run(9.97, 7)), ROUTER),
        ((Run(10.2, 7), Run(12.0, 7)), Kill(kind="router", pid=8, at=10.2 - 1.1 * NOTICED_WITHIN_S)),
        ((Run(9.95, SPARED_PID), Run(10.5, 7)), REPLICA),
    ],
    ids=["killed after both", "killed long before both", "another replica killed"],
)
def test_a_kill_at_another_time_or_of_another_one_explains_no_run(runs: tuple[Run, ...], kill: Kill) -> None:
    assert judged(kill, runs=runs, repeatable=True).twice == [1]


def test_only_the_death_of_its_own_replica_explains_a_failed_call() -> None:
    assert judged(REPLICA, call=failed("REPLICA_DIED")).inside_replica
    other = Kill(kind="replica", pid=7, at=10.0, replica_id="other")
    for kill, call in (
        (other, failed("REPLICA_DIED")),
        (ROUTER, failed("REPLICA_DIED")),
        (ROUTER, failed("")),
        (REPLICA, failed("REPLICA_DIED", status="INTERNAL")),
        (REPLICA, failed("REPLICA_DIED", ended_at=9.95)),
    ):
        outcome = judged(kill, call=call)
        assert (len(outcome.inside_replica), len(outcome.wrong)) == (0, 1)


def test_grpc_gives_up_after_its_last_try_and_not_before() -> None:
    kills = [Kill(kind="router", pid=8, at=10.0 + second) for second in range(TRIES_MAX)]
    call = failed("", ended_at=kills[-1].at + 0.1)

    assert judged(*kills, call=call, repeatable=True).given_up == [call]
    assert judged(*kills[1:], call=call, repeatable=True).wrong == [call]
    assert judged(*kills, call=call).wrong == [call], "a careful client has as many tries as it wants"
