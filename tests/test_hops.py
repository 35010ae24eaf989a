"""The way from the cue to the answer: hops of every kind of encoder, exact gradients, the figure's words."""

from __future__ import annotations

import dataclasses
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made import training, write_sweep

from seqbench.batch import Batch, pad
from seqbench.config import NetworkConfig
from seqbench.network import Network
from seqbench.probes.base import NotApplicable, input_gradients
from seqbench.probes.hops import Hops
from seqbench.registry import lookup
from seqbench.report import svg, theme
from seqbench.report.frame import Sweep, read_sweep
from seqbench.report.plots import hops as plots
from seqbench.report.plots.base import Plot

WIDTH, LENGTHS = 8, [9, 5, 12]
CUES = [[2, 4], [1], [0, 3, 10]]  # the first of each is the farthest from the last token


def network_of(model: str, readout: str = "last", **options: Any) -> Network:
    torch.manual_seed(0)
    config = NetworkConfig(embedding_width=WIDTH, readout=readout)
    return Network(lookup("model", model)(**options), config, 7, 3, WIDTH).double()


def marked() -> Batch:
    rng = np.random.default_rng(0)
    batch = pad([rng.integers(1, 7, length) for length in LENGTHS], [0, 2, 1])
    marks_BT = np.zeros(batch.ids_BT.shape, dtype=bool)
    for row, places in zip(marks_BT, CUES, strict=True):
        row[places] = True
    return batch.marked(marks_BT)


DISTANCES = [6, 3, 11]


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("rnn", {}, DISTANCES),
        ("lstm", {"layers": 2}, DISTANCES),
        ("bilstm", {}, [2, 1, 0]),  # its other half is read at the first token
        ("transformer", {"layers": 3}, [1, 1, 1]),
        ("transformer", {"causal": False}, [1, 1, 1]),
        ("tcn", {"layers": 2}, [1, 1, 2]),  # one layer sees 8 steps back, the other 4
        ("tcn", {"layers": 1}, [math.inf, 1, math.inf]),
    ],
)
def test_a_recurrence_goes_step_by_step_and_attention_at_once(name, options, expected):
    network, batch = network_of(name, **options), marked()
    found = Hops().measure(network, batch)
    assert found["distance"] == DISTANCES
    assert found["hops"] == expected
    norms_BT, _ = input_gradients(network, batch)
    assert found["at_cue"] == [norms_BT[row, places[0]] for row, places in enumerate(CUES)]
    assert found["at_answer"] == [norms_BT[row, length - 1] for row, length in enumerate(LENGTHS)]


def test_an_encoder_may_know_better(monkeypatch):
    network = network_of("gru")
    monkeypatch.setattr(network.encoder, "hops", lambda distance: math.ceil(distance / 4), raising=False)
    assert Hops().measure(network, marked())["hops"] == [2, 1, 3]


def test_sequences_without_a_cue_are_left_out():
    batch = marked()
    batch.relevant_BT[1] = False
    assert Hops().measure(network_of("rnn"), batch)["distance"] == [6, 11]


@pytest.mark.parametrize(
    ("name", "readout", "marks", "why"),
    [
        ("rnn", "last", False, "does not say which tokens decide"),
        ("rnn", "mean", True, "the mean over all steps is read"),
        ("constant", "last", True, "does not depend on the input"),
    ],
)
def test_what_cannot_be_said_is_refused_with_the_reason(name, readout, marks, why):
    batch = marked() if marks else dataclasses.replace(marked(), relevant_BT=None)
    with pytest.raises(NotApplicable, match=why):
        Hops().measure(network_of(name, readout), batch)


# The figure


def table(shares: dict[str, float], hops: float, distance: float = 40) -> dict[str, list[Any]]:
    """Two sequences per moment whose gradients have the median share."""
    rows = [
        {"moment": moment, "distance": distance, "hops": hops, "at_cue": share * answer, "at_answer": answer}
        for moment, share in shares.items()
        for answer in (0.5, 2.0)
    ]
    return {name: [row[name] for row in rows] for name in rows[0]}


def swept(folder: Path, tables: dict[str, dict[str, list[Any]]]) -> Sweep:
    work = [
        (training(model, 64, 0, 0.5, metrics={"causal": model != "bilstm"}), {"hops": columns})
        for model, columns in tables.items()
    ]
    return read_sweep(write_sweep(folder, work))


def plotted(sweep: Sweep) -> Plot:
    plot = plots.plot(sweep)
    assert plot is not None
    with theme.drawing():
        assert "<svg" in svg.inline(plot.draw(), plot.key, plot.title, plot.how)
    return plot


def test_hops_and_what_is_left_are_told(tmp_path):
    rnn = table({"init": 2e-13, "step 10": 1.0, "final": 3e-7}, 40)
    transformer = table({"init": 0.02, "final": 0.5}, 1)
    assert plotted(swept(tmp_path / "s", {"rnn": rnn, "transformer": transformer})).shows == (
        "On order T=64 the cue lies 40 steps back. Before training, of the gradient at the answer the cue "
        "gets: rnn 2·10⁻¹³ (40 hops) and transformer 0.02 (1 hop). After training, of the gradient at the "
        "answer the cue gets: rnn 3·10⁻⁷ (40 hops) and transformer 0.5 (1 hop)."
    )


@pytest.mark.parametrize(
    ("label", "hops", "said"),
    [("bilstm", 7, True), ("bilstm", 1, False), ("bilstm", 40, False), ("tcn", 7, False)],
)
def test_a_short_way_to_the_nearer_end_is_said_to_be_one(tmp_path, label, hops, said):
    rnn, short = table({"init": 1e-9, "final": 1e-3}, 40), table({"init": 0.02, "final": 0.5}, hops)
    words = (
        f"In {label} the hops are those to the nearer end of the sequence; a token in the middle is about "
        "half the sequence's length from either end."
    )
    assert plotted(swept(tmp_path / "s", {"rnn": rnn, label: short})).shows.endswith(words) == said


def test_a_vanished_gradient_is_nothing_and_still_told(tmp_path):
    shows = plotted(swept(tmp_path / "s", {"rnn": table({"init": 0.0, "final": 0.1}, 40)})).shows
    assert "rnn nothing (40 hops)" in shows


def test_without_the_probe_there_is_no_figure(tmp_path):
    assert plots.plot(read_sweep(write_sweep(tmp_path / "s", [(training("rnn", 64, 0, 0.5), {})]))) is None


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0, 0.0, 1e99, "?"])
@pytest.mark.parametrize("column", ["moment", "distance", "hops", "at_cue", "at_answer"])
def test_numbers_that_nobody_vouches_for_do_no_harm(tmp_path, column, value):
    columns = table({"init": 0.1, "final": 0.2}, 40)
    for row in random.Random(0).sample(range(4), 2):
        columns[column][row] = value
    if isinstance(value, str) or column == "moment":
        columns[column] = [str(one) for one in columns[column]]
    sweep = swept(tmp_path / "s", {"rnn": columns})
    if plots.plot(sweep) is not None:
        plotted(sweep)
