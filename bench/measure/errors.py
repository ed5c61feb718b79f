"""What goes wrong in a measurement."""

from __future__ import annotations


class MeasurementError(Exception):
    """A figure cannot be had: something did not start, did not answer, or answered something else than it should."""
