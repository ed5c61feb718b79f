"""Handwritten digits, served: a classifier with a preprocessing service composed in front of it.

``Preprocess`` is the ingress. It is called in two ways: as the gRPC service ``digits.v1.DigitService``, by clients in any
language, and by handle, from Python.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.calibration import CalibratedClassifierCV
from sklearn.svm import SVC

import serve_core
from digits.images import halves
from digits.v1 import digits_pb2, digits_pb2_grpc

PIXELS = 64


@dataclass
class Prediction:
    """Which digit a picture shows, how sure the model is (0 to 1), and which replica answered."""

    digit: int
    probability: float
    replica_id: str


@serve_core.deployment(num_replicas=2, cpus=0.25, max_ongoing_requests=4)
class Classifier:
    """A support vector machine, trained in the constructor on one half of the pictures."""

    def __init__(self) -> None:
        train, _ = halves()
        self._model = CalibratedClassifierCV(SVC(gamma=0.7), ensemble=False, cv=3)
        self._model.fit(train.pixels / 16, train.digits)

    def classify(self, features: np.ndarray) -> Prediction:
        """Classifies one picture: ``features`` has shape (64,), with grey values from 0 to 1."""
        probabilities = self._model.predict_proba(features.reshape(1, PIXELS))[0]
        digit = int(probabilities.argmax())
        return Prediction(digit, float(probabilities[digit]), serve_core.get_replica_context().replica_id)


@serve_core.deployment(num_replicas=2, cpus=0.25, max_ongoing_requests=16)
class Preprocess(digits_pb2_grpc.DigitServiceServicer):
    """Checks pictures, scales their grey values, and asks the classifier."""

    def __init__(self, classifier: serve_core.DeploymentHandle[Classifier]) -> None:
        self._classifier = classifier

    def _features(self, pixels: Any) -> NDArray[np.float32]:
        features = np.asarray(pixels, dtype=np.float32)
        if features.shape != (PIXELS,):
            raise serve_core.ApplicationError(
                f"a picture has {PIXELS} grey values, this one has {features.size}",
                code=serve_core.Code.INVALID_ARGUMENT,
            )
        return features / 16

    async def classify(self, pixels: list[float]) -> Prediction:
        """Classifies one picture of 64 grey values from 0 to 16."""
        prediction: Prediction = await self._classifier.classify(self._features(pixels))
        return prediction

    async def Classify(self, request: digits_pb2.ClassifyRequest, context: Any) -> digits_pb2.ClassifyResponse:
        """Classifies one picture, as the gRPC service has it."""
        prediction = await self.classify(list(request.pixels))
        return digits_pb2.ClassifyResponse(
            digit=prediction.digit,
            probability=prediction.probability,
            replica_id=serve_core.get_replica_context().replica_id,
        )

    async def ClassifyStream(
        self, request_iterator: AsyncIterator[digits_pb2.ClassifyStreamRequest], context: Any
    ) -> AsyncIterator[digits_pb2.ClassifyStreamResponse]:
        """Classifies pictures as they come."""
        async for request in request_iterator:
            prediction = await self.classify(list(request.pixels))
            yield digits_pb2.ClassifyStreamResponse(
                index=request.index, digit=prediction.digit, probability=prediction.probability
            )


app = Preprocess.bind(Classifier.bind())
