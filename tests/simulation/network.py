"""Parts that can die or stand still, and streams between them that delay, stall and break.

A stream is what one connection of gRPC is: ordered, and lossless until it breaks. While two parts are cut off from each
other, what is sent stalls; if that lasts, the stream breaks and what was under way is lost.

What is sent on a stream arrives once. A call of its own may arrive twice: whoever asked did not hear the answer and asks
again, or something between them repeats it. The second copy goes its own way, so that it may come long after the first
was answered, and after what was sent later.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from tests.simulation.engine import Action, Engine

CONNECT_TIMEOUT_S = 2.0
NOTICED_AFTER_S = (0.5, 12.0)
"""When the ends of a stream notice that they are cut off from each other."""
ASKED_AGAIN_S = 1.0
"""Whoever hears no answer asks again within this."""
STRAYS_S = 8.0
"""A second copy of a call that was answered may come as late as this."""

Answer = Callable[..., None]


class Part:
    """A process. What is delivered to it while it is stopped waits; what is delivered to the dead is lost."""

    def __init__(self, engine: Engine, name: str) -> None:
        self.engine = engine
        self.name = name
        self.alive = True
        self.stopped = False
        self._backlog: list[Action] = []

    def deliver(self, action: Action) -> None:
        """Lets it do something, as soon as it can."""
        if self.alive and self.stopped:
            self._backlog.append(action)
        elif self.alive:
            action()

    def later(self, delay_s: float, action: Action) -> None:
        """Lets it do something after a while."""
        self.engine.later(delay_s, partial(self.deliver, action))

    def die(self) -> None:
        """Ends it at once."""
        self.alive = False
        self._backlog.clear()

    def stand_still(self) -> None:
        """As SIGSTOP does."""
        self.stopped = True

    def go_on(self) -> None:
        """As SIGCONT does: first everything that came meanwhile."""
        self.stopped = False
        backlog, self._backlog = self._backlog, []
        for action in backlog:
            self.deliver(action)


class Network:
    """Every stream there is, and who is cut off from whom.

    Attributes:
        spikes: How often a message takes long, from 0 to 1.
        repeats: How often a call arrives twice, from 0 to 1.
        repeated: How many have so far.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.spikes = 0.0
        self.repeats = 0.0
        self.repeated = 0
        self._random = engine.randomness("network")
        self._repeats_random = engine.randomness("repeats")
        self._streams: dict[int, Stream] = {}
        self._cuts: dict[frozenset[str], int] = {}
        self._count = 0

    def delay_s(self) -> float:
        """How long the next message takes."""
        delay_s = 0.0005 + 0.0025 * self._random.random()
        if self.spikes and self._random.random() < self.spikes:
            delay_s += 0.4 * self._random.random()
        return delay_s

    def is_cut(self, one: str, other: str) -> bool:
        """Whether nothing gets through between them now."""
        return frozenset((one, other)) in self._cuts

    def post(self, sender: Part, to: Part, action: Action) -> None:
        """Sends one message on a connection of its own; lost if nothing gets through."""
        if not self.is_cut(sender.name, to.name):
            self.engine.later(self.delay_s(), partial(to.deliver, action))

    def asked(self, sender: Part, to: Part, ask: Callable[[Answer], None], answer: Answer, *, once: bool) -> None:
        """A call has arrived, for the first or the only time."""
        if not self.is_repeated():
            ask(answer)
            return
        if once or self._repeats_random.random() < 0.5:
            ask(answer)
            delay_s, second = self.strays_s(), _unheard
        else:
            ask(_unheard)
            delay_s, second = ASKED_AGAIN_S * self._repeats_random.random(), answer
        self.engine.later(delay_s, partial(self._again, sender, to, partial(ask, second)))

    def is_repeated(self) -> bool:
        """Whether the next call arrives twice."""
        repeated = self._repeats_random.random() < self.repeats
        self.repeated += repeated
        return repeated

    def strays_s(self) -> float:
        """How long after the first the second copy of a call arrives that nobody waits for."""
        return STRAYS_S * self._repeats_random.random() ** 2

    def _again(self, sender: Part, to: Part, action: Action) -> None:
        if not self.is_cut(sender.name, to.name):
            to.deliver(action)

    def connect(self, client: Part, server: Part | None, *, opened: Callable[[Stream], None], failed: Action) -> None:
        """Opens a stream; calls one of both on the client's side."""
        self.engine.later(self.delay_s(), partial(self._connect, client, server, opened, failed))

    def cut(self, one: str, other: str) -> None:
        """Lets nothing through between two parts."""
        self._count += 1
        pair, number = frozenset((one, other)), self._count
        self._cuts[pair] = number
        self.engine.note(f"cut {one} | {other}")
        for stream in list(self._streams.values()):
            if stream.ends == pair:
                after_s = self._random.uniform(*NOTICED_AFTER_S)
                self.engine.later(after_s, partial(self._notice, stream, pair, number))

    def heal(self, one: str, other: str) -> None:
        """Lets everything through again, what stalled first."""
        pair = frozenset((one, other))
        if self._cuts.pop(pair, None) is None:
            return
        self.engine.note(f"heal {one} | {other}")
        for stream in list(self._streams.values()):
            if stream.ends == pair:
                stream.flush()

    def heal_all(self) -> None:
        """Ends every cut."""
        for pair in list(self._cuts):
            self.heal(*sorted(pair))

    def end_of(self, part: Part) -> None:
        """A part has died: its streams end."""
        for stream in list(self._streams.values()):
            if stream.has(part):
                stream.close(part)

    def vanish(self, part: Part) -> None:
        """A part is gone with its machine: nobody ends its streams, and the other sides notice late."""
        for stream in list(self._streams.values()):
            if stream.has(part):
                self.engine.later(self._random.uniform(*NOTICED_AFTER_S), stream.snap)

    def forget(self, stream: Stream) -> None:
        """A stream has ended on both sides."""
        self._streams.pop(stream.number, None)

    def _connect(self, client: Part, server: Part | None, opened: Callable[[Stream], None], failed: Action) -> None:
        if not client.alive:
            return
        if server is None or not server.alive:
            client.deliver(failed)
        elif server.stopped or self.is_cut(client.name, server.name):
            client.later(CONNECT_TIMEOUT_S, failed)
        else:
            self._count += 1
            stream = self._streams[self._count] = Stream(self, self._count, client, server)
            client.deliver(partial(opened, stream))

    def _notice(self, stream: Stream, pair: frozenset[str], number: int) -> None:
        if self._cuts.get(pair) == number:
            stream.snap()


