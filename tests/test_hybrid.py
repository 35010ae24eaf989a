"""Hybrids: other models' layers in one stack of blocks, with what each asks of the width."""

from __future__ import annotations

import math

import pytest
import torch

from seqbench.cost import state_values
from seqbench.errors import UsageError
from seqbench.network import build_encoder
from seqbench.registry import lookup, plugins
from seqbench.schema import check

Hybrid = lookup("model", "hybrid")
D, H = 5, 12


def parts(**options) -> list[str]:
    return [type(mixer).__name__ for mixer in build_encoder(Hybrid(**options), D, H).mixers]


def test_each_block_has_the_mixer_of_its_place_in_the_list():
    assert parts() == ["GRULayer", "Attention"]
    assert parts(layers=2) == ["GRULayer", "Attention"] * 2
    mixed = ["slstm", "jordan", "tcn", "rnn", "lstm"]
    assert parts(mixers=mixed) == ["SLSTMLayer", "JordanLayer", "TCNLayer", "ElmanLayer", "LSTMLayer"]


def test_dilations_double_from_one_tcn_block_to_the_next_whatever_stands_between():
    mixers = build_encoder(Hybrid(mixers=["gru", "tcn", "tcn"], layers=2), D, H).mixers
    fields = [mixer.receptive_field for mixer in mixers if mixer.receptive_field]
    assert fields == [1 + 4 * dilation for dilation in (1, 2, 4, 8)]


def test_a_hybrid_of_one_model_is_that_model():
    settings = {"layers": 3, "norm": "post", "positions": "sinusoidal"}
    for name, options in (
        ("transformer", {"positions": "rotary", "layers": 3, "norm": "post"}),
        ("slstm", settings),
    ):
        mine = Hybrid(mixers=[name], **(settings | ({"positions": "none"} if name == "transformer" else {})))
        torch.manual_seed(0)
        one = build_encoder(mine, D, H)
        torch.manual_seed(0)
        other = build_encoder(lookup("model", name)(**options), D, H)
        x = torch.randn(2, 7, D)
        assert torch.equal(one(x)[0], other(x)[0])


def test_every_model_that_reads_left_to_right_can_be_a_part():
    for name, cls in plugins("model").items():
        if not cls.canary and name not in ("bilstm", "hybrid"):
            model = Hybrid(mixers=[name, "gru"])
            check(model)
            width = math.lcm(model.width_multiple, 2) * 2
            assert build_encoder(model, D, width)(torch.randn(2, 6, D))[0].shape == (2, 6, width)


def test_the_width_suits_every_part():
    assert Hybrid().width_multiple == 4
    assert Hybrid(mixers=["gru", "tcn"]).width_multiple == 1
    assert Hybrid(mixers=["slstm", "gru"]).width_multiple == 2
    with pytest.raises(
        UsageError, match=r"model.hidden=10: must be a multiple of 4, as .*\[gru,transformer\]"
    ):
        check(Hybrid(hidden=10))


@pytest.mark.parametrize(
    ("mixers", "message"),
    [
        (["grux"], "model.mixers: no mixer 'grux'; did you mean 'gru'"),
        (["gru", "bilstm"], "model.mixers: no mixer 'bilstm'; did you mean 'lstm'"),
        (["hybrid"], "model.mixers: no mixer 'hybrid'"),
        (["bag"], "model.mixers: no mixer 'bag'"),
        ([], r"model.mixers=\[\]: expected a list"),
    ],
)
def test_what_is_no_mixer_is_refused_in_one_line(mixers, message):
    with pytest.raises(UsageError, match=message) as caught:
        check(Hybrid(mixers=mixers))
    assert "\n" not in str(caught.value)


def test_a_hybrid_is_called_by_its_parts():
    assert Hybrid().variant() == "hybrid gru+transformer"
    assert Hybrid(mixers=["tcn"], layers=2).variant() == "hybrid tcn layers=2"


def test_a_hybrid_keeps_a_state_when_all_of_its_parts_do():
    x = torch.randn(2, 4, D)
    assert build_encoder(Hybrid(), D, H)(x)[1] is None
    states = build_encoder(Hybrid(mixers=["tcn", "slstm", "lstm"]), D, H)(x)[1]
    assert [len(state) for state in states] == [2, 4, 2]


def test_a_slip_on_the_command_line_names_the_nearest_mixer(seqbench):
    done = seqbench("model=hybrid", "model.mixers=[gru,transformers]", "task=mqar")
    assert done.returncode == 2
    assert "no mixer 'transformers'; did you mean 'transformer'?" in done.stderr + done.stdout


def test_a_convolution_stands_between_norm_and_mixer(float64):
    block = build_encoder(Hybrid(mixers=["gru"], convolution=3), D, H).blocks[0]
    x = torch.randn(2, 7, H)
    behind = build_encoder(Hybrid(mixers=["gru"]), D, H).blocks[0]
    behind.load_state_dict({k: v for k, v in block.state_dict().items() if not k.startswith("convolution")})
    seen = torch.nn.functional.pad(block.norms[0](x), (0, 0, 2, 0))
    short = block.convolution.short
    convolved = short.bias + sum(seen[:, i : i + 7] * short.weight[:, i] for i in range(3))
    y = x + behind.mixer(convolved)[0]
    expected = y + block.feedforward(block.norms[1](y))
    assert torch.allclose(block(x, None, None)[0], expected, atol=1e-12)


def test_a_part_with_a_convolution_inside_gets_no_second_one():
    model = Hybrid(mixers=["mamba2", "gru", "rglru"], convolution=3)
    assert [block.convolution is None for block in build_encoder(model, D, H).blocks] == [True, False, True]
    nowhere = lookup("model", "deltanet")(convolution=0)
    assert not [m for m in build_encoder(nowhere, D, H).modules() if type(m).__name__ == "ShortConvolution"]


@pytest.mark.parametrize("name", ["mlstm", "tcn", "lru"])
def test_what_a_convolution_keeps_counts_as_state(name, make_network, make_batch):
    def kept(convolution: int) -> int:
        network = make_network(lookup("model", name)(convolution=convolution, layers=2))
        return state_values(network, make_batch([7]).tensors())

    assert kept(4) - kept(0) == 2 * 3 * make_network(lookup("model", name)()).encoder.width_out
