"""What a deploy would do, to and from ``serve_core.v1``."""

from __future__ import annotations

from typing import cast

from serve_core.model.deployplan import DeployEffect, DeploymentPlan, FieldChange
from serve_core.v1 import controller_pb2
from serve_core.wire.fields import decode_enum, optional_revision
from serve_core.wire.resources import decode_resources, encode_resources


def encode_field_change(change: FieldChange) -> controller_pb2.FieldChange:
    """The message of a field's change."""
    return controller_pb2.FieldChange(
        field=change.field, old_value=change.old_value, new_value=change.new_value, restarts=change.restarts
    )


def decode_field_change(message: controller_pb2.FieldChange) -> FieldChange:
    """The field's change of a message."""
    return FieldChange(
        field=message.field, old_value=message.old_value, new_value=message.new_value, restarts=message.restarts
    )


def encode_deployment_plan(plan: DeploymentPlan) -> controller_pb2.DeploymentPlan:
    """The message of what a deploy does to a deployment."""
    return controller_pb2.DeploymentPlan(
        deployment=plan.deployment,
        effect=cast("controller_pb2.DeployEffect.ValueType", int(plan.effect)),
        old_revision=plan.old_revision or "",
        new_revision=plan.new_revision or "",
        changes=[encode_field_change(change) for change in plan.changes],
        surge_replicas=plan.surge_replicas,
        needs=encode_resources(plan.needs),
        fits=plan.fits,
        missing=plan.missing,
        gang_size=plan.gang_size,
        actors=plan.actors,
    )


def decode_deployment_plan(message: controller_pb2.DeploymentPlan) -> DeploymentPlan:
    """What a deploy does to a deployment, of a message.

    Raises:
        ConfigInvalidError: The effect is not known.
    """
    return DeploymentPlan(
        deployment=message.deployment,
        effect=decode_enum(DeployEffect, message.effect, "plan.effect"),
        old_revision=optional_revision(message.old_revision),
        new_revision=optional_revision(message.new_revision),
        changes=tuple(decode_field_change(change) for change in message.changes),
        surge_replicas=message.surge_replicas,
        needs=decode_resources(message.needs),
        fits=message.fits,
        missing=message.missing,
        gang_size=message.gang_size or 1,
        actors=tuple(message.actors),
    )
