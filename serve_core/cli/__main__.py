"""``python -m serve_core.cli``: the same as ``serve-core``."""

from serve_core.cli import main

main()
