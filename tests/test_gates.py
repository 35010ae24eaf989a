"""Gates and states: layers against their equations step by step, the probe's numbers, the figure's words."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from made import training, write_sweep
from torch import Tensor, nn

from seqbench import records
from seqbench.batch import Batch, pad
from seqbench.config import NetworkConfig
from seqbench.layers.base import Chain, Encoder
from seqbench.layers.recurrent import ElmanLayer, GRULayer, LSTMLayer
from seqbench.models.base import ModelConfig
from seqbench.network import Network
from seqbench.probes.base import NotApplicable
from seqbench.probes.gates import Gates, time_scales
from seqbench.registry import lookup
from seqbench.report import svg, theme
from seqbench.report.frame import Sweep, read_sweep
from seqbench.report.plots import gates as figure

B, T, D, H = 3, 9, 4, 5
EXACT = {"rtol": 0.0, "atol": 1e-12}
COLUMNS = [
    "layer", "activation", "gate", "low_share", "high_share", "mean", "median", "largest",
    "time_scale_steps", "longest_time_scale_steps",
]  # fmt: skip
Named = dict[str, Tensor]


# The equations, one step at a time


def lstm_steps(layer: LSTMLayer, x_TD: Tensor) -> Iterator[Named]:
    w, u, b, c = (
        layer.lstm.get_parameter(f"{n}_l0") for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    )
    size = layer.width_out
    state, cell = x_TD.new_zeros(size), x_TD.new_zeros(size)
    for x in x_TD:
        pre = w @ x + b + u @ state + c
        i, f, g, o = (pre[k * size : (k + 1) * size] for k in range(4))
        i, f, g, o = torch.sigmoid(i), torch.sigmoid(f), torch.tanh(g), torch.sigmoid(o)
        cell = f * cell + i * g
        state = o * torch.tanh(cell)
        gates = {"input gate": i, "forget gate": f, "output gate": o}
        yield {**gates, "candidate": g, "cell": cell, "state": state}


def gru_steps(layer: GRULayer, x_TD: Tensor) -> Iterator[Named]:
    size, state = layer.width_out, x_TD.new_zeros(layer.width_out)
    for x in x_TD:
        left = layer.project.weight @ x + layer.project.bias
        right = layer.recurrent @ state + layer.recurrent_bias
        r = torch.sigmoid(left[:size] + right[:size])
        z = torch.sigmoid(left[size : 2 * size] + right[size : 2 * size])
        n = torch.tanh(left[2 * size :] + r * right[2 * size :])
        state = (1 - z) * n + z * state
        yield {"reset gate": r, "update gate": z, "candidate": n, "state": state}


def elman_steps(layer: ElmanLayer, x_TD: Tensor) -> Iterator[Named]:
    state = x_TD.new_zeros(layer.width_out)
    for x in x_TD:
        pre = layer.project.weight @ x + layer.project.bias + layer.recurrent @ state
        state = pre.clamp(min=0) if layer.relu else torch.tanh(pre)
        yield {"state": state}


def by_steps(layer: nn.Module, x_TD: Tensor) -> Named:
    """Every activation ``(T, H)`` of one sequence."""
    kinds = {LSTMLayer: lstm_steps, GRULayer: gru_steps, ElmanLayer: elman_steps}
    with torch.no_grad():
        steps = list(kinds[type(layer)](layer, x_TD))
    return {name: torch.stack([step[name] for step in steps]) for name in steps[0]}


def layer_of(kind: str) -> Encoder:
    torch.manual_seed(0)
    made = {
        "rnn": lambda: ElmanLayer(D, H, "tanh", "default"),
        "relu": lambda: ElmanLayer(D, H, "relu", "default"),
        "gru": lambda: GRULayer(D, H, None),
        "lstm": lambda: LSTMLayer(D, H, None, None),
        "lstm+forget_bias": lambda: LSTMLayer(D, H, 3.0, None),
    }
    return made[kind]().double()


@pytest.mark.parametrize("kind", ["rnn", "relu", "gru", "lstm", "lstm+forget_bias"])
@pytest.mark.parametrize("time", [1, T])
def test_activations_equal_the_equations_step_by_step(kind, time):
    layer = layer_of(kind)
    x_BTD = 2 * torch.randn(B, time, D, dtype=torch.float64, requires_grad=True)
    found = layer.activations(x_BTD)
    for row in range(B):
        for name, expected in by_steps(layer, x_BTD[row]).items():
            torch.testing.assert_close(found[name][row], expected, **EXACT)
    assert list(found) == list(by_steps(layer, x_BTD[0]))
    assert not any(value.requires_grad for value in found.values())
    assert torch.equal(found["state"], layer(x_BTD)[0])


def test_the_outputs_of_torch_are_made_of_these_gates():
    x_BTD = torch.randn(B, T, D, dtype=torch.float64)
    lstm = layer_of("lstm")
    found, (y_BTH, (_, last_1BH)) = lstm.activations(x_BTD), lstm.lstm(x_BTD)
    torch.testing.assert_close(found["output gate"] * found["cell"].tanh(), y_BTH, **EXACT)
    torch.testing.assert_close(found["cell"][:, -1], last_1BH[0], **EXACT)
    gru, reference = layer_of("gru"), nn.GRU(D, H, batch_first=True).double()
    weights = (gru.project.weight, gru.recurrent, gru.project.bias, gru.recurrent_bias)
    with torch.no_grad():
        for parameter, value in zip(reference.parameters(), weights, strict=True):
            parameter.copy_(value)
    found, y_BTH = gru.activations(x_BTD), reference(x_BTD)[0]
    before_BTH = torch.cat([torch.zeros(B, 1, H), y_BTH[:, :-1]], dim=1)
    z = found["update gate"]
    torch.testing.assert_close((1 - z) * found["candidate"] + z * before_BTH, y_BTH, **EXACT)


# The probe


def network_of(model: ModelConfig, **options: Any) -> Network:
    torch.manual_seed(0)
    return Network(model, NetworkConfig(embedding_width=D, **options), 13, 5, H).double()


def by_row(table: dict[str, list[Any]]) -> dict[tuple[str, str], dict[str, Any]]:
    rows = [dict(zip(table, values, strict=True)) for values in zip(*table.values(), strict=True)]
    return {(row["layer"], row["activation"]): row for row in rows}


def pooled(layers: list[nn.Module], sequences: list[Tensor]) -> list[Named]:
    """Activations of a stack of layers, over sequences that are read one by one without padding."""
    found = []
    for layer in layers:
        each = [by_steps(layer, x_TD) for x_TD in sequences]
        found.append({name: torch.cat([one[name] for one in each]) for name in each[0]})
        sequences = [one["state"] for one in each]
    return found


def stacks(network: Network, batch: Batch) -> dict[str, Named]:
    """The reference of every row of the probe's table."""
    x_BTD, encoder = network.embed(batch.tensors()).detach(), network.encoder
    sequences = [x_BTD[row, :length] for row, length in enumerate(batch.lengths_B)]
    halves = {"": (encoder, sequences)}
    if hasattr(encoder, "forwards"):
        flipped = [x_TD.flip(0) for x_TD in sequences]
        halves = {"forwards": (encoder.forwards, sequences), "backwards": (encoder.backwards, flipped)}
    return {
        f"{number} {name}".strip(): values
        for name, (half, read) in halves.items()
        for number, values in enumerate(pooled(list(getattr(half, "encoders", [half])), read), start=1)
    }


