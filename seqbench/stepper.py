"""One optimiser step with its default log: what every training run and every speed measurement repeats."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from seqbench.batch import TensorBatch
from seqbench.config import TrainConfig
from seqbench.network import Network, answer_loss

Columns = dict[str, list[Any]]
_EXPLODED_LOSS = 1e4
_SMALLEST_WEIGHTS = 1e-12


class Diverged(Exception):
    """The loss or the gradient stopped being a finite, sensible number.

    Attributes:
        outcome: the :class:`seqbench.train.Outcome` logged until then, once training has handed it over.
    """

    outcome: Any = None


class Stepper:
    """One optimiser step with default logging: forward, backward, norms, clip, update.

    Nothing here waits for the device; :meth:`drain` does, once per logging interval.
    """

    def __init__(self, network: Network, config: TrainConfig, steps: int) -> None:
        self.network, self.config, self.total = network, config, steps
        named = [(n, p) for n, p in network.named_parameters() if p.requires_grad]
        self.names = [name for name, _ in named]
        self.parameters = [parameter for _, parameter in named]
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=config.lr, weight_decay=config.weight_decay, fused=True
        )
        self.done = 0
        self._pending: list[tuple[float, Tensor, Tensor, Tensor]] = []
        self._updates: list[tuple[int, Tensor]] = []

    def step(self, batch: TensorBatch) -> None:
        """Train on one batch."""
        lr = self.config.lr * rate(self.done, self.total, self.config)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        loss = answer_loss(*self.network(batch))
        loss.backward()
        norms_P, total = self._clip()
        self.done += 1
        before = self._weights() if self.done % self.config.log_every == 0 else None
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if before is not None:
            self._updates.append((self.done, self._ratio(before)))
        self._pending.append((lr, loss.detach(), total, norms_P))

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
        small = not total.is_cuda and bool(
            size <= self.config.clip
        )  # a GPU would have to wait for the answer
        if self.config.clip > 0 and not small:
            torch._foreach_mul_(grads, (self.config.clip / size).clamp(max=1.0))
        return norms_P, total

    def drain(self) -> tuple[Columns, Columns, Columns]:
        """Fetch what was logged since the last call: of each step, each gradient's norm, and each update's.

        Raises:
            Diverged: a logged loss or gradient norm is not finite, or the loss exploded.
        """
        rates, losses, totals, norms = zip(*self._pending, strict=True)
        self._pending = []
        table = torch.cat(
            [torch.stack(losses)[:, None], torch.stack(totals)[:, None], torch.stack(norms)], dim=1
        ).tolist()
        numbers = list(range(self.done - len(table) + 1, self.done + 1))
        steps: Columns = {
            "step": numbers,
            "loss": [row[0] for row in table],
            "gradient_norm": [row[1] for row in table],
            "learning_rate": list(rates),
        }
        for number, loss, norm in zip(numbers, steps["loss"], steps["gradient_norm"], strict=True):
            if not (math.isfinite(loss) and math.isfinite(norm)) or loss > _EXPLODED_LOSS:
                raise Diverged(f"step {number}: loss {loss:.4g}, gradient norm {norm:.4g}")
        columns = {name: [row[2 + i] for row in table] for i, name in enumerate(self.names)}
        return steps, {"step": numbers, **columns}, self._drain_updates()

    def _drain_updates(self) -> Columns:
        """Relative sizes of the updates, every ``log_every`` steps."""
        if not self._updates:
            return {}
        numbers, ratios = zip(*self._updates, strict=True)
        self._updates = []
        table = torch.stack(ratios).tolist()
        return {"step": list(numbers), **{n: [row[i] for row in table] for i, n in enumerate(self.names)}}


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
