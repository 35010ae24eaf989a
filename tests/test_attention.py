"""Attention weights against a slow softmax, the probe against closed forms, and the figure's words."""

from __future__ import annotations

import cmath
import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from made import training, write_sweep

from seqbench import records
from seqbench.batch import UNSCORED, Batch, pad, widen
from seqbench.config import NetworkConfig
from seqbench.layers.base import Bidirectional, Encoder
from seqbench.layers.transformer import TransformerEncoder
from seqbench.models.transformer import Transformer
from seqbench.network import Network
from seqbench.probes import attention as probe_module
from seqbench.probes.attention import Attention, attention_of, layers_of, queries
from seqbench.probes.base import NotApplicable
from seqbench.registry import lookup
from seqbench.report import svg, theme
from seqbench.report.frame import Sweep, read_sweep
from seqbench.report.plots import attention as plots
from seqbench.report.plots.base import Plot

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


def calls(encoder: TransformerEncoder, x: torch.Tensor, mask: torch.Tensor | None) -> list[tuple[Any, ...]]:
    """Each attention layer with what it was given and what it gave."""
    found: list[tuple[Any, ...]] = []
    for block in encoder.blocks:
        block.attention.register_forward_hook(lambda module, args, y: found.append((module, *args, y)))
    encoder(x, mask_BT=mask)
    return found


def slow_weights(layer: Any, x: torch.Tensor, keys: torch.Tensor | None) -> np.ndarray:
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
            if keys is None or keys[b, 0, 0, s]:
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
    encoder = TransformerEncoder(WIDTH, WIDTH, Transformer(causal=causal, positions=positions)).double()
    valid = torch.arange(7) < torch.tensor(LENGTHS)[:, None]
    found = calls(encoder, 3 * torch.randn(3, 7, WIDTH, dtype=torch.float64), valid if padded else None)
    assert len(found) == 2
    for layer, x, keys, output in found:
        weights = layer.weights(x, keys)
        assert not weights.requires_grad
        np.testing.assert_allclose(weights, slow_weights(layer, x, keys), **EXACT)
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
        network.encoder.blocks[0].attention.qkv.weight.zero_()
        network.encoder.blocks[0].attention.qkv.bias.zero_()
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
    for number, (layer, x, keys, _) in enumerate(layers, start=1):
        weights = slow_weights(layer, x, keys)
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
    if model.name == "transformer":
        assert len(records.parquet(Attention().measure(network, batch)))  # one type per column
        return
    with pytest.raises(NotApplicable, match="no part of the model attends"):
        Attention().measure(network, batch)


def test_attention_over_a_reversed_copy_is_not_applicable():
    halves = [TransformerEncoder(WIDTH, WIDTH, Transformer()) for _ in range(2)]
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


@dataclasses.dataclass(frozen=True)
class Marked(Batch):
    relevant_BT: Any = None


def test_what_a_task_marks_is_kept():
    batch = rows()
    marks = batch.ids_BT == batch.ids_BT[:, :1]
    found = table(network_of(), Marked(batch.ids_BT, batch.lengths_B, batch.targets, None, marks))
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


# The figure

COLUMNS = ("moment", "kind", "layer", "head", "sequence", "query", "key", "value", "token", "relevant")
EQUAL = [0.25] * 4


def by_hand(
    after: list[float], before: list[float] = EQUAL, query: int = 3, tokens: tuple[int, ...] = (1, 2, 3, 4),
    relevant: float = math.nan, entropy: float = 0.7, near: tuple[float, ...] = (0.4, 0.3, 0.2, 0.1),
) -> dict[str, list[Any]]:  # fmt: skip
    """One layer with one head, the same map in both examples."""
    found: list[tuple[Any, ...]] = []
    for moment, weights in (("init", before), ("final", after)):
        level = {"init": 1.386, "final": entropy}[moment]
        found += [(moment, "entropy", 1, 1, 0, 0, 0, level, 0, math.nan)]
        found += [(moment, "uniform entropy", 1, 0, 0, 0, 0, 1.4, 0, math.nan)]
        for key, share in enumerate(near):
            found += [(moment, "distance", 1, 1, 0, 0, key, share, 0, math.nan)]
            found += [(moment, "uniform distance", 1, 0, 0, 0, key, 0.25, 0, math.nan)]
        for example, (key, weight) in ((e, pair) for e in (0, 1) for pair in enumerate(weights)):
            mark = relevant if math.isnan(relevant) else float(key == relevant)
            place = (example, query, key)
            found += [(moment, "map", 1, 1, *place, weight, tokens[key], mark)]
            found += [(moment, "uniform map", 1, 0, *place, 0.25, tokens[key], mark)]
    return {name: list(column) for name, column in zip(COLUMNS, zip(*found, strict=True), strict=True)}


def swept(folder: Path, *columns: dict[str, list[Any]], solved: tuple[float, ...] = (1.0,)) -> Sweep:
    """A run for each table, at T = 16, 32 and so on, behind a model without attention."""
    scores = (solved * len(columns))[: len(columns)]
    runs = [(training("transformer", 16 << n, 0, score), {}) for n, score in enumerate(scores)]
    sweep = read_sweep(write_sweep(folder, [(training("gru", 16, 0, 1.0), {}), *runs]))
    keys = [{"label": "transformer", "task": "order", "rung": 16 << n, "seed": 0} for n in range(len(scores))]
    frames = [pd.DataFrame(one).assign(**key) for one, key in zip(columns, keys, strict=True)]
    empty = pd.DataFrame(by_hand([])).head(0).assign(label="", task="", rung=0, seed=0)
    sweep._tables["attention"] = pd.concat(frames, ignore_index=True) if frames else empty
    return sweep


