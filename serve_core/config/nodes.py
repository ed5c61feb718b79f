"""The file that divides a machine into virtual nodes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator

from serve_core.backend.accounting import NodeOffer
from serve_core.config.fields import Counted, Labels, Memory, StrictModel
from serve_core.config.load import load_model
from serve_core.model.ids import NodeId
from serve_core.model.resources import Resources

NODES_MAX = 10_000
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


class NodeResources(StrictModel):
    """What a node offers; nothing of what is not named."""

    cpus: Counted = 0.0
    """CPU cores."""
    gpus: Annotated[int, Field(ge=0, le=1024)] = 0
    """GPUs."""
    memory: Memory = 0
    """Memory: bytes, or a text such as 64Gi."""
    custom: dict[str, Counted] = Field(default_factory=dict)
    """Anything else that is counted, by name."""


class NodeModel(StrictModel):
    """One virtual node."""

    id: str
    """Its id, as it is shown in the status."""
    zone: str = ""
    """Its zone."""
    labels: Labels = {}
    """Its labels, which a deployment's node_labels choose by."""
    resources: NodeResources
    """What it offers."""

    @field_validator("id")
    @classmethod
    def _named(cls, value: str) -> str:
        if _ID.fullmatch(value) is None:
            raise ValueError(
                f"should be up to 63 letters, digits, '.', '_' and '-', a letter or digit first: {value!r}"
            )
        return value


class NodesFile(StrictModel):
    """All virtual nodes."""

    nodes: Annotated[list[NodeModel], Field(min_length=1, max_length=NODES_MAX)]
    """The nodes."""

    @field_validator("nodes")
    @classmethod
    def _unique(cls, nodes: list[NodeModel]) -> list[NodeModel]:
        ids = [node.id for node in nodes]
        twice = sorted({one for one in ids if ids.count(one) > 1})
        if twice:
            raise ValueError(f"are listed twice: {', '.join(twice)}")
        return nodes


def load_nodes(path: Path, *, gpu_ids: tuple[str, ...] = ()) -> tuple[NodeOffer, ...]:
    """What the nodes of a file offer.

    Args:
        path: The file.
        gpu_ids: The machine's GPUs, which the nodes divide in their order. If the nodes have more than those, theirs are
            numbered from 0: then none of them is real.

    Raises:
        ConfigInvalidError: The file cannot be read, or lists everything in it that is wrong, each with its place.
    """
    nodes = load_model(path, NodesFile).nodes
    count = sum(node.resources.gpus for node in nodes)
    left = list(gpu_ids if len(gpu_ids) >= count else map(str, range(count)))
    offers: list[NodeOffer] = []
    for node in nodes:
        own, left = left[: node.resources.gpus], left[node.resources.gpus :]
        total = Resources(
            cpus=node.resources.cpus,
            gpus=float(node.resources.gpus),
            memory_bytes=node.resources.memory,
            custom=node.resources.custom,
        )
        offers.append(
            NodeOffer(node_id=NodeId(node.id), zone=node.zone, labels=node.labels, total=total, gpu_ids=tuple(own))
        )
    return tuple(offers)
