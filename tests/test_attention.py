"""Attention weights against a slow softmax, and the probe against closed forms."""

from __future__ import annotations

import cmath
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from seqbench import records
from seqbench.batch import UNSCORED, Batch, pad, widen
from seqbench.config import NetworkConfig
from seqbench.layers.base import Bidirectional, Encoder
from seqbench.layers.blocks import BlockEncoder
from seqbench.models.transformer import Transformer
from seqbench.network import Network
from seqbench.probes import attention as probe_module
from seqbench.probes.attention import Attention, attention_of, layers_of, queries
from seqbench.probes.base import NotApplicable
from seqbench.registry import lookup

VOCABULARY, WIDTH = 9, 8
LENGTHS = [7, 2, 5]
EXACT = {"rtol": 0.0, "atol": 1e-10}


def network_of(readout: str = "last", **options: Any) -> Network:
    torch.manual_seed(0)
    config = NetworkConfig(embedding_width=WIDTH, readout=readout)
    network = Network(Transformer(**options), config, VOCABULARY, 3, WIDTH).double()
    with torch.no_grad():  # far from equal attention
        for name, parameter in network.encoder.named_parameters():
            parameter.mul_(4.0) if name.endswith("qkv.weight") else None
    return network


def rows(lengths: list[int] = LENGTHS, many: bool = False) -> Batch:
    rng = np.random.default_rng(1)
    ids = [rng.integers(1, VOCABULARY, length) for length in lengths]
    return pad(ids, [rng.integers(0, 3, n) for n in lengths] if many else rng.integers(0, 3, len(lengths)))


def calls(encoder: BlockEncoder, x: torch.Tensor, mask: torch.Tensor | None) -> list[tuple[Any, ...]]:
    """Each attention layer with what it was given and what it gave."""
    found: list[tuple[Any, ...]] = []
    for block in encoder.blocks:
        block.mixer.register_forward_hook(
            lambda module, args, options, y: found.append((module, *args, options["mask_BT"], y[0])),
            with_kwargs=True,
        )
    encoder(x, mask_BT=mask)
    return found


