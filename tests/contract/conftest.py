from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from serve_core.runtime.engine import Engine
from tests.contract.grpc_rig import Rig, serving


@pytest.fixture(params=list(Engine))
async def rig(request: pytest.FixtureRequest) -> AsyncIterator[Rig]:
    """A server of each engine in turn."""
    async with serving(request.param) as one:
        yield one
