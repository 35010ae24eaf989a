"""The work that is tested and timed: networks, batches of full size, and where they run.

Nothing here needs more than torch, numpy and the repository. Shape letters: B batch, T time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from seqbench.batch import Batch, TensorBatch, pad
from seqbench.config import NetworkConfig
from seqbench.network import Network
from seqbench.registry import lookup


@dataclass(frozen=True)
class Size:
    """One piece of work: B sequences of up to T steps through encoders of width ``hidden``."""

    batch: int
    steps: int
    hidden: int
    vocabulary: int = 20_000
    embedding: int = 64
    classes: int = 2

    @property
    def words(self) -> str:
        """The size in words."""
        return f"B={self.batch} T={self.steps} H={self.hidden}"


def settings(name: str) -> Any:
    """The default settings of a model."""
    return lookup("model", name)()


def network(model: Any, size: Size, device: torch.device | str, seed: int = 0, **options: Any) -> Network:
    """A network whose weights depend on the seed alone."""
    torch.manual_seed(seed)
    config = NetworkConfig(embedding_width=size.embedding, **options)
    return Network(model, config, size.vocabulary, size.classes, size.hidden).to(device)


def batches(size: Size, count: int, *, many: bool = False, seed: int = 0) -> list[Batch]:
    """Sequences of lengths uniform in [T/4, T], one of them of T, so that all batches have one shape.

    With ``many`` an answer at every fourth step of the shortest sequences, else one for each sequence.
    """
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        lengths = rng.integers(max(1, size.steps // 4), size.steps + 1, size.batch)
        lengths[0] = size.steps
        rows = [rng.integers(1, size.vocabulary, length) for length in lengths]
        answers: Any = rng.integers(0, size.classes, size.batch)
        if many:
            answers = [
                np.where(
                    np.arange(length) < max(1, size.steps // 4), rng.integers(0, size.classes, length), -1
                )
                for length in lengths
            ]
        found.append(pad(rows, answers))
    return found


def ready(size: Size, device: torch.device | str, count: int = 4, **options: Any) -> list[TensorBatch]:
    """The same on a device."""
    return [batch.tensors(device) for batch in batches(size, count, **options)]
