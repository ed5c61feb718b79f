"""Limits that are configured before gRPC is there."""

from __future__ import annotations

DEFAULT_MAX_MESSAGE_BYTES = 64 * 1024 * 1024
"""The largest message that a process takes unless it is told otherwise."""
