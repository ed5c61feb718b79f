"""The text forms of tokens, and what the leases of a gang come to."""

from __future__ import annotations

import pytest

from serve_core.model.ids import GANG_SIZE_MAX, GangToken, ReplicaId, SlotToken
from serve_core.model.slots import GangLease, Lease


def token(rank: int) -> SlotToken:
    return SlotToken(f"{rank:032x}", 7, ReplicaId(f"shop.Model.a-{rank}"))


@pytest.mark.parametrize("size", [1, 2, 5])
def test_a_gangs_token_is_the_tokens_of_its_members(size: int) -> None:
    gang = GangToken(tuple(token(rank) for rank in range(size)))
    assert str(gang).split(",") == [str(token(rank)) for rank in range(size)]
    assert GangToken.parse(str(gang)) == gang


@pytest.mark.parametrize(
    "text",
    [
        str(token(3)),
        f"{0:032x}.0.r",
        "",
        "garbage",
        f"{token(3)},",
        f" {token(3)}",
        f"{token(3)}\n",
        f"{0:031x}.1.r",
        f"{0:033x}.1.r",
        f"{0:032X}.-1.r",
        f"{10:032X}.1.r",
        f"{0:032x}..r",
        f"{0:032x}.1.",
        f"{0:032x}.1.r/s",
    ],
)
def test_the_issuer_of_a_token_is_whom_it_names(text: str) -> None:
    parsed = SlotToken.parse(text)
    assert SlotToken.issuer(text) == (None if parsed is None else parsed.replica_id)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ",",
        "garbage",
        f"{token(0)},",
        f",{token(0)}",
        f"{token(0)},,{token(1)}",
        f"{token(0)}, {token(1)}",
        f"{token(0)},{token(0)}",
        f"{token(0)}," * 100_000,
    ],
)
def test_what_is_no_token(text: str) -> None:
    assert GangToken.parse(text) is None


def test_a_gang_has_so_many_members_at_most() -> None:
    members = tuple(token(rank) for rank in range(GANG_SIZE_MAX + 1))
    assert GangToken.parse(str(GangToken(members))) is None
    assert GangToken.parse(str(GangToken(members[1:]))) == GangToken(members[1:])


def test_the_lease_of_a_gang_ends_with_the_first_of_its_members() -> None:
    leases = [
        Lease(token=token(0), slots=2, ttl_s=10.0, expires_at=20.0),
        Lease(token=token(1), slots=2, ttl_s=5.0, expires_at=15.0),
    ]
    expected = GangLease(token=GangToken((token(0), token(1))), slots=2, ttl_s=5.0, expires_at=15.0)
    assert GangLease.of(leases) == expected
