"""Which links this process takes part in."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from serve_core.errors import ConfigInvalidError
from serve_core.link import choice
from serve_core.link.choice import LinkKind


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    yield
    choice.choose(os.environ)


def test_the_best_is_chosen_unless_told_otherwise() -> None:
    choice.choose({})
    assert choice.chosen() is LinkKind.UNIX


@pytest.mark.parametrize("kind", list(LinkKind))
def test_the_environment_chooses(kind: LinkKind) -> None:
    choice.choose({choice.VARIABLE: kind})
    assert choice.chosen() is kind


def test_an_unknown_one_is_refused() -> None:
    with pytest.raises(ConfigInvalidError, match="SERVE_CORE_LINK: 'string' must be unix or grpc or off"):
        choice.choose({choice.VARIABLE: "string"})
