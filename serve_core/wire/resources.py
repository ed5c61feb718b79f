"""What is counted on nodes, to and from ``serve_core.v1``."""

from __future__ import annotations

import math

from serve_core.model.resources import Resources
from serve_core.v1 import types_pb2
from serve_core.wire.reader import Reader


def encode_resources(resources: Resources) -> types_pb2.Resources:
    """The message of resources."""
    return types_pb2.Resources(
        cpus=resources.cpus, gpus=resources.gpus, memory_bytes=resources.memory_bytes, custom=resources.custom
    )


def decode_resources(message: types_pb2.Resources) -> Resources:
    """The resources of a message."""
    return Resources(
        cpus=message.cpus, gpus=message.gpus, memory_bytes=message.memory_bytes, custom=dict(message.custom)
    )


def read_resources(reader: Reader, message: types_pb2.Resources, field: str) -> Resources:
    """The resources of a message that was in ``field``; notes what cannot be counted."""
    resources = decode_resources(message)
    for name, amount in {"cpus": resources.cpus, "gpus": resources.gpus}.items():
        reader.require(_is_amount(amount), f"{field}.{name}", f"{amount:g} must be a number of 0 or more")
    for name, amount in resources.custom.items():
        reader.require(bool(name), f"{field}.custom", "has an empty name")
        reader.require(_is_amount(amount), f"{field}.custom[{name!r}]", f"{amount:g} must be a number of 0 or more")
    gpus = resources.gpus
    reader.require(
        not (math.isfinite(gpus) and gpus > 1) or gpus.is_integer(),
        f"{field}.gpus",
        f"{gpus:g} is neither a whole number nor below 1",
    )
    return resources


def _is_amount(amount: float) -> bool:
    return math.isfinite(amount) and amount >= 0
