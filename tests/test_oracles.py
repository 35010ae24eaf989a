"""Layers equal the implementations in ``transformers`` on copied weights, where that package is installed.

It is no dependency: ``pip install transformers`` into an environment of your own, then run this file.
"""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from seqbench.layers.chunk import delta_chunks
from seqbench.layers.linear_recurrent import RGLRULayer
from seqbench.layers.linrec import linrec
from seqbench.registry import lookup

B, T, H, K = 2, 70, 16, 2
E = H // K
CLOSE = {"rtol": 2e-4, "atol": 2e-5}  # the references compute in float32

pytestmark = pytest.mark.filterwarnings("ignore")  # not ours to mend


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def theirs(module: str) -> Any:
    pytest.importorskip("transformers", reason="the oracle tests need the package 'transformers'")
    return importlib.import_module(f"transformers.models.{module}")


def copy(pairs: list[tuple[Tensor, Tensor]]) -> None:
    """Give ours the values of the reference."""
    with torch.no_grad():
        for ours, value in pairs:
            ours.copy_(value)


def shaken(module: nn.Module) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.3 * torch.randn_like(parameter))


def test_mamba2_equals_transformers():
    library = theirs("mamba2.modeling_mamba2")
    config = library.Mamba2Config(
        hidden_size=H, num_heads=K, head_dim=2 * H // K, state_size=5, n_groups=1, expand=2, chunk_size=16,
        num_hidden_layers=1, use_bias=False, use_conv_bias=True, layer_norm_epsilon=1e-5,
    )  # fmt: skip
    reference = library.Mamba2Mixer(config, layer_idx=0).eval()
    shaken(reference)
    ours = lookup("model", "mamba2")(heads=K, state_size=5).mixer(H, 0)
    copy([
        (ours.enter.weight, reference.in_proj.weight),
        (ours.convolution.weight, reference.conv1d.weight.squeeze(1)),
        (ours.convolution.bias, reference.conv1d.bias),
        (ours.forgetting.log_rate, reference.A_log),
        (ours.forgetting.bias, reference.dt_bias),
        (ours.skip, reference.D),
        (ours.norm.weight, reference.norm.weight),
        (ours.out.weight, reference.out_proj.weight),
    ])  # fmt: skip
    x = torch.randn(B, T, H)
    torch.testing.assert_close(ours(x)[0], reference(x), **CLOSE)


def by_head(weight: Tensor, parts: int) -> Tensor:
    """Rows ordered by head, then part, to rows ordered by part, then head."""
    return weight.unflatten(0, (K, parts, -1)).transpose(0, 1).flatten(0, 2)


def test_gated_deltanet_equals_transformers():
    library = theirs("qwen3_next.modeling_qwen3_next")
    config = library.Qwen3NextConfig(
        hidden_size=H, linear_num_value_heads=K, linear_num_key_heads=K, linear_key_head_dim=E,
        linear_value_head_dim=E, linear_conv_kernel_dim=4, rms_norm_eps=1e-5, num_hidden_layers=1,
        layer_types=["linear_attention"],
    )  # fmt: skip
    reference = library.Qwen3NextGatedDeltaNet(config, layer_idx=0).eval()
    shaken(reference)
    ours = lookup("model", "gated_deltanet")(heads=K).mixer(H, 0)
    qkvz = by_head(reference.in_proj_qkvz.weight, 4)
    beta, dt = by_head(reference.in_proj_ba.weight, 2).split(K)
    copy([
        (ours.qkv.weight, qkvz[: 3 * H]),
        (ours.gate.weight, qkvz[3 * H :]),
        (ours.beta.weight, beta),
        (ours.dt.weight, dt),
        (ours.convolution.weight, reference.conv1d.weight.squeeze(1)),
        (ours.convolution.bias, torch.zeros(3 * H)),
        (ours.forgetting.log_rate, reference.A_log),
        (ours.forgetting.bias, reference.dt_bias),
        (ours.norm.weight, reference.norm.weight),
        (ours.out.weight, reference.out_proj.weight),
    ])  # fmt: skip
    x = torch.randn(B, T, H)
    torch.testing.assert_close(ours(x)[0], reference(x), **CLOSE)


