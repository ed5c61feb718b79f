"""What the tests of the user's side serve: every kind of value and of method."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from pydantic import BaseModel

from serve_core import ApplicationError, Code, deployment, get_replica_context, get_request_context
from serve_core.handle import DeploymentHandle


@dataclass
class Point:
    x: int
    y: int


class Segment(msgspec.Struct):
    start: Point
    end: Point


class Label(BaseModel):
    text: str
    score: float


class TooFarError(ValueError):
    """Known to the caller too."""


class Geometry:
    """Methods of every kind."""

    def middle(self, segment: Segment) -> Point:
        return Point((segment.start.x + segment.end.x) // 2, (segment.start.y + segment.end.y) // 2)

    async def label(self, point: Point) -> Label:
        return Label(text=f"{point.x},{point.y}", score=0.5)

    async def double(self, values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return values * 2

    async def path(self, length: int) -> AsyncIterator[Point]:
        for step in range(length):
            yield Point(step, 0)

    def steps(self, length: int) -> Iterator[int]:
        yield from range(length)

    async def total(self, points: AsyncIterator[Point]) -> int:
        return sum([point.x async for point in points])

    async def shifted(self, by: int, points: AsyncIterator[Point]) -> AsyncIterator[Point]:
        async for point in points:
            yield Point(point.x + by, point.y)

    def far(self) -> None:
        raise TooFarError("too far")

    async def chosen(self) -> None:
        raise ApplicationError("not there", code=Code.NOT_FOUND, details={"point": "p1"})

    async def who(self) -> dict[str, Any]:
        replica, request = get_replica_context(), get_request_context()
        return {
            "deployment": replica.deployment,
            "config": replica.user_config,
            "request_id": request.request_id,
            "remaining": request.time_remaining(),
        }


class Facade:
    """Passes on, by handles that came inside a list and a dict."""

    def __init__(self, parts: list[DeploymentHandle[Geometry]], named: dict[str, Any]) -> None:
        self.parts = parts
        self.named = named

    async def __call__(self, point: Point) -> str:
        label = await self.parts[0].label(point)
        total = [step async for step in self.named["geometry"].steps(point.x)]
        return f"{label['text']} {total}"

    async def remaining(self) -> float:
        who = await self.parts[0].who()
        return float(who["remaining"])


class Failing:
    def __init__(self) -> None:
        raise OSError("no disk")


geometry = deployment(Geometry, cpus=0.1, user_config={"level": 3})
facade = deployment(Facade, cpus=0.1)
failing = deployment(Failing, cpus=0.1)
