"""The layers equal torch's own modules on copied weights: outputs and every gradient, in float64."""

from __future__ import annotations

import math

import pytest
import torch
from conftest import gradients
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from seqbench.layers.attention import Attention
from seqbench.layers.base import Bidirectional, Chain, Encoder, reversal
from seqbench.layers.blocks import Block
from seqbench.layers.canaries import BagLayer
from seqbench.layers.positions import rotate, sinusoids
from seqbench.layers.recurrent import ElmanLayer, GRULayer, LSTMLayer, stack
from seqbench.layers.scan import ElmanScan, GRUScan
from seqbench.models.transformer import Transformer

B, T, D, H = 3, 7, 4, 5
EXACT = {"rtol": 0.0, "atol": 1e-12}


pytestmark = pytest.mark.usefixtures("float64")


def assert_same(ours: list[Tensor], theirs: list[Tensor]) -> None:
    """Each pair of tensors is equal to 1e-12."""
    assert len(ours) == len(theirs)
    for mine, reference in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, reference, **EXACT)


# Scans


@pytest.mark.parametrize("relu", [False, True], ids=["tanh", "relu"])
@pytest.mark.parametrize(("steps", "batch"), [(1, 1), (4, 3)])
def test_elman_scan_satisfies_gradcheck(relu: bool, steps: int, batch: int):
    inputs = [torch.randn(steps, batch, H), torch.randn(batch, H), torch.randn(H, H)]
    inputs = [tensor.requires_grad_() for tensor in inputs]
    assert torch.autograd.gradcheck(lambda *args: ElmanScan.apply(*args, relu), inputs)


@pytest.mark.parametrize(("steps", "batch"), [(1, 1), (4, 3)])
def test_gru_scan_satisfies_gradcheck(steps: int, batch: int):
    shapes = [(steps, batch, 3 * H), (batch, H), (3 * H, H), (3 * H,)]
    inputs = [torch.randn(shape, requires_grad=True) for shape in shapes]
    assert torch.autograd.gradcheck(GRUScan.apply, inputs)


@pytest.mark.parametrize(("steps", "batch"), [(1, 1), (1, 3), (4, 1), (4, 3)])
def test_scans_leave_their_inputs_alone(steps: int, batch: int):
    for scan, gates, more in ((ElmanScan, 1, (False,)), (GRUScan, 3, (torch.randn(3 * H),))):
        inputs = [torch.randn(steps, batch, gates * H), torch.randn(batch, H), torch.randn(gates * H, H)]
        before = [tensor.clone() for tensor in inputs]
        scan.apply(*inputs, *more)
        assert_same(inputs, before)


# Recurrent layers


def copied_rnn(nonlinearity: str) -> tuple[ElmanLayer, nn.RNN]:
    layer = ElmanLayer(D, H, nonlinearity, "default")
    reference = nn.RNN(D, H, nonlinearity=nonlinearity, batch_first=True)
    with torch.no_grad():
        layer.project.weight.copy_(reference.weight_ih_l0)
        layer.project.bias.copy_(reference.bias_ih_l0 + reference.bias_hh_l0)
        layer.recurrent.copy_(reference.weight_hh_l0)
    return layer, reference


@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
def test_elman_layer_equals_nn_rnn(nonlinearity: str):
    layer, reference = copied_rnn(nonlinearity)
    x, h0 = torch.randn(B, T, D, requires_grad=True), torch.randn(B, H, requires_grad=True)
    (ours, last), (theirs, reference_last) = layer(x, state=h0), reference(x, h0.unsqueeze(0))
    assert_same([ours, last], [theirs, reference_last[0]])
    mine = gradients(ours, x, h0, layer.project.weight, layer.project.bias, layer.recurrent)
    names = ("weight_ih_l0", "bias_ih_l0", "weight_hh_l0")
    assert_same(mine, gradients(theirs, x, h0, *(getattr(reference, name) for name in names)))


def test_gru_layer_equals_nn_gru():
    layer, reference = GRULayer(D, H, None), nn.GRU(D, H, batch_first=True)
    names = ("weight_ih_l0", "bias_ih_l0", "weight_hh_l0", "bias_hh_l0")
    mine = [layer.project.weight, layer.project.bias, layer.recurrent, layer.recurrent_bias]
    with torch.no_grad():
        for parameter, name in zip(mine, names, strict=True):
            parameter.copy_(getattr(reference, name))
    x, h0 = torch.randn(B, T, D, requires_grad=True), torch.randn(B, H, requires_grad=True)
    (ours, last), (theirs, reference_last) = layer(x, state=h0), reference(x, h0.unsqueeze(0))
    assert_same([ours, last], [theirs, reference_last[0]])
    reference_parameters = [getattr(reference, name) for name in names]
    assert_same(gradients(ours, x, h0, *mine), gradients(theirs, x, h0, *reference_parameters))


