"""Fakes for tests of what is built on serve-core; each passes the same contract tests as the real thing."""

from serve_core.store.memory import MemoryStore
from serve_core.testing.backend import FakeBackend
from serve_core.testing.clock import FakeClock

__all__ = ["FakeBackend", "FakeClock", "MemoryStore"]
