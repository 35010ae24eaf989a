"""Lightning: the same padded network and Adam in a LightningModule, without bar, logger and checkpoints."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader

from peers.gate import Gate
from peers.torch_nets import Classifier, collate, dataset
from peers.work import BATCH, LEARNING_RATE, Cell


def train(cell: Cell, gate: Gate) -> None:
    """Train until the gate ends it."""
    import lightning

    logging.getLogger("lightning").setLevel(logging.ERROR)

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = Classifier(cell.model)

        def training_step(self, batch: Any, number: int) -> torch.Tensor:
            ids_BT, lengths_B, labels_B = batch
            return F.cross_entropy(self.network(ids_BT, lengths_B), labels_B)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters(), lr=LEARNING_RATE)

    class Ticker(lightning.Callback):
        def on_train_batch_end(
            self, trainer: Any, module: Any, outputs: Any, batch: Any, number: int
        ) -> None:
            gate.tick(outputs["loss"].item)

    torch.set_num_threads(1)
    torch.manual_seed(0)
    trainer = lightning.Trainer(
        accelerator="cpu", devices=1, max_epochs=-1, callbacks=[Ticker()], logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(Module(), DataLoader(dataset(cell), batch_size=BATCH, shuffle=True, collate_fn=collate))