@pytest.mark.parametrize("kind", ["tanh", "relu", "gru"])
def test_the_kernel_used_on_a_gpu_computes_the_same_as_the_scan(kind: str):
    layer = GRULayer(D, H, None) if kind == "gru" else ElmanLayer(D, H, kind, "default")
    x, h0 = torch.randn(B, T, D, requires_grad=True), torch.randn(B, H, requires_grad=True)
    scanned, fused = layer(x, state=h0)[0], layer.fused(x, h0.unsqueeze(0))[0]
    assert_same([fused], [scanned])
    wanted = (x, h0, *layer.parameters())
    assert_same(gradients(fused, *wanted), gradients(scanned, *wanted))


def test_lstm_layer_equals_the_equations_step_by_step():
    layer, cell = LSTMLayer(D, H, None, None), nn.LSTMCell(D, H)
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    mine = [layer.lstm.get_parameter(f"{name}_l0") for name in names]
    with torch.no_grad():
        for parameter, name in zip(mine, names, strict=True):
            parameter.copy_(getattr(cell, name))
    x = torch.randn(B, T, D, requires_grad=True)
    state, outputs = (torch.zeros(B, H), torch.zeros(B, H)), []
    for step in x.unbind(1):
        state = cell(step, state)
        outputs.append(state[0])
    ours, theirs = layer(x)[0], torch.stack(outputs, 1)
    assert_same([ours], [theirs])
    reference_parameters = [getattr(cell, name) for name in names]
    assert_same(gradients(ours, x, *mine), gradients(theirs, x, *reference_parameters))


def layer_kinds() -> dict[str, Encoder]:
    torch.manual_seed(3)
    return {
        "elman": ElmanLayer(D, H, "tanh", "default"),
        "gru": GRULayer(D, H, None),
        "lstm": LSTMLayer(D, H, None, None),
        "bag": BagLayer(D),
        "stacked gru": stack(2, D, lambda width: GRULayer(width, H, None)),
        "stacked lstm": stack(3, D, lambda width: LSTMLayer(width, H, None, None)),
    }


@pytest.mark.parametrize("kind", layer_kinds().keys())
def test_state_continues_a_sequence_where_it_was_cut(kind: str):
    encoder = layer_kinds()[kind].double()
    x = torch.randn(B, T, D)
    whole, _ = encoder(x)
    first, state = encoder(x[:, :3])
    second, _ = encoder(x[:, 3:], state=state)
    assert_same([torch.cat([first, second], 1)], [whole])


def test_initialisations_are_what_their_names_say():
    orthogonal = ElmanLayer(D, H, "tanh", "orthogonal").recurrent
    assert_same([orthogonal @ orthogonal.T], [torch.eye(H)])
    identity = ElmanLayer(D, H, "relu", "identity")
    assert_same([identity.recurrent, identity.project.bias], [torch.eye(H), torch.zeros(H)])
    lstm = LSTMLayer(D, H, 3.0, None).lstm
    assert_same([(lstm.bias_ih_l0 + lstm.bias_hh_l0)[H : 2 * H]], [torch.full((H,), 3.0)])
    chrono = LSTMLayer(D, 200, None, 50).lstm
    gate = chrono.bias_ih_l0 + chrono.bias_hh_l0
    assert 0 <= gate[200:400].min() < gate[200:400].max() <= math.log(49)
    assert_same([gate[:200]], [-gate[200:400]])
    gru = GRULayer(D, H, 4.0)
    assert_same([(gru.project.bias + gru.recurrent_bias)[H : 2 * H]], [torch.full((H,), 4.0)])


# Both directions


def packed(reference: nn.LSTM, x: Tensor, lengths: Tensor) -> Tensor:
    sequence = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    return pad_packed_sequence(reference(sequence)[0], batch_first=True, total_length=x.shape[1])[0]


