"""The kinds of fields that files and options are made of, and the model that all of their models are."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    WithJsonSchema,
    model_validator,
)

from serve_core.model.ids import NAME_PATTERN
from serve_core.model.share import Share
from serve_core.plan.amounts import is_countable
from serve_core.plan.rules import environment_violations, label_violations

_MEMORY_PATTERN = r"^[0-9]+(\.[0-9]+)?(k|M|G|T|Ki|Mi|Gi|Ti)?$"
_MEMORY = re.compile(_MEMORY_PATTERN)
_UNITS = {
    "": 1,
    "k": 10**3,
    "M": 10**6,
    "G": 10**9,
    "T": 10**12,
    "Ki": 2**10,
    "Mi": 2**20,
    "Gi": 2**30,
    "Ti": 2**40,
}

SHARE_PATTERN = r"^(0|[1-9][0-9]{0,6})%?$"
"""A number of replicas, or a percentage of them."""

IMPORT_PATH_PATTERN = r"^[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_.]*$"
"""MODULE:ATTRIBUTE."""


def parse_memory(value: object) -> object:
    """Bytes of a text such as ``512Mi``; what is no text is passed on.

    Raises:
        ValueError: The text is no amount of memory.
    """
    if not isinstance(value, str):
        return value
    match = _MEMORY.fullmatch(value)
    if match is None:
        raise ValueError("is no amount of memory: write bytes, or a number with k, M, G, T, Ki, Mi, Gi or Ti")
    unit = match[2] or ""
    return int(float(value.removesuffix(unit)) * _UNITS[unit])


def parse_share(value: object) -> object:
    """The share that a number or a text such as ``25%`` spells.

    Raises:
        ValueError: It is no share of replicas.
    """
    if isinstance(value, Share):
        return value
    share = None if isinstance(value, bool) else Share.parse(str(value))
    if share is None:
        raise ValueError(f"should be a number of replicas, or a percentage such as '25%', not {value!r}")
    return share


def _countable(amount: float) -> float:
    if not is_countable(amount):
        raise ValueError(f"should be in steps of 0.0001, not {amount:g}")
    return amount


def _listed(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def _environment(env: dict[str, str]) -> dict[str, str]:
    return _unless_wrong(env, [found.description for found in environment_violations(env, "env")])


def _labels(labels: dict[str, str]) -> dict[str, str]:
    return _unless_wrong(labels, [found.description for found in label_violations(labels, "labels")])


def _unless_wrong(value: dict[str, str], wrong: list[str]) -> dict[str, str]:
    if wrong:
        raise ValueError("; ".join(wrong))
    return value


Name = Annotated[str, StringConstraints(pattern=f"^{NAME_PATTERN.pattern}$")]
ImportPath = Annotated[str, StringConstraints(pattern=IMPORT_PATH_PATTERN)]
Memory = Annotated[
    int,
    BeforeValidator(parse_memory),
    Field(ge=0),
    WithJsonSchema(
        {"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": _MEMORY_PATTERN}]},
    ),
]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
ShareOfReplicas = Annotated[
    Share,
    BeforeValidator(parse_share),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": SHARE_PATTERN}]}),
]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Counted = Annotated[Amount, AfterValidator(_countable)]
"""An amount of what nodes offer."""

Environment = Annotated[dict[str, str], AfterValidator(_environment)]
Labels = Annotated[dict[str, str], AfterValidator(_labels)]

Listed = BeforeValidator(_listed)
"""Takes a tuple for a list, as it is natural to write in Python."""


class StrictModel(BaseModel):
    """Takes what it names, of the right type, and nothing else."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        found = list(self._contradictions())
        if found:
            raise ValueError("; ".join(found))
        return self

    def _contradictions(self) -> Iterator[str]:
        """Which of its fields do not go together, in a sentence each."""
        return iter(())

    def _is_whole(self) -> bool:
        """Whether what is not said has its default; else it is said elsewhere."""
        return True

    def _says(self, *names: str) -> bool:
        """Whether the values of these fields are known here, all of them."""
        return self._is_whole() or self.model_fields_set.issuperset(names)
