"""``python -m tests.contract.program CODE ...``: runs code; whether as a new process or forked, nothing shall tell."""

from __future__ import annotations

import os
import sys

PRELOADED_IN = 0
"""The process that has done what there is to do but once; 0 before it is done."""


def preload() -> None:
    """Does it."""
    global PRELOADED_IN
    PRELOADED_IN = PRELOADED_IN or os.getpid()


def main() -> None:
    """Runs the code of the first argument."""
    code = sys.argv.pop(1)
    exec(code, {"__name__": "__main__"})


if __name__ == "__main__":
    main()
