"""Beyond training: a floor that moves with the size, and models that had learned no more than it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from made import Work, card, training, write_sweep
from test_report import checked

from seqbench import records
from seqbench.metric import ACCURACY, SQUARED_ERROR
from seqbench.report import slice_floors, svg, theme
from seqbench.report.frame import Sweep, read_sweep
from seqbench.report.page import render
from seqbench.report.plots import slices
from seqbench.report.plots.base import Plot
from seqbench.report.slice_floors import Floor

FLOORS = {"chance": 0.125, "values without binding": 0.325}


def sliced(label: str, at_2: float, at_8: float, at_16: float, test: float | None = None) -> Work:
    """A run that was trained with 8 pairs and tested with 2, 8 and 16."""
    described = card(slice_axis="number of pairs", trained_to=8, floors=FLOORS)
    columns = {"value": [2, 8, 16], "accuracy": [at_2, at_8, at_16], "loss": [0.1] * 3}
    run = training(label, 8, 0, at_8 if test is None else test, card=described)
    return run, {"slices": columns}


def swept(folder: Path, work: list[Work], canaries: tuple[str, ...] = ("bag",)) -> Sweep:
    write_sweep(folder, work)
    plan = records.read_plan(folder)
    beside = [{**run, "companion": run["model"] in canaries} for run in plan["runs"]]
    records.write_plan(folder, {**plan, "runs": beside})
    return read_sweep(folder)


def plotted(sweep: Sweep) -> Plot:
    plot = slices.plot(sweep, sweep.tasks[0], 0)
    assert plot is not None
    return plot


BAG = sliced("bag", 0.56, 0.32, 0.26)
LEARNED = sliced("transformer", 1.0, 1.0, 0.98)


def test_a_floor_that_falls_too_is_no_loss_of_the_models_at_it(tmp_path: Path):
    work = [
        sliced("rnn", 0.34, 0.21, 0.18), sliced("lstm", 0.56, 0.32, 0.245), sliced("gru", 0.56, 0.33, 0.25),
        LEARNED, BAG,
    ]  # fmt: skip
    sweep = swept(tmp_path / "s", work)
    assert sweep.labels == ["rnn", "lstm", "gru", "transformer"]
    assert plotted(sweep).shows == (
        "At number of pairs 16, 2 times what training showed, transformer (1.00 to 0.98) keeps what it "
        'reached. lstm and gru stay about at the floor "values without binding", which itself falls from '
        "0.32 to 0.26, and rnn stays below it: none of the 3 had learned more than that, so there is nothing "
        "to keep."
    )
    checked(render(sweep))


def test_the_floor_is_drawn_size_by_size(tmp_path: Path):
    plot = plotted(swept(tmp_path / "s", [LEARNED, BAG]))
    assert plot.how.endswith(
        'the dotted line is the floor "values without binding", as the canary bag measured it there'
    )
    with theme.drawing():
        figure = plot.draw()
        (panel,) = figure.axes
        drawn = [(list(line.get_xdata()), list(line.get_ydata()), line.get_color()) for line in panel.lines]
        assert ([2, 8, 16], [0.56, 0.32, 0.26], theme.INK) in drawn
        picture = svg.inline(figure, plot.key, plot.title, plot.how)
    assert "floor: values without binding" in picture


def test_without_a_canary_only_the_floor_in_training_is_known(tmp_path: Path):
    work = [sliced("lstm", 0.56, 0.32, 0.24), sliced("gru", 0.56, 0.33, 0.25), LEARNED]
    plot = plotted(swept(tmp_path / "s", work))
    assert plot.shows.endswith(
        'lstm and gru in training\'s range are at the floor "values without binding" (0.33) or below it: '
        "neither had learned more than that, so there is nothing to keep."
    )
    assert "dotted" not in plot.how


def test_what_was_learned_above_the_floor_can_be_lost(tmp_path: Path):
    shows = plotted(swept(tmp_path / "s", [sliced("gru", 1.0, 0.9, 0.26), BAG])).shows
    assert shows == "At number of pairs 16, 2 times what training showed, gru (0.90 to 0.26) falls."


def test_a_slice_is_compared_with_the_slice_of_the_canary_and_not_with_the_whole_test_set(tmp_path: Path):
    """The extra test set at the largest size may be harder than the task's own test set."""
    hard = sliced("bag", 0.9, 0.2, 0.15, test=0.325)
    shows = plotted(swept(tmp_path / "s", [sliced("gru", 0.9, 0.4, 0.4, test=0.6), hard])).shows
    assert "gru (0.40 to 0.40) keeps what it reached" in shows


def test_a_canary_far_from_the_best_floor_does_not_measure_it(tmp_path: Path):
    sweep = swept(tmp_path / "s", [LEARNED, sliced("bag", 0.2, 0.13, 0.13)])
    floor = slice_floors.best(sweep, sweep.tasks[0])
    assert floor is not None
    assert floor.canary == ""


@pytest.mark.parametrize(
    ("end", "words"),
    [
        (0.255, "it stays about at"), (0.15, "it falls below"), (0.4, "it ends above"),
    ],
)  # fmt: skip
def test_where_a_model_ends_beside_the_floor(tmp_path: Path, end: float, words: str):
    shows = plotted(swept(tmp_path / "s", [sliced("it", 0.56, 0.32, end), BAG])).shows
    where = "At number of pairs 16, 2 times what training showed: "
    assert shows.startswith(f'{where}{words} the floor "values without binding"')
    assert shows.endswith("from 0.32 to 0.26: it had learned no more than that, so there is nothing to keep.")


def test_one_that_stays_while_the_floor_comes_down_ends_at_it(tmp_path: Path):
    shows = plotted(swept(tmp_path / "s", [sliced("it", 0.56, 0.22, 0.22), BAG])).shows
    assert "it ends about at the floor" in shows


def test_less_is_better_where_the_metric_says_so():
    floor = Floor("mean", 0.2, SQUARED_ERROR, 0.01, reached={"good": 0.05, "idle": 0.2, "worse": 0.4})
    assert [floor.learned(label, 0.0, 8.0) for label in ("good", "idle", "worse")] == [True, False, False]
    above = Floor("bag", 0.3, ACCURACY, 0.01, reached={"good": 0.5, "idle": 0.3, "gone": math.nan})
    assert [above.learned(label, 0.0, 8.0) for label in ("good", "idle", "gone")] == [True, False, True]


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0, 1e99, 8])
def test_a_canary_that_nobody_vouches_for_does_no_harm(tmp_path: Path, value: Any):
    run, columns = sliced("bag", 0.56, 0.32, 0.26)
    odd = {**columns["slices"], "value": [value, 8, value], "accuracy": [value, 0.32, 0.3]}
    sweep = swept(tmp_path / "s", [LEARNED, sliced("gru", 0.56, 0.32, 0.24), (run, {"slices": odd})])
    assert "gru" in plotted(sweep).shows
    checked(render(sweep))