def copy_lstm(layer: LSTMLayer, reference: nn.LSTM, suffix: str) -> None:
    with torch.no_grad():
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            layer.lstm.get_parameter(f"{name}_l0").copy_(reference.get_parameter(f"{name}_{suffix}"))


def test_bidirectional_lstm_equals_a_packed_bidirectional_nn_lstm():
    reference = nn.LSTM(D, H, batch_first=True, bidirectional=True)
    ahead, behind = LSTMLayer(D, H, None, None), LSTMLayer(D, H, None, None)
    copy_lstm(ahead, reference, "l0")
    copy_lstm(behind, reference, "l0_reverse")
    encoder = Bidirectional(ahead, behind)
    lengths = torch.tensor([7, 1, 4])
    mask = torch.arange(T) < lengths[:, None]
    x = torch.randn(B, T, D, requires_grad=True)
    ours, theirs = encoder(x, mask_BT=mask)[0] * mask[..., None], packed(reference, x, lengths)
    assert_same([ours], [theirs])
    mine = [module.lstm.weight_hh_l0 for module in (ahead, behind)]
    reference_weights = [reference.weight_hh_l0, reference.weight_hh_l0_reverse]
    assert_same(gradients(ours, x, *mine), gradients(theirs, x, *reference_weights))


def test_each_half_of_a_deep_bidirectional_lstm_equals_a_packed_deep_nn_lstm():
    references = [nn.LSTM(D, H, num_layers=2, batch_first=True) for _ in range(2)]
    halves = []
    for reference in references:
        half = stack(2, D, lambda width: LSTMLayer(width, H, None, None))
        assert isinstance(half, Chain)
        for index, layer in enumerate(half.encoders):
            copy_lstm(layer, reference, f"l{index}")
        halves.append(half)
    lengths = torch.tensor([4, 7, 2])
    x, mask = torch.randn(B, T, D), torch.arange(T) < lengths[:, None]
    ours, _ = Bidirectional(*halves)(x, mask_BT=mask)
    flipped = x.clone()
    for row, length in enumerate(lengths):
        flipped[row, :length] = x[row, :length].flip(0)
    back = packed(references[1], flipped, lengths)
    for row, length in enumerate(lengths):
        back[row, :length] = back[row, :length].flip(0)
    theirs = torch.cat([packed(references[0], x, lengths), back], 2)
    assert_same([ours * mask[..., None]], [theirs])


def test_bidirectional_summary_is_the_last_state_of_each_direction():
    encoder = Bidirectional(GRULayer(D, H, None), GRULayer(D, H, None))
    lengths = torch.tensor([7, 3, 5])
    x, mask = torch.randn(B, T, D), torch.arange(T) < lengths[:, None]
    summary = encoder.last(encoder(x, mask_BT=mask)[0], lengths)
    for row, length in enumerate(lengths):
        alone = x[row : row + 1, :length]
        _, ahead = encoder.forwards(alone)
        _, behind = encoder.backwards(alone.flip(1))
        assert_same([summary[row]], [torch.cat([ahead[0], behind[0]])])


def test_reversal_flips_the_valid_part_and_is_its_own_inverse():
    mask = torch.tensor([[True, True, True, False], [True, False, False, False]])
    order = reversal(2, 4, mask, mask.device)
    assert order.tolist() == [[2, 1, 0, 3], [0, 1, 2, 3]]
    assert torch.equal(order.gather(1, order), torch.arange(4).expand(2, 4))
    assert reversal(1, 3, None, mask.device).tolist() == [[2, 1, 0]]


def test_only_causal_encoders_can_be_doubled():
    one = Bidirectional(BagLayer(D), BagLayer(D))
    with pytest.raises(ValueError, match="only a causal encoder"):
        Bidirectional(one, BagLayer(D))


# Transformer

LENGTHS = torch.tensor([7, 2, 5])
HEADS, WIDTH = 2, 8


def masks(causal: bool) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Our mask, then torch's attention mask and key padding mask (True: hidden)."""
    if causal:
        return None, nn.Transformer.generate_square_subsequent_mask(T), None
    valid = torch.arange(T) < LENGTHS[:, None]
    return valid, None, ~valid


def copy_attention(ours: Attention, theirs: nn.MultiheadAttention) -> None:
    with torch.no_grad():
        nn.init.normal_(theirs.in_proj_bias)
        ours.qkv.weight.copy_(theirs.in_proj_weight)
        ours.qkv.bias.copy_(theirs.in_proj_bias)
    ours.out.load_state_dict(theirs.out_proj.state_dict())


