"""Replicas of one revision that do not run on the same: another interpreter, another version of a package."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from serve_core.model.ids import RevisionId
from serve_core.model.replica import Environment
from serve_core.plan.lifecycle import LIVE
from serve_core.plan.observed import Observed
from serve_core.plan.records import GangRecord

DIFFERENCES_MAX = 20
"""Sentences; what is more is only counted."""

_NONE = "missing"


def environment_differences(gangs: Sequence[GangRecord], observed: Observed) -> tuple[str, ...]:
    """One sentence for each thing that differs between replicas of one revision: what, and which of it on which node."""
    by_revision: dict[RevisionId, list[tuple[str, Environment]]] = {}
    for gang in gangs:
        for member in gang.members if gang.phase in LIVE else ():
            report = observed.replica(member.replica_id, epoch=member.epoch).report
            if report is not None and report.environment is not None:
                by_revision.setdefault(gang.revision, []).append((member.node_id, report.environment))
    found = [
        f"revision {revision}: {difference}"
        for revision, environments in sorted(by_revision.items())
        for difference in _differences(environments)
    ]
    more = len(found) - DIFFERENCES_MAX
    return (*found[:DIFFERENCES_MAX], f"{more} more differ") if more > 0 else tuple(found)


def _differences(environments: Sequence[tuple[str, Environment]]) -> Iterator[str]:
    first = environments[0][1]
    if all(environment == first for _, environment in environments):
        return
    yield from _differing("Python", [(node, one.python_version) for node, one in environments])
    yield from _differing("the interpreter", [(node, one.interpreter) for node, one in environments])
    names = sorted({name for _, environment in environments for name in environment.packages})
    for name in names:
        yield from _differing(name, [(node, one.packages.get(name, _NONE)) for node, one in environments])


def _differing(what: str, values: Sequence[tuple[str, str]]) -> Iterator[str]:
    nodes: dict[str, set[str]] = {}
    for node, value in values:
        nodes.setdefault(value, set()).add(node)
    if len(nodes) > 1:
        where = ", ".join(f"{value} on {' and '.join(sorted(on))}" for value, on in sorted(nodes.items()))
        yield f"{what} is {where}"
