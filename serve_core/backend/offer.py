"""What this machine offers when nothing else is said."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

import psutil

from serve_core.backend.accounting import NodeOffer
from serve_core.model.ids import NodeId
from serve_core.model.resources import Resources

DEFAULT_NODE = NodeId("node-0")


def detect_offer(
    *,
    environment: Mapping[str, str],
    cpus: float | None = None,
    gpus: float | None = None,
    memory_bytes: int | None = None,
    devices: Path = Path("/dev"),
) -> NodeOffer:
    """One node with all that the machine has, save what is given here instead."""
    gpu_ids = _gpu_ids(environment, devices)
    if gpus is not None:
        gpu_ids = (gpu_ids or tuple(str(index) for index in range(int(gpus))))[: int(gpus)]
    return NodeOffer(
        node_id=DEFAULT_NODE,
        total=Resources(
            cpus=float(os.cpu_count() or 1) if cpus is None else cpus,
            gpus=float(len(gpu_ids)) if gpus is None else gpus,
            memory_bytes=psutil.virtual_memory().total if memory_bytes is None else memory_bytes,
        ),
        gpu_ids=gpu_ids,
    )


def _gpu_ids(environment: Mapping[str, str], devices: Path) -> tuple[str, ...]:
    """The GPUs that we may give away: those that we may see ourselves."""
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return tuple(part.strip() for part in visible.split(",") if part.strip())
    found = (re.fullmatch(r"nvidia(\d+)", path.name) for path in devices.glob("nvidia*"))
    return tuple(str(index) for index in sorted(int(match[1]) for match in found if match))
