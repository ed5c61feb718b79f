"""When a controller ends: before or after the n-th effect of all its lives."""

from __future__ import annotations


class Crashes:
    """Counts effects, and ends a controller at the one that it was armed for. ``names`` are all that were begun."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self._at: tuple[int, bool] | None = None

    def arm(self, number: int, *, after: bool) -> None:
        """Ends the controller at effect ``number``, counted from 1: right after it, or right before."""
        self._at = (number, after)

    def disarm(self) -> None:
        """Lets it live."""
        self._at = None

    def now(self, what: str, *, after: bool) -> bool:
        """Asked before and after each effect: whether it ends here."""
        if not after:
            self.names.append(what)
        if self._at != (len(self.names), after):
            return False
        self._at = None
        return True
