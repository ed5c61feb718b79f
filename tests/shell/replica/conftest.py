"""These tests run replicas inside the test's own process, which is none afterwards."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from serve_core import actor_handle, context, gang
from tests.shell.replica.adder import Generated, generated_in


@pytest.fixture(autouse=True)
def no_replica_afterwards() -> Iterator[None]:
    yield
    context._process_replica.clear()
    context._process_actor.clear()
    actor_handle._process_actors.clear()
    gang._process_gang.clear()


@pytest.fixture
def generated(tmp_path: Path) -> Iterator[Generated]:
    with generated_in(tmp_path) as generated:
        yield generated
