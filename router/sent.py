"""A call that is served by callbacks: sent to a replica in its link, until that answers or the caller is gone."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Protocol

from router.gate import Gate
from router.observe import ObservedCall, Observer
from serve_core.link.call import LinkCall
from serve_core.runtime.clock import monotonic


class Caller(Protocol):
    """The end of the call that is served."""

    def wait(self, on_gone: Callable[[], None]) -> None:
        """The call ends later. ``on_gone`` is called if nobody waits for it any more before."""

    def fail(self, error: Exception) -> None:
        """Ends the call as one whose handler raised."""


class SentCall(ObservedCall, ABC):
    """One call, from when it was let in.

    Args:
        gate: Counts it while it is inside.
        observer: Is told how it ends.
        method: Its full name.
        request_id: The caller's name for it.
    """

    __slots__ = ("_caller", "_gate", "_sent")

    def __init__(self, gate: Gate, observer: Observer, method: str, request_id: str = "") -> None:
        ObservedCall.__init__(self, observer, method, request_id)
        self._gate = gate
        self._sent: LinkCall | None = None

    def enter(self, now: float | None = None) -> None:
        """It is let in, in this moment: ``now``, in monotonic seconds, for who knows it."""
        if now is None:
            now = monotonic()
        self.entered(now)
        self._gate.enter(now)

    def leave(self, error: BaseException | None = None) -> None:
        """It is over; ``error`` is why nothing came of it."""
        if error is not None:
            self.failed(error)
        self._gate.leave()
        self.left()

    def wait_for(self, sent: LinkCall, caller: Caller) -> None:
        """It goes on once ``sent`` is over, by ``answered``; or ends with ``given_up``, if the caller is gone before."""
        self._sent = sent
        self._caller = caller
        caller.wait(self._gone)
        sent.add_done_callback(self._over)

    @abstractmethod
    def answered(self, sent: LinkCall) -> None:
        """What was sent is over. Unless it went well this goes on as a coroutine, which knows what that means."""

    @abstractmethod
    def given_up(self, sent: LinkCall) -> None:
        """Nobody waits for what was sent any more."""

    def _over(self, sent: LinkCall) -> None:
        if self._sent is None:
            return
        self._sent = None
        try:
            self.answered(sent)
        except Exception as error:  # noqa: BLE001 - the link must not suffer
            self._caller.fail(error)

    def _gone(self) -> None:
        sent, self._sent = self._sent, None
        if sent is not None:
            self.given_up(sent)
            self.leave(asyncio.CancelledError())
