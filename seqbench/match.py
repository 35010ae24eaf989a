"""Fair by construction: solve the width at which a network meets the parameter budget."""

from __future__ import annotations

from collections.abc import Callable

import torch

from seqbench.config import Job
from seqbench.network import Network, parameter_count

UNMATCHED_WIDTH = 128
_WIDE = 256
_LARGEST_WIDTH = 1 << 16


def solve_width(job: Job, vocabulary_size: int, classes: int, features: int = 0) -> int:
    """The width whose network comes closest to ``match.target`` parameters.

    Networks are instantiated on torch's meta device, so that any encoder can be matched, also one that
    seqbench has never seen, without allocating its weights.
    """
    if job.model.hidden is not None:
        return job.model.hidden
    multiple = job.model.width_multiple
    if job.match.by == "none":
        return max(multiple, UNMATCHED_WIDTH // multiple * multiple)

    def build(units: int) -> Network:
        return Network(job.model, job.network, vocabulary_size, classes, units * multiple, features)

    def count(units: int) -> int:
        try:
            with torch.device("meta"):
                return matched_parameters(build(units))
        except (RuntimeError, NotImplementedError):  # a layer that computes with its weights when built
            return matched_parameters(build(units))

    return multiple * closest(count, job.match.target, _LARGEST_WIDTH // multiple)


def matched_parameters(network: Network) -> int:
    """Parameters that the budget counts: everything but the shared embedding."""
    return parameter_count(network) - parameter_count(network.embedding)


def closest(count: Callable[[int], int], target: int, largest: int) -> int:
    """The argument in ``1..largest`` where a non-decreasing ``count`` comes closest to ``target``.

    >>> closest(lambda n: n * n, 50, 1000)
    7
    """
    low, high = 1, 2
    if count(low) == count(min(_WIDE, largest)):
        return low  # the encoder has no width to choose
    while high < largest and count(high) < target:
        low, high = high, min(2 * high, largest)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if count(middle) <= target else (low, middle)
    return min((low, high), key=lambda n: abs(count(n) - target))
