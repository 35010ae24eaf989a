"""seqbench: ``train.fit`` as a run calls it, on a data set in memory, with all default logging.

What a run does outside of its timed region (evaluation, probes, checkpoints) is left out.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from peers.equality import check
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
from seqbench import environment
from seqbench.batch import TokenRows
from seqbench.cli import compose
from seqbench.config import Job
from seqbench.match import Place, solve_width
from seqbench.network import Network
from seqbench.tasks.base import FixedData
from seqbench.train import fit

_NEVER = 1_000_000_000  # steps
_SETTINGS = (
    f"model.hidden={HIDDEN}", f"network.embedding_width={EMBEDDING}", f"train.batch_size={BATCH}",
    f"train.lr={LEARNING_RATE}", "train.warmup=0", "train.schedule=constant", f"train.steps={_NEVER}",
    f"train.eval_every={_NEVER}",
)  # fmt: skip
_TRANSFORMER = (
    f"model.layers={BLOCKS}", f"model.heads={HEADS}", f"model.feedforward_ratio={FEEDFORWARD / HIDDEN}",
    "model.causal=false", "model.positions=sinusoidal", "model.norm=pre",
)  # fmt: skip


def train(cell: Cell, gate: Gate) -> None:
    """Train until the gate ends it.

    Raises:
        Unequal: the model's layer does not compute what torch's own does.
    """
    torch.set_num_threads(1)
    environment.keep_freed_memory()
    torch.manual_seed(0)
    job, data = composed(cell.model), dataset(cell)
    network = build(job, data)
    check(cell, network.encoder)
    gate.kernel = network.encoder.kernel
    done = 0

    def tick(progress: dict[str, Any]) -> None:
        nonlocal done
        steps, done = progress["step"] - done, progress["step"]
        gate.tick(lambda: progress["loss"], steps)

    fit(network, data, job.train, job.task.goal(), torch.device("cpu"), tick)


def composed(model: str) -> Job:
    """The model's settings, as a command line composes them; the task is replaced by the standard work."""
    [job] = compose(
        [f"model={model}", "task.lengths=[16]", *_SETTINGS, *(_TRANSFORMER if model == "transformer" else ())]
    )
    return job  # type: ignore[no-any-return]


def build(job: Job, data: FixedData) -> Network:
    """The network of the job for the data."""
    place = Place.of(data)
    return place.network(job, solve_width(job, place))


def dataset(cell: Cell) -> FixedData:
    """The sequences in memory, gathered into batches of like length."""
    offsets = np.concatenate([[0], np.cumsum(cell.lengths)])
    rows = TokenRows(np.concatenate(cell.sequences), offsets, cell.labels)
    return FixedData({"train": rows, "valid": rows.subset(np.arange(BATCH))}, VOCABULARY, CLASSES, seed=0)
