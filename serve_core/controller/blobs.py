"""Where the stored states of actors are in the store: their bytes in parts, beside the record that counts those."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from serve_core.model.actor import ActorKey
from serve_core.model.ids import DeploymentKey
from serve_core.plan.actor_records import SnapshotRecord
from serve_core.plan.records import DeploymentRecord

PART_BYTES = 1 << 20
"""Bytes of one entry of the store."""

_SNAPSHOTS = "snapshots/"


def parts_of(data: bytes | bytearray) -> Sequence[bytes]:
    """The bytes in parts; at least one, though it be empty."""
    return [bytes(data[start : start + PART_BYTES]) for start in range(0, max(len(data), 1), PART_BYTES)]


def part_keys(key: DeploymentKey, actor: ActorKey, snapshot: SnapshotRecord) -> Sequence[str]:
    """The keys of a state's parts, in order."""
    which = f"{key.application}/{key.deployment}/{actor.name}/{actor.scope}/{snapshot.incarnation}.{snapshot.sequence}"
    return [f"{_SNAPSHOTS}{which}/{index:06d}" for index in range(snapshot.parts)]


def blobs(key: DeploymentKey, actor: ActorKey, snapshot: SnapshotRecord, parts: Sequence[bytes]) -> Mapping[str, bytes]:
    """What to write for a state."""
    return dict(zip(part_keys(key, actor, snapshot), parts, strict=True))


def dropped(before: DeploymentRecord | None, after: DeploymentRecord | None) -> Iterator[str]:
    """The keys of the states that a deployment's record has no more: of actors that are gone, and those replaced by newer."""
    kept = {(actor.key, actor.snapshot) for actor in after.actors} if after is not None else set()
    for actor in before.actors if before is not None else ():
        if actor.snapshot is not None and (actor.key, actor.snapshot) not in kept:
            yield from part_keys(before.key, actor.key, actor.snapshot) if before is not None else ()