class Stream:
    """One connection. ``on_end`` is called for each side that did not end it itself."""

    def __init__(self, network: Network, number: int, client: Part, server: Part) -> None:
        self.number = number
        self.client = client
        self.server = server
        self.ends = frozenset((client.name, server.name))
        self.is_open = True
        self._network = network
        self._on_end: dict[Part, Action] = {}
        self._over: list[Part] = []
        self._arrived = {client: 0.0, server: 0.0}
        self._stalled: list[tuple[Part, Action]] = []

    def has(self, part: Part) -> bool:
        """Whether it is one of the two ends."""
        return part is self.client or part is self.server

    def on_end(self, part: Part, action: Action) -> None:
        """What a side does when the other ends the stream, or the network does."""
        self._on_end[part] = action

    def send(self, to: Part, action: Action) -> None:
        """Has the other side do something; lost if the stream ends before."""
        if not self.is_open:
            return
        if self._network.is_cut(self.client.name, self.server.name):
            self._stalled.append((to, action))
        else:
            self._transmit(to, action)

    def ask(self, to: Part, ask: Callable[[Answer], None], answer: Answer, *, once: bool = False) -> None:
        """Calls the other side, which gives its answer to what it is given; it may be called twice, and one answer counts.

        Args:
            to: Which side.
            ask: What it does, as often as the call arrives.
            answer: Takes its answer.
            once: Whether only the first copy is answered: nobody repeats on purpose what is to be done at most once.
        """
        sender = self.server if to is self.client else self.client
        self.send(to, partial(self._network.asked, sender, to, ask, answer, once=once))

    def close(self, by: Part) -> None:
        """One side ends it. What it sent before still arrives, and then the end does."""
        if by in self._over:
            return
        self.is_open = False
        self._over.append(by)
        other = self.server if by is self.client else self.client
        if self._network.is_cut(self.client.name, self.server.name):
            self._stalled.append((other, partial(self._end, other)))
        else:
            self._transmit(other, partial(self._end, other))
        if not other.alive:
            self._network.forget(self)

    def snap(self) -> None:
        """Both sides notice that it is broken; what was under way is lost."""
        self.is_open = False
        self._stalled.clear()
        for part in (self.client, self.server):
            if part not in self._over:
                part.deliver(partial(self._end, part))
        if not (self.client.alive and self.server.alive):
            self._network.forget(self)

    def flush(self) -> None:
        """Sends on what had stalled."""
        stalled, self._stalled = self._stalled, []
        for to, action in stalled:
            self._transmit(to, action)

    def _transmit(self, to: Part, action: Action) -> None:
        engine = self._network.engine
        arrival = self._arrived[to] = max(self._arrived[to], engine.now + self._network.delay_s())
        engine.at(arrival, partial(to.deliver, partial(self._arrive, to, action)))

    def _arrive(self, to: Part, action: Action) -> None:
        if to not in self._over:
            action()

    def _end(self, part: Part) -> None:
        if part in self._over:
            return
        self._over.append(part)
        if len(self._over) == len(self.ends):
            self._network.forget(self)
        ended = self._on_end.get(part)
        if ended is not None:
            ended()


def _unheard(*_: object, **__: object) -> None:
    """The answer is lost."""
