"""Handwritten digits, served by replicas that share a cache: an actor of the deployment.

A classifier that knows nothing yet asks its model. What it answers is put into the cache, where every replica finds it, also
those that are started later. The cache saves its state again and again; when it is killed, its next life begins from there.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.svm import SVC

import serve_core
from cached.cache import Cache, Report

CACHE = "cache"
SNAPSHOT_INTERVAL_S = 0.5


@dataclass
class Answer:
    """Which digit a picture shows, whether the cache knew it, and which life of the cache that was."""

    digit: int
    cached: bool
    incarnation: int


@serve_core.deployment(
    num_replicas=2,
    cpus=0.25,
    max_ongoing_requests=8,
    actors=[
        serve_core.DeploymentActor(
            CACHE, Cache, args=(10_000,), on_failure="RESTART_FROM_SNAPSHOT", snapshot_interval_s=SNAPSHOT_INTERVAL_S
        )
    ],
)
class Classifier:
    """A support vector machine, trained in the constructor on one half of the pictures."""

    def __init__(self) -> None:
        pixels, digits = load_digits(return_X_y=True)
        train, _, train_digits, _ = train_test_split(pixels, digits, test_size=0.5, random_state=0, stratify=digits)
        self._model = SVC(gamma=0.001).fit(train, train_digits)
        # To ask the cache twice does no harm, so a question that was inside when it ended is asked again.
        self._cache = serve_core.get_deployment_actor(CACHE, Cache).options(idempotent=True)
        self._restarts: list[int] = []

    def on_actor_restarted(self, name: str, incarnation: int) -> None:
        """Is called once for each new life of an actor."""
        self._restarts.append(incarnation)

    async def classify(self, pixels: list[int]) -> Answer:
        """Classifies one picture of 64 grey values from 0 to 16."""
        key = bytes(pixels).hex()
        known: int | None = await self._cache.get(key)
        if known is not None:
            return Answer(known, cached=True, incarnation=self._cache.incarnation)
        digit = await asyncio.to_thread(self._predict, pixels)
        await self._cache.put(key, digit)
        return Answer(digit, cached=False, incarnation=self._cache.incarnation)

    async def cache_report(self) -> Report:
        """What the cache did so far."""
        report: Report = await self._cache.report()
        return report

    async def restarts(self) -> list[int]:
        """The lives of the cache that this replica was told of since it began."""
        return self._restarts

    def _predict(self, pixels: list[int]) -> int:
        return int(self._model.predict(np.array([pixels]))[0])


app = Classifier.bind()
