"""What both ends of a link do: what is to be said in a turn of the event loop goes out in few batches."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias

from serve_core.link.core.limits import ATTACHED_BYTES, BATCH_BYTES, BATCH_FRAMES
from serve_core.link.core.outgoing import Outgoing, Piece, Turns
from serve_core.link.frames import MESSAGE, Fields, Frame
from serve_core.v1 import replica_pb2

Batch: TypeAlias = "replica_pb2.LinkRequest | replica_pb2.LinkResponse"

Data: TypeAlias = "bytes | memoryview"

FRAME_COST_BYTES = 32
"""What a frame counts in a batch beside its data."""


class Carrier(Protocol):
    """A connection. It takes a batch at a time, and says when it takes the next one."""

    @property
    def peer(self) -> str:
        """Who is at the other end, as gRPC has it."""

    @property
    def busy(self) -> bool:
        """Whether it cannot take a batch now. Then ``LinkEnd.flush`` is called once it can."""

    @property
    def attaches(self) -> bool:
        """Whether it sends pieces of messages beside a batch."""

    def send(self, batch: Batch, attached: Sequence[Data]) -> None:
        """Sends a batch, and after it what its frames have attached. Only while it is not busy."""

    def close(self) -> None:
        """Ends the connection after what was sent."""


class LinkEnd:
    """One end of a link, above its carrier.

    Args:
        new_batch: Makes a batch of the kind that this end sends.
        on_frame: Is called with each frame that arrives.
    """

    def __init__(self, new_batch: Callable[[], Batch], on_frame: Callable[[Frame], None]) -> None:
        self.loop = asyncio.get_running_loop()
        self._new_batch = new_batch
        self._on_frame = on_frame
        self._carrier: Carrier | None = None
        self._sealed: deque[tuple[Batch, Sequence[Data]]] = deque()
        self._batch = new_batch()
        self._add = self._batch.frames.add
        self._size = 0
        self._frames = 0
        self._attaches = False
        self._attached: list[Data] = []
        self._scheduled = False
        self._ending = False
        self._turns: Turns[int, Fields] = Turns()
        self._on_pulled: dict[int, Callable[[], None]] = {}
        self.batches_handed = 0
        """Batches that the carrier has taken."""
        self.open = False
        """Whether anything that is said may arrive."""

    @property
    def peer(self) -> str:
        """Who is at the other end."""
        return self._carrier.peer if self._carrier is not None else "unknown"

    def carried_by(self, carrier: Carrier) -> None:
        """Begins."""
        self._carrier = carrier
        self._attaches = carrier.attaches
        self.open = True

    def say(self, call_id: int, size: int, **fields: Any) -> int:
        """Has a frame sent in this turn of the loop. ``size`` is about how many bytes it has.

        Returns the number of the batch that it is in: the carrier has that once ``batches_handed`` is more.

        Raises:
            TypeError, ValueError: A field is none. Nothing was added.
        """
        if self._size >= BATCH_BYTES:
            self._seal()
        self._add(call_id=call_id, **fields)
        self._size += size + FRAME_COST_BYTES
        self._frames += 1
        batch_number = self.batches_handed + len(self._sealed)
        if self._frames >= BATCH_FRAMES:
            self.flush()
        elif not self._scheduled:
            self._scheduled = True
            self.loop.call_soon(self._on_turn)
        return batch_number

    def say_message(self, call_id: int, message: bytes) -> None:
        """Has a message sent in this turn of the loop."""
        size = len(message)
        if size < ATTACHED_BYTES or not self._attaches:
            self.say(call_id, size, step=MESSAGE, data=message)
            return
        if self._size >= BATCH_BYTES:
            self._seal()
        self._attached.append(message)
        self.say(call_id, size, step=MESSAGE, attached=size)

    @property
    def waits(self) -> bool:
        """Whether anything waits to be sent."""
        return bool(self._size or self._sealed or self._turns)

    @property
    def crowded(self) -> bool:
        """Whether a batch's worth waits already: messages then queue in their calls, and take turns."""
        return self._size >= BATCH_BYTES or bool(self._sealed)

    def take_turns(self, call_id: int, outgoing: Outgoing[Fields], on_pulled: Callable[[], None]) -> None:
        """Sends what ``outgoing`` has, in turn with other calls; ``on_pulled`` is called after each piece."""
        self._turns.ready(call_id, outgoing)
        self._on_pulled[call_id] = on_pulled
        if not self._scheduled and self._turns:
            self._scheduled = True
            self.loop.call_soon(self._on_turn)

    def forget(self, call_id: int) -> None:
        """A call is over: nothing of it waits any more."""
        self._turns.forget(call_id)
        self._on_pulled.pop(call_id, None)

    def flush(self) -> None:
        """Hands the carrier what it takes. The carrier calls this, too, once it takes more."""
        carrier = self._carrier
        while carrier is not None and not carrier.busy and self._fill():
            batch, attached = self._sealed.popleft()
            self.batches_handed += 1
            carrier.send(batch, attached)
        if self._ending and not self.waits:
            self.over()

    def end(self) -> None:
        """Ends once everything that was said is handed to the carrier."""
        self._ending = True
        self.flush()

    def received(self, batch: Batch) -> None:
        """The carrier has a batch from the other end."""
        on_frame = self._on_frame
        for frame in batch.frames:
            on_frame(frame)

    def over(self) -> None:
        """Nothing is sent any more, and what waits is dropped."""
        carrier, self._carrier = self._carrier, None
        self.open = False
        self._turns = Turns()
        self._on_pulled.clear()
        if carrier is not None:
            carrier.close()

    def _on_turn(self) -> None:
        self._scheduled = False
        self.flush()

    def _seal(self) -> None:
        if self._attached:
            self._batch.attached = True
        self._sealed.append((self._batch, self._attached))
        self._attached = []
        self._batch = self._new_batch()
        self._add = self._batch.frames.add
        self._size = self._frames = 0

    def _add_piece(self, call_id: int, piece: Piece) -> None:
        data, size = piece.data, len(piece.data)
        if self._attaches and size >= ATTACHED_BYTES:
            self._attached.append(data)
            fields: Fields = {"attached": size, "more": piece.more}
        else:
            fields = {"data": bytes(data), "more": piece.more}
        if piece.message_bytes:
            fields["message_bytes"] = piece.message_bytes
        self._add(call_id=call_id, step=MESSAGE, **fields)
        self._size += size + FRAME_COST_BYTES

    def _fill(self) -> bool:
        """Has a batch ready to go; False if there is nothing to say."""
        if self._sealed:
            return True
        while self._turns and self._size < BATCH_BYTES:
            call_id, pulled = self._turns.pull()
            if isinstance(pulled, Piece):
                self._add_piece(call_id, pulled)
            else:
                self._add(call_id=call_id, **pulled)
                self._size += FRAME_COST_BYTES
            on_pulled = self._on_pulled.get(call_id)
            if on_pulled is not None:
                on_pulled()
        if not self._size:
            return False
        self._seal()
        return True
