"""A process as a member of its gang: it begins to load only when it knows the others."""

from __future__ import annotations

from functools import partial
from random import Random
from typing import TYPE_CHECKING

from serve_core.model.gang import GangRoster

if TYPE_CHECKING:
    from tests.simulation.process import Process

FIRST_PORT = 20_000
CALLBACK_S = 0.3


class Membership:
    """What a process knows of its gang.

    Attributes:
        epoch: Of the roster that it acts on; 0 before the first.
    """

    def __init__(self, process: Process, random: Random) -> None:
        self.gang = process.action.replica.gang
        self.epoch = 0
        self._process = process
        self._random = random
        self._newest = 0

    @property
    def needs_roster(self) -> bool:
        """Whether it must know the others before it loads."""
        return self.gang.size > 1 and not self.epoch

    @property
    def acts_in(self) -> int:
        """The epoch of the gang that it acts in; a gang of one needs no roster, and has only one."""
        return self.epoch if self.gang.size > 1 else self.gang.epoch

    @property
    def rendezvous_port(self) -> int:
        """What it keeps free for the gang that it leads; 0 if it leads none."""
        return FIRST_PORT + self._process.pid if self.gang.size > 1 and self.gang.rank == 0 else 0

    def take(self, roster: GangRoster) -> None:
        """The controller says who is in the gang."""
        process = self._process
        if roster.epoch <= self._newest:
            return
        process.cluster.checks.gangs.told(process, roster)
        self._newest = roster.epoch
        if self.epoch:
            # User code is told, and takes its time.
            process.later(CALLBACK_S * self._random.random(), partial(self._act_on, roster.epoch))
        else:
            self.epoch = roster.epoch
            process.load()

    def _act_on(self, epoch: int) -> None:
        if epoch > self.epoch:
            self.epoch = epoch
            self._process.cluster.checks.gangs.ready(self._process)
            self._process.engine.note(f"{self._process.process_id} is in epoch {epoch} of its gang")
            self._process.tell()
