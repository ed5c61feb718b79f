"""Calls of Python methods for the HTTP entrance."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from router.calls import Budget, Calls
from router.core.queue import patience_s
from router.forward import Router
from router.service import QUEUE_TIMEOUT_S
from serve_core.model.endpoints import DeploymentRoute
from serve_core.model.ids import DeploymentKey
from serve_core.model.payload import Payload
from serve_core.runtime.clock import monotonic
from serve_core.v1 import replica_pb2
from serve_core.wire.payload import decode_payload, encode_payload


class HttpCalls:
    """Makes the calls of the HTTP entrance.

    Args:
        router: Knows the deployments.
        calls: Sends calls.
        queue_timeout_s: How long a call without a deadline may wait for a slot, in seconds.
    """

    def __init__(self, router: Router, calls: Calls, *, queue_timeout_s: float = QUEUE_TIMEOUT_S) -> None:
        self._router = router
        self._calls = calls
        self._queue_timeout_s = queue_timeout_s

    def resolve(self, application: str, deployment: str = "") -> DeploymentRoute:
        """The route of a deployment; the application's ingress when ``deployment`` is empty. As ``Router.resolve``."""
        return self._router.resolve(application, deployment)

    async def call(
        self,
        application: str,
        deployment: str,
        method: str,
        arguments: Payload,
        *,
        timeout_s: float | None,
        request_id: str = "",
        slot_token: str = "",
    ) -> Payload:
        """Calls a method with one answer. Raises as ``Calls`` does."""
        request = _request(method, arguments, request_id, slot_token)
        response, _ = await self._calls.unary(DeploymentKey(application, deployment), request, self._budget(timeout_s))
        return decode_payload(response.result, field="result")

    async def stream(
        self,
        application: str,
        deployment: str,
        method: str,
        arguments: Payload,
        *,
        timeout_s: float | None,
        request_id: str = "",
        slot_token: str = "",
    ) -> AsyncGenerator[Payload, None]:
        """Calls a method that streams its answers. To be closed by its caller. Raises as ``Calls`` does."""
        request = _request(method, arguments, request_id, slot_token)
        key = DeploymentKey(application, deployment)
        async with aclosing(self._calls.stream(key, request, None, self._budget(timeout_s))) as answers:
            async for answer in answers:
                yield decode_payload(answer, field="item")

    def _budget(self, timeout_s: float | None) -> Budget:
        now = monotonic()
        if timeout_s is None:
            return Budget(wait_until=now + self._queue_timeout_s, end_at=None)
        return Budget(wait_until=now + patience_s(timeout_s), end_at=now + timeout_s)


def _request(method: str, arguments: Payload, request_id: str, slot_token: str) -> replica_pb2.DispatchRequest:
    return replica_pb2.DispatchRequest(
        method=method, arguments=encode_payload(arguments), slot_token=slot_token, request_id=request_id
    )
