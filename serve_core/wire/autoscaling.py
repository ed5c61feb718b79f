"""How deployments scale by themselves, to and from ``serve_core.v1``."""

from __future__ import annotations

import math
from collections.abc import Mapping

from serve_core.model.autoscaling import AutoscalingPolicy
from serve_core.model.ids import DeploymentKey
from serve_core.model.status import AutoscalingStatus
from serve_core.v1 import controller_pb2
from serve_core.wire.fields import encode_duration
from serve_core.wire.reader import Reader

_DEFAULT = AutoscalingPolicy()
_MAX_REPLICAS = 10_000


def encode_autoscaling_policy(policy: AutoscalingPolicy | None) -> controller_pb2.AutoscalingPolicy | None:
    """The message of an autoscaling policy, with every field set that has a value."""
    if policy is None:
        return None
    return controller_pb2.AutoscalingPolicy(
        min_replicas=policy.min_replicas,
        max_replicas=policy.max_replicas,
        target_ongoing_requests=policy.target_ongoing_requests,
        look_back=encode_duration(policy.look_back_s),
        upscale_delay=encode_duration(policy.upscale_delay_s),
        downscale_delay=encode_duration(policy.downscale_delay_s),
    )


def read_autoscaling_policy(
    reader: Reader, message: controller_pb2.AutoscalingPolicy, *, size: int
) -> AutoscalingPolicy:
    """The autoscaling policy of a message; what is unset has the default of ``AutoscalingPolicy``, at least one gang."""
    target = message.target_ongoing_requests if message.HasField("target_ongoing_requests") else None
    reader.require(
        target is None or (math.isfinite(target) and target > 0),
        "autoscaling.target_ongoing_requests",
        f"{target} must be a number above 0",
    )
    return AutoscalingPolicy(
        min_replicas=_bound(reader, reader.optional(message, "min_replicas", size), "min_replicas"),
        max_replicas=_bound(reader, message.max_replicas, "max_replicas"),
        target_ongoing_requests=target,
        look_back_s=reader.seconds(message, "autoscaling.look_back", _DEFAULT.look_back_s),
        upscale_delay_s=reader.seconds(
            message, "autoscaling.upscale_delay", _DEFAULT.upscale_delay_s, zero_allowed=True
        ),
        downscale_delay_s=reader.seconds(
            message, "autoscaling.downscale_delay", _DEFAULT.downscale_delay_s, zero_allowed=True
        ),
    )


def _bound(reader: Reader, value: int, name: str) -> int:
    return reader.count(value, f"autoscaling.{name}", at_least=0, at_most=_MAX_REPLICAS)


def encode_autoscaling_status(status: AutoscalingStatus | None) -> controller_pb2.AutoscalingStatus | None:
    """The message of how a deployment scales by itself."""
    if status is None:
        return None
    return controller_pb2.AutoscalingStatus(
        min_replicas=status.min_replicas,
        max_replicas=status.max_replicas,
        target_ongoing_requests=status.target_ongoing_requests,
        message=status.message,
    )


def decode_autoscaling_status(message: controller_pb2.AutoscalingStatus) -> AutoscalingStatus:
    """How a deployment scales by itself, of a message."""
    return AutoscalingStatus(
        min_replicas=message.min_replicas,
        max_replicas=message.max_replicas,
        target_ongoing_requests=message.target_ongoing_requests,
        message=message.message,
    )


def encode_queues(queued: Mapping[DeploymentKey, int]) -> controller_pb2.RouterQueues:
    """The message of how many requests wait in a router."""
    return controller_pb2.RouterQueues(
        queues=[
            controller_pb2.QueuedRequests(application=key.application, deployment=key.deployment, requests=requests)
            for key, requests in queued.items()
        ]
    )


def decode_queues(message: controller_pb2.RouterQueues) -> Mapping[DeploymentKey, int]:
    """How many requests wait in a router, of a message."""
    return {DeploymentKey(one.application, one.deployment): one.requests for one in message.queues}
