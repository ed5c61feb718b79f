"""These tests run replicas inside the test's own process, which is none afterwards."""

from collections.abc import Iterator

import pytest

from serve_core import context, gang


@pytest.fixture(autouse=True)
def no_replica_afterwards() -> Iterator[None]:
    yield
    context._process_replica.clear()
    gang._process_gang.clear()
