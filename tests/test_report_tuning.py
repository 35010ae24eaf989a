"""The page of a tuned sweep: trials are shown, never compared, and the edge of the range is a warning."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from pathlib import Path
from typing import Any

import pytest
from made import Work, card, settings, tables, training, write_sweep

from seqbench.records import Run
from seqbench.report import facts, theme, tuning
from seqbench.report.frame import Sweep, read_sweep
from seqbench.report.page import render
from seqbench.report.plots import response
from seqbench.report.summary import cells, counted

RATES = (0.001, 0.003, 0.01, 0.03)


def trial(model: str, lr: Any, score: Any, steps: Any = 25, seed: int = 1000, **changes: Any) -> Work:
    config = settings(model, 16, **changes.pop("model_settings", {}))
    config["train"] = {"lr": lr, "steps": steps, "tuned": False, **changes.pop("train", {})}
    metrics = {"best_valid_score": score, "matched_parameters": 1000, "width": 8}
    status = changes.pop("status", "done")
    run = Run("trial", "", status, "order", 16, model, seed, config, card=card(), metrics=metrics, **changes)
    return run, tables(0.5)


def compared(model: str, lr: float, **changes: Any) -> Work:
    config = settings(model, 16, **changes.pop("model_settings", {}))
    config["train"] |= {"lr": lr, "tuned": True}
    return training(model, 16, 0, 0.9, config=config, **changes), tables(0.9)


def usual(best: float = 0.01) -> list[Work]:
    """Two models: four trials of 25 steps, two of 50, both seeds; gru diverges at the highest rate.

    At 25 steps the score falls by 0.1 from rate to rate away from 0.01, or from an end that is the best.
    """
    work = [compared("rnn", best), compared("gru", 0.003)]
    peak = RATES.index(best)
    for model, seed in itertools.product(("rnn", "gru"), (1000, 1001)):
        for rate in RATES:
            lost = model == "gru" and rate == 0.03 and seed == 1001
            score = 0.8 - 0.1 * abs(RATES.index(rate) - peak) + 0.02 * (seed - 1000)
            work.append(trial(model, rate, score, seed=seed, status="diverged" if lost else "done"))
        own = best if model == "rnn" else 0.003
        work += [trial(model, rate, 0.75 if rate == own else 0.70, 50, seed) for rate in sorted({own, 0.01})]
    return work


def sweep_of(tmp_path: Path, work: list[Work], **plan: Any) -> Sweep:
    return read_sweep(write_sweep(tmp_path / "s", work, **plan))


def test_trials_are_read_and_no_part_of_the_comparison(tmp_path):
    with_trials, without = sweep_of(tmp_path / "a", usual()), sweep_of(tmp_path / "b", usual()[:2])
    assert with_trials.labels == without.labels == ["rnn", "gru"]
    assert with_trials.seeds == without.seeds == [0]
    assert len(with_trials.trials) == len(usual()) - 2
    assert [c.scores for c in cells(with_trials)] == [c.scores for c in cells(without)]
    assert len(with_trials.table("evaluations")) == len(without.table("evaluations"))
    assert facts.setting(with_trials) == facts.setting(without)
    assert counted(with_trials).startswith(f"{len(usual())} runs planned")


def test_a_diverged_trial_is_no_failed_run_and_a_killed_one_is(tmp_path):
    assert facts.failures(sweep_of(tmp_path / "a", usual())) == []
    assert not [w for w in facts.warnings(sweep_of(tmp_path / "b", usual())) if "did not finish" in w]
    work = [*usual(), trial("rnn", 0.03, None, 50, status="killed")]
    sweep = sweep_of(tmp_path / "c", work)
    assert [f.name for f in facts.failures(sweep)] == ["rnn order 16 trial, seed 1000"]
    assert [w for w in facts.warnings(sweep) if "1 of" in w and "did not finish" in w]


def test_scores_are_means_over_seeds_and_lost_with_one_of_them(tmp_path):
    sweep = sweep_of(tmp_path, usual())
    found = tuning.trials(sweep, sweep.tasks[0])
    assert [(t.label, t.budget, t.lr) for t in found] == [
        *(("rnn", 25, lr) for lr in RATES), ("rnn", 50, 0.01), *(("gru", 25, lr) for lr in RATES),
        ("gru", 50, 0.003), ("gru", 50, 0.01),
    ]  # fmt: skip
    assert [round(t.score, 3) for t in found[:4]] == [0.61, 0.71, 0.81, 0.71]
    assert math.isnan(found[8].score)
    assert (found[8].lost, found[8].runs) == (1, 2)
    assert [t.lr for t in found if t.chosen] == [0.01, 0.01, 0.003, 0.003]


@pytest.mark.parametrize(
    ("best", "end", "way"),
    [(0.001, "lowest", "tuning.low"), (0.01, "", ""), (0.03, "highest", "tuning.high")],
)
def test_the_best_at_an_end_of_the_range_is_a_warning(tmp_path, best, end, way):
    sweep = sweep_of(tmp_path, usual(best))
    found = tuning.warnings(sweep)
    wanted = f"Tuning chose for rnn on order the {end} learning rate tried ({best:g})"
    assert [w.startswith(wanted) and way in w for w in found] == ([True] if end else [])
    [task] = sweep.tasks
    told = response.shows(tuning.trials(sweep, task), task, sweep.labels)
    assert f"rnn {best:g} (0.75){f', {end} tried' if end else ''};" in told
    assert "gru 0.003 (0.75)" in told
    assert "Diverged or failed: 1 of gru." in told
    assert told.startswith("4 trials for each model.")


CHANCE, BAG = 0.125, 0.667  # the floors of the card


def searched(scores: dict[float, Any], chosen: float, steps: int = 25) -> list[Work]:
    """One model's trials on one budget, by learning rate; None diverged."""
    return [
        compared("rnn", chosen),
        *(trial("rnn", lr, s, steps, status="diverged" if s is None else "done") for lr, s in scores.items()),
    ]


