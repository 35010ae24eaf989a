"""One optimiser step with its default log: what every training run and every speed measurement repeats."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from seqbench.batch import TensorBatch
from seqbench.config import TrainConfig
from seqbench.graphs import Graphs
from seqbench.network import Network, answer_loss
from seqbench.precision import check_device, computing_in, widened

Columns = dict[str, list[Any]]
_EXPLODED_LOSS = 1e4
_SMALLEST_WEIGHTS = 1e-12
_MOST_SKIPPED = 30  # steps in a row after which no scale of the loss will do


class Diverged(Exception):
    """The loss or the gradient stopped being a finite, sensible number.

    Attributes:
        outcome: the :class:`seqbench.train.Outcome` logged until then, once training has handed it over.
    """

    outcome: Any = None


class Stepper:
    """One optimiser step with default logging: forward, backward, norms, clip, update.

    Nothing here waits for the device; :meth:`drain` does, once per logging interval.

    Attributes:
        scaler: scales the loss so that float16 holds its gradients; it skips a step where it does not.
        skipped: steps that it skipped, as far as they are drained.
        graphs: replays forward and backward pass as CUDA graphs.

    Raises:
        UsageError: the network's device does not have the precision or the graphs that are asked for.
    """

    def __init__(self, network: Network, config: TrainConfig, steps: int) -> None:
        self.network, self.config, self.total = network, config, steps
        named = [(n, p) for n, p in network.named_parameters() if p.requires_grad]
        self.names = [name for name, _ in named]
        self.parameters = [parameter for _, parameter in named]
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=config.lr, weight_decay=config.weight_decay, fused=True
        )
        self.device = self.parameters[0].device
        check_device(config.precision, config.cuda_graph, self.device)
        self.scaler = torch.amp.GradScaler(self.device.type) if config.precision == "float16" else None
        self.graphs = Graphs(self.gradients, self.parameters) if config.cuda_graph else None
        self.peeks = self.device.type == "cpu"  # a GPU would have to wait for the answer
        self.done = self.skipped = self._skipped_in_a_row = 0
        self._pending: list[tuple[float, Tensor, Tensor, Tensor]] = []
        self._updates: list[tuple[int, Tensor]] = []

    def step(self, batch: TensorBatch) -> None:
        """Train on one batch."""
        lr = self.config.lr * rate(self.done, self.total, self.config)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        loss = self.gradients(batch) if self.graphs is None else self.graphs(batch)
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        norms_P, total = self._clip()
        self.done += 1
        before = self._weights() if self.done % self.config.log_every == 0 else None
        self._update()
        self.optimizer.zero_grad(set_to_none=True)
        if before is not None:
            self._updates.append((self.done, self._ratio(before)))
        self._pending.append((lr, loss, total, norms_P))

    def gradients(self, batch: TensorBatch) -> Tensor:
        """Leave the gradients of a batch's loss, scaled where there is a scaler; returns the loss."""
        with computing_in(self.config.precision, self.device):
            outputs_NC, targets_N = self.network(batch)
        loss = answer_loss(widened(outputs_NC), targets_N)
        (loss if self.scaler is None else self.scaler.scale(loss)).backward()
        return loss.detach()

    def _update(self) -> None:
        if self.scaler is None:
            self.optimizer.step()
        else:
            self.scaler.step(self.optimizer)
            self.scaler.update()

    def _weights(self) -> list[Tensor]:
        return [parameter.detach().clone() for parameter in self.parameters]

    def _ratio(self, before: list[Tensor]) -> Tensor:
        """Norm of what the step changed in each parameter, relative to the parameter's own."""
        change = [now.detach() - then for now, then in zip(self.parameters, before, strict=True)]
        norms = torch.stack(torch._foreach_norm(before))
        return torch.stack(torch._foreach_norm(change)) / norms.clamp_min(_SMALLEST_WEIGHTS)

    def _clip(self) -> tuple[Tensor, Tensor]:
        """Norm of each parameter's gradient and of all together, before clipping; then clip."""
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
        norms_P = torch.stack(torch._foreach_norm(grads))
        total = torch.linalg.vector_norm(norms_P)
        size = total + 1e-6
        small = self.peeks and bool(size <= self.config.clip)
        if self.config.clip > 0 and not small:
            torch._foreach_mul_(grads, (self.config.clip / size).clamp(max=1.0))
        return norms_P, total

    def drain(self) -> tuple[Columns, Columns, Columns]:
        """Fetch what was logged since the last call: of each step, each gradient's norm, and each update's.

        The norms of a step that the scaler skipped are NaN.

        Raises:
            Diverged: a logged loss or gradient norm is not finite, or the loss exploded.
        """
        rates, losses, totals, norms = zip(*self._pending, strict=True)
        self._pending = []
        table = torch.cat([torch.stack(losses)[:, None], torch.stack(totals)[:, None], torch.stack(norms)], 1)
        rows, updates = self._fetched(table)
        numbers = list(range(self.done - len(rows) + 1, self.done + 1))
        for number, row in zip(numbers, rows, strict=True):
            self._judge(number, row)
        steps: Columns = {
            "step": numbers,
            "loss": [row[0] for row in rows],
            "gradient_norm": [row[1] for row in rows],
            "learning_rate": list(rates),
        }
        columns = {name: [row[2 + i] for row in rows] for i, name in enumerate(self.names)}
        return steps, {"step": numbers, **columns}, updates

    def counts(self) -> dict[str, int]:
        """What a record says beside the tables: skipped steps, shapes with a graph, steps without one."""
        shapes, eager = (0, 0) if self.graphs is None else (self.graphs.shapes, self.graphs.eager)
        return {"skipped_steps": self.skipped, "graph_shapes": shapes, "eager_steps": eager}

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds beside weights and optimiser."""
        scaler = None if self.scaler is None else self.scaler.state_dict()
        return {"done": self.done, "scaler": scaler, "in_a_row": self._skipped_in_a_row, **self.counts()}

    def restore(self, state: dict[str, Any]) -> None:
        """Take up the state of :meth:`state`."""
        self.done, self.skipped = state["done"], state["skipped_steps"]
        self._skipped_in_a_row = state["in_a_row"]
        if self.scaler is not None:
            self.scaler.load_state_dict(state["scaler"])
        if self.graphs is not None:
            self.graphs.eager = state["eager_steps"]

    def _fetched(self, table: Tensor) -> tuple[list[list[float]], Columns]:
        """The rows of a table and the relative sizes of the updates; waits for the device, once."""
        width = len(self.names) + 2
        flat = torch.cat([table.flatten(), *(ratios for _, ratios in self._updates)]).tolist()
        split = table.numel()
        rows = [flat[i : i + width] for i in range(0, split, width)]
        numbers = [number for number, _ in self._updates]
        self._updates = []
        if not numbers:
            return rows, {}
        columns = {name: flat[split + i :: len(self.names)] for i, name in enumerate(self.names)}
        return rows, {"step": numbers, **columns}

    def _judge(self, number: int, row: list[float]) -> None:
        """Look at a step's loss and norms; what the scaler skipped is counted, and its norms are made NaN."""
        loss, norm = row[:2]
        skipped = self.scaler is not None and math.isfinite(loss) and not math.isfinite(norm)
        if skipped:
            self.skipped += 1
            row[1:] = [math.nan] * (len(row) - 1)
        self._skipped_in_a_row = self._skipped_in_a_row + 1 if skipped else 0
        sound = math.isfinite(loss) and math.isfinite(norm) and loss <= _EXPLODED_LOSS
        if not (sound or (skipped and self._skipped_in_a_row < _MOST_SKIPPED)):
            raise Diverged(f"step {number}: loss {loss:.4g}, gradient norm {norm:.4g}")


def rate(step: int, total: int, config: TrainConfig) -> float:
    """Learning rate at ``step`` (from 0) relative to its peak: linear warm-up, then the schedule.

    >>> config = TrainConfig(warmup=0.1)
    >>> [round(rate(s, 100, config), 3) for s in (0, 9, 10, 55, 99)]
    [0.1, 1.0, 1.0, 0.5, 0.0]
    """
    warm = round(config.warmup * total)
    if step < warm:
        return (step + 1) / warm
    if config.schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm)))


def extend(columns: Columns, more: Columns) -> None:
    """Append rows to a table of columns."""
    for name, values in more.items():
        columns.setdefault(name, []).extend(values)
