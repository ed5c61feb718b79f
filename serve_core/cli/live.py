"""What comes up, while it does: a table that changes in place on a terminal, lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from serve_core.cli.progress import ProgressLines
from serve_core.cli.tables import render
from serve_core.model.status import ClusterStatus

Report = Callable[[ClusterStatus], None]


@contextmanager
def progress_view(lines: ProgressLines) -> Iterator[Report]:
    """What is to be told each state of the cluster, for the block.

    Args:
        lines: Takes the states where there is no terminal, and in any case failures.
    """
    if not sys.stderr.isatty():
        yield lines.report
        return
    from rich.console import Console
    from rich.live import Live

    # Whatever else is written meanwhile appears above the table: rich takes over the two streams.
    with Live(console=Console(stderr=True), transient=True, refresh_per_second=8) as live:

        def report(status: ClusterStatus) -> None:
            lines.report_failures(status)
            live.update(render(status))

        yield report