@pytest.mark.parametrize(
    ("scores", "chosen", "remark"),
    [
        ({0.001: 0.40, 0.01: 0.50, 0.1: 0.60}, 0.1, "highest tried"),
        ({0.001: 0.60, 0.01: 0.50, 0.1: 0.40}, 0.001, "lowest tried"),
        ({0.001: 0.40, 0.01: 0.59, 0.1: 0.60}, 0.1, ""),  # a tie with the rate before it
        ({0.001: 0.99, 0.01: 1.00, 0.1: 1.00}, 0.1, ""),  # all solved it
        ({0.001: 0.60, 0.01: None, 0.1: None}, 0.001, "lowest tried"),  # what diverged is worse
        ({0.001: 0.60, 0.01: 0.50, 0.1: 0.40}, 0.01, ""),
        ({0.001: 0.12, 0.01: 0.11, 0.1: 0.14}, 0.1, "nothing learned at any rate"),
        ({0.001: None, 0.01: None, 0.1: 0.125}, 0.1, "nothing learned at any rate"),
        ({0.001: 0.05, 0.01: 0.02, 0.1: 0.10}, 0.1, "nothing learned at any rate"),  # worse than chance
        ({0.001: 0.40, 0.01: 0.50, 0.1: BAG}, 0.1, "no rate above the floors"),
        ({0.001: 0.40, 0.1: 0.60}, 0.1, ""),  # two rates have no inside
        ({0.001: None, 0.01: None, 0.1: None}, 0.1, ""),
    ],
)
def test_an_edge_is_told_only_where_it_won_and_nothing_learned_where_no_rate_helps(
    tmp_path, scores, chosen, remark
):
    sweep = sweep_of(tmp_path, searched(scores, chosen))
    [row] = tuning.table(sweep).rows
    assert row[-1].text == remark
    edges = [line for line in tuning.warnings(sweep) if line.startswith("Tuning chose")]
    assert len(edges) == remark.endswith("tried")


