"""Metadata keys that serve-core gives a meaning to, and the text form of a load."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

from serve_core.model.load import Load

SLOT_KEY = "serve-core-slot"
"""A slot token, from a caller that reserved."""

APP_KEY = "serve-core-app"
"""The application, needed only where two applications serve the same service."""

OWNER_KEY = "serve-core-owner"
"""The owner id of a router's open WatchLoad, from a router to a replica."""

SLOTS_KEY = "serve-core-slots"
"""Slots that the call takes when it has no token; 1 if absent."""

INCARNATION_KEY = "serve-core-actor-incarnation"
"""Which life of a deployment actor the call is meant for: ``Incarnation.text``. Any other refuses it with ACTOR_FENCED."""

REQUEST_ID_KEY = "x-request-id"
"""The caller's name for the request, for logs and traces."""

REPLICA_KEY = "serve-core-replica"
"""A trailer with the replica's id. It proves that the status came from the replica and not from the transport."""

LOAD_KEY = "serve-core-load"
"""A trailer with the replica's load, as ``format_load`` writes it."""

LINK_KEY = "serve-core-link"
"""A header of the replica with ``LINK_VERSION``, which says that it takes a link."""

LINK_VERSION = "2"
"""The form of a link's frames."""

LINK_SOCKET_KEY = "serve-core-link-socket"
"""A header beside that one: the Unix domain socket on which the replica takes links from its own host."""

LINK_SECRET_KEY = "serve-core-link-secret"
"""And what a caller begins with there."""

_LOAD_PATTERN = re.compile(r"([0-9]{1,10}),([0-9]{1,10}),([0-9]{1,10})")


def format_load(load: Load) -> str:
    """The text form of a load: ``ongoing,reserved,capacity``."""
    ongoing, reserved, capacity = load
    return f"{ongoing},{reserved},{capacity}"


@lru_cache(maxsize=4096)
def parse_load(text: str) -> Load | None:
    """The load that ``text`` spells, or None if it spells none."""
    match = _LOAD_PATTERN.fullmatch(text)
    return None if match is None else Load(int(match[1]), int(match[2]), int(match[3]))


def load_in(trailers: Iterable[tuple[str, str | bytes]] | None) -> Load | None:
    """The load that trailers tell of, or None if they tell of none."""
    for key, value in trailers or ():
        if key == LOAD_KEY and isinstance(value, str):
            return parse_load(value)
    return None
