"""What goes wrong in a measurement."""

from __future__ import annotations

import grpc
import psutil

from serve_core.errors import ServeError


class MeasurementError(Exception):
    """A figure cannot be had: something did not start, did not answer, or answered something else than it should."""


FAILURES = (MeasurementError, OSError, ServeError, grpc.RpcError, psutil.Error)
"""What may befall one round, and is told; the others are measured nevertheless. A TimeoutError is an OSError."""


def said(error: BaseException) -> str:
    """What a failure says, in one line: that of a program that was run may go on for long."""
    first, *_ = str(error).splitlines() or ["not in time"]
    return first.rstrip(": ")
