"""Scores that are no accuracies, floors that were measured, oracles, notes and samples on the page."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from made import Work, card, changed, training, write_sweep

from seqbench import records
from seqbench.metric import ACCURACY, BITS, SQUARED_ERROR
from seqbench.records import Run
from seqbench.report import baselines
from seqbench.report.frame import Sweep, read_sweep
from seqbench.report.page import render
from seqbench.report.summary import cells, note, standing
from seqbench.report.verdict import compare, headline, solving

MSE_CARD = card(metric=SQUARED_ERROR.name, floors={"always the mean": 1 / 6})
BITS_CARD = card(metric=BITS.name, floors={"bigram": 3.4, "unigram": 4.8})
EXACT = {"always the mean": 1 / 6}


def number(model: str, seed: int, loss: float, of: dict[str, Any] = MSE_CARD, **metrics: Any) -> Run:
    run = training(model, None, seed, 0.0, card=of)
    task = {"name": "order", "solved_at": None}
    run = dataclasses.replace(run, config={**run.config, "task": task})
    return changed(run, test_loss=loss, test_accuracy=None, solved=None, **metrics)


def curve(losses: list[float]) -> dict[str, dict[str, list[Any]]]:
    rows = {"step": [20 * i for i in range(1, len(losses) + 1)], "loss": losses}
    return {"evaluations": {**rows, "accuracy": [float("nan")] * len(losses)}}


def swept(folder: Path, work: list[Work], companions: int = 0) -> Sweep:
    """A sweep whose last runs are canaries that nobody named."""
    write_sweep(folder, work)
    plan = records.read_plan(folder)
    for entry in plan["runs"][len(work) - companions :]:
        entry["companion"] = True
    records.write_plan(folder, plan)
    return read_sweep(folder)


def scores(sweep: Sweep) -> dict[str, tuple[float, ...]]:
    return {cell.label: cell.scores for cell in cells(sweep)}


def test_a_squared_error_is_the_loss_and_lower_is_better(tmp_path):
    work = [
        (number(m, s, loss + 0.001 * s), curve([0.2, loss]))
        for m, loss in {"rnn": 0.16, "gru": 0.002}.items()
        for s in range(3)
    ]
    sweep = swept(tmp_path / "s", work)
    assert scores(sweep) == {"rnn": (0.16, 0.161, 0.162), "gru": (0.002, 0.003, 0.004)}
    [comparison] = compare(sweep, whole=True)
    assert (comparison.judged.outcome.value, comparison.judged.margin) == ("better", pytest.approx(0.02 / 6))
    grid = cells(sweep)
    assert headline(sweep, grid) == "On order, gru has the lowest mean squared error: 0.0030."
    assert solving([grid[1]], sweep.tasks[0]) == "mean squared error 0.0030 on order"
    text = render(sweep)
    assert "test MSE" in text
    assert "held-out mean squared error" in text
    assert "within 2 % of the worst floor by two" in text
    assert "test set alone" not in text


def test_bits_per_character_come_from_nats(tmp_path):
    sweep = swept(tmp_path / "s", [(number("gru", 0, 2.0, BITS_CARD), curve([3.0, 2.0]))])
    assert scores(sweep)["gru"] == pytest.approx((2.0 / 0.6931471805599453,))
    assert list(sweep.tasks[0].floors(None)) == ["unigram", "bigram"]  # the worst first
    assert sweep.table("evaluations")["score"].tolist() == pytest.approx([4.328, 2.885], abs=1e-3)


@pytest.mark.parametrize(
    ("loss", "words"),
    [(0.166, "did not learn (always the mean)"), (0.5, "did not learn (always the mean)"), (0.12, "")],
)
def test_standing_to_a_floor_knows_which_way_is_better(loss, words):
    assert standing(loss, EXACT, SQUARED_ERROR) == words
    assert note([loss] * 2, EXACT, SQUARED_ERROR) == words


def test_a_level_between_two_floors_is_named_in_either_direction():
    assert standing(0.5, {"chance": 0.1, "bag": 0.8}, ACCURACY) == 'below the floor "bag"'
    assert standing(4.0, {"unigram": 4.8, "bigram": 3.4}, BITS) == 'worse than the floor "bigram"'


def test_a_diverged_regression_scores_the_worst_floor(tmp_path):
    lost = dataclasses.replace(number("rnn", 0, 0.1), status="diverged")
    assert scores(swept(tmp_path / "s", [(lost, {})]))["rnn"] == (pytest.approx(1 / 6),)


def bag(accuracy: float, **changes: Any) -> Run:
    return training("bag", 16, 0, accuracy, metrics={"canary": True}, **changes)


def test_a_canary_beside_the_comparison_is_a_measured_floor_and_no_contestant(tmp_path):
    work = [(training("gru", 16, seed, 0.9), {}) for seed in range(2)]
    sweep = swept(tmp_path / "s", [*work, (bag(0.4), {})], companions=1)
    assert sweep.labels == ["gru"]
    assert sweep.tasks[0].floors(16) == {"chance": 0.125, "bag (measured)": 0.4, "bag of tokens": 0.667}
    assert compare(sweep, whole=True) == []
    assert sweep.seeds == [0, 1]
    text = render(sweep)
    assert "floor: bag (measured)" in text
    assert "3 runs planned = 3 done" in text


@pytest.mark.parametrize(
    ("accuracy", "floors"),
    [
        (0.66, {"chance": 0.125, "bag of tokens": 0.667}),  # tells nothing new
        (0.13, {"chance": 0.125, "bag of tokens": 0.667}),
        (0.05, {"chance": 0.125, "bag of tokens": 0.667}),
        (0.9, {"chance": 0.125, "bag of tokens": 0.667, "bag (measured)": 0.9}),
    ],
)
def test_a_measured_floor_is_shown_where_it_tells_something_new(tmp_path, accuracy, floors):
    work = [(training("gru", 16, 0, 0.9), {}), (bag(accuracy), {})]
    assert swept(tmp_path / "s", work, companions=1).tasks[0].floors(16) == floors


@pytest.mark.parametrize("status", ["failed", "timeout"])
def test_a_canary_that_failed_is_no_floor_but_counted(tmp_path, status):
    work = [(training("gru", 16, 0, 0.9), {}), (bag(0.4, status=status), {})]
    sweep = swept(tmp_path / "s", work, companions=1)
    assert "bag (measured)" not in sweep.tasks[0].floors(16)
    assert f"1 done + 1 {status}" in render(sweep)


@pytest.mark.parametrize("companions", [0, 1])
def test_a_canary_as_good_as_the_best_model_is_a_warning(tmp_path, companions):
    near = swept(tmp_path / "near", [(training("gru", 16, 0, 0.9), {}), (bag(0.89), {})], companions)
    assert baselines.blind_winners(near) == ["bag on order T=16 (0.890)"]
    far = swept(tmp_path / "far", [(training("gru", 16, 0, 0.9), {}), (bag(0.8), {})], companions)
    assert baselines.blind_winners(far) == []
    idle = swept(tmp_path / "idle", [(training("gru", 16, 0, 0.12), {}), (bag(0.12), {})], companions)
    assert baselines.blind_winners(idle) == []  # nobody learned anything


def test_a_canary_wins_a_regression_by_a_lower_error(tmp_path):
    blind = number("bag", 0, 0.05, canary=True)
    sweep = swept(tmp_path / "s", [(number("gru", 0, 0.05), {}), (blind, {})], companions=1)
    assert baselines.blind_winners(sweep) == ["bag on order (0.0500)"]
    worse = swept(tmp_path / "t", [(number("gru", 0, 0.01), {}), (blind, {})], companions=1)
    assert baselines.blind_winners(worse) == []


@pytest.mark.parametrize(
    ("run", "said"),
    [
        (changed(training("gru", 16, 0, 0.9), oracle_score=1.0), []),
        (changed(training("gru", 16, 0, 0.9), oracle_score=0.98), ["order (0.980)"]),
        (number("gru", 0, 0.1, oracle_score=1e-15), []),
        (number("gru", 0, 0.1, oracle_score=0.01), ["order (0.0100)"]),
        (training("gru", 16, 0, 0.9), []),
    ],
)
def test_an_oracle_that_errs_refutes_the_task(tmp_path, run, said):
    sweep = swept(tmp_path / "s", [(run, {})])
    assert baselines.refuted_tasks(sweep) == said
    assert ("not what the card says" in render(sweep)) == bool(said)


def test_what_was_counted_about_the_data_is_on_the_page(tmp_path):
    of = card(notes={"rows of class 'a'": 12_345, "shares": 0.5, "<b>": 1, "text": "no number"})
    text = render(swept(tmp_path / "s", [(training("gru", 16, 0, 0.9, card=of), {})]))
    assert "&lt;b&gt; 1; rows of class &#39;a&#39; 12,345; shares 0.5." in text


def test_a_sample_is_shown_line_by_line_and_escaped(tmp_path):
    written = number("gru", 0, 1.5, BITS_CARD, sample="to <b>be</b>\nor\x1b[31m", sample_prompt="first")
    text = render(swept(tmp_path / "s", [(written, {})]))
    assert "to &lt;b&gt;be&lt;/b&gt;\nor [31m</pre>" in text
    assert "first</pre>" in text


@pytest.mark.parametrize("sample", [None, 3.0, ""])
def test_without_a_sample_there_is_no_section(tmp_path, sample):
    run = number("gru", 0, 1.5, BITS_CARD, sample=sample)
    assert "What each model writes" not in render(swept(tmp_path / "s", [(run, {})]))


@pytest.mark.parametrize(("loss", "said"), [(0.2, True), (0.002, False)])
def test_the_headline_says_when_no_model_clears_a_floor(tmp_path, loss, said):
    sweep = swept(tmp_path / "s", [(number("gru", 0, loss), {})])
    words = 'The floor "always the mean" is 0.1667: no model does better.'
    assert (words in headline(sweep, cells(sweep))) == said


def test_a_canary_that_chance_alone_may_have_lifted_is_no_floor(tmp_path):
    of = card(floors={"chance": 0.5})
    for accuracy, shown in ((0.534, False), (0.56, True)):
        lucky = training("bag", 16, 0, accuracy, metrics={"canary": True, "test_answers": 1024}, card=of)
        model = training("gru", 16, 0, accuracy, card=of)
        sweep = swept(tmp_path / str(accuracy), [(model, {}), (lucky, {})], companions=1)
        assert ("bag (measured)" in sweep.tasks[0].floors(16)) == shown
        assert bool(baselines.blind_winners(sweep)) == shown


@pytest.mark.parametrize("first", ["timeout", "done"])
def test_a_run_that_ended_early_does_not_hide_what_others_know_about_the_data(tmp_path, first):
    known = card(floors={"chance": 0.1, "majority class": 0.3}, notes={"rows": 5})
    early = training("gru", 16, 0, 0.0, status="timeout", card=card(floors={"chance": 0.1}))
    work = [(early, {}), (training("gru", 16, 1, 0.9, card=known), {})]
    task = swept(tmp_path / "s", work if first == "timeout" else work[::-1]).tasks[0]
    assert (task.floors(16), task.notes) == ({"chance": 0.1, "majority class": 0.3}, [("rows", "5")])


def test_a_regression_without_a_floor_has_no_scale_and_a_diverged_model_no_score(tmp_path):
    of = card(metric=SQUARED_ERROR.name, floors={})
    work = [(number("rnn", s, 0.1, of), {}) for s in range(2)] + [
        (number("lstm", s, 21.0, of), {}) for s in range(2)
    ]
    blind = (number("constant", 0, 5000.0, of, canary=True), {})
    sweep = swept(tmp_path / "s", [*work, blind], companions=1)
    assert "equivalent" not in "".join(c.words for c in compare(sweep, whole=True))
    lost = [(dataclasses.replace(number("gru", 0, 0.1, of), status="diverged"), {})]
    gone = swept(tmp_path / "t", lost)
    assert headline(gone, cells(gone)) == "No run has finished yet."
    assert solving(cells(gone), gone.tasks[0]) == "no score on order: its runs diverged"
    assert "nan" not in render(gone).split("<script>")[0].lower()
