"""Resources in words."""

from __future__ import annotations

import pytest

from serve_core.model.resources import Resources, describe


@pytest.mark.parametrize(
    ("resources", "text"),
    [
        (Resources(), "nothing"),
        (Resources(cpus=1.0, gpus=1.0), "1 CPU, 1 GPU"),
        (Resources(cpus=0.5, gpus=2.0, custom={"tpu": 2.0, "none": 0.0}), "0.5 CPUs, 2 GPUs, 2 tpu"),
        (Resources(memory_bytes=12), "12 bytes of memory"),
        (Resources(memory_bytes=3 * 2**29, custom={"disk": 1.0}), "1.5Gi of memory, 1 disk"),
    ],
)
def test_resources_in_words(resources: Resources, text: str) -> None:
    assert describe(resources) == text
