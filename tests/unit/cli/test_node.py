"""What ``node drain --wait`` waits for."""

from __future__ import annotations

from dataclasses import replace

import pytest

from serve_core.cli.node import what_is_left
from serve_core.cli.report import show
from serve_core.cli.tables import nodes_table
from serve_core.model.ids import NodeId
from serve_core.model.replica import Replica
from serve_core.model.resources import Resources
from serve_core.model.status import ActorStatus, ClusterStatus, NodeStatus, ReplicaStatus
from tests.unit.cli.test_progress import DEPLOYMENT, REPLICA, cluster

FREE = NodeStatus(node_id=NodeId("n"), zone="", total=Resources(cpus=4.0, memory_bytes=2**30), used=Resources())
HELD = replace(FREE, used=Resources(cpus=1.5, gpus=1.0, custom={"licence": 2.0}))
ELSEWHERE = replace(FREE, node_id=NodeId("other"), zone="z", used=Resources(cpus=4.0), labels={"b": "2", "a": "1"})


def _replica(number: int) -> ReplicaStatus:
    who: Replica = replace(REPLICA.replica, replica_id=f"app.A.g-{number}", node_id=NodeId("n"))  # type: ignore[arg-type]
    return replace(REPLICA, replica=who)


def _status(*nodes: NodeStatus, replicas: int = 0) -> ClusterStatus:
    wanted = replace(DEPLOYMENT, replicas=tuple(_replica(number) for number in range(replicas)))
    return replace(cluster(wanted), nodes=nodes)


def test_a_drain_waits_for_replicas_and_for_what_is_held() -> None:
    assert what_is_left(_status(FREE, ELSEWHERE), "n") == ""
    assert what_is_left(_status(ELSEWHERE), "n") == "", "it is gone with all that was on it"
    assert what_is_left(_status(HELD), "n") == "node n still holds 1.5 CPUs, 1 GPU, 2 licence"
    assert what_is_left(_status(HELD, replicas=1), "n") == "1 left on node n: app.A.g-0"
    assert what_is_left(_status(HELD, replicas=7), "n").endswith("app.A.g-4 and 2 more")


def test_a_drain_waits_for_actors_as_well() -> None:
    where = {"cache": _replica(8).replica, "tree": replace(_replica(9).replica, node_id=NodeId("other")), "new": None}
    actors = tuple(ActorStatus(name=name, revision=None, incarnation=1, replica=one) for name, one in where.items())
    wanted = replace(DEPLOYMENT, replicas=(), actors=actors)
    status = replace(cluster(wanted), nodes=(HELD, ELSEWHERE))
    assert what_is_left(status, "n") == "1 left on node n: app.A.g-8 (actor cache)"
    status = replace(cluster(replace(wanted, replicas=(_replica(0),))), nodes=(HELD, ELSEWHERE))
    assert what_is_left(status, "n") == "2 left on node n: app.A.g-0, app.A.g-8 (actor cache)"


def test_a_row_stays_one_line_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    many = replace(FREE, labels={f"label-{number}": "x" * 20 for number in range(9)})
    show(nodes_table(_status(many, ELSEWHERE), 0.0))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert "label-8=" in lines[1]
