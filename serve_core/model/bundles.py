"""What a replica holds on its node for child processes of its own, as its process is told in a variable."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from serve_core.errors import ConfigInvalidError, FieldViolation
from serve_core.model.resources import Resources

BUNDLES_ENV = "SERVE_CORE_BUNDLES"
"""The variable: a JSON list, in the order of the deployment's ``bundles``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildBundle:
    """What one child process may use. Its GPUs are not in the replica's own ``CUDA_VISIBLE_DEVICES``.

    ``gpu_ids`` are for the child's ``CUDA_VISIBLE_DEVICES``: one, if the bundle asked for a fraction.
    """

    resources: Resources
    gpu_ids: tuple[str, ...] = ()


def bundles_text(bundles: Iterable[ChildBundle]) -> str:
    """The value of ``BUNDLES_ENV``."""
    return json.dumps([{**asdict(bundle.resources), "gpu_ids": list(bundle.gpu_ids)} for bundle in bundles])


def parse_bundles(text: str) -> tuple[ChildBundle, ...]:
    """The bundles that ``bundles_text`` wrote; none of an empty text.

    Raises:
        ConfigInvalidError: It is no such text.
    """
    if not text:
        return ()
    try:
        return tuple(_bundle(**fields) for fields in json.loads(text))
    except (ValueError, TypeError) as error:
        raise ConfigInvalidError((FieldViolation(BUNDLES_ENV, str(error)),), what="the environment") from error


def _bundle(*, gpu_ids: list[str], **resources: Any) -> ChildBundle:
    return ChildBundle(resources=Resources(**resources), gpu_ids=tuple(gpu_ids))
