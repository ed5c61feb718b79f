from __future__ import annotations

from serve_core.model.endpoints import TableVersion
from serve_core.model.ids import GangId, NodeId, ReplicaId, RouterId
from serve_core.model.load import Load
from serve_core.model.replica import Failure, ReplicaPhase, ReplicaReport
from serve_core.model.resources import Resources
from serve_core.plan import events
from serve_core.plan.fold import fold, fold_all
from serve_core.plan.observed import NodeObserved, Observed, PlacementState, ProcessState

R = ReplicaId("g-0")
G = GangId("g")
START = Observed(listening_since=0.0)
READY = ReplicaReport(phase=ReplicaPhase.READY, address="a:1")


def _opened(*, epoch: int = 1, now: float = 1.0) -> events.AttachOpened:
    return events.AttachOpened(replica_id=R, epoch=epoch, pid=7, report=READY, config="c", now=now)


def test_an_attached_replica_runs_and_is_heard() -> None:
    seen = fold(START, _opened()).replica(R, epoch=1)
    assert (seen.attached, seen.pid, seen.process, seen.heard_at, seen.config) == (
        True,
        7,
        ProcessState.RUNNING,
        1.0,
        "c",
    )
    assert seen.phase is ReplicaPhase.READY


def test_heartbeats_carry_the_load() -> None:
    beat = events.HeartbeatSeen(replica_id=R, epoch=1, load=Load(1, 2, 5), now=2.0)
    seen = fold_all(START, [_opened(), beat]).replica(R, epoch=1)
    assert seen.load == Load(1, 2, 5)
    assert seen.heard_at == 2.0
    unreported = fold(START, beat).replica(R, epoch=1)
    assert (unreported.load, unreported.phase, unreported.heard_at) == (Load(), None, 2.0)


def test_a_report_replaces_the_one_before() -> None:
    draining = ReplicaReport(phase=ReplicaPhase.DRAINING)
    after = fold_all(START, [_opened(), events.Reported(replica_id=R, epoch=1, report=draining, now=3.0)])
    assert after.replica(R, epoch=1).report == draining


def test_a_lost_stream_leaves_the_process_and_its_last_word() -> None:
    after = fold_all(START, [_opened(), events.AttachLost(replica_id=R, epoch=1, now=5.0)]).replica(R, epoch=1)
    assert (after.attached, after.process, after.detached_at, after.report) == (
        False,
        ProcessState.RUNNING,
        5.0,
        READY,
    )


def test_an_exit_ends_the_stream_and_what_comes_late_does_not_revive_it() -> None:
    exited = events.ProcessExited(replica_id=R, epoch=1, exit_code=-9, now=4.0)
    after = fold_all(START, [_opened(), exited])
    seen = after.replica(R, epoch=1)
    assert (seen.attached, seen.process, seen.exit_code, seen.detached_at) == (False, ProcessState.EXITED, -9, 4.0)
    assert fold(after, _opened(now=5.0)) == after
    failed = ReplicaReport(phase=ReplicaPhase.STARTING, failure=Failure(reason="X", message="x"))
    late = fold(after, events.Reported(replica_id=R, epoch=1, report=failed, now=5.0)).replica(R, epoch=1)
    assert late.report == failed
    assert late.process is ProcessState.EXITED


def test_what_has_ended_holds_nothing() -> None:
    beat = events.HeartbeatSeen(replica_id=R, epoch=1, load=Load(1, 2, 5), now=3.0)
    exited = events.ProcessExited(replica_id=R, epoch=1, exit_code=-9, now=4.0)
    assert fold_all(START, [_opened(), beat]).replica(R, epoch=1).load.held == 3
    assert fold_all(START, [_opened(), beat, exited]).replica(R, epoch=1).load == Load()


def test_an_exit_that_nobody_was_attached_to() -> None:
    after = fold(START, events.ProcessExited(replica_id=R, epoch=1, exit_code=1, now=4.0)).replica(R, epoch=1)
    assert after.detached_at == 0.0


def test_epochs_are_fenced() -> None:
    after = fold(START, _opened(epoch=2))
    assert fold(after, events.AttachLost(replica_id=R, epoch=1, now=9.0)) is after
    newer = fold(after, events.ProcessStarted(replica_id=R, epoch=3, pid=9, now=9.0))
    assert newer.replica(R, epoch=3).pid == 9
    assert newer.replica(R, epoch=3).report is None


