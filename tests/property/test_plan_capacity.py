"""What is free, kept change by change, is what is free, counted anew; and forks do not touch each other."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from serve_core.model.ids import DeploymentKey, GangId, NodeId, ReplicaId, RevisionId
from serve_core.model.replica import ReplicaPhase
from serve_core.model.resources import Resources
from serve_core.plan.observed import NodeObserved
from serve_core.plan.placement import Capacity, GangRequest, Shortage
from serve_core.plan.records import Bundle, GangRecord, GpuShare, MemberRecord

NODES = tuple(
    NodeObserved(node_id=NodeId(name), total=Resources(cpus=4.0, gpus=2.0, memory_bytes=100, custom={"disk": 3.0}))
    for name in ("n0", "n1")
)
ASKS = (
    Resources(cpus=1.0),
    Resources(cpus=0.5, memory_bytes=30),
    Resources(cpus=0.1, gpus=0.5),
    Resources(custom={"disk": 1.0}),
)

GANGS = st.builds(
    lambda node, ask, phase: (node, ask, phase),
    # The last node is one that is not there (any more).
    st.sampled_from(("n0", "n1", "n2")),
    st.sampled_from(ASKS),
    st.sampled_from((ReplicaPhase.STARTING, ReplicaPhase.READY, ReplicaPhase.STOPPING)),
)
STEPS = st.lists(st.tuples(st.integers(0, 3), st.none() | GANGS), max_size=12)


def _gang(number: int, node: str, ask: Resources, phase: ReplicaPhase) -> GangRecord:
    gpus = (GpuShare(0, ask.gpus),) if ask.gpus else ()
    member = MemberRecord(
        replica_id=ReplicaId(f"g{number}-0"),
        rank=0,
        phase=phase,
        phase_since=0.0,
        bundle=Bundle(node_id=NodeId(node), resources=ask, gpus=gpus),
    )
    return GangRecord(
        gang_id=GangId(f"g{number}"),
        key=DeploymentKey("app", "d"),
        revision=RevisionId("r"),
        phase=phase,
        phase_since=0.0,
        created_at=0.0,
        members=(member,),
    )


def _answers(capacity: Capacity) -> list[object]:
    """What fits, one after the other, until nothing does."""
    answers: list[object] = []
    for ask in ASKS:
        for limit in (0, 1):
            used_up = capacity.fork()
            while not isinstance(
                answer := used_up.place(GangRequest(resources=ask, size=1), starts_per_node=limit), Shortage
            ):
                answers.append(answer)
            answers.append(answer)
    return answers


@settings(deadline=None)
@given(STEPS)
def test_changes_one_by_one_come_to_the_same(
    steps: list[tuple[int, tuple[str, Resources, ReplicaPhase] | None]],
) -> None:
    kept = Capacity(NODES, ())
    gangs: dict[int, GangRecord] = {}
    forks = []
    for number, described in steps:
        before = gangs.pop(number, None)
        if described is not None:
            gangs[number] = _gang(number, *described)
        forks.append((kept.fork(), _answers(kept)))
        kept.change(before, gangs.get(number))
        assert _answers(kept) == _answers(Capacity(NODES, gangs.values()))
    for fork, answers in forks:
        assert _answers(fork) == answers, "what came later was not to be seen in it"
