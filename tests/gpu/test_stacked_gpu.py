"""Networks trained as one on a GPU: equal to each alone, without waiting, also as CUDA graphs."""

from __future__ import annotations

import pytest
import torch

from gpu.test_gpu import CUDA, NAMES, SMALL, exact, no_waiting, pytestmark
from gpu.work import batches, network, settings
from seqbench.config import TrainConfig
from seqbench.stacked import Stack, stack_batches
from seqbench.stepper import Stepper

__all__ = ["exact", "pytestmark"]  # a fixture for all tests here, and their marks
SEEDS = 3


def steppers(name: str, **train) -> list[Stepper]:
    config = TrainConfig(lr=1e-3, **train)
    return [Stepper(network(settings(name), SMALL, CUDA, seed), config, 50) for seed in range(SEEDS)]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("many", [False, True])
def test_a_step_as_one_is_the_step_of_each(name, many):
    apart, members = steppers(name), steppers(name)
    given = [batches(SMALL, 1, many=many, seed=seed)[0] for seed in range(SEEDS)]
    stack = Stack(members)
    for _ in range(3):
        for stepper, batch in zip(apart, given, strict=True):
            stepper.step(batch.tensors(CUDA))
        stack.step(stack_batches(given, CUDA))
    stack.hand_out()
    stack.part()
    for one, other in zip(members, apart, strict=True):
        ours, theirs = one.drain()[0], other.drain()[0]
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-3)
        assert ours["gradient_norm"] == pytest.approx(theirs["gradient_norm"], rel=1e-2)


@pytest.mark.parametrize("name", NAMES)
def test_a_step_as_one_never_waits_for_the_device(name):
    stack = Stack(steppers(name))
    batch = stack_batches([batches(SMALL, 1, seed=seed)[0] for seed in range(SEEDS)], CUDA)
    stack.step(batch)
    with no_waiting():
        for _ in range(3):
            stack.step(batch)


@pytest.mark.parametrize("name", ["lstm", "transformer", "mamba2"])
def test_steps_as_one_replay_as_graphs(name):
    eager, graphed = Stack(steppers(name)), Stack(steppers(name, cuda_graph=True))
    batch = stack_batches([batches(SMALL, 1, seed=seed)[0] for seed in range(SEEDS)], CUDA)
    for _ in range(5):
        eager.step(batch)
        graphed.step(batch)
    assert graphed.counts()["graph_shapes"] == 1
    for one, other in zip(eager._pending, graphed._pending, strict=True):
        torch.testing.assert_close(one[1], other[1], rtol=1e-3, atol=1e-4)
