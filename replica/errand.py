"""One call of a deployment actor, over as many tries and lives of it as its time allows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import grpc
import grpc.aio

from replica.actors import Actors
from replica.core.outcome import Outcome, is_sent_again, outcome_of
from replica.outgoing import BACKOFF, failed_call, left_s
from serve_core.actor_handle import ActorTerms, DirectEndpoint
from serve_core.errors import ActorDiedError, ActorUnavailableError, ReplicaDiedError, ServeError
from serve_core.model.actor import ActorEndpoint, Incarnation
from serve_core.runtime import clock
from serve_core.runtime.channel import open_channel, wait_ready
from serve_core.v1 import replica_pb2_grpc
from serve_core.wire.metadata import INCARNATION_KEY, REQUEST_ID_KEY

CONNECT_TIMEOUT_S = 1.0
"""How long one try to connect may take before the directory is looked at again."""

LAST_ANSWERS_S = 1.0
"""How long answers of a life may still arrive once the next one serves."""

_NEXT_SERVES = "another life serves"

Failed = grpc.aio.AioRpcError | ReplicaDiedError
"""How a call on a connection fails."""

TRY_S = 0.05
"""With less time than this left a call is not tried again: its end would hide that it was never run."""


class ActorConnections:
    """The connections to the lives of actors that are called.

    Args:
        actors: Where they are.
        max_message_bytes: The largest message that is taken.
        unit_random: Gives random numbers from 0 to 1, for jitter.
    """

    def __init__(self, actors: Actors, *, max_message_bytes: int, unit_random: Callable[[], float]) -> None:
        self._actors = actors
        self._max_message_bytes = max_message_bytes
        self._unit_random = unit_random
        self._lives: dict[tuple[str, Incarnation], ActorConnection] = {}
        actors.on_change(self._end_those_over)

    def errand(self, name: str, what: str, *, terms: ActorTerms) -> Errand:
        """One call that is about to be made; ``what`` names it in messages."""
        return Errand(self, self._actors, name, what, terms, self._unit_random)

    async def close(self) -> None:
        """Ends every connection, with whatever is still on it."""
        for life in self._lives.values():
            await life.channel.close()

    @asynccontextmanager
    async def connection(self, endpoint: ActorEndpoint) -> AsyncIterator[ActorConnection]:
        """The connection to one life, which stays open for as long as the block lasts, also when the next one begins."""
        over = [key for key, life in self._lives.items() if not life.users and self._is_over(life)]
        for left in [self._lives.pop(key) for key in over]:
            await left.channel.close()
        key = endpoint.name, incarnation_of(endpoint)
        life = self._lives.get(key)
        if life is None:
            life = self._lives[key] = ActorConnection(endpoint, self._max_message_bytes)
        life.users += 1
        try:
            yield life
        finally:
            life.users -= 1

    def _is_over(self, life: ActorConnection) -> bool:
        endpoint = self._actors.find(life.endpoint.name)
        return endpoint is not None and incarnation_of(endpoint) != life.incarnation

    def _end_those_over(self) -> None:
        """Where the next life serves nothing is left of the last one, even if no connection has said so."""
        for life in self._lives.values():
            endpoint = self._actors.find(life.endpoint.name)
            if self._is_over(life) and endpoint is not None and endpoint.address:
                asyncio.get_running_loop().call_later(LAST_ANSWERS_S, life.end)


class ActorConnection:
    """The connection to one life of an actor."""

    def __init__(self, endpoint: ActorEndpoint, max_message_bytes: int) -> None:
        self.endpoint = endpoint
        self.incarnation = incarnation_of(endpoint)
        self.users = 0
        self._calls: set[Any] = set()
        self._is_over = False
        self.direct = DirectEndpoint(
            address=endpoint.address,
            metadata=((INCARNATION_KEY, self.incarnation.text),),
            incarnation=endpoint.incarnation,
        )
        self.channel = open_channel(endpoint.address, max_message_bytes=max_message_bytes)
        self.stub: replica_pb2_grpc.ReplicaServiceAsyncStub = replica_pb2_grpc.ReplicaServiceStub(self.channel)

    def metadata(self, terms: ActorTerms, given: Any = ()) -> tuple[tuple[str, Any], ...]:
        """What each call carries, beside what the caller gives it."""
        named = ((REQUEST_ID_KEY, terms.request_id),) if terms.request_id else ()
        return (*self.direct.metadata, *named, *(tuple(pair) for pair in given or ()))

    @contextmanager
    def carrying(self, call: Any) -> Iterator[None]:
        """Lasts while a call of grpcio's is under way.

        Raises:
            ReplicaDiedError: The life is over.
        """
        self._calls.add(call)
        try:
            yield
        except (asyncio.CancelledError, grpc.aio.AioRpcError) as error:
            # grpcio raises either for a call that is cancelled here.
            task = asyncio.current_task()
            ended_here = isinstance(error, asyncio.CancelledError) or error.code() is grpc.StatusCode.CANCELLED
            if not (self._is_over and ended_here) or (task is not None and task.cancelling()):
                raise
            raise ReplicaDiedError(_NEXT_SERVES, details={"cause": _NEXT_SERVES}) from None
        finally:
            self._calls.discard(call)

    def end(self) -> None:
        """The life is over: so is every call that is under way."""
        self._is_over = True
        for call in tuple(self._calls):
            call.cancel()


class Errand:
    """One call, over as many tries as its time allows."""

    def __init__(
        self,
        connections: ActorConnections,
        actors: Actors,
        name: str,
        what: str,
        terms: ActorTerms,
        unit_random: Callable[[], float],
    ) -> None:
        self._connections = connections
        self._actors = actors
        self._name = name
        self._what = what
        self._terms = terms
        self._unit_random = unit_random
        self._ends_at = clock.monotonic() + terms.timeout_s
        self._attempt = 0
        self._refusal: Exception | None = None
        self._died: ActorDiedError | None = None

    @property
    def left_s(self) -> float:
        """Seconds that it still has."""
        return left_s(self._ends_at)

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[ActorConnection]:
        """A connection to the life that serves, as soon as one does.

        Raises:
            ActorUnavailableError: None does in time, or ever again.
        """
        while True:
            endpoint = self._actors.find(self._name)
            if endpoint is not None and endpoint.address:
                async with self._connections.connection(endpoint) as life:
                    if await wait_ready(life.channel, min(CONNECT_TIMEOUT_S, self.left_s), fail_fast=True):
                        yield life
                        return
            await self._until_other(endpoint)

    def told(self, error: Failed, life: ActorConnection) -> Exception:
        """What a failed call on a connection means, as a status of ours or of the user's."""
        if isinstance(error, ServeError):
            return error
        return failed_call(
            error, replica_id=life.endpoint.replica_id, what=self._called(), timeout_s=self._terms.timeout_s
        )

    async def failed(
        self, life: ActorConnection, error: Exception, *, cause: BaseException, final: bool = False
    ) -> None:
        """Returns when it is to be tried again, after a pause; with ``final`` it never is.

        Raises:
            Exception: What the caller is told.
        """
        outcome = outcome_of(error)
        self._refusal = error
        if outcome is Outcome.MAY_HAVE_RUN:
            self._died = self._died_with(life, error)
        if final or not is_sent_again(error, idempotent=self._terms.idempotent):
            if outcome is Outcome.NOT_RUN:
                raise self._unavailable(self._actors.find(self._name)) from cause
            raise (self._died if outcome is Outcome.MAY_HAVE_RUN and self._died is not None else error) from cause
        await self._until_other(life.endpoint)

    async def _until_other(self, endpoint: ActorEndpoint | None) -> None:
        """Waits until the actor may be there: until another life of it is known, or a little while."""
        if endpoint is not None and endpoint.given_up and not endpoint.address:
            raise self._ended(endpoint)
        delay_s = left_s = self.left_s
        if endpoint is not None and endpoint.address:
            delay_s = BACKOFF.delay_s(self._attempt, self._unit_random())
            self._attempt += 1
        if left_s < delay_s + TRY_S:
            delay_s = left_s
        if await self._actors.until_other(self._name, endpoint, timeout_s=delay_s):
            self._attempt = 0
        elif delay_s == left_s:
            raise self._ended(self._actors.find(self._name))

    def _ended(self, endpoint: ActorEndpoint | None) -> ServeError:
        """The error of a call whose time is over, or that waits for nobody."""
        return self._died if self._died is not None else self._unavailable(endpoint)

    def _unavailable(self, endpoint: ActorEndpoint | None) -> ActorUnavailableError:
        details = self._details(endpoint)
        if endpoint is not None and endpoint.given_up:
            return ActorUnavailableError(
                f"actor {self._name} was given up: {endpoint.given_up}; nothing was run", details=details
            )
        why = f"; last: {self._refusal}" if self._refusal is not None else ""
        if endpoint is not None and endpoint.failure is not None and not endpoint.address:
            why = f": incarnation {endpoint.incarnation} is to follow one that ended, {endpoint.failure.message}"
        return ActorUnavailableError(
            f"actor {self._name} did not serve within {self._terms.timeout_s:g} s{why}; nothing was run",
            details=details,
        )

    def _died_with(self, life: ActorConnection, error: Exception) -> ActorDiedError:
        cause = error.details.get("cause", "") if isinstance(error, ServeError) else ""
        return ActorDiedError(
            f"incarnation {life.incarnation.number} of actor {self._name} ended with {self._what} inside ({cause}): it may "
            "have run; call again only if running it twice is harmless",
            details={**self._details(self._actors.find(self._name)), "incarnation": str(life.incarnation.number)},
        )

    def _details(self, endpoint: ActorEndpoint | None) -> dict[str, str]:
        details = {"actor": self._name}
        if endpoint is not None:
            details["currentIncarnation"] = str(endpoint.incarnation)
        return details

    def _called(self) -> str:
        return f"{self._what} of actor {self._name}"


def incarnation_of(endpoint: ActorEndpoint) -> Incarnation:
    """Which life is there."""
    return Incarnation(endpoint.incarnation, endpoint.replica_id)
