"""Jacobians through time: how much a small change of an early state, or input, still changes the last one."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor

from seqbench.batch import Batch
from seqbench.network import Network
from seqbench.probes.base import NotApplicable
from seqbench.registry import register
from seqbench.replay import Direction, directions, keeps_state, output_jacobians, state_jacobians, tensors

_MOST_UNITS = 512
_FARTHEST = 64  # so that a measurement costs less than ten training steps
Row = dict[str, Any]


@register("probe")
class Jacobian:
    """Singular values of ds_T/ds_{T-d} (whole state), for the longest probe sequence and d up to 64.

    For an encoder without a state, or with one too large for a whole Jacobian (matrix memories): of
    dy_T/dx_{T-d}, from input to output.

    In float64. A largest value far below 1 means that nothing of the early state is left, far above 1 that
    differences explode; ``lyapunov`` is its logarithm per step, which tends to the largest Lyapunov exponent
    (Pascanu et al. 2013, 1211.5063, section 2; Engelken et al. 2023, 2006.02427).
    """

    name: ClassVar[str] = "jacobian"

    def measure(self, network: Network, batch: Batch) -> dict[str, list[Any]]:
        double = copy.deepcopy(network).cpu().double().eval()
        longest = int(batch.lengths_B.argmax())
        one = batch.rows(longest, longest + 1)
        with torch.no_grad():
            x_1TD = double.embed(one.tensors()).double()[:, : int(one.lengths_B[0])]
        distances = spaced(min(x_1TD.shape[1] - 1, _FARTHEST))
        if not distances:
            raise NotApplicable("the longest probe sequence has one step")
        mask_1T = torch.ones(x_1TD.shape[:2], dtype=torch.bool)
        rows = [
            row
            for way in directions(double.encoder, x_1TD, mask_1T)
            for row in (_of_states if _has_small_state(way) else _of_outputs)(way, distances)
        ]
        if not rows:
            raise NotApplicable("the output does not depend on the input")
        return {name: [row[name] for row in rows] for name in rows[0]}


def spaced(largest: int) -> list[int]:
    """Distances spaced evenly on a logarithmic axis, the same for every sequence that is long enough.

    >>> spaced(11)
    [1, 2, 3, 4, 6, 8]
    """
    return sorted({step for n in range(largest.bit_length()) for step in (1 << n, 3 << n) if step <= largest})


def _has_small_state(way: Direction) -> bool:
    """Whether there is a state of which every unit can be differentiated."""
    if not keeps_state(way.encoder, way.x_BTD):
        return False
    with torch.no_grad():
        state = way.encoder(way.x_BTD[:1, :1])[1]
    return sum(leaf.numel() for leaf in tensors(state)) <= _MOST_UNITS


def _of_outputs(way: Direction, distances: list[int]) -> Iterator[Row]:
    def run(x_BTD: Tensor) -> Tensor:
        y_BTH: Tensor = way.encoder(x_BTD)[0]
        return y_BTH[:, -1]

    for distance, jacobian in output_jacobians(run, way.x_BTD[0], way.encoder.width_out, distances):
        yield _row("input to output", way, distance, jacobian)


def _of_states(way: Direction, distances: list[int]) -> Iterator[Row]:
    for distance, jacobian in state_jacobians(way.encoder, way.x_BTD[0], distances):
        yield _row("state to state", way, distance, jacobian)


def _row(of: str, way: Direction, distance: int, jacobian: Tensor) -> Row:
    values = torch.linalg.svdvals(jacobian)
    largest = float(values[0])
    return {
        "of": of,
        "direction": way.name or "past",
        "distance": distance,
        "largest": largest,
        "median": float(values.median()),
        "smallest": float(values[-1]),
        "lyapunov": math.log(largest) / distance if largest > 0 else math.nan,
    }
