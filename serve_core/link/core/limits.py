"""The sizes that both ends of a link hold to."""

from __future__ import annotations

CHUNK_BYTES = 64 * 1024
"""The largest piece of a message in one frame: what one call may delay the others by."""

WINDOW_BYTES = 512 * 1024
"""What may be sent of a call's messages, each way, before its reader has room for more."""

MESSAGE_COST_BYTES = 64
"""What a message counts beside its bytes: also those that have none are bounded."""

ATTACHED_BYTES = 4 * 1024
"""A piece that has this much goes beside its batch, as it is, where the carrier can do that: the batch would copy it."""

BATCH_BYTES = 256 * 1024
"""A batch that has this much goes as it is; the rest comes with the next."""

BATCH_FRAMES = 8
"""A batch that has this many frames goes at once, not at the end of the loop's turn: so the other end works on those while
this one makes the next, where each would wait for all of the other's."""

METADATA_BYTES = 64 * 1024
"""The largest metadata of one frame, as gRPC's own limit."""

OVERDUE_S = 0.01
"""How long after its deadline a call is ended, at least. gRPC's own timers are some milliseconds late, too: who made the call for
somebody else should not hear of the deadline before that one does."""

MIN_LIMIT_BYTES = 1024 * 1024
"""A process whose limit of one message is less has no links: a batch would not pass."""