@pytest.mark.parametrize("name", ["torch_chunk_gated_delta_rule", "torch_recurrent_gated_delta_rule"])
@pytest.mark.parametrize("decay", [False, True], ids=["delta", "gated delta"])
def test_the_delta_rule_equals_transformers(name, decay):
    reference = getattr(theirs("qwen3_next.modeling_qwen3_next"), name)
    q, k, v = torch.randn(3, B, K, T, E)
    k = nn.functional.normalize(k, dim=3)
    beta, log_g = 2 * torch.rand(B, K, T), -torch.rand(B, K, T) if decay else torch.zeros(B, K, T)
    state = torch.randn(B, K, E, E)
    y, last = delta_chunks(q / E**0.5, k, v, beta, log_g, state)
    expected, expected_last = reference(
        *(x.transpose(1, 2) for x in (q, k, v)), g=log_g.transpose(1, 2), beta=beta.transpose(1, 2),
        initial_state=state, output_final_state=True,
    )  # fmt: skip
    torch.testing.assert_close(y.transpose(1, 2), expected, **CLOSE)
    torch.testing.assert_close(last, expected_last, **CLOSE)


@pytest.mark.parametrize("mode", ["train", "inference"])
def test_mlstm_equals_transformers(mode):
    library = theirs("xlstm.modeling_xlstm")
    config = library.xLSTMConfig(
        hidden_size=H, num_heads=K, qk_dim_factor=1.0, v_dim_factor=1.0, chunk_size=10, gate_soft_cap=1e4,
        autocast_kernel_dtype="float32", mode=mode, num_hidden_layers=1,
    )  # fmt: skip
    reference = library.xLSTMLayer(config).eval()
    shaken(reference)
    ours = lookup("model", "mlstm")(heads=K).mixer(H, 0)
    with torch.no_grad():
        reference.multihead_norm.weight.fill_(1.0)  # ours has none: the gate and the last map do as well
        reference.fgate_preact.bias.add_(3.0)
    parts = (reference.q, reference.k, reference.v, reference.ogate_preact)
    gates = (reference.igate_preact, reference.fgate_preact)
    copy([
        (ours.qkvo.weight, torch.cat([part.weight for part in parts])),
        (ours.qkvo.bias, torch.zeros(4 * H)),
        (ours.gates.weight, torch.cat([gate.weight for gate in gates])),
        (ours.gates.bias, torch.cat([gate.bias for gate in gates])),
        (ours.out.weight, reference.out_proj.weight),
        (ours.out.bias, torch.zeros(H)),
    ])  # fmt: skip
    x = torch.randn(B, T, H)
    with torch.no_grad():
        torch.testing.assert_close(ours(x)[0], reference(x)[0], **CLOSE)


def test_the_rglru_equals_transformers():
    """The recurrence inside the block; at position 0 the reference starts anew, so positions begin at 1."""
    library = theirs("recurrent_gemma.modeling_recurrent_gemma")
    config = library.RecurrentGemmaConfig(lru_width=H, hidden_size=H, num_attention_heads=1)
    reference = library.RecurrentGemmaRglru(config).eval()
    shaken(reference)
    ours = RGLRULayer(H, min_decay=0.9, max_decay=0.999)
    gates = ("recurrent_gate", "input_gate")
    copy([
        (ours.gate.weight, torch.cat([getattr(reference, f"{gate}_weight")[0].t() for gate in gates])),
        (ours.gate.bias, torch.cat([getattr(reference, f"{gate}_bias")[0] for gate in gates])),
        (ours.decay_logit, -reference.recurrent_param),
    ])  # fmt: skip
    u = torch.randn(B, T, H)
    _, _, keep, add = ours.prepare(u)
    expected = reference(u, torch.arange(1, T + 1).expand(B, T))
    torch.testing.assert_close(linrec(keep, add), expected, **CLOSE)