def test_an_edge_is_judged_on_the_largest_budget_that_both_rates_got(tmp_path):
    half = searched({0.001: 0.30, 0.01: 0.50, 0.1: 0.60}, 0.1)
    tied = [*half, *searched({0.01: 0.90, 0.1: 0.91}, 0.1, 50)[1:]]
    assert tuning.warnings(sweep_of(tmp_path / "a", half)) != []
    assert tuning.warnings(sweep_of(tmp_path / "b", tied)) == []
    dropped = [
        *half,
        *searched({0.001: 0.2, 0.1: 0.91}, 0.1, 50)[1:],
    ]  # its neighbour got the first half alone
    assert tuning.warnings(sweep_of(tmp_path / "c", dropped)) != []


def test_where_less_is_better_an_edge_is_judged_the_other_way_round(tmp_path):
    errors = card(metric="mean squared error", floors={"predict the mean": 1 / 6})

    def remark(name: str, *scores: float) -> str:
        work = [(dataclasses.replace(run, card=errors), t) for run, t in searched(
            dict(zip((0.001, 0.01, 0.1), scores, strict=True)), 0.1)]  # fmt: skip
        return tuning.table(sweep_of(tmp_path / name, work)).rows[0][-1].text

    assert remark("won", 0.12, 0.10, 0.05) == "highest tried"
    assert remark("tie", 0.12, 0.101, 0.10) == ""
    assert remark("floor", 0.1667, 0.168, 0.166) == "nothing learned at any rate"


@pytest.mark.parametrize(("bias", "told"), [(3.0, "Tuning found forget_bias=3 for rnn on order"), (None, "")])
def test_a_tuned_start_is_told_before_anything_is_read(tmp_path, bias, told):
    other = {"forget_bias": bias}
    work = [
        compared("rnn", 0.003, model_settings=other),
        *(trial("rnn", rate, 0.5, model_settings={"forget_bias": b}) for rate, b in
          ((0.001, 1.0), (0.003, bias), (0.01, 2.0))),
    ]  # fmt: skip
    found = tuning.warnings(sweep_of(tmp_path, work))
    assert [w.startswith(told) for w in found] == ([True] if told else [])


def test_the_table_counts_trials_budgets_and_what_was_lost(tmp_path):
    made = tuning.table(sweep_of(tmp_path, usual(0.03)))
    assert made is not None
    rows = {row[1].text: [cell.text for cell in row[2:]] for row in made.rows}
    times = "\N{MULTIPLICATION SIGN}"
    assert rows["rnn"] == [
        "4", f"4 {times} 25, 2 {times} 50 steps", "0.001 to 0.03", "0.03", "", "0.750", "0.810",
        "0.743", "0", "highest tried",
    ]  # fmt: skip
    assert rows["gru"][-4:] == ["\N{EN DASH}", "\N{EN DASH}", "1", ""]  # what was lost cannot be expected
    assert tuning.table(sweep_of(tmp_path / "b", usual()[:2])) is None


def test_equal_treatment_is_computed_and_not_only_claimed(tmp_path):
    even = sweep_of(tmp_path / "a", [*usual(0.001)])
    assert tuning.words(even).startswith("Every model of a task got the same learning rates")
    more = sweep_of(tmp_path / "b", [*usual(0.001), trial("gru", 0.1, 0.5)])
    assert tuning.words(more).startswith("The models did not all get the same trials")


def test_what_else_was_varied_is_named(tmp_path):
    work = [compared("gru", 0.01, model_settings={"update_bias": 3.0})]
    for rate, bias in zip(RATES, (None, 1.0, 3.0, None), strict=True):
        work.append(trial("gru", rate, 0.5, model_settings={"update_bias": bias}))
    sweep = sweep_of(tmp_path, work)
    assert [t.others for t in tuning.trials(sweep, sweep.tasks[0])] == [
        "update_bias=default", "update_bias=1", "update_bias=3", "update_bias=default",
    ]  # fmt: skip
    plot = response.plot(sweep, sweep.tasks[0], 0)
    assert plot is not None
    assert "gru 0.01 with update_bias=3 (0.50)" in plot.shows


