"""What every test needs."""

import asyncio
import os
from importlib import metadata

import pytest
from hypothesis import HealthCheck, settings

from serve_core.link import choice as link
from serve_core.runtime import choice, polling

# How fast a machine is, or how busy, says nothing of a property. And what passed once is to pass again: --hypothesis-profile=searching
# tries other examples each time.
settings.register_profile("searching", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("steady", settings.get_profile("searching"), derandomize=True)
settings.load_profile("steady")


def pytest_configure() -> None:
    # A policy that has made no loop yet makes one when pytest-asyncio asks for the current one, and nobody closes it.
    asyncio.set_event_loop(None)
    # As in our processes; GRPC_EXPERIMENTS=event_engine_listener has it the other way.
    choice.choose(os.environ)
    polling.import_grpc(os.environ)


def pytest_report_header() -> str:
    return ", ".join(f"{name} {metadata.version(name)}" for name in ("grpcio", "protobuf"))


@pytest.fixture(autouse=True)
def _chosen_engine() -> None:
    """Servers inside a test's own process are of the engine that the environment names, as those of processes are."""
    choice.choose(os.environ)
    link.choose(os.environ)
