"""What every test needs."""

import asyncio


def pytest_configure() -> None:
    # A policy that has made no loop yet makes one when pytest-asyncio asks for the current one, and nobody closes it.
    asyncio.set_event_loop(None)