def test_trials_belong_to_the_variant_they_were_made_for(tmp_path):
    variants = {"a": 1, "b": 2}
    work = [compared("gru", 0.01, model_settings={"layers": n}) for n in variants.values()]
    work += [trial("gru", r, 0.1 * n, model_settings={"layers": n}) for n in variants.values() for r in RATES]
    folder = write_sweep(tmp_path / "s", work)
    from seqbench import records

    plan = records.read_plan(folder)
    for entry in plan["runs"]:
        entry["base"] = {n: base for base, n in variants.items()}[entry["config"]["model"]["layers"]]
    records.write_plan(folder, plan)
    sweep = read_sweep(folder)
    assert sweep.labels == ["gru (layers=1)", "gru (layers=2)"]
    found = tuning.trials(sweep, sweep.tasks[0])
    assert {(t.label, round(t.score, 3)) for t in found} == {("gru (layers=1)", 0.1), ("gru (layers=2)", 0.2)}


def test_the_figure_marks_the_choice_and_shows_what_diverged_at_the_floor(tmp_path):
    sweep = sweep_of(tmp_path, usual())
    [task] = sweep.tasks
    table = tuning.frame(tuning.trials(sweep, task))
    with theme.drawing():
        figure = response.draw(table, task, sweep.labels)
    first, last = figure.axes
    assert (first.get_title(loc="left"), last.get_title(loc="left")) == ("25 steps", "50 steps")
    assert first.get_xscale() == "log"
    crosses = [line for line in first.lines if line.get_marker() == "x" and len(line.get_xdata())]
    assert [(list(c.get_xdata()), list(c.get_ydata())) for c in crosses] == [([0.03], [0.125])]
    rings = [line for line in last.lines if line.get_markerfacecolor() == "none" and len(line.get_xdata())]
    assert sorted(float(ring.get_xdata()[0]) for ring in rings) == [0.003, 0.01]
    curves = [line for line in first.lines if len(line.get_xdata()) > 2]
    assert [list(line.get_xdata()) for line in curves] == [list(RATES), list(RATES[:3])]


def test_half_a_tuned_sweep_makes_a_page(tmp_path):
    only_trials = render(sweep_of(tmp_path / "a", usual()[2:]))
    assert "How to repeat this" in only_trials
    page = render(read_sweep(write_sweep(tmp_path / "b", usual()[::-1], pending=2)))  # the comparison waits
    assert "How to repeat this" in page
    assert "nothing has been chosen yet" in page
    assert "figure-response0" in page


def test_a_sweep_without_tuning_says_nothing_of_it(tmp_path):
    page = render(sweep_of(tmp_path, usual()[:2]))
    assert "figure-response" not in page
    assert "chosen beforehand for each of them" in page


HUGE = 10**400
ABSURD = {
    "rates": [trial("rnn", rate, 0.5) for rate in (0.0, -1.0, HUGE, 1e99, 1e-300, "x", None, True)],
    "scores": [trial("rnn", 0.01 * k, s) for k, s in enumerate((HUGE, -1e99, 1e99, "x", True, None), 1)],
    "steps": [trial("rnn", 0.01, 0.5, steps) for steps in (HUGE, 0, -3, "x", None, 1e99, 1e-99)],
    "many budgets": [trial("rnn", 0.01, 0.5, steps) for steps in range(1, 60)],
    "many rates": [trial("rnn", 0.001 * k, 0.5) for k in range(1, 60)],
    "passes": [trial("rnn", 0.01, 0.5, train={"epochs": e}) for e in (0.5, HUGE, "x", -1, [1])],
    "settings": [trial("rnn", 0.01, 0.5, model_settings={"x" * 500: "<b>" * 500, "k": k}) for k in range(3)],
}  # fmt: skip


@pytest.mark.parametrize("name", ABSURD)
def test_absurd_trials_make_a_page_all_the_same(tmp_path, name):
    text = render(sweep_of(tmp_path, [compared("rnn", 0.01), *ABSURD[name]]))
    assert "How to repeat this" in text
    assert "<b>" not in text
    assert len(text) < 1_500_000
    assert not re.search(r"\bnan\b", text.split("figure-response0")[-1].split("</figure>")[0])
