"""Has Python's garbage collector look less often at what servers make and drop with each call."""

from __future__ import annotations

import gc

YOUNG_MAX = 10_000
"""Objects that are made and not yet dropped before the youngest are looked at. Python's 700 are reached in every turn of
a loop with a hundred calls inside, none of which leaves any garbage."""


def look_rarely() -> None:
    """To be called once a process has started, and only where no code of users runs: a cycle of theirs may hold much.

    What is there by now, modules and classes above all, is never looked at again.
    """
    gc.set_threshold(YOUNG_MAX, *gc.get_threshold()[1:])
    look_away()


def look_away() -> None:
    """Never looks again at what is there by now: to be called also after modules were imported later."""
    gc.freeze()
