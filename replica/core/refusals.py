"""Who was refused for want of a slot, and is to be told when one frees; and what the refused are told."""

from __future__ import annotations

from serve_core.errors import (
    ConfigInvalidError,
    DrainingError,
    FieldViolation,
    NoSlotError,
    ServeError,
    SlotFencedError,
    SlotUnknownError,
)
from serve_core.model.ids import OwnerId, ReplicaId
from serve_core.model.load import Load
from serve_core.model.slots import Rejection


class Refusals:
    """The owners that listen, and the fewest slots that each was refused since it was last told."""

    def __init__(self) -> None:
        self._listening: set[OwnerId] = set()
        self.wanted: dict[OwnerId, int] = {}
        """Of those who wait to be told: in the order of their first refusals."""

    def came(self, owner: OwnerId) -> None:
        """``owner`` listens from now on. Those who do not are not remembered, which bounds the memory."""
        self._listening.add(owner)

    def gone(self, owner: OwnerId) -> None:
        """``owner`` listens no more."""
        self._listening.discard(owner)
        self.wanted.pop(owner, None)

    def refuse(self, owner: OwnerId | None, slots: int) -> None:
        """Remembers that ``owner`` wanted ``slots``; its place in line is that of its first refusal."""
        if owner is not None and owner in self._listening:
            self.wanted[owner] = min(self.wanted.get(owner, slots), slots)

    def to_tell(self, free: int) -> tuple[OwnerId, ...]:
        """The owners whose request would find room in ``free`` slots, in line; each is named once per refusal."""
        if free < 1 or not self.wanted:
            return ()
        told = tuple(owner for owner, slots in self.wanted.items() if slots <= free)
        for owner in told:
            del self.wanted[owner]
        return told


def rejection_error(rejection: Rejection, *, replica_id: ReplicaId, slots: int, load: Load) -> ServeError:
    """What a call without a token is refused with."""
    details = {"replicaId": str(replica_id)}
    if rejection is Rejection.DRAINING:
        message = f"replica {replica_id} takes nothing new, as it drains or was out of touch for too long: try another"
        return DrainingError(message, details=details)
    if rejection is Rejection.TOO_MANY:
        description = f"{slots} were asked for, but replica {replica_id} has {load.capacity} in all"
        return ConfigInvalidError((FieldViolation("slots", description),), what="the request")
    details |= {"slots": str(slots), "free": str(load.free), "capacity": str(load.capacity)}
    message = f"replica {replica_id} has {load.free} of {load.capacity} slots free and {slots} wanted: try another"
    return NoSlotError(message, details=details)


def foreign_token_error(token: str, *, replica_id: ReplicaId) -> SlotUnknownError:
    """What a text that cannot be this replica's token is refused with."""
    shown = token[:80]
    details = {"replicaId": str(replica_id), "slotToken": ascii(shown)}
    return SlotUnknownError(f"{shown!r} is no slot token of replica {replica_id}: reserve again", details=details)


def fenced_token_error(epoch: int, *, replica_id: ReplicaId, current_epoch: int) -> SlotFencedError:
    """What a token of another epoch is refused with."""
    details = {"replicaId": str(replica_id), "epoch": str(epoch), "currentEpoch": str(current_epoch)}
    message = f"the slot token is from epoch {epoch} of replica {replica_id}, now in {current_epoch}: reserve again"
    return SlotFencedError(message, details=details)
