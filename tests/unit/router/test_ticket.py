"""Tickets as text."""

from __future__ import annotations

import json

import pytest

from router.selection import Ticket
from serve_core.errors import ConfigInvalidError

TICKET = Ticket(
    application="shop",
    deployment="Model",
    replica_id="shop.Model.a-0",
    address="127.0.0.1:1",
    slot_token=f"{'a' * 32}.1.shop.Model.a-0",
    slots=1,
    expire_time=12.5,
)


def test_a_ticket_survives_as_text() -> None:
    assert Ticket.parse(str(TICKET)) == TICKET
    assert len(str(TICKET)) < 400


def test_whole_seconds_are_fine() -> None:
    assert Ticket.parse(str(TICKET).replace("12.5", "12")).expire_time == 12


@pytest.mark.parametrize("text", ["", "no json", "[]", "null"])
def test_what_is_no_ticket_at_all(text: str) -> None:
    with pytest.raises(ConfigInvalidError, match="the ticket"):
        Ticket.parse(text)


def test_everything_wrong_is_told_at_once() -> None:
    fields = json.loads(str(TICKET)) | {"slots": "1", "extra": 1}
    del fields["address"]
    with pytest.raises(ConfigInvalidError) as invalid:
        Ticket.parse(json.dumps(fields))
    assert {violation.field for violation in invalid.value.violations} == {"slots", "extra", "address"}


def test_the_token_has_to_look_like_one() -> None:
    with pytest.raises(ConfigInvalidError, match="slot_token"):
        Ticket.parse(json.dumps(json.loads(str(TICKET)) | {"slot_token": "x"}))
