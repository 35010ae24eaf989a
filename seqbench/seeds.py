"""Randomness is an argument: one independent stream per seed and purpose, never global state."""

from __future__ import annotations

import numpy as np

PURPOSES = (
    "train",
    "valid",
    "test",
    "order",
    "init",
    "dropout",
    "probe",
    "split",
    "speed",
    "slice",
    "permutation",
    "generate",
)


def stream(seed: int, purpose: str, *more: int) -> np.random.Generator:
    """A generator for one purpose of one run; streams of different purposes (and numbers) never overlap.

    >>> float(stream(0, "train").random()) == float(stream(0, "valid").random())
    False
    """
    return np.random.default_rng(_sequence(seed, purpose, *more))


def number(seed: int, purpose: str) -> int:
    """A 63-bit seed for libraries that want a number (torch)."""
    return int(_sequence(seed, purpose).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _sequence(seed: int, purpose: str, *more: int) -> np.random.SeedSequence:
    return np.random.SeedSequence(seed, spawn_key=(PURPOSES.index(purpose), *more))
