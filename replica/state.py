"""What a replica says of itself: who it is, where it is in its life, what it offers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from replica.loader import Loaded
from replica.methods import MethodTable
from serve_core.model.ids import DeploymentKey, GangId, NodeId, ReplicaId, RevisionId
from serve_core.model.load import Load
from serve_core.model.replica import (
    Environment,
    Failure,
    Gang,
    Replica,
    ReplicaPhase,
    ReplicaReport,
    UserService,
)


class ReplicaState:
    """Kept whole, and told to whoever listens at each change.

    Args:
        replica_id: The id that the controller gave.
        epoch: The epoch that the controller gave.
        node_id: The node, as far as is known before the controller says.
    """

    def __init__(self, *, replica_id: ReplicaId, epoch: int, node_id: NodeId) -> None:
        self.replica = Replica(
            replica_id=replica_id,
            key=DeploymentKey("", ""),
            revision=RevisionId(""),
            epoch=epoch,
            address="",
            node_id=node_id,
            gang=Gang(gang_id=GangId("")),
        )
        self.phase = ReplicaPhase.STARTING
        self.methods = MethodTable()
        self.services: tuple[UserService, ...] = ()
        self.healthy = True
        self.is_ready = True
        self.failure: Failure | None = None
        self.environment: Environment | None = None
        self.drain_ends_at: float | None = None
        """When the budget of the drain is over, in monotonic seconds; None unless it drains."""
        self.drained = False
        """Whether it has drained, and waits for the other members of its gang, or has done so."""
        self.rendezvous_port = 0
        """The port that it keeps free for its gang, if it is the leader of one."""
        self.gang_epoch = 0
        """The epoch of the roster that it acts on; 0 before the first."""
        self.snapshot_failure: Failure | None = None
        """Why an actor could not save its state last."""
        self.reconfigure_failure: Failure | None = None
        """Why user code did not take its last configuration."""
        self._own_metadata: Mapping[str, str] = {}
        self._file_descriptor_set = b""
        self._listeners: list[Callable[[], None]] = []

    def on_change(self, listener: Callable[[], None]) -> None:
        """Calls ``listener`` after each change."""
        self._listeners.append(listener)

    def changed(self) -> None:
        """Tells the listeners."""
        for listener in self._listeners:
            listener()

    def introduce(self, replica: Replica, metadata: Mapping[str, str]) -> None:
        """Takes what the controller says this replica is, with the deployment's metadata; the address stays its own."""
        merged = {**metadata, **self._own_metadata}
        self.replica = replace(replica, address=self.replica.address, metadata=merged)

    def listen_at(self, address: str) -> None:
        """The server listens at ``address``."""
        self.replica = replace(self.replica, address=address)

    def load(self, loaded: Loaded, metadata: Mapping[str, str]) -> None:
        """Takes what the user's code offers, and its own metadata, which goes before the deployment's."""
        self.methods = loaded.methods
        self.services = loaded.services
        self._file_descriptor_set = loaded.file_descriptor_set
        self._own_metadata = metadata
        self.replica = replace(self.replica, metadata={**self.replica.metadata, **metadata})

    def enter(self, phase: ReplicaPhase, *, failure: Failure | None = None) -> None:
        """Moves on in life, and tells the listeners."""
        self.phase = phase
        self.failure = failure or self.failure
        self.changed()

    def judge(self, *, healthy: bool, failure: Failure | None = None) -> None:
        """Changes whether it is healthy, and tells the listeners."""
        self.healthy = healthy
        self.failure = failure
        self.changed()

    def turn(self, *, ready: bool) -> None:
        """Changes whether user code wants requests, and tells the listeners."""
        self.is_ready = ready
        self.changed()

    def drain_by(self, ends_at: float | None) -> None:
        """The drain has begun, or is to end earlier: at monotonic second ``ends_at``, or at once. Tells the listeners."""
        told = self.phase is ReplicaPhase.DRAINING and ends_at == self.drain_ends_at
        self.drain_ends_at = ends_at
        if not told and self.phase is not ReplicaPhase.GONE:
            self.enter(ReplicaPhase.DRAINING)

    def regroup(self, epoch: int) -> None:
        """The gang is of this epoch from now on."""
        self.replica = replace(self.replica, gang=replace(self.replica.gang, epoch=epoch))

    def act_on(self, epoch: int) -> None:
        """User code acts on the roster of this epoch. Tells the listeners."""
        self.gang_epoch = epoch
        self.changed()

    def wait_drained(self) -> None:
        """It has drained, and waits for the other members of its gang. Tells the listeners, once."""
        if not self.drained:
            self.drained = True
            self.changed()

    def tell_snapshot(self, failure: Failure | None) -> None:
        """An actor's state was saved, or could not be. Tells the listeners of what is new."""
        if failure is not None or self.snapshot_failure is not None:
            self.snapshot_failure = failure
            self.changed()

    def tell_reconfigure(self, failure: Failure | None) -> None:
        """User code took its configuration, or raised and keeps what it had. Tells the listeners of what is new."""
        if failure is not None or self.reconfigure_failure is not None:
            self.reconfigure_failure = failure
            self.changed()

    def drain_remaining_s(self, now: float) -> float | None:
        """Seconds of the drain's budget that are left; None unless it drains."""
        return None if self.drain_ends_at is None else max(0.0, self.drain_ends_at - now)

    def report(self, load: Load, *, now: float) -> ReplicaReport:
        """All of it, for the controller."""
        return ReplicaReport(
            phase=self.phase,
            address=self.replica.address,
            load=load,
            methods=self.methods.described,
            services=self.services,
            file_descriptor_set=self._file_descriptor_set,
            metadata=self._own_metadata,
            failure=self.failure,
            healthy=self.healthy,
            is_ready=self.is_ready,
            environment=self.environment,
            drain_remaining_s=self.drain_remaining_s(now),
            drained=self.drained,
            rendezvous_port=self.rendezvous_port,
            gang_epoch=self.gang_epoch,
            snapshot_failure=self.snapshot_failure,
            reconfigure_failure=self.reconfigure_failure,
        )
