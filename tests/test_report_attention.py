"""The figure of attention: which run it shows, and that its words say what the numbers support."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from made import training, write_sweep

from seqbench.report import svg, theme
from seqbench.report.frame import Sweep, read_sweep
from seqbench.report.plots import attention as plots
from seqbench.report.plots.base import Plot

COLUMNS = ("moment", "kind", "layer", "head", "sequence", "query", "key", "value", "token", "relevant")
EQUAL = [0.25] * 4


def by_hand(
    after: list[float], before: list[float] = EQUAL, query: int = 3, tokens: tuple[int, ...] = (1, 2, 3, 4),
    deciding: tuple[int, ...] = (), entropy: float = 0.7, near: tuple[float, ...] = (0.4, 0.3, 0.2, 0.1),
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
            mark = float(key in deciding) if deciding else math.nan
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
        (
            by_hand(LAST, deciding=(1,)),
            "One token decides this answer (triangle), at position 1: the most that any head puts there is "
            "0.90, before training 0.25.",
            LATER,
        ),
        (
            by_hand([0.04, 0.9, 0.06, 0], [0.1, 0.2, 0.3, 0.4], deciding=(0, 1, 3)),
            "Three tokens decide this answer (triangles), at positions 0, 1 and 3: the most that any head "
            "puts there is 0.04, 0.90 and 0.00, before training 0.10, 0.20 and 0.40.",
            "lower layer",
        ),
        (
            by_hand([0.2] * 4 + [0.15, 0.05], [0.1] * 5 + [0.5], tokens=(1,) * 6, deciding=(0, 1, 2, 3, 4)),
            "5 tokens decide this answer (triangles): the most that any head puts on all of them together is "
            "0.95, before training 0.50.",
            "at position",
        ),
        (by_hand([0, 0.9, 0.05, 0], deciding=(1,)), BACK, "decide"),  # not every weight is known
        (by_hand(LAST, [0, 0.9, 0.05, 0], deciding=(1,)), "0.90", "decide"),
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


def joined(parts: list[dict[str, list[Any]]]) -> dict[str, list[Any]]:
    return {name: [value for one in parts for value in one[name]] for name in COLUMNS}


def test_many_heads_are_drawn(tmp_path):
    heads = [by_hand([0.1, 0.7, 0.1, 0.1], deciding=(1,)) for _ in range(10)]
    for number, one in enumerate(heads, start=1):
        one["head"] = [head and number for head in one["head"]]
    assert "of 10 heads the 8 with the highest peak" in plotted(swept(tmp_path / "s", joined(heads))).how


@pytest.mark.parametrize(("first", "said"), [(0.6, "0.60 and 0.80"), (0.05, "0.05 and 0.80")])
def test_of_several_layers_the_most_that_any_head_reads_counts_for_each_token(tmp_path, first, said):
    maps = ([first, 0.2, 0.1, 0.7 - first], [0.02, 0.8, 0.1, 0.08])
    layers = [by_hand(weights, deciding=(0, 1)) for weights in maps]
    layers[1]["layer"] = [2] * len(layers[1]["layer"])
    shows = plotted(swept(tmp_path / "s", joined(layers))).shows
    assert f"0 and 1: the most that any head puts there is {said}, before training 0.25 and 0.25." in shows
    assert ("read it in a lower layer" in shows) == (first < 0.1)


@pytest.mark.parametrize("deciding", [(), (1, 2)])
def test_triangles_stand_below_the_tokens_that_decide_and_are_explained(tmp_path, deciding):
    plot = plotted(swept(tmp_path / "s", by_hand(LAST, deciding=deciding)))
    assert ("triangles mark the tokens" in plot.how) == bool(deciding)
    with theme.drawing():
        figure = plot.draw()
    points = [line for axes in figure.axes for line in axes.lines if line.get_marker() == "^"]
    assert [float(line.get_xdata()[0]) for line in points] == list(deciding)
    names = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    assert ("decides the answer" in names) == bool(deciding)


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
