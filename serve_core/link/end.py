"""What both ends of a link do: what is to be said in a turn of the event loop goes out in few batches."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

from serve_core.link.core.limits import ATTACHED_BYTES, BATCH_BYTES, BATCH_FRAMES
from serve_core.link.core.outgoing import Outgoing, Piece, Turns
from serve_core.link.frames import MESSAGE, Frame

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

    def send(self, frames: Sequence[Frame], attached: Sequence[Data]) -> None:
        """Sends a batch of frames, and after it what they have attached. Only while it is not busy."""

    def close(self) -> None:
        """Ends the connection after what was sent."""


class LinkEnd:
    """One end of a link, above its carrier: what is said there."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._carrier: Carrier | None = None
        self._sealed: deque[tuple[Sequence[Frame], Sequence[Data]]] = deque()
        self._number = 0  # of the batch that is being filled
        self._frames: list[Frame] = []
        self._size = 0
        self._attaches = False
        self._attached: list[Data] = []
        self._scheduled = False
        self._ending = False
        self._turns: Turns[int, Frame] = Turns()
        self._on_pulled: dict[int, Callable[[], None]] = {}
        self.batches_handed = 0
        """Batches that the carrier has taken."""
        self.crowded = False
        """Whether a batch's worth waits already: messages then queue in their calls, and take turns."""
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

    def say(self, frame: Frame, size: int = 0) -> int:
        """Has a frame sent in this turn of the loop. ``size`` is about how many bytes it has.

        Its fields have to be what they are to be: a batch that cannot be sent ends the link.

        Returns the number of the batch that it is in: the carrier has that once ``batches_handed`` is more.
        """
        if self._size >= BATCH_BYTES:
            self._seal()
        number, frames = self._number, self._frames
        frames.append(frame)
        self._size += size + FRAME_COST_BYTES
        if self._size >= BATCH_BYTES:
            self.crowded = True
        if len(frames) >= BATCH_FRAMES:
            self.flush()
        elif not self._scheduled:
            self._scheduled = True
            self.loop.call_soon(self._on_turn)
        return number

    def say_message(self, call_id: int, message: bytes) -> None:
        """Has a message sent in this turn of the loop."""
        size = len(message)
        if size < ATTACHED_BYTES or not self._attaches:
            self.say(Frame(MESSAGE, call_id, message), size)
            return
        if self._size >= BATCH_BYTES:
            self._seal()
        self._attached.append(message)
        self.say(Frame(MESSAGE, call_id, attached=size), size)

    @property
    def waits(self) -> bool:
        """Whether anything waits to be sent."""
        return bool(self._size or self._sealed or self._turns)

    def take_turns(self, call_id: int, outgoing: Outgoing[Frame], on_pulled: Callable[[], None]) -> None:
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
            frames, attached = self._sealed.popleft()
            self.crowded = bool(self._sealed)
            self.batches_handed += 1
            carrier.send(frames, attached)
        if self._ending and not self.waits:
            self.over()

    def end(self) -> None:
        """Ends once everything that was said is handed to the carrier."""
        self._ending = True
        self.flush()

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
        self._sealed.append((self._frames, self._attached))
        self.crowded = True
        self._number += 1
        self._frames, self._attached, self._size = [], [], 0

    def _add_piece(self, call_id: int, piece: Piece) -> None:
        data, size = piece.data, len(piece.data)
        inside, beside = (None, size) if self._attaches and size >= ATTACHED_BYTES else (bytes(data), 0)
        if beside:
            self._attached.append(data)
        self._frames.append(
            Frame(MESSAGE, call_id, inside, more=piece.more, attached=beside, message_bytes=piece.message_bytes)
        )
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
                self._frames.append(pulled)
                self._size += FRAME_COST_BYTES
            on_pulled = self._on_pulled.get(call_id)
            if on_pulled is not None:
                on_pulled()
        if not self._size:
            return False
        self._seal()
        return True
