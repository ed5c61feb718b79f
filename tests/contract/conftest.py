from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from serve_core.runtime.engine import Engine
from tests.contract.grpc_rig import Rig, serving
from tests.contract.link_rig import CARRIERS, linked


@pytest.fixture(params=[*Engine, *CARRIERS])
async def rig(request: pytest.FixtureRequest) -> AsyncIterator[Rig]:
    """A server of each engine in turn, and one that is called through links."""
    async with linked(request.param) if request.param in CARRIERS else serving(request.param) as one:
        yield one
