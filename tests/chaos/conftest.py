"""Clusters that things are done to while they serve."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from serve_core.launch import LocalCluster, LocalClusterConfig
from tests.chaos.stage import Stage
from tests.integration.conftest import start_worker

__all__ = ["stage", "start_worker"]


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    """A cluster that serves nothing yet."""
    config = LocalClusterConfig(cpus=4.0, drain_timeout_s=10.0, restart=True)
    async with LocalCluster(config) as cluster, Stage(cluster, journal=tmp_path / "journal") as opened:
        yield opened
