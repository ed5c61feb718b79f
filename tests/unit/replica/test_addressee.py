"""Calls that are meant for another life of an actor, or for another process, are refused."""

from __future__ import annotations

import pytest

from replica.core.addressee import NO_ACTOR, Addressee
from serve_core.errors import ActorFencedError, ConfigInvalidError
from serve_core.model.actor import Incarnation
from serve_core.model.ids import ReplicaId

ME = ReplicaId("app.dep.g1-0")
KEY = "the-key"


@pytest.mark.parametrize("text", ["3", f"3@{ME}", "03"])
def test_what_is_meant_for_this_life_is_let_in(text: str) -> None:
    Addressee(ME, 3).require(KEY, text)


@pytest.mark.parametrize("text", ["2", "4", "3@app.dep.g2-0", f"4@{ME}", "0"])
def test_what_is_meant_for_another_is_refused(text: str) -> None:
    with pytest.raises(ActorFencedError) as caught:
        Addressee(ME, 3).require(KEY, text)
    assert caught.value.details == {
        "replicaId": ME,
        "incarnation": str(int(text.partition("@")[0])),
        "currentIncarnation": "3",
    }


def test_a_replica_is_no_actor() -> None:
    with pytest.raises(ActorFencedError, match=r"app\.dep\.g1-0 is no actor"):
        Addressee(ME, NO_ACTOR).require(KEY, "1")


@pytest.mark.parametrize("text", ["", "x", "-1", "3x", "@", "1" * 19, "³"])
def test_what_names_no_life_is_said_to_be_wrong(text: str) -> None:
    with pytest.raises(ConfigInvalidError, match="the-key"):
        Addressee(ME, 3).require(KEY, text)


@pytest.mark.parametrize("life", [Incarnation(7), Incarnation(7, ME)])
def test_a_life_survives_the_way(life: Incarnation) -> None:
    assert Incarnation.parse(life.text) == life