def plotted(sweep: Sweep) -> Plot:
    plot = plots.plot(sweep)
    assert plot is not None
    with theme.drawing():
        figure = plot.draw()
    assert "<svg" in svg.inline(figure, plot.key, plot.title, plot.how)
    return plot


def test_the_words_say_where_the_answer_looks(tmp_path):
    plot = plotted(swept(tmp_path / "s", by_hand([0.02, 0.93, 0.03, 0.02])))
    assert plot.title == "Where attention looks: transformer on order T=16, seed 0"
    assert "what position 3 reads" in plot.how
    assert plot.shows == (
        "After training head 1 of layer 1 puts 0.93 of its weight on one position, 2 steps back; before, "
        "the most that any head put on one was 0.25. On average over heads, the entropy goes from 0.99 to "
        "0.50 of what equal attention has; it is lowest in head 1 of layer 1 (0.50)."
    )


BACK, LATER = "steps back", "right after an earlier occurrence"
LAST = [0, 0.9, 0.1, 0]


@pytest.mark.parametrize(
    ("columns", "said", "not_said"),
    [
        (by_hand([0.3, 0.3, 0.2, 0.2]), "most that any head puts on one position is 0.30", BACK),
        (
            by_hand([0.9, 0.1, 0, 0], [0.8, 0.2, 0, 0]),
            "0.90; before, the most that any head put on one",
            BACK,
        ),
        (by_hand(LAST, query=-1), "most that any head puts on one position is 0.90", BACK),
        (by_hand(LAST, tokens=(4, 2, 3, 4)), LATER, "decide"),
        (by_hand(LAST, tokens=(3, 2, 3, 4)), BACK, LATER),
        (by_hand([0, 0.7, 0.2, 0.1], tokens=(4, 2, 3, 4)), "0.70", LATER),
        (by_hand(LAST, tokens=(1, 1, 1, 1)), BACK, LATER),
        (by_hand(LAST, relevant=1.0), "The tokens that decide the answer get 0.90 of the weight", LATER),
        (by_hand(LAST, relevant=1.0), "before training no head gave them more than 0.25", LATER),
        (by_hand([0, 0.9, 0.05, 0], relevant=1.0), BACK, "decide"),  # not every weight is known
        (by_hand(EQUAL, near=(0.1, 0.8, 0.05, 0.05)), "0.80 of its weight at distance 1 (equal", LATER),
        (by_hand(EQUAL, near=(0.1, 0.1, 0.0, 0.8)), "0.25", "at distance"),  # the last row may be a sum
        (by_hand(EQUAL, entropy=math.nan), "0.25", "entropy"),
    ],
)
def test_only_what_the_numbers_support_is_said(tmp_path, columns, said, not_said):
    shows = plotted(swept(tmp_path / "s", columns)).shows
    assert said in shows
    assert not_said not in shows


def test_the_highest_solved_rung_is_shown(tmp_path):
    one = by_hand([0.1, 0.7, 0.1, 0.1])
    assert "T=32" in plotted(swept(tmp_path / "a", one, one, one, solved=(1.0, 1.0, 0.5))).title
    assert "T=32, seed 0 (not solved)" in plotted(swept(tmp_path / "b", one, one, solved=(0.4, 0.5))).title


def test_marked_positions_and_many_heads_are_drawn(tmp_path):
    heads = [by_hand([0.1, 0.7, 0.1, 0.1], relevant=1.0) for _ in range(10)]
    for number, one in enumerate(heads, start=1):
        one["head"] = [head and number for head in one["head"]]
    joined = {name: [value for one in heads for value in one[name]] for name in COLUMNS}
    assert "of 10 heads the 8 with the highest peak" in plotted(swept(tmp_path / "s", joined)).how


def test_without_attention_after_training_there_is_no_figure(tmp_path):
    assert plots.plot(swept(tmp_path / "none")) is None
    columns = by_hand(EQUAL)
    early = [moment == "init" for moment in columns["moment"]]
    columns = {n: [v for v, keep in zip(c, early, strict=True) if keep] for n, c in columns.items()}
    assert plots.plot(swept(tmp_path / "init", columns)) is None


@pytest.mark.parametrize(
    ("column", "value"),
    [("value", math.nan), ("value", -1.0), ("value", 7.0), ("key", 1e12), ("key", 0.5), ("layer", math.inf),
     ("kind", "?"), ("moment", "?"), ("token", math.nan), ("sequence", -1), ("query", 1e9)],
)  # fmt: skip
@pytest.mark.parametrize("every", [1, 2, 3, 7])
def test_a_table_that_nobody_vouches_for_is_drawn_as_far_as_it_makes_sense(tmp_path, column, value, every):
    columns = by_hand([0.1, 0.7, 0.1, 0.1])
    old = columns[column]
    columns[column] = [value if n % every == 0 else type(value)(v) for n, v in enumerate(old)]
    sweep = swept(tmp_path / "s", columns)
    if plots.plot(sweep) is not None:
        plotted(sweep)
