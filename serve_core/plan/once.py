"""Answers that are worked out once for each description, as records keep the same one from plan to plan."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from serve_core.model.spec import DeploymentSpec

T = TypeVar("T")

KEPT_MAX = 4096
"""Descriptions whose answers are kept; the oldest goes first."""


class OncePerSpec(Generic[T]):
    """A function of a description alone, asked again and again for the very same one.

    A description cannot be hashed, and comparing two takes as long as many an answer, so it is known by its identity: it is kept
    with its answer, which no other object can take the identity of meanwhile.
    """

    def __init__(self, work_out: Callable[[DeploymentSpec], T]) -> None:
        self._work_out = work_out
        self._answers: dict[int, tuple[DeploymentSpec, T]] = {}

    def __call__(self, spec: DeploymentSpec) -> T:
        """The answer."""
        kept = self._answers.get(id(spec))
        if kept is not None:
            return kept[1]
        answer = self._work_out(spec)
        if len(self._answers) >= KEPT_MAX:
            del self._answers[next(iter(self._answers))]
        self._answers[id(spec)] = spec, answer
        return answer
