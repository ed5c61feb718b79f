"""How patient the planner is. All times are in seconds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The planner's times and limits.

    Attributes:
        patience_s: No replica is suspect or lost sooner after it was heard of last, whatever its deployment says.
        reattach_grace_s: What the living have after a start of the controller to attach again.
        start_margin_s: Beyond the start deadline, so that the replica's own, better word comes first.
        withdraw_timeout_s: Routers that have not acknowledged a withdrawal by then are not waited for: the draining
            replica refuses what they send, and they try elsewhere.
        drain_margin_s: Beyond a drain's budget before the process is killed.
        kill_retry_s: Between tries to end a process or to free a placement.
        router_lease_s: What a router whose stream broke has before nobody waits for its acknowledgements.
        orphan_grace_s: After the backend was listed, before what nobody owns is ended and freed.
        backoff_initial_s: Before the second try to start; doubled for each that follows.
        backoff_max_s: The longest wait between tries.
        backoff_jitter: The part of a wait that is drawn by lot.
        stable_after_s: A gang that ends sooner after it was ready counts as a crash.
        max_concurrent_starts_per_node: Replicas of all deployments that may start on one node at once; 0 means no limit.
    """

    patience_s: float = 0.0
    reattach_grace_s: float = 10.0
    start_margin_s: float = 2.0
    withdraw_timeout_s: float = 10.0
    drain_margin_s: float = 2.0
    kill_retry_s: float = 5.0
    router_lease_s: float = 3.0
    orphan_grace_s: float = 15.0
    backoff_initial_s: float = 0.5
    backoff_max_s: float = 30.0
    backoff_jitter: float = 0.2
    stable_after_s: float = 30.0
    max_concurrent_starts_per_node: int = 0

    def backoff_s(self, failures: int, *, unit_random: float) -> float:
        """How long to wait after this many failures in a row; ``unit_random`` is drawn from [0, 1)."""
        exponent = min(max(failures, 1) - 1, 30)
        wait_s = min(self.backoff_initial_s * 2.0**exponent, self.backoff_max_s)
        return wait_s * (1.0 - self.backoff_jitter * unit_random)
