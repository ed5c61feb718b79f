"""How far a node is from having room for members of a gang, and what is to be held back on it so that it gets nearer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from serve_core.plan.amounts import UNITS
from serve_core.plan.placement.account import Account
from serve_core.plan.placement.request import Need

ONE = 10**18
"""All of what a member needs of one resource. So large that a whole weight for each unit is exact enough."""


def missing(account: Account, need: Need, count: int) -> int:
    """What a node lacks for ``count`` members: a sum over resources, each counted in members that it lacks."""
    lacking = 0
    for free, asked in _amounts(account, need):
        lacking += max(asked * count - max(free, 0), 0) * (ONE // asked)
    if need.gpus:
        lacking += _claim_gpus(account.gpus, need.gpus, count)[0] * (ONE // sum(need.gpus))
    return lacking


def held_back(account: Account, need: Need, count: int) -> Account:
    """What others may use of a node that ``count`` members wait for: not what they need, as far as it is free."""
    return replace(
        account,
        cpus=_without(account.cpus, need.cpus * count),
        memory_bytes=_without(account.memory_bytes, need.memory_bytes * count),
        custom={
            **account.custom,
            **{name: _without(account.custom.get(name, 0), asked * count) for name, asked in need.custom},
        },
        gpus=_claim_gpus(account.gpus, need.gpus, count)[1] if need.gpus else account.gpus,
    )


def _amounts(account: Account, need: Need) -> Iterator[tuple[int, int]]:
    """What is free and what one member asks for, of each resource but GPUs that it asks for."""
    if need.cpus:
        yield account.cpus, need.cpus
    if need.memory_bytes:
        yield account.memory_bytes, need.memory_bytes
    for name, asked in need.custom:
        yield account.custom.get(name, 0), asked


def _without(free: int, asked: int) -> int:
    return free - min(max(free, 0), asked)


def _claim_gpus(gpus: tuple[int, ...], asked: tuple[int, ...], count: int) -> tuple[int, tuple[int, ...]]:
    """What is missing of the GPUs that are chosen for members, and what is left of all once what is free of those is held.

    Each part gets the GPU on which the least is missing for it; of those, the one that it fits most tightly on.
    """
    free = [max(amount, 0) for amount in gpus]
    if all(part >= UNITS for part in asked):
        return _claim_whole(gpus, free, sum(asked) // UNITS * count)
    room = [UNITS] * len(free)
    lacking = 0
    for part in asked * count:
        for amount in [UNITS] * (part // UNITS) or [part]:
            index = min(
                (index for index, most in enumerate(room) if most >= amount),
                key=lambda index: (max(amount - free[index], 0), free[index], index),
                default=None,
            )
            if index is None:  # The parts do not fit together in this order: it waits for all that there is.
                lacking += amount
                continue
            held = min(free[index], amount)
            lacking += amount - held
            room[index] -= amount
            free[index] -= held
    return lacking, tuple(min(before, after) for before, after in zip(gpus, free, strict=True))


def _claim_whole(gpus: tuple[int, ...], free: list[int], count: int) -> tuple[int, tuple[int, ...]]:
    """The same where only whole GPUs are asked for: those of which the most is free."""
    lacking = max(count - len(free), 0) * UNITS
    left = list(gpus)
    for index in sorted(range(len(free)), key=lambda index: -free[index])[:count]:
        lacking += UNITS - free[index]
        left[index] = min(left[index], 0)
    return lacking, tuple(left)
