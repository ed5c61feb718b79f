"""How a call is made: for how long, with how many slots, and under which name."""

from __future__ import annotations

import math
from dataclasses import dataclass

from serve_core.context import remaining_time
from serve_core.errors import ConfigInvalidError, FieldViolation

DEFAULT_TIMEOUT_S = 60.0
"""How long a call may take when neither the caller nor the request that it is made for says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallOptions:
    """How to call. ``timeout_s`` None means the rest of the current request's time, else ``DEFAULT_TIMEOUT_S``."""

    timeout_s: float | None = None
    slots: int = 1
    request_id: str = ""

    def __post_init__(self) -> None:
        """Refuses what no call can have.

        Raises:
            ConfigInvalidError: ``slots`` is below 1, or ``timeout_s`` is no number.
        """
        violations = []
        if self.slots < 1:
            violations.append(FieldViolation("slots", f"{self.slots} is below 1"))
        if self.timeout_s is not None and math.isnan(self.timeout_s):
            violations.append(FieldViolation("timeout_s", "is no number"))
        if violations:
            raise ConfigInvalidError(violations, what="the call's options")

    def effective_timeout_s(self) -> float:
        """Seconds that a call made now may take: never longer than the request that it is made for."""
        left = remaining_time()
        wanted = self.timeout_s
        if wanted is None:
            return DEFAULT_TIMEOUT_S if left is None else left
        return wanted if left is None else min(wanted, left)
