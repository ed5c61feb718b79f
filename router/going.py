"""A request on its way to a replica."""

from __future__ import annotations

from typing import Any

from router.admission import Admission
from router.core.queue import Waiter
from router.upstream import Upstream
from serve_core.model.load import Load


class Going:
    """One request on its way. It has an ``upstream``, which it uses, once it may be sent there: at once, or after its turn.

    Args:
        admission: Where it was admitted.
        waiter: Its place there.
        upstream: What it uses from now on.
    """

    __slots__ = ("admission", "sent", "upstream", "waiter")

    token = ""
    """None: it has to find a free slot."""

    def __init__(self, admission: Admission, waiter: Waiter, upstream: Upstream | None = None) -> None:
        self.admission = admission
        self.waiter = waiter
        self.upstream = upstream
        self.sent: Any = None
        """What the request was sent to the upstream by, if it was: that tells what became of it, connected or not."""

    def end(self, load: Load | None = None) -> None:
        """It is over: its slots go to whoever is next. ``load`` is what its replica told with the answer, unless that was
        given to ``Upstream.learn``.
        """
        if self.upstream is not None:
            self.upstream.end_use()
            self.upstream = None
        self.admission.finish(self.waiter, load)


class Consuming:
    """A call that consumes a token, on its way to the replica that has promised. It uses the ``upstream`` until its end.

    Args:
        upstream: The connection to that.
        token: The token.
    """

    __slots__ = ("token", "upstream")

    def __init__(self, upstream: Upstream, token: str) -> None:
        self.upstream: Upstream | None = upstream
        self.token = token

    def end(self, load: Load | None = None) -> None:
        """It is over, and its reply told this load."""
        upstream, self.upstream = self.upstream, None
        if upstream is not None:
            if load is not None:
                upstream.learn(load)
            upstream.end_use()
