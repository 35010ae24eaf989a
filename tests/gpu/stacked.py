"""Eight seeds trained as one network against one seed, for several models."""

from __future__ import annotations

from typing import Any

import torch

from gpu.clock import steps_s
from gpu.work import Size, batches, network, ready, settings
from seqbench.config import TrainConfig
from seqbench.errors import UsageError
from seqbench.stacked import Stack, stack_batches
from seqbench.stepper import Columns, Stepper

SEEDS = 8
MODELS = ("rnn", "lstm", "gru", "bilstm", "transformer", "mingru", "mamba2", "tcn")
SIZE = Size(batch=64, steps=128, hidden=128)
TINY = Size(batch=2, steps=8, hidden=16, vocabulary=11, embedding=6)  # for a try without a GPU
_MOST_OVER_ONE = 2.0

Row = dict[str, Any]


class _Logged(Stack):
    """A stack whose log is fetched like that of one network, for a clock that knows only those."""

    def drain(self) -> tuple[Columns, Columns, Columns]:
        """Hand out the log, have every member read its own, and give the first one's."""
        self.hand_out()
        first, *_ = [member.drain() for member in self.members]
        return first


def rows(device: torch.device, tiny: bool) -> list[Row]:
    """A row for each model; times in milliseconds per step, on the wall, with all default logging.

    one_ms: one seed by itself, on the fastest kernel there is; one_as_stack_ms: a stack of that one, on the
    kernels that stacks run on; eight_ms: eight seeds as one; graph: the same as CUDA graphs.
    """
    size = TINY if tiny else SIZE
    return [_row(name, size, device, tiny) for name in MODELS]


def _row(name: str, size: Size, device: torch.device, tiny: bool) -> Row:
    row: Row = {"model": name, "size": size.words, "seeds": SEEDS}
    for key, graph in {"": False, "graph_": True}.items():
        if graph and device.type != "cuda":
            continue
        try:
            one_ms = 1e3 * steps_s(_stepper(name, size, device, 0, graph), ready(size, device))
            row[f"one_{key}ms"] = one_ms
            row[f"one_as_stack_{key}ms"] = _stack_ms(name, size, device, 1, graph)
            row[f"eight_{key}ms"] = eight_ms = _stack_ms(name, size, device, SEEDS, graph)
            row[f"eight_over_one_{'graph' if graph else 'eager'}"] = eight_ms / one_ms
        except (RuntimeError, UsageError) as error:
            row[f"missed_{'graph' if graph else 'eager'}"] = " ".join(str(error).split())[:200]
    over = [value for key, value in row.items() if key.startswith("eight_over_one")]
    held = over and device.type == "cuda" and not tiny
    return row | {"goal_met": min(over) <= _MOST_OVER_ONE} if held else row


def _stack_ms(name: str, size: Size, device: torch.device, seeds: int, graph: bool) -> float:
    stack = _Logged([_stepper(name, size, device, seed, graph) for seed in range(seeds)])
    each = [batches(size, 4, seed=seed) for seed in range(seeds)]
    return 1e3 * steps_s(stack, [stack_batches(turn, device) for turn in zip(*each, strict=True)])


def _stepper(name: str, size: Size, device: torch.device, seed: int, graph: bool) -> Stepper:
    config = TrainConfig(batch_size=size.batch, cuda_graph=graph)
    return Stepper(network(settings(name), size, device, seed), config, steps=1_000_000)
