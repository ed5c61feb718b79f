"""What happened, to and from ``serve_core.v1``."""

from __future__ import annotations

from serve_core.model.event import Event
from serve_core.model.ids import DeploymentKey
from serve_core.v1 import controller_pb2
from serve_core.wire.fields import decode_time, encode_time


def encode_event(event: Event) -> controller_pb2.Event:
    """The message of an event."""
    return controller_pb2.Event(
        sequence=event.sequence,
        time=encode_time(event.time),
        application=event.key.application,
        deployment=event.key.deployment,
        subject=event.subject,
        reason=event.reason,
        message=event.message,
        warning=event.warning,
    )


def decode_event(message: controller_pb2.Event) -> Event:
    """The event of a message."""
    return Event(
        key=DeploymentKey(message.application, message.deployment),
        time=decode_time(message.time),
        reason=message.reason,
        message=message.message,
        subject=message.subject,
        warning=message.warning,
        sequence=message.sequence,
    )
