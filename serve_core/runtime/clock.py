"""The only places that read a clock. Everything else is told the time."""

import time

monotonic = time.monotonic
"""Seconds on a clock that never goes back and means nothing in another process: for deadlines and durations."""

wall = time.time  # noqa: TID251 - this is the place
"""Seconds since 1970-01-01 UTC, for people and for records. It may jump: never compare it to decide something."""
