"""The gradient probe against closed forms and against torch's own derivative."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from seqbench.batch import UNSCORED, pad
from seqbench.config import NetworkConfig
from seqbench.network import Network
from seqbench.probes.base import NotApplicable, input_gradients, last_answer
from seqbench.probes.gradient_flow import GradientFlow
from seqbench.registry import lookup, plugins

STEPS, WIDTH = 12, 6


def network_of(model: str, readout: str = "last", **options) -> Network:
    torch.manual_seed(0)
    config = NetworkConfig(embedding_width=WIDTH, readout=readout)
    return Network(lookup("model", model)(**options), config, 5, 3, WIDTH).double()


def same_token(length: int = STEPS):
    """One token repeated, so that every step differs from the next by its distance alone."""
    return pad([[2] * length], [1])


def profile(network: Network, batch=None) -> np.ndarray:
    """|dL/dx_t| of a single sequence by distance from the loss."""
    norms, anchors = input_gradients(network, batch or same_token())
    return norms[0, : anchors[0] + 1][::-1]


# Closed forms


@pytest.mark.parametrize("gain", [0.5, 0.9, 1.0, 1.1])
def test_a_linear_rnn_decays_by_exactly_its_gain_per_step(gain):
    network = network_of("rnn", nonlinearity="relu")
    layer = network.encoder
    with torch.no_grad():  # positive weights and biases keep relu linear; a permutation is orthogonal
        layer.recurrent.copy_(gain * torch.eye(WIDTH, dtype=torch.float64).roll(1, 0))
        layer.project.weight.copy_(torch.eye(WIDTH))
        layer.project.bias.fill_(10.0)
    np.testing.assert_allclose(profile(network) / profile(network)[0], gain ** np.arange(STEPS), rtol=1e-9)


def test_a_tanh_rnn_near_zero_decays_like_its_linear_part():
    network = network_of("rnn", init="orthogonal")
    layer = network.encoder
    with torch.no_grad():
        layer.recurrent.mul_(0.7)
        layer.project.weight.copy_(1e-6 * torch.eye(WIDTH))
        layer.project.bias.zero_()
    np.testing.assert_allclose(profile(network) / profile(network)[0], 0.7 ** np.arange(STEPS), rtol=1e-6)


def test_an_lstm_with_a_pinned_forget_gate_decays_by_that_gate():
    network = network_of("lstm", forget_bias=float(np.log(0.8 / 0.2)))
    lstm = network.encoder.lstm
    with torch.no_grad():  # no path but the cell: nothing recurrent, gates set by their biases alone
        lstm.weight_hh_l0.zero_()
        lstm.weight_ih_l0[: 2 * WIDTH].zero_()
        lstm.weight_ih_l0[3 * WIDTH :].zero_()
    np.testing.assert_allclose(profile(network) / profile(network)[0], 0.8 ** np.arange(STEPS), rtol=1e-6)


def test_a_gru_with_a_pinned_update_gate_decays_by_that_gate():
    network = network_of("gru", update_bias=float(np.log(0.9 / 0.1)))
    with torch.no_grad():
        network.encoder.recurrent.zero_()
        network.encoder.project.weight[: 2 * WIDTH].zero_()
    np.testing.assert_allclose(profile(network) / profile(network)[0], 0.9 ** np.arange(STEPS), rtol=1e-6)


def test_an_identity_rnn_keeps_the_gradient_at_one():
    network = network_of("rnn", nonlinearity="relu", init="identity")
    with torch.no_grad():
        network.encoder.project.bias.fill_(5.0)
    np.testing.assert_allclose(profile(network), profile(network)[0], rtol=1e-12)


def test_attention_without_positions_reaches_every_step_equally():
    options = {"causal": False, "positions": "none", "layers": 1, "hidden": 8, "heads": 2}
    everywhere = profile(network_of("transformer", "mean", **options))
    assert everywhere[0] > 0
    np.testing.assert_allclose(everywhere, everywhere[0], rtol=1e-9)
    before = profile(network_of("transformer", "last", **options))[1:]  # step 0 has the residual path too
    assert before[0] > 0
    np.testing.assert_allclose(before, before[0], rtol=1e-9)


def test_a_vanished_gradient_is_measured_far_below_float32():
    network = network_of("rnn", init="orthogonal")
    with torch.no_grad():
        network.encoder.recurrent.mul_(0.1)
    far = profile(network, same_token(100))[-1]
    assert 0 < far < 1e-80


# Against torch


@pytest.mark.parametrize("many", [False, True], ids=["many-to-one", "many-to-many"])
def test_the_probe_equals_autograd_on_each_sequence_alone(make_network, make_batch, model, many):
    network, batch = make_network(model), make_batch([5, 9, 1, 3], many=many)
    if model.name == "constant":
        return  # has a test of its own below
    norms, anchors = input_gradients(network, batch)
    reference = make_network(model).double().eval()
    kept: list[torch.Tensor] = []
    reference.embedding.register_forward_hook(lambda _module, _ids, x: (x.retain_grad(), kept.append(x))[0])
    for row, length in enumerate(batch.lengths_B):
        ids = batch.ids_BT[row, :length]
        answers = batch.targets[row, :length] if many else None
        end = int(np.flatnonzero(answers != UNSCORED)[-1]) if many else length - 1
        label = torch.tensor([answers[end] if many else batch.targets[row]])
        alone = pad([ids], [answers] if many else [0]).tensors()
        logits, _ = reference(alone)
        F.cross_entropy(logits[-1:], label).backward()
        expected = kept[-1].grad[0].norm(dim=1).numpy()
        np.testing.assert_allclose(norms[row, :length], expected, rtol=1e-6, atol=1e-18)
        assert not norms[row, length:].any()
        assert anchors[row] == end


def test_the_probe_changes_neither_weights_nor_mode_nor_gradients(make_network, make_batch):
    network = make_network(lookup("model", "gru")(), dropout=0.5).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    rng = torch.random.get_rng_state()
    table = GradientFlow().measure(network, make_batch([5, 9]))
    assert network.training
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert torch.equal(torch.random.get_rng_state(), rng)
    assert next(network.parameters()).dtype == torch.float32
    assert table == GradientFlow().measure(network, make_batch([5, 9]))


# The table


def test_the_table_summarises_sequences_by_distance(make_network, make_batch):
    network, batch = make_network(lookup("model", "rnn")()), make_batch([2, 4, 4])
    norms, _ = input_gradients(network, batch)
    table = GradientFlow().measure(network, batch)
    assert table["distance"] == [0, 1, 2, 3]
    assert table["sequences"] == [3, 3, 2, 2]
    at_one = [norms[0, 0], norms[1, 2], norms[2, 2]]
    assert table["median"][1] == pytest.approx(np.median(at_one), rel=1e-12)
    assert table["low"][1] == pytest.approx(np.quantile(at_one, 0.1), rel=1e-12)
    assert table["high"][1] == pytest.approx(np.quantile(at_one, 0.9), rel=1e-12)


def test_only_the_last_answer_of_each_sequence_counts():
    batch = pad([[1, 2, 3], [4, 5]], [[0, 1, UNSCORED], [2, 0]])
    last, anchors = last_answer(batch)
    assert last.targets.tolist() == [[-1, 1, -1], [-1, 0, -1]]
    assert anchors.tolist() == [1, 1]


def test_a_model_that_reads_nothing_has_no_gradient_flow(make_network, make_batch):
    network = make_network(lookup("model", "constant")())
    with pytest.raises(NotApplicable, match="does not depend on the input"):
        GradientFlow().measure(network, make_batch([3, 4]))


def test_probes_are_named_after_their_files():
    for name, cls in plugins("probe").items():
        assert cls.__module__ == f"seqbench.probes.{name}"
        assert cls.name == name
