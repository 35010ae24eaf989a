"""What autograd keeps of a forward pass, in exact bytes: against closed forms and against its own nodes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from seqbench.layers.attention import Attention
from seqbench.layers.base import Encoder
from seqbench.layers.recurrent import ElmanLayer, LSTMLayer
from seqbench.memory import saved_bytes
from seqbench.speed import saved_activations

B, T, D, H, K = 3, 40, 6, 16, 2
FLOAT = 4


def inputs(width: int = D, steps: int = T) -> torch.Tensor:
    return torch.randn(B, steps, width, requires_grad=True)


def kept(layer: Encoder, x_BTD: torch.Tensor) -> int:
    return saved_bytes(lambda: layer(x_BTD)[0], [*layer.parameters(), x_BTD])


def test_a_linear_layer_keeps_its_input():
    layer, x = nn.Linear(D, H), inputs()
    assert saved_bytes(lambda: layer(x), layer.parameters()) == FLOAT * B * T * D


def test_parameters_and_inputs_do_not_count():
    layer, x = nn.Linear(D, H), inputs()
    assert saved_bytes(lambda: layer(x), [*layer.parameters(), x]) == 0
    assert saved_bytes(lambda: layer(2 * x), [*layer.parameters(), x]) == FLOAT * B * T * D


def test_a_storage_counts_once_and_whole_however_many_views_are_kept():
    x, weight = inputs(), torch.randn(D, requires_grad=True)
    assert saved_bytes(lambda: (x * weight, x[0] * weight, x[1, 2] * weight), [weight]) == x.nbytes
    assert saved_bytes(lambda: x[0, 0] * weight, [weight]) == x.nbytes


def test_what_is_released_on_the_way_does_not_count():
    x = inputs()

    def forget() -> torch.Tensor:
        (2 * x).exp().sum()  # its graph is gone at once
        return x.exp()

    assert saved_bytes(forget, [x]) == x.nbytes
    assert saved_bytes(lambda: x.detach().exp(), [x]) == 0


def test_the_gradient_is_the_same_while_it_is_counted():
    layer, x = nn.Linear(D, H), inputs()
    saved_bytes(lambda: layer(x).exp().sum().backward())
    found = layer.weight.grad
    layer.zero_grad()
    layer(x).exp().sum().backward()
    assert torch.equal(found, layer.weight.grad)


def test_an_elman_scan_keeps_its_input_by_step_and_every_state():
    layer = ElmanLayer(D, H, "tanh", "default")
    time_major, states, first = B * T * D, B * T * H, B * H
    assert kept(layer, inputs()) == FLOAT * (time_major + states + first)


def test_attention_keeps_no_score():
    layer = Attention(H, heads=K, causal=True, positions="none")
    queries_keys_values, output, sums = 3 * B * T * H, B * T * H, B * K * T
    assert kept(layer, inputs(H)) == FLOAT * (queries_keys_values + output + sums)


def test_attention_whose_kernel_is_plain_keeps_the_square():
    layer = Attention(H, heads=K, causal=True, positions="none")
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        more = kept(layer, inputs(H, 2 * T)) - 2 * kept(layer, inputs(H))
    assert more >= 2 * FLOAT * B * K * T**2


def nodes(result: torch.Tensor) -> set[torch.autograd.graph.Node]:
    found, waiting = set(), [result.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in found:
            found.add(node)
            waiting += [after for after, _ in node.next_functions]
    return found


def held(result: torch.Tensor, apart: list[torch.Tensor]) -> int:
    """Bytes of the storages that the nodes of a graph name as saved."""
    storages: dict[int, int] = {}
    for node in nodes(result):
        for name in dir(node):
            value = getattr(node, name) if name.startswith("_saved_") else None
            for tensor in value if isinstance(value, list | tuple) else [value]:
                if isinstance(tensor, torch.Tensor):
                    storage = tensor.untyped_storage()
                    storages[storage.data_ptr()] = storage.nbytes()
    return sum(size for place, size in storages.items() if place not in {one.data_ptr() for one in apart})


def test_an_lstm_keeps_what_its_nodes_hold():
    layer, x = LSTMLayer(D, H, None, None), inputs()
    found = kept(layer, x)
    assert found == held(layer(x)[0], [*layer.parameters(), x])
    gates, cell, output = 4, 1, 1
    assert found >= FLOAT * B * T * H * (gates + cell + output)


@pytest.mark.parametrize("name", ["rnn", "lstm", "gru", "bilstm", "transformer"])
def test_a_longer_sequence_keeps_more_in_proportion(make_network, make_batch, name):
    from seqbench.registry import lookup

    network = make_network(lookup("model", name)())
    one, two, four = (saved_activations(network, make_batch([n, n]).tensors()) for n in (64, 128, 256))
    assert four - two == pytest.approx(2 * (two - one), rel=0.02)
    assert two - one >= 64 * 2 * FLOAT * network.encoder.width_out


def test_the_same_network_keeps_the_same_in_every_try(make_network, make_batch):
    from seqbench.registry import lookup

    network, batch = make_network(lookup("model", "transformer")()), make_batch([9, 5]).tensors()
    assert saved_activations(network, batch) == saved_activations(network, batch)
