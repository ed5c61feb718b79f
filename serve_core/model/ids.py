"""Names of things, and the slot token's text form."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple, NewType

ReplicaId = NewType("ReplicaId", str)
GangId = NewType("GangId", str)
NodeId = NewType("NodeId", str)
RevisionId = NewType("RevisionId", str)
RouterId = NewType("RouterId", str)
OwnerId = NewType("OwnerId", str)

NAME_PATTERN = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,62}")
"""What an application or a deployment may be called: it is part of ids, metadata, URLs and file names."""

LABEL_PATTERN = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_./-]{0,125}[A-Za-z0-9])?")
"""What a label of a node may be called, and what its value may be."""

_TOKEN_PATTERN = re.compile(r"([0-9a-f]{32})\.([0-9]{1,20})\.([A-Za-z0-9_.-]{1,200})")


class DeploymentKey(NamedTuple):
    """Names a deployment."""

    application: str
    deployment: str

    def __str__(self) -> str:
        return f"{self.application}.{self.deployment}"


class SlotToken(NamedTuple):
    """A promise of slots: who made it, in which epoch, and 128 random bits that prove it.

    The text form travels in messages and in the metadata key ``serve-core-slot``; it names the replica, so any router
    can pass it on without having seen it before.
    """

    secret: str
    epoch: int
    replica_id: ReplicaId

    def __str__(self) -> str:
        return f"{self.secret}.{self.epoch}.{self.replica_id}"

    @classmethod
    def parse(cls, text: str) -> SlotToken | None:
        """The token that ``text`` spells, or None if it spells none."""
        match = _TOKEN_PATTERN.fullmatch(text)
        if match is None:
            return None
        secret, epoch, replica_id = match.groups()
        return cls(secret, int(epoch), ReplicaId(replica_id))

    @staticmethod
    def issuer(text: str) -> ReplicaId | None:
        """Who made the token that ``text`` spells, or None if it spells none: for who only passes it on."""
        match = _TOKEN_PATTERN.fullmatch(text)
        return None if match is None else ReplicaId(match[3])


GANG_SIZE_MAX = 10_000
"""The most members that a gang may have."""

_TOKEN_LENGTH_MAX = 256


@dataclass(frozen=True, slots=True)
class GangToken:
    """A promise of slots on every member of a gang: their tokens, by rank. That of a gang of one is its member's."""

    members: tuple[SlotToken, ...]

    def __str__(self) -> str:
        return ",".join(str(member) for member in self.members)

    @classmethod
    def parse(cls, text: str) -> GangToken | None:
        """The token that ``text`` spells, or None if it spells none, or names a replica twice."""
        if "," not in text:
            alone = SlotToken.parse(text)
            return None if alone is None else cls((alone,))
        if len(text) > GANG_SIZE_MAX * _TOKEN_LENGTH_MAX:
            return None
        members = tuple(token for part in text.split(",") if (token := SlotToken.parse(part)) is not None)
        if len(members) != text.count(",") + 1 or len(members) > GANG_SIZE_MAX:
            return None
        return cls(members) if len({member.replica_id for member in members}) == len(members) else None


def gang_id(key: DeploymentKey, unique: str) -> GangId:
    """The id of a new gang; ``unique`` makes it so."""
    return GangId(f"{key.application}.{key.deployment}.{unique}")


def replica_id(gang: GangId, rank: int) -> ReplicaId:
    """The id of a gang's member."""
    return ReplicaId(f"{gang}-{rank}")


def gang_of(replica: ReplicaId) -> GangId:
    """The id of the gang that a replica of this id is a member of."""
    return GangId(replica.rpartition("-")[0])


def rank_of(replica: ReplicaId) -> str:
    """The rank in its gang of a replica of this id, as text."""
    return replica.rpartition("-")[2]
