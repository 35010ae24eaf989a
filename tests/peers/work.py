"""The standard work, the same for every contestant: sizes, sequences, and how many operations it takes.

Imports nothing but numpy, so that it loads in every contestant's own environment.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

VOCABULARY, EMBEDDING, HIDDEN, CLASSES = 20_000, 64, 128, 2  # id 0 is padding
BLOCKS, HEADS, FEEDFORWARD = 2, 4, 256  # of the Transformer
BATCH, LEARNING_RATE = 64, 1e-3
BATCHES = 10  # in the data set: an epoch is one logging interval of seqbench, with batches of every width
LOADER_EPOCHS = 4  # the peers' loaders get the sequences this often, so that ends of epochs cost them less
MODELS = ("rnn", "lstm", "gru", "bilstm", "transformer")
LENGTHS = (32, 128, 512)
PRODUCT_SIZE = 1024  # rows and columns of the matrices whose product tells a core's peak
PRODUCT_FLOPS = 2 * PRODUCT_SIZE**3

_GATES = {"rnn": 1, "gru": 3, "lstm": 4, "bilstm": 8}
_BACKWARD = 2  # a backward pass takes two matrix products for each of the forward pass

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Cell:
    """One model at one length: what a row of contestants is timed on."""

    model: str
    length: int

    @cached_property
    def sequences(self) -> list[Ints]:
        """The raw data: token ids from 1, lengths uniform in [T/4, T]; the same in every process."""
        rng = np.random.default_rng([20, self.length])
        lengths = rng.integers(self.length // 4, self.length + 1, BATCH * BATCHES)
        return [rng.integers(1, VOCABULARY, length) for length in lengths]

    @cached_property
    def labels(self) -> Ints:
        """A class for each sequence, by a coin."""
        return np.random.default_rng(21).integers(0, CLASSES, BATCH * BATCHES)

    @cached_property
    def lengths(self) -> Ints:
        """Valid tokens of each sequence."""
        return np.array([len(row) for row in self.sequences])

    def padded(self) -> Ints:
        """All sequences ``(N, T)``, filled with 0 on the right up to T: for peers with static shapes."""
        filled = np.zeros((len(self.sequences), self.length), dtype=np.int64)
        for line, row in zip(filled, self.sequences, strict=True):
            line[: len(row)] = row
        return filled

    @property
    def tokens_per_step(self) -> float:
        """Valid tokens of an average batch."""
        return float(self.lengths.mean() * BATCH)

    @property
    def step_flops(self) -> float:
        """Matrix products of a training step on the valid tokens of an average batch, as operations."""
        return (1 + _BACKWARD) * BATCH * float(np.mean([forward_flops(self.model, n) for n in self.lengths]))


def forward_flops(model: str, length: int) -> int:
    """Operations of the matrix products of a forward pass over one sequence, from embedded tokens to logits.

    A multiplication and an addition count as two. Attention looks at all of the sequence's own tokens.
    """
    head = 2 * HIDDEN * CLASSES * (2 if model == "bilstm" else 1)
    if model in _GATES:
        return 2 * length * _GATES[model] * HIDDEN * (EMBEDDING + HIDDEN) + head
    linear = 4 * HIDDEN * HIDDEN + 2 * HIDDEN * FEEDFORWARD  # queries, keys, values, out; feed-forward
    attention = 2 * length * HIDDEN  # scores and weighted values
    return 2 * length * (EMBEDDING * HIDDEN + BLOCKS * (linear + attention)) + head
