"""How replicas are watched and replaced, to and from ``serve_core.v1``."""

from __future__ import annotations

from serve_core.model.health import HealthPolicy
from serve_core.model.share import Share
from serve_core.model.spec import OnFailure, RolloutPolicy
from serve_core.v1 import controller_pb2
from serve_core.wire.fields import encode_duration
from serve_core.wire.reader import Reader

_HEALTH = HealthPolicy()
_ROLLOUT = RolloutPolicy()
_MAX_STARTS = 10_000
_ON_FAILURE = {
    OnFailure.ROLLBACK: controller_pb2.ON_FAILURE_ROLLBACK,
    OnFailure.HOLD: controller_pb2.ON_FAILURE_HOLD,
}


def encode_health_policy(policy: HealthPolicy) -> controller_pb2.HealthPolicy:
    """The message of a health policy, with every field set."""
    return controller_pb2.HealthPolicy(
        period=encode_duration(policy.period_s),
        timeout=encode_duration(policy.timeout_s),
        failure_threshold=policy.failure_threshold,
        heartbeat_period=encode_duration(policy.heartbeat_period_s),
        suspect_after_missed=policy.suspect_after_missed,
        lost_after_missed=policy.lost_after_missed,
        readiness_period=encode_duration(policy.readiness_period_s),
    )


def read_health_policy(reader: Reader, message: controller_pb2.HealthPolicy) -> HealthPolicy:
    """The health policy of a message; what is unset has the default of ``HealthPolicy``."""
    policy = HealthPolicy(
        period_s=reader.seconds(message, "health.period", _HEALTH.period_s),
        timeout_s=reader.seconds(message, "health.timeout", _HEALTH.timeout_s),
        failure_threshold=reader.positive_count(
            message.failure_threshold, "health.failure_threshold", _HEALTH.failure_threshold
        ),
        heartbeat_period_s=reader.seconds(message, "health.heartbeat_period", _HEALTH.heartbeat_period_s),
        suspect_after_missed=reader.positive_count(
            message.suspect_after_missed, "health.suspect_after_missed", _HEALTH.suspect_after_missed
        ),
        lost_after_missed=reader.positive_count(
            message.lost_after_missed, "health.lost_after_missed", _HEALTH.lost_after_missed
        ),
        readiness_period_s=reader.seconds(message, "health.readiness_period", _HEALTH.readiness_period_s),
    )
    suspect, lost = policy.suspect_after_missed, policy.lost_after_missed
    reader.require(suspect <= lost, "health.suspect_after_missed", f"{suspect} is more than lost_after_missed, {lost}")
    return policy


def encode_rollout_policy(policy: RolloutPolicy) -> controller_pb2.RolloutPolicy:
    """The message of a rollout policy, with every field set."""
    return controller_pb2.RolloutPolicy(
        max_surge=str(policy.max_surge),
        max_unavailable=str(policy.max_unavailable),
        min_ready=encode_duration(policy.min_ready_s),
        progress_deadline=encode_duration(policy.progress_deadline_s),
        pause_at="" if policy.pause_at is None else str(policy.pause_at),
        on_failure=_ON_FAILURE[policy.on_failure],
        max_concurrent_starts=policy.max_concurrent_starts,
    )


def read_rollout_policy(reader: Reader, message: controller_pb2.RolloutPolicy) -> RolloutPolicy:
    """The rollout policy of a message; what is unset has the default of ``RolloutPolicy``."""
    unavailable = reader.share(message.max_unavailable, "rollout.max_unavailable", _ROLLOUT.max_unavailable)
    reader.require(
        not unavailable.percent or unavailable.value <= 100,
        "rollout.max_unavailable",
        f"{unavailable} is more than all replicas",
    )
    return RolloutPolicy(
        max_surge=reader.share(message.max_surge, "rollout.max_surge", _ROLLOUT.max_surge),
        max_unavailable=unavailable,
        min_ready_s=reader.seconds(message, "rollout.min_ready", _ROLLOUT.min_ready_s, zero_allowed=True),
        progress_deadline_s=reader.seconds(message, "rollout.progress_deadline", _ROLLOUT.progress_deadline_s),
        pause_at=_read_pause_at(reader, message.pause_at),
        on_failure=reader.choice(message.on_failure, "rollout.on_failure", _ON_FAILURE, _ROLLOUT.on_failure),
        max_concurrent_starts=reader.count(
            message.max_concurrent_starts, "rollout.max_concurrent_starts", at_least=0, at_most=_MAX_STARTS
        ),
    )


def _read_pause_at(reader: Reader, text: str) -> Share | None:
    if not text:
        return None
    share = reader.share(text, "rollout.pause_at", Share(1))
    reader.require(share.value > 0, "rollout.pause_at", f"{share} must be more than 0")
    reader.require(not share.percent or share.value <= 100, "rollout.pause_at", f"{share} is more than all replicas")
    return share
