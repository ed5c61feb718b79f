"""What operators change about nodes. Records in, records out, or an error and nothing is changed."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace

from serve_core.errors import ConfigInvalidError, FieldViolation, NodeUnknownError
from serve_core.model.event import Event
from serve_core.model.ids import DeploymentKey, NodeId
from serve_core.plan.deploy import Change
from serve_core.plan.records import NodeRecord, Records

DEADLINE_MAX_S = 365 * 24 * 3600.0
"""More than anybody waits for."""


def drain_node(
    records: Records, known: Collection[NodeId], node_id: NodeId, *, now: float, deadline_s: float | None = None
) -> Change:
    """Places nothing new on a node, and lets what is there move elsewhere. Asked again, only the deadline is another.

    Args:
        records: What is persisted.
        known: The nodes that there are.
        node_id: The node.
        now: Seconds since the Unix epoch.
        deadline_s: After so long, what is still there goes without a replacement; None: never.

    Raises:
        ConfigInvalidError: The deadline is not possible.
        NodeUnknownError: There is no such node.
    """
    if deadline_s is not None and not 0 <= deadline_s <= DEADLINE_MAX_S:
        violation = FieldViolation("deadline", f"{deadline_s:g} must be from 0 to {DEADLINE_MAX_S:g} seconds")
        raise ConfigInvalidError((violation,), what=f"the drain of node {node_id}")
    before = records.nodes.get(node_id)
    if before is None and node_id not in known:
        raise _unknown(node_id, known)
    deadline = None if deadline_s is None else now + deadline_s
    if before is not None and before.deadline == deadline:
        return Change()
    record = NodeRecord(node_id=node_id, draining_since=now, deadline=deadline)
    if before is not None:
        return Change(saved_nodes=(replace(record, draining_since=before.draining_since),))
    until = "" if deadline_s is None else f"; what is still there after {deadline_s:g} s goes without a replacement"
    text = f"node {node_id} is being drained: what runs there moves elsewhere{until}"
    return Change(saved_nodes=(record,), events=tuple(_events(records, node_id, "NodeDraining", text, now)))


def undrain_node(records: Records, known: Collection[NodeId], node_id: NodeId, *, now: float) -> Change:
    """Uses a node as any other again. One that is not drained stays as it is.

    Raises:
        NodeUnknownError: There is no such node.
    """
    if node_id not in records.nodes:
        if node_id not in known:
            raise _unknown(node_id, known)
        return Change()
    text = f"node {node_id} is not drained any more"
    return Change(deleted_nodes=(node_id,), events=tuple(_events(records, node_id, "NodeUndrained", text, now)))


def on_node(records: Records, node_id: NodeId) -> tuple[DeploymentKey, ...]:
    """The deployments that have anything on a node, by key."""
    keys = {gang.key for gang in records.gangs.values() for member in gang.members if member.node_id == node_id}
    return tuple(sorted(keys))


def _events(records: Records, node_id: NodeId, reason: str, message: str, now: float) -> Iterator[Event]:
    for key in on_node(records, node_id):
        yield Event(key=key, time=now, reason=reason, message=message, subject=node_id)


def _unknown(node_id: NodeId, known: Collection[NodeId]) -> NodeUnknownError:
    names = ", ".join(sorted(known)[:20]) or "none"
    return NodeUnknownError(f"there is no node '{node_id}'; there is: {names}", details={"node": node_id})
