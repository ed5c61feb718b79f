"""What changes on the way to ready, as lines: each change once."""

from __future__ import annotations

from collections.abc import Callable

from serve_core.model.replica import ReplicaPhase
from serve_core.model.status import ClusterStatus, DeploymentStatus, RolloutPhase
from serve_core.rollouts import rollout_line

_SAID = frozenset({ReplicaPhase.STARTING, ReplicaPhase.READY, ReplicaPhase.DRAINING})

_Seen = tuple[str, float, str]


class ProgressLines:
    """Tells of changes between the states that it is shown.

    Args:
        say: Takes each line.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._said: dict[str, str] = {}
        self._failures: set[_Seen] = set()

    def skip_failures(self, status: ClusterStatus) -> None:
        """Has what failed until now not said any more."""
        for application in status.applications:
            for deployment in application.deployments:
                self._failures.update(_seen(f"{application.name}.{deployment.name}", deployment))

    def report(self, status: ClusterStatus) -> None:
        """Says what changed since the last state."""
        for application in status.applications:
            for deployment in application.deployments:
                self._deployment(f"{application.name}.{deployment.name}", deployment)

    def report_failures(self, status: ClusterStatus) -> None:
        """Says what failed since the last state, and nothing else."""
        for application in status.applications:
            for deployment in application.deployments:
                self._failed(f"{application.name}.{deployment.name}", deployment)

    def _deployment(self, key: str, deployment: DeploymentStatus) -> None:
        for actor in deployment.actors:
            if actor.phase in _SAID:
                name = f"{key}/{actor.name}" + f" of {actor.revision}" * (actor.revision is not None)
                self._change(name, f"{name}: {actor.phase.name.lower()}, incarnation {actor.incarnation}")
        for replica in deployment.replicas:
            name = replica.replica.replica_id
            if replica.phase in _SAID:
                self._change(
                    name, f"{name}: {replica.phase.name.lower()}" + (f", pid {replica.pid}" * bool(replica.pid))
                )
        self._failed(key, deployment)
        if deployment.rollout is not None and deployment.rollout.phase is not RolloutPhase.COMPLETE:
            self._change(f"{key} rollout", f"{key}: {rollout_line(deployment, deployment.rollout)}")
        self._change(
            key,
            f"{key}: {deployment.state.name.lower()}, {deployment.ready_replicas}/{deployment.num_replicas} ready",
        )

    def _failed(self, key: str, deployment: DeploymentStatus) -> None:
        for seen, failure in zip(_seen(key, deployment), reversed(deployment.failures), strict=True):
            if seen not in self._failures:
                self._failures.add(seen)
                self._say(f"{key}: {failure.reason}: {' '.join(failure.message.split())}")

    def _change(self, what: str, line: str) -> None:
        if self._said.get(what) != line:
            self._said[what] = line
            self._say(line)


def _seen(key: str, deployment: DeploymentStatus) -> list[_Seen]:
    """What names its failures, oldest first."""
    return [(key, failure.time, failure.message) for failure in reversed(deployment.failures)]
