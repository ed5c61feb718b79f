"""A number of replicas, or a percentage of them."""

from __future__ import annotations

import re
from dataclasses import dataclass

_PATTERN = re.compile(r"(0|[1-9][0-9]{0,6})(%?)")


@dataclass(frozen=True, slots=True)
class Share:
    """``value`` replicas or, if ``percent``, ``value`` percent of the replicas wanted."""

    value: int
    percent: bool = False

    @classmethod
    def parse(cls, text: str) -> Share | None:
        """The share that ``text`` spells, such as ``2`` or ``25%``, or None if it spells none."""
        match = _PATTERN.fullmatch(text)
        return None if match is None else cls(int(match[1]), percent=bool(match[2]))

    def __str__(self) -> str:
        return f"{self.value}{'%' if self.percent else ''}"

    def rounded_up(self, of: int) -> int:
        """Replicas out of ``of``; a percentage rounds up, as a surge does in Kubernetes."""
        return -(-self.value * of // 100) if self.percent else self.value

    def rounded_down(self, of: int) -> int:
        """Replicas out of ``of``; a percentage rounds down, as what may be unavailable does in Kubernetes."""
        return self.value * of // 100 if self.percent else self.value