@pytest.mark.parametrize("name", ["rnn", "lstm", "gru"])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("bidirectional", [False, True], ids=["one way", "both ways"])
def test_the_table_equals_the_sequences_read_alone_step_by_step(make_batch, name, layers, bidirectional):
    network = network_of(lookup("model", name)(layers=layers, bidirectional=bidirectional))
    batch = make_batch([7, 1, 4], extra=2)
    table = Gates().measure(network, batch)
    assert list(table) == COLUMNS
    rows, expected = by_row(table), stacks(network, batch)
    assert list(rows) == [(layer, one) for layer, values in expected.items() for one in values]
    for (layer, activation), row in rows.items():
        values = expected[layer][activation].numpy()
        size = np.abs(values)
        shares = (row["low_share"], row["high_share"])
        assert shares == ((size < 0.05).mean(), (size > 0.95).mean())
        assert row["gate"] is activation.endswith("gate")
        told = [row["mean"], row["median"], row["largest"]]
        np.testing.assert_allclose(told, [values.mean(), np.median(values), size.max()], atol=1e-12)
        keeps = activation in ("forget gate", "update gate")
        scale_H = -1 / np.log(values.mean(0)) if keeps else np.full(H, np.nan)
        np.testing.assert_allclose(row["time_scale_steps"], np.median(scale_H), rtol=1e-9)
        np.testing.assert_allclose(row["longest_time_scale_steps"], scale_H.max(), rtol=1e-9)


