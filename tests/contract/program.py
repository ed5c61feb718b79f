"""``python -m tests.contract.program CODE ...``: runs code; whether as a new process or forked, nothing shall tell."""

from __future__ import annotations

import sys


def main() -> None:
    """Runs the code of the first argument."""
    code = sys.argv.pop(1)
    exec(code, {"__name__": "__main__"})


if __name__ == "__main__":
    main()
