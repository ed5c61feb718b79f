"""The cluster in one thread and in virtual time: the real pure cores, in a world that fails in every way it can.

``run.simulate(seed)`` lives through one world. Everything random comes from the seed, so a failure is replayed by its
seed alone: ``python -m tests.simulation --seed N``.

``python -m tests.simulation --scale 1000,10000`` counts what single changes cost beside so many replicas.
"""
