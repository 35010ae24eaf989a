"""Dilated convolutions: equal to a slow sum, blind beyond the receptive field, continued exactly."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from seqbench.layers.tcn import CausalConvolution, TCNLayer
from seqbench.network import build_encoder
from seqbench.registry import lookup

B, T, D, H = 2, 40, 5, 6
EXACT = {"rtol": 0.0, "atol": 1e-12}


pytestmark = pytest.mark.usefixtures("float64")


def slow(convolution: CausalConvolution, x_BTH: Tensor) -> Tensor:
    """The sum over taps, one step after the other."""
    size, dilation = convolution.kernel_size[0], convolution.dilation[0]
    steps = []
    for t in range(x_BTH.shape[1]):
        y_BH = convolution.bias.expand(len(x_BTH), -1)
        for k in range(size):
            if t - k * dilation >= 0:
                y_BH = y_BH + x_BTH[:, t - k * dilation] @ convolution.weight[:, :, size - 1 - k].T
        steps.append(y_BH)
    return torch.stack(steps, 1)


@pytest.mark.parametrize(("kernel_size", "dilation"), [(2, 1), (3, 1), (3, 4), (2, 50)])
def test_a_tcn_layer_equals_the_slow_sum(kernel_size, dilation):
    layer, x = TCNLayer(H, kernel_size=kernel_size, dilation=dilation), torch.randn(B, T, H)
    expected = x
    for convolution in layer.convolutions:
        torch.nn.init.normal_(convolution.bias)
        expected = slow(convolution, expected).relu()
    torch.testing.assert_close(layer(x)[0], expected, **EXACT)


@pytest.mark.parametrize(
    ("kernel_size", "layers", "convolution", "steps"),
    [(2, 3, 0, 15), (3, 2, 0, 13), (3, 3, 0, 29), (4, 1, 0, 7), (2, 2, 4, 13), (3, 1, 1, 5)],
)
def test_the_gradient_is_exactly_zero_beyond_the_receptive_field(kernel_size, layers, convolution, steps):
    model = lookup("model", "tcn")(kernel_size=kernel_size, layers=layers, convolution=convolution)
    for dtype in (torch.float32, torch.float64):
        encoder = build_encoder(model, D, H).to(dtype)
        assert model.receptive_field == encoder.receptive_field == steps
        with torch.no_grad():  # nothing dies in a ReLU, so that every path inside the field counts
            for parameter in encoder.parameters():
                parameter.abs_()
        x = torch.rand(B, T, D, dtype=dtype, requires_grad=True)
        (gradient,) = torch.autograd.grad(encoder(x)[0][:, -1].sum(), x)
        assert torch.count_nonzero(gradient[:, : T - steps]) == 0
        assert gradient[:, T - steps :].abs().min() > 0


def test_only_what_has_no_other_reach_declares_a_receptive_field():
    assert build_encoder(lookup("model", "transformer")(), D, 8).receptive_field is None
    assert build_encoder(lookup("model", "hybrid")(mixers=["tcn", "gru"]), D, H).receptive_field is None
    assert build_encoder(lookup("model", "hybrid")(mixers=["tcn", "tcn"]), D, H).receptive_field == 13


@pytest.mark.parametrize("cuts", [[1], [3, 4], [5, 6, 7, 20]])
def test_a_tcn_goes_on_where_it_was_cut(cuts):
    encoder, x = build_encoder(lookup("model", "tcn")(layers=3), D, H), torch.randn(B, T, D)
    whole, end = encoder(x)
    pieces, state = [], None
    for start, stop in zip([0, *cuts], [*cuts, T], strict=True):
        y, state = encoder(x[:, start:stop], state=state)
        pieces.append(y)
    torch.testing.assert_close(torch.cat(pieces, 1), whole, **EXACT)
    for block, last in zip(end, state, strict=True):
        for one, other in zip(block, last, strict=True):
            torch.testing.assert_close(one, other, **EXACT)
