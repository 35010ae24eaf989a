"""Hugging Face Trainer: the same padded network, without bar, logs, checkpoints and clipping."""

from __future__ import annotations

import tempfile
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peers.gate import Gate
from peers.torch_nets import Classifier, collate, dataset
from peers.work import BATCH, LEARNING_RATE, Cell

_LONG = 1_000_000  # steps: for ever


class Model(nn.Module):
    """The network in the form that a Trainer wants: a dictionary with the loss."""

    def __init__(self, model: str) -> None:
        super().__init__()
        self.network = Classifier(model)

    def forward(self, ids: Tensor, lengths: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Loss and logits."""
        logits_BC = self.network(ids, lengths)
        return {"loss": F.cross_entropy(logits_BC, labels), "logits": logits_BC}


def train(cell: Cell, gate: Gate) -> None:
    """Train until the gate ends it."""
    from transformers import Trainer, TrainerCallback, TrainingArguments

    last: list[Tensor] = []

    class Watched(Trainer):
        def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
            loss = super().compute_loss(*args, **kwargs)
            last[:] = [loss]
            return loss

    class Ticker(TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            gate.tick(last[0].item)

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="peers-") as folder:
        settings = TrainingArguments(
            folder, max_steps=_LONG, per_device_train_batch_size=BATCH, learning_rate=LEARNING_RATE,
            lr_scheduler_type="constant", max_grad_norm=0.0, use_cpu=True, disable_tqdm=True,
            report_to="none", logging_strategy="no", save_strategy="no", remove_unused_columns=False,
            dataloader_pin_memory=False, seed=0,
        )  # fmt: skip
        trainer = Watched(
            Model(cell.model), settings, data_collator=_collate, train_dataset=dataset(cell),
            callbacks=[Ticker()],
        )  # fmt: skip
        trainer.train()


def _collate(batch: list[tuple[Tensor, int]]) -> dict[str, Tensor]:
    ids_BT, lengths_B, labels_B = collate(batch)
    return {"ids": ids_BT, "lengths": lengths_B, "labels": labels_B}
