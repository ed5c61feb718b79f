"""Whether user code wants requests, by what its ``is_ready`` says."""

from __future__ import annotations


class Readiness:
    """The last answer, and whether the question has failed since the last answer.

    Args:
        asked: Whether there is anybody to ask; if not, it is ready.
    """

    def __init__(self, *, asked: bool) -> None:
        self._ready = not asked
        self._failing = False

    @property
    def ready(self) -> bool:
        """What was said last; a question that failed says no."""
        return self._ready

    def said(self, *, ready: bool) -> None:
        """An answer came."""
        self._failing = False
        self._ready = ready

    def failed(self) -> bool:
        """The question raised or took too long. True if the one before did not: once is enough to tell it."""
        first = not self._failing
        self._failing = True
        self._ready = False
        return first