def slow_weights(layer: Any, x: torch.Tensor, mask: torch.Tensor | None) -> np.ndarray:
    """The same from plain numbers, one dot product at a time."""
    batch, time, hidden = x.shape
    width = hidden // layer.heads
    weights = np.zeros((batch, layer.heads, time, time))
    qkv = (x @ layer.qkv.weight.T + layer.qkv.bias).detach().numpy()

    def vector(b: int, head: int, t: int, start: int) -> list[complex]:
        part = qkv[b, t, start + head * width : start + (head + 1) * width]
        pairs = [complex(part[i], part[i + 1]) for i in range(0, width, 2)]
        turn = [t / 10_000 ** (2 * i / width) if layer.rotary else 0.0 for i in range(width // 2)]
        return [pair * cmath.exp(1j * angle) for pair, angle in zip(pairs, turn, strict=True)]

    for b, head, t in np.ndindex(batch, layer.heads, time):
        query, scores = vector(b, head, t, 0), {}
        for s in range(t + 1 if layer.causal else time):
            if mask is None or layer.causal or mask[b, s]:
                pairs = zip(query, vector(b, head, s, hidden), strict=True)
                scores[s] = math.exp(sum((q * k.conjugate()).real for q, k in pairs) / math.sqrt(width))
        for s, score in scores.items():
            weights[b, head, t, s] = score / sum(scores.values())
    return weights


# The layer

SETTINGS = [(c, p, m) for c in (True, False) for p in ("none", "sinusoidal", "rotary") for m in (True, False)]


@pytest.mark.parametrize(("causal", "positions", "padded"), SETTINGS)
def test_weights_are_the_softmax_that_the_layer_uses(causal, positions, padded):
    torch.manual_seed(0)
    encoder = Transformer(causal=causal, positions=positions).build(WIDTH, WIDTH).double()
    valid = torch.arange(7) < torch.tensor(LENGTHS)[:, None]
    found = calls(encoder, 3 * torch.randn(3, 7, WIDTH, dtype=torch.float64), valid if padded else None)
    assert len(found) == 2
    for layer, x, mask, output in found:
        weights = layer.weights(x, mask_BT=mask)
        assert not weights.requires_grad
        np.testing.assert_allclose(weights, slow_weights(layer, x, mask), **EXACT)
        torch.testing.assert_close(weights.sum(3), torch.ones(3, 2, 7, dtype=torch.float64), **EXACT)
        hidden = valid if padded and not causal else torch.ones_like(valid)
        assert not weights.masked_fill(hidden[:, None, None], 0.0).any()
        assert not (causal and weights.triu(1).any())
        values = layer.project(x)[2]
        mixed = (weights @ values).transpose(1, 2).flatten(2)
        torch.testing.assert_close(layer.out(mixed), output, **EXACT)


# The probe


def table(network: Network, batch: Batch) -> pd.DataFrame:
    return pd.DataFrame(Attention().measure(network, batch))


def of(found: pd.DataFrame, kind: str, layer: int = 1, head: int = 1, sequence: int = 0) -> pd.Series:
    mine = (found["kind"] == kind) & (found["sequence"] == sequence)
    mine &= (found["layer"] == layer) & (found["head"] == head)
    return found[mine].set_index("key")["value"]


@pytest.mark.parametrize("causal", [True, False])
def test_equal_attention_has_the_entropy_and_the_distances_of_closed_forms(causal):
    network, batch = network_of(causal=causal, layers=1), rows()
    with torch.no_grad():
        network.encoder.blocks[0].mixer.qkv.weight.zero_()
        network.encoder.blocks[0].mixer.qkv.bias.zero_()
    found = table(network, batch)
    entropy, share = [], np.zeros(7)
    for length in LENGTHS:
        for t in range(length):
            visible = range(t + 1) if causal else range(length)
            entropy.append(math.log(len(visible)))
            for s in visible:
                share[abs(t - s)] += 1 / len(visible) / sum(LENGTHS)
    for prefix, head in (("", 1), ("", 2), ("uniform ", 0)):
        assert of(found, f"{prefix}entropy", head=head)[0] == pytest.approx(np.mean(entropy), abs=1e-12)
        np.testing.assert_allclose(of(found, f"{prefix}distance", head=head), share, atol=1e-12)
    seen = of(found, "map")
    np.testing.assert_allclose(seen, np.full(7, 1 / 7), atol=1e-12)
    np.testing.assert_allclose(of(found, "uniform map", head=0), seen, atol=1e-12)


@pytest.mark.parametrize("positions", ["rotary", "sinusoidal", "none"])
@pytest.mark.parametrize("causal", [True, False])
def test_the_table_sums_up_the_weights_of_the_valid_tokens(causal, positions):
    network, batch = network_of(causal=causal, positions=positions), rows()
    found, tensors = table(network, batch), batch.tensors()
    layers = calls(network.encoder, network.embed(tensors), tensors.mask_BT)
    for number, (layer, x, mask, _) in enumerate(layers, start=1):
        weights = slow_weights(layer, x, mask)
        for head in (1, 2):
            share, entropy = np.zeros(7), 0.0
            for b, length in enumerate(LENGTHS):
                for t, s in np.ndindex(length, length):
                    share[abs(t - s)] += weights[b, head - 1, t, s] / sum(LENGTHS)
                    p = weights[b, head - 1, t, s]
                    entropy -= p * math.log(p) / sum(LENGTHS) if p else 0.0
                if b < 2:
                    expected = weights[b, head - 1, length - 1, :length]
                    np.testing.assert_allclose(of(found, "map", number, head, b), expected, **EXACT)
            np.testing.assert_allclose(of(found, "distance", number, head), share, **EXACT)
            assert of(found, "entropy", number, head)[0] == pytest.approx(entropy, abs=1e-10)
    assert set(found["layer"]) == {1, 2}


@pytest.mark.parametrize("causal", [True, False])
def test_padding_changes_nothing(causal):
    network, batch = network_of(causal=causal), rows([5, 5])
    plain, padded = table(network, batch), table(network, widen(batch, 3))
    padded = padded[~(padded["kind"].str.endswith("distance") & (padded["key"] > 4))]
    pd.testing.assert_frame_equal(plain, padded.reset_index(drop=True))


def test_the_probe_leaves_no_trace(make_network, make_batch):
    network, batch = make_network(Transformer(dropout=0.5)).train(), make_batch([5, 9, 3])
    network.encoder.blocks[0].eval()
    modes = [module.training for module in network.modules()]
    rng = torch.random.get_rng_state()
    first = table(network, batch)
    assert [module.training for module in network.modules()] == modes
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert torch.equal(torch.random.get_rng_state(), rng)
    pd.testing.assert_frame_equal(first, table(network, batch))


def test_every_model_is_measured_or_says_why_not(make_network, make_batch, model):
    network, batch = make_network(model), make_batch([5, 9, 1], many=True)
    attends = any(hasattr(module, "weights") for module in network.encoder.modules())
    if attends and not model.bidirectional:
        assert len(records.parquet(Attention().measure(network, batch)))  # one type per column
        return
    with pytest.raises(NotApplicable, match="reversed" if attends else "no part of the model attends"):
        Attention().measure(network, batch)


def test_attention_over_a_reversed_copy_is_not_applicable():
    halves = [Transformer().build(WIDTH, WIDTH) for _ in range(2)]
    with pytest.raises(NotApplicable, match="reversed"):
        layers_of(Bidirectional(*halves))


class Elsewhere(Encoder):
    """Says how it attends, but not to the positions of the sequence."""

    def forward(self, x_BTD, *, mask_BT=None, state=None):
        return x_BTD, None

    def weights(self, x_BTD, *, mask_BT=None, state=None):
        return torch.ones(1, 1, 2, 2)


def test_weights_over_something_else_are_not_applicable(make_network, make_batch):
    network = make_network(lookup("model", "rnn")())
    network.encoder = Elsewhere()
    with pytest.raises(NotApplicable, match=r"\(1, 1, 2, 2\), expected \(B, K, T, T\)"):
        Attention().measure(network, make_batch([5]))


def test_maps_are_of_the_position_at_which_the_last_answer_is_read():
    answers = pad([[1, 2, 3, 4], [5, 6]], [[UNSCORED, 0, 1, UNSCORED], [2, UNSCORED]])
    assert queries(network_of(), answers) == [2, 0]
    assert queries(network_of(), rows()) == [6, 1, 4]
    assert queries(network_of("mean"), rows()) == [-1, -1, -1]
    assert queries(network_of("mean"), answers) == [2, 0]
    found = table(network_of(), answers)
    assert of(found, "map").index.tolist() == [0, 1, 2]
    first = found[found["kind"].eq("map") & found["sequence"].eq(0)]
    assert first["token"].tolist() == [1, 2, 3] * 4
    assert first["query"].tolist() == [2] * 12
    assert found["relevant"].isna().all()


def test_where_all_positions_are_read_the_map_is_their_mean():
    network, batch = network_of("mean"), rows()
    weights = next(attention_of(network, batch))[0]
    np.testing.assert_allclose(of(table(network, batch), "map"), weights[1].mean(0), **EXACT)


def test_what_a_task_marks_is_kept():
    batch = rows()
    marks = batch.ids_BT == batch.ids_BT[:, :1]
    found = table(network_of(), batch.marked(marks))
    first = found[
        found["kind"].eq("map") & found["sequence"].eq(0) & found["layer"].eq(2) & found["head"].eq(1)
    ]
    assert first["relevant"].tolist() == marks[0].astype(float).tolist()
    assert found[found["kind"] == "distance"]["relevant"].isna().all()


def test_the_table_stays_small_and_keeps_the_largest(monkeypatch):
    network, batch = network_of(), rows([200, 150])
    whole = table(network, batch)
    monkeypatch.setattr(probe_module, "_MOST_ROWS", 6 * 40)
    small = table(network, batch)
    assert small.groupby(small["kind"].str.removeprefix("uniform ")).size().max() <= 6 * 40
    for head in (1, 2):
        kept, every = of(small, "map", 2, head), of(whole, "map", 2, head)
        pd.testing.assert_series_equal(kept, every.nlargest(20).sort_index())
        folded, exact = of(small, "distance", 2, head), of(whole, "distance", 2, head)
        assert folded.index.tolist() == [*range(16), 16, 32, 64, 128]
        np.testing.assert_allclose(folded[:16], exact[:16], **EXACT)
        assert folded[32] == pytest.approx(exact[32:64].sum())
        assert folded.sum() == pytest.approx(1)
