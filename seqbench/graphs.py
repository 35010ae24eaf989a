"""CUDA graphs: the forward and backward pass of every shape of a batch, captured once and replayed.

A replay is one launch instead of hundreds, which is what limits small networks on a GPU.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from seqbench.batch import TensorBatch
from seqbench.errors import UsageError

MOST = 16  # shapes that are captured; each keeps its gradients, and all share one pool of memory
_WARM_UP = 3  # eager passes before a capture, so that libraries have made their plans

Shape = tuple[tuple[torch.dtype, tuple[int, ...]], ...]


class Graphs:
    """Replays a computation that leaves gradients in parameters; beyond :data:`MOST` shapes it runs eagerly.

    A capture changes neither weights nor torch's random numbers, but buffers that a forward pass writes to.

    Args:
        compute: forward and backward pass of a batch, from no gradients on; returns the detached loss.
        most: shapes that are captured.

    Attributes:
        eager: how often it ran without a graph.
    """

    def __init__(
        self, compute: Callable[[TensorBatch], Tensor], parameters: Sequence[Tensor], most: int = MOST
    ) -> None:
        self.compute, self.parameters, self.most = compute, parameters, most
        self.eager = 0
        self._graphs: dict[Shape, _Graph] = {}
        self._pool: Any = None

    @property
    def shapes(self) -> int:
        """How many shapes are captured."""
        return len(self._graphs)

    def __call__(self, batch: TensorBatch) -> Tensor:
        """Run a batch: its gradients are the parameters', its loss is returned."""
        key = shape_of(batch)
        if key not in self._graphs:
            if len(self._graphs) >= self.most:
                self.eager += 1
                return self.compute(batch)
            if self._pool is None:
                self._pool = torch.cuda.graph_pool_handle()
            self._graphs[key] = self._captured(batch)
        return self._graphs[key].replay(batch)

    def _captured(self, batch: TensorBatch) -> _Graph:
        try:
            return _Graph(self.compute, self.parameters, batch, self._pool)
        except RuntimeError as error:
            if isinstance(error, torch.cuda.OutOfMemoryError):
                raise
            told = str(error).strip().splitlines() or [type(error).__name__]
            raise UsageError(
                f"train.cuda_graph=true: a training step of this model cannot be captured ({told[0][:200]}): "
                "leave it out"
            ) from error


class _Graph:
    """One shape: its own input tensors, its gradients, and the recorded launches."""

    def __init__(
        self,
        compute: Callable[[TensorBatch], Tensor],
        parameters: Sequence[Tensor],
        batch: TensorBatch,
        pool: Any,
    ) -> None:
        self.parameters = parameters
        self.batch = TensorBatch(**{name: part.clone() for name, part in _parts(batch).items()})
        self._warm_up(compute, batch.ids_BT.device)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, pool=pool):
            self.loss = compute(self.batch)
        self.gradients = [parameter.grad for parameter in parameters]

    def _warm_up(self, compute: Callable[[TensorBatch], Tensor], device: torch.device) -> None:
        """Run a few times on a stream of its own; random numbers go on as if it had not."""
        random = torch.cuda.get_rng_state(device)
        side, main = torch.cuda.Stream(device), torch.cuda.current_stream(device)
        side.wait_stream(main)
        with torch.cuda.stream(side):
            for _ in range(_WARM_UP):
                compute(self.batch)
                self._forget_gradients()
        main.wait_stream(side)
        torch.cuda.set_rng_state(random, device)

    def _forget_gradients(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None

    def replay(self, batch: TensorBatch) -> Tensor:
        """Run another batch of the same shape."""
        new = _parts(batch)
        for name, part in _parts(self.batch).items():
            part.copy_(new[name], non_blocking=True)
        self.graph.replay()
        for parameter, gradient in zip(self.parameters, self.gradients, strict=True):
            parameter.grad = gradient
        return self.loss.clone()  # the next replay writes over it


def _parts(batch: TensorBatch) -> dict[str, Tensor]:
    """The tensors of a batch by name."""
    named = ((field.name, getattr(batch, field.name)) for field in dataclasses.fields(batch))
    return {name: value for name, value in named if value is not None}


def shape_of(batch: TensorBatch) -> Shape:
    """What two batches must have in common to share a graph."""
    return tuple((part.dtype, tuple(part.shape)) for part in _parts(batch).values())
