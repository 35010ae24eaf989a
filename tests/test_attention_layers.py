"""Attention against slow sums, positions against their papers, and the ladder of the `attention` model."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from seqbench.errors import UsageError
from seqbench.layers.attention import Attention, ParameterFree
from seqbench.layers.blocks import BlockEncoder
from seqbench.layers.positions import Learned, distance_penalty, rotate
from seqbench.network import build_encoder, parameter_count
from seqbench.registry import lookup
from seqbench.schema import check

B, T, D, H = 3, 7, 5, 8
LENGTHS = torch.tensor([7, 2, 5])
EXACT = {"rtol": 0.0, "atol": 1e-12}
POSITIONS = ["none", "sinusoidal", "learned", "rotary", "alibi"]
STAGES = ["parameter_free", "query_key_value", "multi_head", "residual", "block"]
Ladder, Transformer = lookup("model", "attention"), lookup("model", "transformer")


pytestmark = pytest.mark.usefixtures("float64")


@pytest.fixture(params=[True, False], ids=["causal", "both ways"])
def causal(request) -> bool:
    return request.param


def mask() -> Tensor:
    return torch.arange(T) < LENGTHS[:, None]


def slow_weights(q: Tensor, k: Tensor, length: int, *, causal: bool, scale: float, slope: float) -> Tensor:
    """Softmax of scores of one head of one sequence, entry by entry; queries in padding are left out."""
    rows = torch.zeros(T, T)
    for t in range(T if causal else length):
        seen = range(t + 1) if causal else range(length)
        scores = [math.exp(scale * float(q[t] @ k[s]) - slope * abs(t - s)) for s in seen]
        for s, score in zip(seen, scores, strict=True):
            rows[t, s] = score / sum(scores)
    return rows


def turned(x_TE: Tensor) -> Tensor:
    """Rotary positions by real sines and cosines, pair by pair."""
    out = x_TE.clone()
    for t in range(len(x_TE)):
        for pair in range(x_TE.shape[1] // 2):
            angle = t * 10_000 ** (-2 * pair / x_TE.shape[1])
            a, b = float(x_TE[t, 2 * pair]), float(x_TE[t, 2 * pair + 1])
            out[t, 2 * pair] = a * math.cos(angle) - b * math.sin(angle)
            out[t, 2 * pair + 1] = a * math.sin(angle) + b * math.cos(angle)
    return out


def slow_attention(layer: Attention, x_BTH: Tensor, *, causal: bool, positions: str) -> tuple[Tensor, Tensor]:
    """Outputs before the map that joins heads, and weights ``(B, K, T, T)``, by loops."""
    heads, width = layer.heads, H // layer.heads
    free = isinstance(layer, ParameterFree)
    outputs, weights = torch.zeros(B, T, H), torch.zeros(B, heads, T, T)
    for b in range(B):
        qkv = [x_BTH[b]] * 3 if free else list(layer.qkv(x_BTH[b]).detach().split(H, dim=1))
        for head in range(heads):
            q, k, v = (part[:, head * width : (head + 1) * width] for part in qkv)
            q, k = (turned(q), turned(k)) if positions == "rotary" else (q, k)
            slope = 2 ** (-8 * (head + 1) / heads) if positions == "alibi" else 0.0
            scale = 1.0 if free else 1 / math.sqrt(width)
            rows = slow_weights(q, k, int(LENGTHS[b]), causal=causal, scale=scale, slope=slope)
            weights[b, head], outputs[b, :, head * width : (head + 1) * width] = rows, rows @ v
    return outputs, weights


def layer_of(kind: str, positions: str, causal: bool) -> Attention:
    if kind == "parameter free":
        return ParameterFree(H, causal=causal, positions=positions)
    options = {"one head": {"heads": 1, "out": False}, "two heads": {"heads": 2}}[kind]
    return Attention(H, causal=causal, positions=positions, **options)


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("kind", ["parameter free", "one head", "two heads"])
def test_attention_equals_slow_sums_and_shows_the_weights_it_uses(kind, positions, causal):
    layer, x = layer_of(kind, positions, causal), torch.randn(B, T, H)
    outputs, weights = slow_attention(layer, x, causal=causal, positions=positions)
    y, state = layer(x, mask_BT=mask())
    valid = torch.ones(B, T, 1) if causal else mask()[..., None].double()
    torch.testing.assert_close(y * valid, layer.out(outputs) * valid, **EXACT)
    assert state is None
    shown = layer.weights(x, mask_BT=mask())
    torch.testing.assert_close(shown * valid[:, None], weights * valid[:, None], **EXACT)
    if causal:
        torch.testing.assert_close(layer(x)[0], y, **EXACT)  # right padding needs no mask


@pytest.mark.parametrize("positions", POSITIONS)
def test_parameter_free_attention_has_no_parameter_and_averages_its_inputs(positions, causal):
    layer = ParameterFree(H, causal=causal, positions=positions)
    assert parameter_count(layer) == 0
    assert not layer.state_dict()
    x = torch.randn(B, T, H)
    y, _ = layer(x, mask_BT=mask())
    shown = layer.weights(x, mask_BT=mask())
    torch.testing.assert_close((shown[:, 0] @ x)[mask()], y[mask()], **EXACT)
    torch.testing.assert_close(shown.sum(3)[:, 0][mask()], torch.ones(int(LENGTHS.sum())), **EXACT)


# Positions


@pytest.mark.parametrize("heads", [1, 2, 4, 8])
def test_alibi_subtracts_the_papers_slopes_times_the_distance(heads):
    penalty = distance_penalty(T, heads, torch.empty(0))
    ratio = 2 ** (-8 / heads)  # a geometric sequence that starts at its own ratio (section 3)
    for head in range(heads):
        for t in range(T):
            for s in range(T):
                slope = ratio ** (head + 1)
                assert penalty[head, t, s].item() == pytest.approx(-slope * abs(t - s), abs=1e-15)
    if heads == 8:
        slopes = (-penalty[:, 1, 0]).tolist()
        assert slopes == pytest.approx([1 / 2**power for power in range(1, 9)])


def test_alibi_prefers_what_is_near(causal):
    layer = Attention(H, heads=2, causal=causal, positions="alibi")
    nn.init.zeros_(layer.qkv.weight)
    nn.init.zeros_(layer.qkv.bias)
    weights = layer.weights(torch.randn(B, T, H), mask_BT=mask())
    last = weights[0, :, T - 1]  # of a full sequence
    torch.testing.assert_close(
        last[:, 1:].log() - last[:, :-1].log(), torch.tensor([2.0**-4, 2.0**-8])[:, None].expand(2, T - 1)
    )
    if not causal:
        assert not weights[1, :, :2, 2:].any()  # padding is never seen


def test_learned_positions_add_their_row_and_later_steps_share_the_last():
    positions, x = Learned(4, H), torch.randn(B, T, H)
    added = positions(x) - x
    for t in range(T):
        row = positions.table.weight[min(t, 3)].expand(B, H)
        torch.testing.assert_close(added[:, t], row, **EXACT)
    encoder = build_encoder(Transformer(positions="learned", longest=4), D, H)
    assert isinstance(encoder.positions, Learned)
    assert encoder.positions.table.weight.shape == (4, H)
    one, two = torch.randn(B, 12, D), torch.randn(B, 12, D)
    assert encoder(one)[0].isfinite().all()
    assert not torch.allclose(encoder(one)[0], encoder(two)[0])


def test_rotation_equals_plain_sines_and_cosines():
    x = torch.randn(T, H)
    torch.testing.assert_close(rotate(x), turned(x), **EXACT)


# The ladder


def ladder(stage: str, **options) -> BlockEncoder:
    return build_encoder(Ladder(stage=stage, **options), D, H)


def test_the_last_stage_is_the_transformer(causal):
    for positions in POSITIONS:
        options = {"positions": positions, "causal": causal, "heads": 2, "longest": 5}
        one, other = ladder("block", **options), build_encoder(Transformer(**options), D, H)
        other.load_state_dict(one.state_dict())
        x = torch.randn(B, T, D)
        assert torch.equal(one(x, mask_BT=mask())[0], other(x, mask_BT=mask())[0])


@pytest.mark.parametrize("stage", STAGES)
def test_each_stage_has_its_parts_and_their_parameters(stage):
    layers, enter = 3, D * H + H
    qkv, out = 3 * (H * H + H), H * H + H
    norms, feedforward = 2 * 2 * H, 2 * (H * 2 * H) + 2 * H + H
    each = {
        "parameter_free": 0,
        "query_key_value": qkv,
        "multi_head": qkv + out,
        "residual": qkv + out,
        "block": qkv + out + norms + feedforward,
    }[stage]
    encoder = ladder(stage, layers=layers)
    last = 2 * H if stage == "block" else 0  # the norm behind the last block
    assert parameter_count(encoder) == enter + layers * each + last
    for block in encoder.blocks:
        assert block.residual == (stage in ("residual", "block"))
        assert block.mixer.heads == (1 if stage in ("parameter_free", "query_key_value") else 2)
        assert isinstance(block.mixer, ParameterFree) == (stage == "parameter_free")
        assert bool(len(block.feedforward)) == (stage == "block")
        assert all(isinstance(norm, nn.LayerNorm) for norm in block.norms) == (stage == "block")


@pytest.mark.parametrize("stage", STAGES)
def test_each_stage_computes_what_its_name_says(stage, causal):
    encoder, x = ladder(stage, causal=causal), torch.randn(B, T, D)
    y, _ = encoder(x, mask_BT=mask())
    expected = encoder.enter(x)
    for block in encoder.blocks:
        if stage == "block":
            expected = expected + block.mixer(block.norms[0](expected), mask_BT=mask())[0]
            expected = expected + block.feedforward(block.norms[1](expected))
        else:
            mixed = block.mixer(expected, mask_BT=mask())[0]
            expected = expected + mixed if stage == "residual" else mixed
    torch.testing.assert_close(y, encoder.leave(expected), **EXACT)


def test_the_residual_is_the_only_difference_between_its_stage_and_the_one_before():
    plain, added = ladder("multi_head", layers=1), ladder("residual", layers=1)
    added.load_state_dict(plain.state_dict())
    x = torch.randn(B, T, D)
    torch.testing.assert_close(added(x)[0] - plain(x)[0], plain.enter(x), **EXACT)
    for block in added.blocks:
        nn.init.zeros_(block.mixer.out.weight)
        nn.init.zeros_(block.mixer.out.bias)
    assert torch.equal(added(x)[0], added.enter(x))  # attention that says nothing leaves its input alone


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden": 9}, "must be a multiple of 4"),
        ({"bidirectional": True}, "causal=false"),
        ({"stage": "multihead"}, "did you mean 'multi_head'"),
        ({"positions": "rotory"}, "did you mean 'rotary'"),
    ],
)
def test_what_cannot_be_built_is_refused_in_one_line(options, message):
    with pytest.raises(UsageError, match=message) as caught:
        check(Ladder(**options))
    assert "\n" not in str(caught.value)
