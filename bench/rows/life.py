"""How long starts and updates take."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Sequence

from bench.report.figures import Case, Figure, Sample
from bench.rows.stage import Row, Size, Stage, Take
from bench.targets.lives import Replicas, bare_servers_s, cold_start_s, command_s

ROUNDS_MAX = 3


def _timed(measure: Callable[[], Awaitable[float]]) -> Take:
    async def take(_: float) -> Sample:
        return Sample({"took_s": await measure()})

    return take


def _command(*arguments: str) -> Take:
    return _timed(lambda: command_s(sys.executable, *arguments))


async def cases(stage: Stage) -> Sequence[Case]:
    """Commands from nothing to their end; a cluster from nothing to its first answer; replicas until all are ready."""
    known = await stage.servers.replicas()
    return [
        Case("nothing", "python -c pass", _command("-c", "pass")),
        Case("import_grpc", "import grpc.aio", _command("-c", "import grpc.aio")),
        Case("import", "import serve_core", _command("-c", "import serve_core")),
        Case("help", "serve-core --help", _command("-m", "serve_core.cli", "--help")),
        Case("cold", "serve-core run to the first answer", _timed(cold_start_s)),
        *(case for count in stage.size.replicas for case in _starts(known, count)),
        Case(
            "update",
            f"rolling update of {stage.size.replicas[0]}",
            _timed(lambda: updated(known, stage.size.replicas[0])),
        ),
    ]


def _starts(known: Replicas, count: int) -> Sequence[Case]:
    return (
        Case(f"bare.{count}", f"{count} bare grpc.aio servers at once", _timed(lambda: bare_servers_s(count))),
        Case(f"replicas.{count}", f"{count} replicas from none to all ready", _timed(lambda: started(known, count))),
    )


async def started(known: Replicas, count: int) -> float:
    """Seconds from none to so many; then none again."""
    took_s = await known.become(count)
    await known.delete()
    return took_s


async def updated(known: Replicas, count: int) -> float:
    """Seconds to replace so many by another version; then none again."""
    await known.become(count)
    took_s = await known.become(count)
    await known.delete()
    return took_s


def figures(size: Size) -> Sequence[Figure]:
    """Each over what Python, grpc, or bare servers take for it."""
    least = size.replicas[0]
    known = (
        ("import serve_core over import grpc.aio", "import", "import_grpc"),
        ("serve-core --help over python -c pass", "help", "nothing"),
        ("serve-core run to the first answer, over import grpc.aio", "cold", "import_grpc"),
        *(
            (f"{count} replicas from none to ready, over as many bare servers", f"replicas.{count}", f"bare.{count}")
            for count in size.replicas
        ),
        (f"rolling update of {least}, over as many bare servers", "update", f"bare.{least}"),
    )
    return [
        Figure(title=title, case=case, baseline=baseline, measure="took_s", at_most=True)
        for title, case, baseline in known
    ]


ROW = Row(
    "life",
    "Starts and updates",
    "Seconds. A rolling update keeps every replica's work going: it starts a few new ones, drains a few old ones, and so on.",
    cases,
    figures,
    ROUNDS_MAX,
)