def test_the_unseen_do_not_run_once_the_backend_was_listed() -> None:
    assert START.replica(R, epoch=1).process is ProcessState.UNKNOWN
    assert fold(START, events.BackendListed(now=1.0)).replica(R, epoch=1).process is ProcessState.EXITED


def test_refused_starts_drains_and_settings_are_noted() -> None:
    failure = Failure(reason="IMPORT_FAILED", message="no interpreter")
    refused = fold(START, events.StartRefused(replica_id=R, epoch=1, failure=failure, now=1.0)).replica(R, epoch=1)
    assert refused.start_failure == failure
    told = fold_all(
        START,
        [
            _opened(),
            events.DrainSent(replica_id=R, epoch=1, now=6.0),
            events.Reconfigured(replica_id=R, epoch=1, config="d", now=6.0),
        ],
    ).replica(R, epoch=1)
    assert (told.drain_sent_at, told.config) == (6.0, "d")


def test_placements() -> None:
    held = fold(START, events.PlacementReserved(gang_id=G, now=1.0))
    assert held.placement(G).state is PlacementState.HELD
    failure = Failure(reason="DEPLOYMENT_UNAVAILABLE", message="no room")
    refused = fold(START, events.PlacementRefused(gang_id=G, failure=failure, now=1.0))
    assert refused.placement(G).failure == failure
    assert fold(held, events.PlacementFreed(gang_id=G, now=2.0)).placement(G).state is PlacementState.FREED
    assert START.placement(G).state is PlacementState.UNKNOWN


def test_forgotten_gangs_leave_nothing() -> None:
    seen = fold_all(START, [_opened(), events.PlacementReserved(gang_id=G, now=1.0)])
    assert fold(seen, events.Forgotten(gang_id=G, replica_ids=(R,), now=2.0)) == START


def test_nodes_and_listening() -> None:
    node = NodeObserved(node_id=NodeId("n"), total=Resources(cpus=1.0))
    assert fold(START, events.NodesSeen(nodes=(node,), now=1.0)).nodes == {"n": node}
    resumed = fold(START, events.ListeningResumed(now=8.0))
    assert resumed.listening_since == 8.0
    assert fold(resumed, events.ListeningResumed(now=7.0)).listening_since == 8.0


def _subscribed(name: str, now: float) -> events.RouterSubscribed:
    return events.RouterSubscribed(router_id=RouterId(name), address="a", http_address="h", acknowledged=None, now=now)


def test_routers() -> None:
    a = RouterId("a")
    version = TableVersion("e", 3)
    after = fold_all(
        START, [_subscribed("a", 1.0), events.RouterAcknowledged(router_id=a, acknowledged=version, now=2.0)]
    )
    assert after.routers[a].acknowledged == version
    lost = fold(after, events.RouterLost(router_id=a, now=3.0))
    assert (lost.routers[a].connected, lost.routers[a].lost_at) == (False, 3.0)
    assert fold(lost, events.RouterGone(router_id=a, now=4.0)).routers == {}
    assert set(fold(lost, _subscribed("b", 50.0)).routers) == {"a", "b"}
    assert set(fold(lost, _subscribed("b", 70.0)).routers) == {"b"}


def test_what_unknown_routers_say_is_dropped() -> None:
    a = RouterId("a")
    acknowledged = events.RouterAcknowledged(router_id=a, acknowledged=TableVersion("e", 1), now=1.0)
    assert fold(START, acknowledged) == START
    assert fold(START, events.RouterLost(router_id=a, now=1.0)) == START
    assert fold(START, events.RouterGone(router_id=a, now=1.0)) == START


def test_news_of_a_start_that_an_exit_overtook_does_not_revive_it() -> None:
    started = events.ProcessStarted(replica_id=R, epoch=1, pid=9, now=5.0)
    ended = fold(START, events.ProcessExited(replica_id=R, epoch=1, exit_code=-9, now=4.0))
    assert fold(ended, started) == ended
    nothing_ran = fold(START, events.ProcessExited(replica_id=R, epoch=1, exit_code=None, now=4.0))
    assert fold(nothing_ran, started).replica(R, epoch=1).process is ProcessState.RUNNING
