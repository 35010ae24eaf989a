"""Padding is exact: logits do not notice it, nothing leaks out of it, and no gradient flows into it.

Every registered model runs through every test (see ``conftest.model_variants``).
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from seqbench.batch import Batch, pad
from seqbench.models.base import ModelConfig
from seqbench.network import Network

LENGTHS = [5, 9, 1, 3]
EXACT = 1e-6
READOUTS = ["last", "mean", "max", "many-to-many"]


@pytest.fixture(params=READOUTS)
def readout(request: pytest.FixtureRequest) -> str:
    return request.param


def network_and_batch(make_network, make_batch, model: ModelConfig, readout: str) -> tuple[Network, Batch]:
    many = readout == "many-to-many"
    return make_network(model, "last" if many else readout).eval(), make_batch(LENGTHS, many=many)


def logits(network: Network, batch: Batch) -> Tensor:
    """Logits with one row per answer; the answers of a sequence stand together."""
    with torch.no_grad():
        return network(batch.tensors())[0]


def difference(one: Tensor, other: Tensor) -> float:
    assert one.shape == other.shape
    assert one.isfinite().all()
    return float((one - other).abs().max())


def rows(batch: Batch, index: list[int], extra: int = 0) -> Batch:
    """Some rows of a batch, padded anew."""
    ids = [batch.ids_BT[i, : batch.lengths_B[i]] for i in index]
    if batch.targets.ndim == 1:
        return pad(ids, batch.targets[index], extra=extra)
    return pad(ids, [batch.targets[i, : batch.lengths_B[i]] for i in index], extra=extra)


def test_more_padding_changes_nothing(make_network, make_batch, model, readout):
    network, batch = network_and_batch(make_network, make_batch, model, readout)
    wider = rows(batch, [0, 1, 2, 3], extra=7)
    assert wider.ids_BT.shape[1] == batch.ids_BT.shape[1] + 7
    assert difference(logits(network, batch), logits(network, wider)) <= EXACT


def test_longer_neighbours_and_running_alone_change_nothing(make_network, make_batch, model, readout):
    network, batch = network_and_batch(make_network, make_batch, model, readout)
    together = logits(network, batch)
    alone = torch.cat([logits(network, rows(batch, [i])) for i in range(len(LENGTHS))])
    assert difference(together, alone) <= EXACT
    shorter = [0, 2, 3]  # without the longest row
    reference = torch.cat([logits(network, rows(batch, [i])) for i in shorter])
    assert difference(logits(network, rows(batch, shorter)), reference) <= EXACT


def test_what_stands_in_the_padding_cannot_leak(make_network, make_batch, model, readout):
    network, batch = network_and_batch(make_network, make_batch, model, readout)
    clean = logits(network, batch)
    with torch.no_grad():
        network.embedding.weight[0] = 1e3
    assert difference(clean, logits(network, batch)) <= EXACT


def test_no_gradient_flows_into_padding(make_network, make_batch, model, readout):
    network, batch = network_and_batch(make_network, make_batch, model, readout)
    tensors = batch.tensors()
    x = network.embedding(tensors.ids_BT).detach().requires_grad_()
    answers, _ = network.answer(x, tensors)
    if not answers.requires_grad or model.name == "constant":
        assert model.name == "constant"  # reads nothing, so nothing can leak
        return
    (gradient,) = torch.autograd.grad(answers.square().sum(), x)
    assert torch.count_nonzero(gradient[~tensors.mask_BT]) == 0
    assert torch.count_nonzero(gradient[tensors.mask_BT]) > 0