@pytest.mark.parametrize("share", [0.04, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_a_pinned_gate_has_the_time_scale_of_its_value(make_batch, name, share):
    network = network_of(lookup("model", name)())
    with torch.no_grad():  # the biases alone decide
        for weight in network.encoder.parameters():
            weight.zero_()
        layer = network.encoder
        bias = layer.lstm.bias_ih_l0 if name == "lstm" else layer.project.bias
        bias[H : 2 * H] = math.log(share / (1 - share))
    gate = {"lstm": "forget gate", "gru": "update gate"}[name]
    row = by_row(Gates().measure(network, make_batch([6, 3])))["1", gate]
    assert row["time_scale_steps"] == pytest.approx(-1 / math.log(share), rel=1e-12)
    assert row["longest_time_scale_steps"] == pytest.approx(-1 / math.log(share), rel=1e-12)
    assert (row["low_share"], row["high_share"]) == (float(share < 0.05), float(share > 0.95))


@pytest.mark.parametrize(("units", "slow"), [(10, 1), (20, 2), (45, 5), (84, 9)])
def test_the_slowest_tenth_reaches_the_longest_time_scale(units, slow):
    gate_NH = np.linspace(0.1, 0.9, units)[None].repeat(3, axis=0)
    scale_H = -1 / np.log(gate_NH[0])
    middle, longest = time_scales(gate_NH)
    assert middle == pytest.approx(np.median(scale_H))
    assert (scale_H >= longest - 1e-12).sum() == slow == math.ceil(units / 10)


def test_gates_that_never_close_or_open_have_endless_or_no_memory():
    assert time_scales(np.ones((4, 3))) == (math.inf, math.inf)
    assert time_scales(np.zeros((4, 3))) == (0.0, 0.0)


class Shown(Encoder):
    """A user's layer: shows its input, scaled by ten, under the names that it was given."""

    kernel = "none"

    def __init__(self, width_in: int, names: tuple[str, ...] = ("decay gate", "candidate")) -> None:
        super().__init__()
        self.width_out, self.names = width_in, names

    def forward(self, x_BTD, *, mask_BT=None, state=None):
        return x_BTD, None

    def activations(self, x_BTD, *, mask_BT=None):
        padded_BTD = x_BTD / 10 + 1e9 * ~mask_BT.unsqueeze(2)  # nobody may look at padding
        return dict.fromkeys(self.names, padded_BTD)


class UserModel(ModelConfig):
    """Builds what the test wants."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__(name="user")
        self.encoder = encoder

    def build(self, width_in: int, hidden: int) -> Encoder:
        return self.encoder


def shown(values: list[list[float]], *names: str, encoder: Encoder | None = None) -> list[dict[str, Any]]:
    """The probe's rows of a user's layer that shows these values, one sequence after another."""
    config = NetworkConfig(embedding_width=1)
    network = Network(UserModel(encoder or Shown(1, names)), config, 13, 5, H).double()
    with torch.no_grad():
        network.embedding.weight[1:, 0] = torch.arange(12) * 10.0
        flat = [value for row in values for value in row]
        network.embedding.weight[1 : 1 + len(flat), 0] = 10.0 * torch.tensor(flat, dtype=torch.float64)
    ids, start = [], 1
    for row in values:
        ids.append(list(range(start, start + len(row))))
        start += len(row)
    return list(by_row(Gates().measure(network, pad(ids, [0] * len(ids)))).values())


def test_shares_of_a_hand_made_gate_are_exact():
    [row] = shown([[0.01, 0.049, 0.06, 0.5], [0.94, 0.96, 1.0], [0.3]], "decay gate")
    assert (row["gate"], row["low_share"], row["high_share"]) == (True, 2 / 8, 2 / 8)
    assert row["mean"] == pytest.approx((0.01 + 0.049 + 0.06 + 0.5 + 0.94 + 0.96 + 1.0 + 0.3) / 8, rel=1e-12)
    assert row["median"] == pytest.approx(0.4)
    assert math.isnan(row["time_scale_steps"])
    assert math.isnan(row["longest_time_scale_steps"])


def test_of_other_activations_the_absolute_value_counts():
    [row] = shown([[-0.99, -0.01, 0.02, 0.96], [-0.5]], "candidate")
    assert (row["gate"], row["low_share"], row["high_share"]) == (False, 2 / 5, 2 / 5)
    assert (row["largest"], row["median"]) == (pytest.approx(0.99), pytest.approx(-0.01))


def test_a_name_alone_makes_no_gate():
    assert [row["gate"] for row in shown([[0.5, 1.5]], "odd gate")] == [False]
    [row] = shown([[-0.5, 0.5]], "forget gate")
    assert math.isnan(row["time_scale_steps"])


def test_a_users_layer_is_found_wherever_it_stands():
    rows = shown([[0.5, 0.6]], encoder=Chain([Shown(1), ElmanLayer(1, H, "tanh", "default")]))
    assert [(row["layer"], row["activation"]) for row in rows] == [
        ("1", "decay gate"), ("1", "candidate"), ("2", "state"),
    ]  # fmt: skip


def test_a_layer_that_is_used_twice_counts_twice():
    class Twice(Encoder):
        kernel = "none"
        width_out = 1

        def __init__(self) -> None:
            super().__init__()
            self.inner = Shown(1, ("my gate",))

        def forward(self, x_BTD, *, mask_BT=None, state=None):
            return self.inner(self.inner(x_BTD=x_BTD)[0] * 0)

    [row] = shown([[0.5, 0.6]], encoder=Twice())
    assert (row["low_share"], row["mean"]) == (0.5, pytest.approx(1.1 / 4))


def test_padding_never_counts(make_network, make_batch, model):
    network = make_network(model).double()
    try:
        plain = Gates().measure(network, make_batch([5, 9, 2]))
    except NotApplicable:
        return
    padded = Gates().measure(network, make_batch([5, 9, 2], extra=6))
    for name, column in plain.items():
        if isinstance(column[0], float):
            np.testing.assert_allclose(padded[name], column, rtol=0, atol=1e-12)
        else:
            assert padded[name] == column


def test_the_probe_leaves_nothing_behind(make_batch):
    network = network_of(lookup("model", "gru")(layers=2), dropout=0.5).float().train()
    network.encoder.encoders[1].eval()  # somebody's frozen layer stays as it is
    before = {name: value.clone() for name, value in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    rng = torch.random.get_rng_state()
    table = Gates().measure(network, make_batch([5, 9]))
    assert [module.training for module in network.modules()] == modes
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert torch.equal(torch.random.get_rng_state(), rng)
    assert repr(table) == repr(Gates().measure(network, make_batch([5, 9])))


def test_hooks_and_modes_are_gone_after_a_failure_too(make_batch, monkeypatch):
    network = network_of(lookup("model", "lstm")()).train()
    monkeypatch.setattr(network.encoder, "forward", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        Gates().measure(network, make_batch([5, 9]))
    assert network.training
    assert network.encoder.training
    assert not network.encoder._forward_pre_hooks


@pytest.mark.parametrize("name", ["transformer", "bag", "constant"])
def test_models_without_gates_or_states_say_so(make_network, make_batch, name):
    with pytest.raises(NotApplicable, match="no layer of this model shows gates or a recurrent state"):
        Gates().measure(make_network(lookup("model", name)()), make_batch([3, 4]))


def test_values_that_are_no_numbers_have_no_shares(make_batch):
    network = network_of(lookup("model", "gru")())
    with torch.no_grad():
        network.encoder.recurrent_bias.fill_(math.nan)
    with pytest.raises(NotApplicable, match="values of the reset gate are not finite"):
        Gates().measure(network, make_batch([3, 4]))


def test_the_table_can_be_written_for_every_model(make_network, make_batch):
    for name in ("rnn", "lstm"):
        columns = Gates().measure(make_network(lookup("model", name)()), make_batch([3, 4]))
        assert records.parquet({"moment": ["init"] * len(columns["layer"]), **columns})


# The figure


def rows_of(
    label: str, activation: str, seed: int = 0, layer: str = "1", **moments: tuple[float, ...]
) -> list[dict[str, Any]]:
    """Rows of the table: low and high share, and the memory of the slowest tenth, at each moment."""
    made = []
    for moment, (low, high, *memory) in moments.items():
        steps = memory[0] if memory else math.nan
        made.append({
            "label": label, "activation": activation, "layer": layer, "moment": moment, "seed": seed,
            "gate": float(activation.endswith("gate")), "low_share": low, "high_share": high, "mean": 0.5,
            "median": 0.5, "largest": 1.0, "time_scale_steps": steps / 2, "longest_time_scale_steps": steps,
            "task": "order", "rung": 16,
        })  # fmt: skip
    return made


def swept(folder: Path, rows: list[dict[str, Any]], **model: Any) -> Sweep:
    """A sweep with this table."""
    labels = dict.fromkeys(row["label"] for row in rows)
    runs = [training(label, 16, 0, 0.5) for label in labels or ["gru"]]
    for run in runs:
        run.config["model"] |= model
    write_sweep(folder / "s", [(run, {}) for run in runs])
    sweep = read_sweep(folder / "s")
    columns = [*rows_of("gru", "state", init=(0.0, 0.0))[0]]
    sweep._tables["gates"] = pd.DataFrame(rows, columns=columns)
    return sweep


def words(folder: Path, rows: list[dict[str, Any]]) -> str:
    plot = figure.plot(swept(folder, rows))
    assert plot is not None
    return plot.shows


def test_a_gate_that_training_opened_is_told(tmp_path):
    rows = [
        r
        for s in range(3)
        for r in rows_of("gru", "update gate", s, init=(0, 0, 2.1), final=(0, 0.04, 40 + s))
    ]
    assert words(tmp_path, rows) == (
        "Training opened the update gate of gru: the slowest tenth of its units keeps a memory for 41 steps "
        "or longer, 2.1 before."
    )


def test_seeds_that_disagree_are_counted_not_averaged(tmp_path):
    after = [50.0, 2.0, 1.0]
    rows = [
        r
        for s in range(3)
        for r in rows_of("lstm", "forget gate", s, init=(0, 0, 2.0), final=(0, 0, after[s]))
    ]
    assert words(tmp_path, rows) == (
        "Training opened the forget gate of lstm in 1 of 3 seeds: the slowest tenth of its units keeps a "
        "memory for 50 steps or longer, 2.0 before. Training closed the forget gate of lstm in 1 of 3 seeds: "
        "the slowest tenth of its units keeps a memory for 1.0 steps or longer, 2.0 before."
    )


def test_of_several_layers_the_one_that_keeps_longest_counts(tmp_path):
    rows = rows_of("gru", "update gate", layer="1", init=(0.2, 0, 2.0), final=(0.0, 0.0, 3.0))
    rows += rows_of("gru", "update gate", layer="2", init=(0.0, 0, 1.0), final=(0.0, 0.1, 2e6))
    sweep = swept(tmp_path, rows)
    assert (
        "the units of a layer keeps a memory for over a million steps or longer, 2.0"
        in figure.plot(sweep).shows
    )
    start, end = figure.rows(sweep.table("gates"), sweep.labels)
    assert (start.low, end.high) == (pytest.approx(0.1), pytest.approx(0.05))


def test_what_did_not_change_or_saturate_is_told_so_or_not_at_all(tmp_path):
    still = rows_of("lstm", "forget gate", init=(0, 0, 1.8), final=(0, 0.05, 1.5))
    assert words(tmp_path, still) == "Training hardly changed the memory of lstm (1.5 steps, 1.8 before)."
    assert words(tmp_path / "rnn", rows_of("rnn", "state", init=(0.5, 0), final=(0.6, 0.09))) == ""
    assert words(tmp_path / "begun", rows_of("gru", "update gate", init=(0.5, 0.4, 9))) == ""


def test_saturation_is_told_with_both_ends(tmp_path):
    rows = rows_of("gru", "reset gate", init=(0, 0.01), final=(0.4, 0.31))
    rows += rows_of("gru", "candidate", init=(0.1, 0), final=(0, 0.57))
    rows += rows_of("rnn", "state", init=(0.1, 0.02), final=(0, 0.2))
    assert words(tmp_path, rows) == (
        "Of all gates the reset gate of gru is the most saturated after training: 40 % closed and 31 % open "
        "(0 % and 1 % before). Training ends with values where tanh passes little gradient in gru (candidate "
        "57 %, 0 % before) and rnn (state 20 %, 2 % before)."
    )


def test_what_has_no_upper_end_is_not_drawn(tmp_path):
    rows = rows_of("rnn", "state", init=(0, 0.5))
    assert figure.plot(swept(tmp_path / "tanh", rows)) is not None
    assert figure.plot(swept(tmp_path / "relu", rows, nonlinearity="relu")) is None
    rows = rows_of("lstm", "cell", init=(0, 0.5)) + rows_of("rnn", "state", init=(0, math.nan))
    assert figure.plot(swept(tmp_path / "cell", rows)) is None
    assert (
        figure.plot(swept(tmp_path / "odd", [{**rows_of("rnn", "state", init=(0, 0.5))[0], "largest": 3.0}]))
        is None
    )
    assert figure.plot(swept(tmp_path / "none", [])) is None


def test_the_figure_names_every_model_gate_and_memory(tmp_path):
    rows = rows_of("lstm", "forget gate", init=(0, 0, 1.8), final=(0, 0.05, 12.4))
    rows += rows_of("lstm", "state", init=(0, 0), final=(0, 0)) + rows_of(
        "rnn", "state", init=(0, 0), final=(0, 0)
    )
    plot = figure.plot(swept(tmp_path, rows))
    assert (plot.key, plot.title) == ("gates", "Gates and saturation: order T=16")
    with theme.drawing():
        drawn = plot.draw()
    text = svg.inline(drawn, plot.key, plot.title, plot.shows)
    for word in (
        "before training",
        "after training",
        "lstm",
        "rnn",
        "forget gate",
        "keeps 12 steps",
        "keeps 1.8 steps",
    ):
        assert word in text
    assert text.count(">state<") == 1  # the lstm's gates stand for it
