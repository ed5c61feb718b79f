"""A real cluster: controller, router and replicas as processes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

import serve_core
from serve_core.launch import LocalCluster, LocalClusterConfig
from tests.apps.worker import worker

ROOT = Path(__file__).parents[2]
StartWorker = Callable[..., Awaitable[LocalCluster]]


@pytest.fixture
async def start_worker() -> AsyncIterator[StartWorker]:
    """Starts a cluster that serves ``Worker`` with these options as the application ``crew``.

    ``cluster`` is added to its configuration.
    """
    async with AsyncExitStack() as stack:

        async def start(
            *, cluster: dict[str, Any] | None = None, tell: Callable[[str], None] = lambda _: None, **options: Any
        ) -> LocalCluster:
            config = LocalClusterConfig(**{"cpus": 4.0, "drain_timeout_s": 20.0} | (cluster or {}))
            started = await stack.enter_async_context(LocalCluster(config, tell=tell))
            app = worker.options(working_dir=str(ROOT), **options).bind()
            await serve_core.deploy(app, name="crew", controller=started.controller_address, timeout_s=100.0)
            stack.push_async_callback(serve_core.close, started.controller_address)
            return started

        yield start
