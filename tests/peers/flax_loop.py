"""JAX with flax nnx and optax: one jitted step on arrays padded to T, which have one shape to compile for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from peers.gate import Gate
from peers.work import (
    BATCH,
    BLOCKS,
    CLASSES,
    EMBEDDING,
    FEEDFORWARD,
    HEADS,
    HIDDEN,
    LEARNING_RATE,
    VOCABULARY,
    Cell,
)

_CELLS = {"rnn": nnx.SimpleCell, "lstm": nnx.OptimizedLSTMCell, "gru": nnx.GRUCell}


class Classifier(nnx.Module):
    """Embedding, flax's own layers, a linear head on the last valid token."""

    def __init__(self, model: str, rngs: nnx.Rngs) -> None:
        self.embedding = nnx.Embed(VOCABULARY, EMBEDDING, rngs=rngs)
        self.encoder = _encoder(model, rngs)
        self.both = model == "bilstm"
        self.head = nnx.Linear(HIDDEN * (1 + self.both), CLASSES, rngs=rngs)

    def __call__(self, ids_BT: jax.Array, lengths_B: jax.Array) -> jax.Array:
        """Logits ``(B, C)``."""
        y_BTH = self.encoder(self.embedding(ids_BT), lengths_B)
        last_BH = y_BTH[jnp.arange(len(y_BTH)), lengths_B - 1]
        if self.both:
            last_BH = jnp.concatenate([last_BH[:, :HIDDEN], y_BTH[:, 0, HIDDEN:]], axis=1)
        return self.head(last_BH)


def _encoder(model: str, rngs: nnx.Rngs) -> Any:
    if model == "transformer":
        return Transformer(rngs)
    if model == "bilstm":
        return BothWays(rngs)
    return OneWay(model, rngs)


class OneWay(nnx.Module):
    """A recurrent layer; right padding comes after whatever is read."""

    def __init__(self, model: str, rngs: nnx.Rngs) -> None:
        self.layer = nnx.RNN(_CELLS[model](EMBEDDING, HIDDEN, rngs=rngs))

    def __call__(self, x_BTD: jax.Array, lengths_B: jax.Array) -> jax.Array:
        return self.layer(x_BTD)


class BothWays(nnx.Module):
    """Two LSTMs; the second reads each sequence backwards within its own length."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        ahead, behind = (nnx.RNN(nnx.OptimizedLSTMCell(EMBEDDING, HIDDEN, rngs=rngs)) for _ in range(2))
        self.layer = nnx.Bidirectional(ahead, behind)

    def __call__(self, x_BTD: jax.Array, lengths_B: jax.Array) -> jax.Array:
        return self.layer(x_BTD, seq_lengths=lengths_B)


class Block(nnx.Module):
    """A pre-norm Transformer block."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.norms = nnx.List([nnx.LayerNorm(HIDDEN, epsilon=1e-5, rngs=rngs) for _ in range(2)])
        self.attention = nnx.MultiHeadAttention(HEADS, HIDDEN, decode=False, rngs=rngs)
        self.widen = nnx.Linear(HIDDEN, FEEDFORWARD, rngs=rngs)
        self.narrow = nnx.Linear(FEEDFORWARD, HIDDEN, rngs=rngs)

    def __call__(self, x_BTH: jax.Array, keys_B11T: jax.Array) -> jax.Array:
        x_BTH = x_BTH + self.attention(self.norms[0](x_BTH), mask=keys_B11T)
        inner = nnx.gelu(self.widen(self.norms[1](x_BTH)), approximate=False)
        return x_BTH + self.narrow(inner)


class Transformer(nnx.Module):
    """Sinusoidal positions, blocks, a norm at the end."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.enter = nnx.Linear(EMBEDDING, HIDDEN, rngs=rngs)
        self.blocks = nnx.List([Block(rngs) for _ in range(BLOCKS)])
        self.leave = nnx.LayerNorm(HIDDEN, epsilon=1e-5, rngs=rngs)

    def __call__(self, x_BTD: jax.Array, lengths_B: jax.Array) -> jax.Array:
        steps = x_BTD.shape[1]
        x_BTH = self.enter(x_BTD) + _sinusoids(steps)
        keys_B11T = (jnp.arange(steps) < lengths_B[:, None])[:, None, None, :]
        for block in self.blocks:
            x_BTH = block(x_BTH, keys_B11T)
        return self.leave(x_BTH)


def _sinusoids(steps: int) -> jax.Array:
    angle = jnp.arange(steps)[:, None] * 1e4 ** (-jnp.arange(0, HIDDEN, 2) / HIDDEN)
    return jnp.stack([jnp.sin(angle), jnp.cos(angle)], axis=2).reshape(steps, HIDDEN)


def train(cell: Cell, gate: Gate) -> None:
    """Train for ever; model and optimiser are split once, so that a step is one call of ``jax.jit``."""
    model = Classifier(cell.model, nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.adam(LEARNING_RATE), wrt=nnx.Param)
    graph, state = nnx.split((model, optimizer))

    def step(state: Any, ids_BT: jax.Array, lengths_B: jax.Array, labels_B: jax.Array) -> tuple[Any, Any]:
        model, optimizer = nnx.merge(graph, state)

        def loss_of(model: Classifier) -> jax.Array:
            logits_BC = model(ids_BT, lengths_B)
            return optax.softmax_cross_entropy_with_integer_labels(logits_BC, labels_B).mean()

        loss, grads = nnx.value_and_grad(loss_of)(model)
        optimizer.update(model, grads)
        return nnx.state((model, optimizer)), loss

    jitted = jax.jit(step, donate_argnums=0)
    for arrays in _batches(cell):
        state, loss = jitted(state, *arrays)
        gate.tick(lambda loss=loss: float(loss))


def _batches(cell: Cell) -> Iterator[tuple[Any, ...]]:
    """Random batches of ids ``(B, T)``, lengths and labels, endlessly."""
    arrays = [array.astype(np.int32) for array in (cell.padded(), cell.lengths, cell.labels)]
    rng = np.random.default_rng(0)
    while True:
        order = rng.permutation(len(cell.labels))
        for start in range(0, len(order), BATCH):
            index_B = order[start : start + BATCH]
            yield tuple(array[index_B] for array in arrays)