def visible(causal: bool) -> Tensor:
    """Positions to compare: padding positions are nobody's business when keys are masked."""
    return torch.ones(B, T, 1) if causal else (torch.arange(T) < LENGTHS[:, None])[..., None].double()


@pytest.mark.parametrize("causal", [True, False])
def test_attention_equals_nn_multihead_attention(causal: bool):
    ours = Attention(WIDTH, heads=HEADS, causal=causal)
    theirs = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
    copy_attention(ours, theirs)
    mask, attn_mask, padding = masks(causal)
    x = torch.randn(B, T, WIDTH, requires_grad=True)
    mine = ours(x, mask_BT=mask)[0] * visible(causal)
    reference = theirs(x, x, x, attn_mask=attn_mask, key_padding_mask=padding, need_weights=False)[0]
    reference = reference * visible(causal)
    assert_same([mine], [reference])
    assert_same(
        gradients(mine, x, ours.qkv.weight, ours.out.weight),
        gradients(reference, x, theirs.in_proj_weight, theirs.out_proj.weight),
    )


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("norm", ["pre", "post"])
def test_block_equals_nn_transformer_encoder_layer(norm: str, causal: bool):
    config = Transformer(positions="none", heads=HEADS, causal=causal, norm=norm, feedforward_ratio=3.0)
    ours = Block(WIDTH, config, config.mixer(WIDTH, 0))
    theirs = nn.TransformerEncoderLayer(
        WIDTH, HEADS, 3 * WIDTH, dropout=0.0, activation="gelu", batch_first=True, norm_first=norm == "pre"
    )
    copy_attention(ours.mixer, theirs.self_attn)
    pairs = zip(
        [ours.feedforward[0], ours.feedforward[2], *ours.norms],
        [theirs.linear1, theirs.linear2, theirs.norm1, theirs.norm2],
        strict=True,
    )
    for mine, reference in pairs:
        nn.init.normal_(reference.weight)
        mine.load_state_dict(reference.state_dict())
    mask, attn_mask, padding = masks(causal)
    x = torch.randn(B, T, WIDTH, requires_grad=True)
    mine = ours(x, mask, None)[0] * visible(causal)
    reference = theirs(x, src_mask=attn_mask, src_key_padding_mask=padding) * visible(causal)
    assert_same([mine], [reference])
    assert_same(
        gradients(mine, x, ours.mixer.qkv.weight, ours.feedforward[0].weight, ours.norms[0].weight),
        gradients(reference, x, theirs.self_attn.in_proj_weight, theirs.linear1.weight, theirs.norm1.weight),
    )


def test_without_positions_attention_over_everything_cannot_see_order():
    encoder = Transformer(positions="none", heads=HEADS, causal=False).build(D, WIDTH)
    x, order = torch.randn(B, T, D), torch.randperm(T)
    assert_same([encoder(x[:, order])[0]], [encoder(x)[0][:, order]])
    for positions in ("sinusoidal", "learned", "rotary", "alibi"):
        encoder = Transformer(positions=positions, heads=HEADS, causal=False).build(D, WIDTH)
        assert not torch.allclose(encoder(x[:, order])[0], encoder(x)[0][:, order], atol=1e-4)


def test_rotary_scores_depend_on_the_distance_alone():
    q, k = (torch.randn(1, 1, 1, WIDTH).expand(1, 1, T, WIDTH) for _ in range(2))
    scores = (rotate(q) @ rotate(k).transpose(2, 3))[0, 0]
    for shift in range(1 - T, T):
        diagonal = scores.diagonal(shift)
        assert_same([diagonal], [diagonal[0].expand_as(diagonal)])
    assert len({round(float(scores[0, column]), 9) for column in range(T)}) == T
    assert_same([rotate(q)[:, :, 0], rotate(q).norm(dim=3)], [q[:, :, 0], q.norm(dim=3)])


def test_sinusoids_follow_vaswani_et_al():
    table = sinusoids(T, WIDTH, torch.empty(0))
    for position in range(T):
        for i in range(WIDTH // 2):
            angle = position / 10_000 ** (2 * i / WIDTH)
            assert table[position, i].item() == pytest.approx(math.sin(angle), abs=1e-12)
            assert table[position, WIDTH // 2 + i].item() == pytest.approx(math.cos(angle), abs=1e-12)
