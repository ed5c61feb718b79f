from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from serve_core.runtime.engine import Engine
from tests.contract.grpc_rig import Rig, serving
from tests.contract.link_rig import linked


@pytest.fixture(params=[*Engine, "link"])
async def rig(request: pytest.FixtureRequest) -> AsyncIterator[Rig]:
    """A server of each engine in turn, and one that is called through a link."""
    async with linked(Engine.CORE) if request.param == "link" else serving(request.param) as one:
        yield one
