"""Keras 3: ``model.fit`` on one array padded to T, with any back end (``KERAS_BACKEND``)."""

from __future__ import annotations

from typing import Any

import numpy as np

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
    LOADER_EPOCHS,
    VOCABULARY,
    Cell,
)

_LONG = 1_000_000  # epochs: for ever


def train(cell: Cell, gate: Gate) -> None:
    """Train until the gate ends it."""
    import keras

    class Ticker(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            gate.tick(lambda: float(logs["loss"]))

    _one_thread(keras.backend.backend())
    keras.backend.clear_session()
    keras.utils.set_random_seed(0)
    model = network(cell)
    model.compile(
        optimizer=keras.optimizers.Adam(LEARNING_RATE),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    ids_NT = np.tile(cell.padded().astype(np.int32), (LOADER_EPOCHS, 1))
    labels_N = np.tile(cell.labels, LOADER_EPOCHS)
    model.fit(ids_NT, labels_N, batch_size=BATCH, epochs=_LONG, verbose=0, callbacks=[Ticker()])


def _one_thread(backend: str) -> None:
    if backend == "torch":
        import torch

        torch.set_num_threads(1)
    elif backend == "tensorflow":
        import tensorflow as tf

        if tf.config.threading.get_intra_op_parallelism_threads() != 1:  # settable only once
            tf.config.threading.set_intra_op_parallelism_threads(1)
            tf.config.threading.set_inter_op_parallelism_threads(1)


def network(cell: Cell) -> Any:
    """Embedding with a mask at padding, Keras' own layers, a dense head."""
    import keras
    from keras import layers

    ids = keras.Input((cell.length,), dtype="int32")
    x = layers.Embedding(VOCABULARY, EMBEDDING, mask_zero=True)(ids)
    if cell.model == "transformer":
        y = _last_valid()([_transformer(x, cell.length), ids])
    elif cell.model == "bilstm":
        y = layers.Bidirectional(layers.LSTM(HIDDEN))(x)
    else:
        kind = {"rnn": layers.SimpleRNN, "lstm": layers.LSTM, "gru": layers.GRU}[cell.model]
        y = kind(HIDDEN)(x)
    return keras.Model(ids, layers.Dense(CLASSES)(y))


def _transformer(x: Any, steps: int) -> Any:
    """Pre-norm blocks; the embedding's mask reaches attention by itself."""
    from keras import layers

    x = _positions(steps)(layers.Dense(HIDDEN)(x))
    for _ in range(BLOCKS):
        normed = layers.LayerNormalization(epsilon=1e-5)(x)
        x = layers.Add()([x, layers.MultiHeadAttention(HEADS, HIDDEN // HEADS)(normed, normed)])
        normed = layers.LayerNormalization(epsilon=1e-5)(x)
        inner = layers.Dense(FEEDFORWARD, activation="gelu")(normed)
        x = layers.Add()([x, layers.Dense(HIDDEN)(inner)])
    return layers.LayerNormalization(epsilon=1e-5)(x)


def _positions(steps: int) -> Any:
    """A layer that adds sine and cosine of falling frequencies."""
    import keras

    angle = np.arange(steps)[:, None] * 1e4 ** (-np.arange(0, HIDDEN, 2) / HIDDEN)
    table_TH = np.stack([np.sin(angle), np.cos(angle)], axis=2).reshape(steps, HIDDEN).astype(np.float32)

    class Positions(keras.layers.Layer):
        supports_masking = True

        def call(self, x: Any) -> Any:
            return x + keras.ops.convert_to_tensor(table_TH)

    return Positions()


def _last_valid() -> Any:
    """A layer that reads each sequence at its last token."""
    import keras

    class LastValid(keras.layers.Layer):
        def call(self, inputs: Any) -> Any:
            y_BTH, ids_BT = inputs
            last_B = keras.ops.sum(keras.ops.cast(ids_BT != 0, "int32"), axis=1) - 1
            return keras.ops.take_along_axis(y_BTH, last_B[:, None, None], axis=1)[:, 0]

    return LastValid()
