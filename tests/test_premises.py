"""A comparison whose premises fail is refused and says why; one whose difference was asked for is not."""

from __future__ import annotations

import dataclasses
import html
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made import FIVE, Work, card, changed, small, tables, training, usual, write_sweep
from test_report_tuning import trial

from seqbench import records, stats
from seqbench.metric import SQUARED_ERROR
from seqbench.records import Run
from seqbench.report import aggregate, theme
from seqbench.report.doubt import more_seeds
from seqbench.report.frame import Sweep, read_sweep
from seqbench.report.page import render
from seqbench.report.plots import profile
from seqbench.report.premises import Finding, data_identity, premises
from seqbench.report.summary import cells
from seqbench.report.verdict import Comparison, barred, compare, headline, verdicts
from seqbench.stats import Outcome

SEEDS = range(3)
SCORES = {"rnn": 0.12, "lstm": 0.5, "gru": 0.9}


def given(run: Run, **train: Any) -> Run:
    """The run with other settings of training."""
    return dataclasses.replace(run, config={**run.config, "train": {**run.config["train"], **train}})


def runs(**train: dict[str, Any]) -> list[Work]:
    """Three models with three seeds; some with other settings of training."""
    return [
        (given(training(model, 16, seed, score + 0.01 * seed), **train.get(model, {})), {})
        for model, score in SCORES.items()
        for seed in SEEDS
    ]


def read(folder: Path, work: list[Work], **plan: Any) -> Sweep:
    return read_sweep(write_sweep(folder / "s", work, **plan))


def by_label(sweep: Sweep) -> dict[str, Comparison]:
    return {c.label: c for c in compare(sweep, whole=True)}


def whats(found: list[Finding]) -> list[str]:
    return [finding.what for finding in found]


def test_a_fair_sweep_has_nothing_against_it(tmp_path: Path):
    sweep = read(tmp_path, usual(FIVE))
    assert premises(sweep) == sweep.clocks.words() == []
    assert data_identity(sweep) == (6, [])
    assert Outcome.REFUSED not in {c.judged.outcome for c in compare(sweep, whole=True)}


# Budgets


@pytest.mark.parametrize(
    ("train", "words"),
    [
        ({"steps": 400}, "gru 400 steps of 4 sequences, rnn 100 steps of 4 sequences"),
        ({"batch_size": 8}, "gru 100 steps of 8 sequences, rnn 100 steps of 4 sequences"),
        ({"epochs": 2.0}, "gru 2 passes in batches of 4, rnn 100 steps of 4 sequences"),
    ],
)
def test_an_unequal_budget_is_refused_with_both(tmp_path: Path, train: dict[str, Any], words: str):
    sweep = read(tmp_path, runs(gru=train))
    found = by_label(sweep)
    assert found["gru"].judged.outcome is Outcome.REFUSED
    assert found["gru"].words == f"refused: unequal budgets ({words})"
    assert found["lstm"].judged.outcome is Outcome.BETTER
    assert found["lstm"].judged.comparisons == 1  # no test was made of the other
    (finding,) = premises(sweep)
    assert finding.separates("lstm", "gru")
    assert not finding.separates("lstm", "rnn")


def test_a_refused_comparison_shows_no_number_and_says_so_everywhere(tmp_path: Path):
    sweep = read(tmp_path, runs(gru={"steps": 400}))
    found = compare(sweep, whole=True)
    refused = next(c for c in found if c.label == "gru")
    assert (refused.result.n, refused.design) == (0, "with 4 times the training")
    assert np.isnan(refused.judged.p)
    line = next(v for v in verdicts(sweep, cells(sweep), [], found) if v.label == "gru")
    assert line.words.startswith("comparison with rnn refused on order: unequal budgets (gru 400 steps")
    assert line.tone == "plain"
    text = html.unescape(render(sweep))
    assert "Who trains longer, or sees more, may be better for that alone." in text
    assert text.count("refused: unequal budgets") >= 1


def test_stopping_early_is_no_smaller_budget(tmp_path: Path):
    work = [(changed(run, steps=20, trained_tokens=9) if run.model == "gru" else run, c) for run, c in runs()]
    assert premises(read(tmp_path, work)) == []


def swept(steps: dict[str, list[int]]) -> list[Work]:
    return [
        (given(training(model, 16, seed, 0.3 + 0.001 * number + 0.01 * seed), steps=number), {})
        for model, several in steps.items()
        for number in several
        for seed in SEEDS
    ]


def test_budgets_that_the_labels_name_are_compared_and_told(tmp_path: Path):
    """Sweeping the budget is a question, not an unfairness."""
    sweep = read(tmp_path, swept({"rnn": [100, 800], "gru": [100, 800]}))
    assert sweep.reference == "rnn (steps=100)"
    assert premises(sweep) == []
    found = by_label(sweep)
    assert found["gru (steps=800)"].design == "with 8 times the training"
    assert "with 8 times the training" in found["gru (steps=800)"].words
    assert found["gru (steps=100)"].design == ""
    line = next(
        v for v in verdicts(sweep, cells(sweep), [], list(found.values())) if v.label == "rnn (steps=800)"
    )
    assert "with 8 times the training)" in line.words


def test_a_budget_that_only_one_of_two_labels_names_is_refused(tmp_path: Path):
    sweep = read(tmp_path, swept({"rnn": [100], "gru": [200, 800]}))
    assert {c.judged.outcome for c in compare(sweep, whole=True)} == {Outcome.REFUSED}


def test_learning_rates_may_differ_since_each_model_has_its_own(tmp_path: Path):
    assert premises(read(tmp_path, runs(gru={"lr": 0.1, "tuned": True}))) == []


@pytest.mark.parametrize("absurd", [{"steps": "many"}, {"steps": -1}, {"batch_size": None}, {"epochs": True}])
def test_an_unknown_budget_is_no_finding(tmp_path: Path, absurd: dict[str, Any]):
    assert premises(read(tmp_path, runs(gru=absurd))) == []


# Data


@pytest.mark.parametrize("key", ["first_batch_sha256", "data_sha256"])
def test_other_data_is_refused_for_who_saw_it(tmp_path: Path, key: str):
    work = [(changed(run, **{key: "other"}) if run.model == "gru" else run, c) for run, c in runs()]
    found = by_label(sweep := read(tmp_path, work))
    assert found["gru"].judged.outcome is Outcome.REFUSED
    where = "T=16 seed 0, T=16 seed 1, T=16 seed 2"
    assert found["gru"].words == f"refused: different data (their first training batches differ: {where})"
    assert found["lstm"].judged.outcome is Outcome.BETTER
    assert data_identity(sweep) == (3, [f"order T=16 seed {seed}" for seed in SEEDS])


def test_one_odd_reference_refuses_everything(tmp_path: Path):
    work = runs()
    work[0] = (changed(work[0][0], data_sha256="other"), {})
    assert {c.judged.outcome for c in compare(read(tmp_path, work), whole=True)} == {Outcome.REFUSED}


def test_other_outside_data_is_refused(tmp_path: Path):
    work = [(dataclasses.replace(run, ground={"task": run.model}), c) for run, c in runs()]
    assert whats(premises(read(tmp_path, work))) == ["different data"]


def test_a_batch_size_that_was_swept_does_not_look_like_other_data(tmp_path: Path):
    work = [
        (given(changed(training("rnn", 16, seed, 0.3), data_sha256=f"{size}-{seed}"), batch_size=size), {})
        for size in (4, 8)
        for seed in SEEDS
    ]
    sweep = read(tmp_path, work)
    assert premises(sweep) == []
    assert by_label(sweep)["rnn (batch_size=8)"].design == "with 2 times the training sequences"


# Code, seeds, machines


@pytest.mark.parametrize("odd", [{"code_sha256": "other"}, {"versions": {"torch": "2"}}])
def test_other_code_or_versions_are_refused(tmp_path: Path, odd: dict[str, Any]):
    work = [
        (dataclasses.replace(r, environment={**r.environment, **odd}) if r.model == "gru" else r, c)
        for r, c in runs()
    ]
    found = by_label(read(tmp_path, work))
    name = "code" if "code_sha256" in odd else "torch version"
    assert found["gru"].words == f"refused: different code ({name})"
    assert found["lstm"].judged.outcome is Outcome.BETTER


def test_a_seed_that_was_tuned_on_is_refused_for_all_that_stand_beside_it(tmp_path: Path):
    sweep = read(tmp_path, [*runs(), trial("lstm", 0.01, 0.5, seed=1), trial("rnn", 0.01, 0.5, seed=1000)])
    found = by_label(sweep)
    assert found["lstm"].words == "refused: tuned on evaluation seeds (lstm seed 1)"
    assert found["gru"].judged.outcome is Outcome.BETTER
    assert [finding.separates("gru", "lstm") for finding in premises(sweep)] == [True]


# Sizes and other settings


def setting(run: Run, group: str, **values: Any) -> Run:
    """The run with other settings of a group."""
    return dataclasses.replace(run, config={**run.config, group: {**run.config.get(group, {}), **values}})


def three(**groups: dict[str, Any]) -> list[Work]:
    """Three models of which gru has other settings."""
    work = runs()
    for group, values in groups.items():
        work = [(setting(r, group, **values) if r.model == "gru" else r, columns) for r, columns in work]
    return work


@pytest.mark.parametrize(
    ("group", "values", "words"),
    [
        (
            "match",
            {"target": 150000},
            "sizes (gru matched by params to 150000, rnn matched by params to 1000)",
        ),
        (
            "match",
            {"by": "none", "target": None},
            "sizes (gru matched by none, rnn matched by params to 1000)",
        ),
        (
            "match",
            {"rung": 16},
            "sizes (gru matched by params to 1000 at rung 16, rnn matched by params to 1000)",
        ),
        ("train", {"clip": 0.5}, "train.clip (gru 0.5, rnn 1)"),
    ],
)
def test_a_setting_that_no_label_shows_is_refused(tmp_path: Path, group: str, values: dict, words: str):
    found = by_label(read(tmp_path, three(**{group: values})))
    assert found["gru"].words == f"refused: unequal {words}"
    assert found["lstm"].judged.outcome is Outcome.BETTER


@pytest.mark.parametrize(
    ("group", "name", "ours", "theirs"),
    [
        ("network", "dropout", 0.0, 0.1),
        ("network", "readout", "last", "mean"),
        ("train", "keep_best", False, True),
        ("train", "stop_when_solved", True, False),
        ("train", "test_examples", 1024, 64),
        ("train", "weight_decay", 0.0, 0.1),
        ("train", "schedule", "cosine", "constant"),
        ("train", "warmup", 0.1, 0.0),
        ("train", "precision", "float32", "bfloat16"),
        ("train", "cuda_graph", False, True),
    ],
)
def test_what_surrounds_the_model_must_be_equal(
    tmp_path: Path, group: str, name: str, ours: Any, theirs: Any
):
    def given_to(odd: Any) -> list[Work]:
        return [
            (setting(run, group, **{name: odd if run.model == "gru" else ours}), columns)
            for run, columns in runs()
        ]

    assert premises(read(tmp_path / "same", given_to(ours))) == []
    (finding,) = premises(read(tmp_path / "other", given_to(theirs)))
    assert finding.what == f"unequal {group}.{name}"
    assert finding.separates("gru", "rnn")
    assert not finding.separates("lstm", "rnn")


def test_what_is_of_the_model_or_its_tuning_may_differ(tmp_path: Path):
    free = {"lr": 0.1, "tuned": True, "log_every": 3}
    work = three(train=free, model={"layers": 2}, match={"reference": {"name": "rnn"}})
    assert premises(read(tmp_path, work)) == []


def test_an_older_record_that_does_not_know_a_setting_is_no_finding(tmp_path: Path):
    assert premises(read(tmp_path, three(network={"dropout": 0.1}, match={"rung": None}))) == []


def test_sizes_that_the_labels_name_are_compared(tmp_path: Path):
    work = [
        (setting(training(model, 16, seed, 0.5 + 0.01 * seed), "match", target=target), {})
        for model, targets in {"rnn": (1000, 9000), "lstm": (1000, 9000), "gru": (9000,)}.items()
        for target in targets
        for seed in SEEDS
    ]
    found = by_label(read(tmp_path, work))
    assert set(found) == {"rnn (target=9000)", "lstm (target=1000)", "lstm (target=9000)", "gru"}
    refused = {name for name, c in found.items() if c.judged.outcome is Outcome.REFUSED}
    assert refused == {"gru"}  # only the reference's label names the size


# What is varied, and what it is compared with


def variant(task: str, convolution: int, seed: int, lr: float, bias: int = 0, **changes: Any) -> Work:
    """A run of a model whose rate (and bias) tuning chose for this variant on this task."""
    run = training("gru", 16, seed, 0.5 + 0.1 * convolution + 0.01 * seed, task=task, **changes)
    run = setting(setting(run, "task", name=task), "train", lr=lr, tuned=True)
    return setting(run, "model", convolution=convolution, forget_bias=bias), {}


def tuned_variants() -> list[Work]:
    rates = {("A", 0): 0.01, ("A", 4): 0.03, ("B", 0): 0.03, ("B", 4): 0.001}
    return [
        variant(task, convolution, seed, lr) for (task, convolution), lr in rates.items() for seed in SEEDS
    ]


def test_tuned_rates_give_a_variant_no_other_name_on_every_task(tmp_path: Path):
    sweep = read(tmp_path, tuned_variants())
    assert sweep.labels == ["gru (convolution=0)", "gru (convolution=4)"]
    found = [(c.task.key, c.label, c.judged.outcome) for c in compare(sweep, whole=True)]
    assert found == [(task, "gru (convolution=4)", Outcome.BETTER) for task in ("A", "B")]


def test_a_tuned_rate_stays_in_the_label_where_nothing_else_tells_runs_apart(tmp_path: Path):
    again = [variant("A", 0, seed, 0.1) for seed in SEEDS]
    sweep = read(tmp_path, tuned_variants() + again)
    both = ["convolution=0, lr=0.01", "convolution=4, lr=0.03", "convolution=0, lr=0.1"]
    assert sweep.planned("A") == [f"gru ({one})" for one in both]
    assert sweep.planned("B") == ["gru (convolution=0)", "gru (convolution=4)"]
    typed = [(setting(run, "train", tuned=False), columns) for run, columns in tuned_variants()]
    assert "gru (convolution=0, lr=0.01)" in read(tmp_path / "typed", typed).labels


def searched(folder: Path, biases: dict[int, int], tried: tuple[int, ...]) -> Sweep:
    """Two variants with the bias that was chosen for each, and trials of each with these biases."""
    work: list[Work] = []
    for convolution, bias in biases.items():
        work += [variant("A", convolution, seed, 0.01, bias) for seed in SEEDS]
        work += [variant("A", convolution, 1000, 0.01, one, kind="trial") for one in tried]
    path = write_sweep(folder, work)
    plan = records.read_plan(path)
    for entry in plan["runs"]:
        entry["base"] = f"base {entry['config']['model']['convolution']}"
    records.write_plan(path, plan)
    return read_sweep(path)


def test_a_setting_that_trials_chose_is_not_in_the_label_and_one_that_was_asked_for_is(tmp_path: Path):
    chosen = searched(tmp_path / "a", {0: 1, 4: 3}, (1, 3))
    assert chosen.labels == ["gru (convolution=0)", "gru (convolution=4)"]
    asked = searched(tmp_path / "b", {0: 1, 4: 3}, (1,))
    assert asked.labels == ["gru (convolution=0, forget_bias=1)", "gru (convolution=4, forget_bias=3)"]


def declared(folder: Path, jobs: dict[int, int | None], task: str = "order", **plan: Any) -> Sweep:
    """A model with several numbers of steps, in the order of the plan, each of which is of a declared job."""
    work = [
        (setting(given(training("rnn", 16, seed, 0.5, task=task), steps=steps), "task", name=task), {})
        for steps in jobs
        for seed in SEEDS
    ]
    path = write_sweep(folder, work, **plan)
    found = records.read_plan(path)
    for entry in found["runs"]:
        if (job := jobs[entry["config"]["train"]["steps"]]) is not None:
            entry["job"] = job
    records.write_plan(path, found)
    return read_sweep(path)


@pytest.mark.parametrize(
    ("jobs", "first"),
    [
        ({400: 1, 200: 0}, 200),
        ({400: 0, 200: 1}, 400),
        ({400: None, 200: None}, 400),
        ({400: 2, 200: None}, 200),
    ],
)
def test_the_reference_is_the_variant_declared_first(tmp_path: Path, jobs: dict[int, int | None], first: int):
    """The plan has long runs first; plans of older versions do not say what was declared."""
    sweep = declared(tmp_path / "s", jobs)
    assert sweep.reference == f"rnn (steps={first})" == sweep.labels[0]


def test_a_task_has_the_variant_of_the_reference_that_runs_on_it(tmp_path: Path):
    work = [
        (setting(given(training(model, 16, seed, score, task=task), steps=steps), "task", name=task), {})
        for task, model, steps, score in (
            ("A", "rnn", 200, 0.5), ("A", "rnn", 400, 0.6), ("A", "gru", 200, 0.7), ("B", "rnn", 200, 0.5),
            ("B", "gru", 200, 0.7), ("C", "gru", 200, 0.7), ("C", "lstm", 200, 0.8),
        )
        for seed in SEEDS
    ]  # fmt: skip
    sweep = read(tmp_path, work)
    assert sweep.reference == "rnn (steps=200)"
    assert [sweep.reference_on(task) for task in "ABC"] == ["rnn (steps=200)", "rnn", None]
    found = {(c.task.key, c.label): c for c in compare(sweep, whole=True)}
    assert set(found) == {("A", "rnn (steps=400)"), ("A", "gru"), ("B", "gru"), ("C", "gru"), ("C", "lstm")}
    assert found["B", "gru"].words == "better (against rnn)"
    assert found["C", "lstm"].words == "refused: rnn (steps=200) has no runs on C"
    lines = {v.label: v.words for v in verdicts(sweep, cells(sweep), [], list(found.values()))}
    assert "better than rnn on B" in lines["gru"]
    assert lines["rnn"].startswith("the reference on B")


# Few seeds


def scored(scores: dict[str, tuple[float, ...]]) -> list[Work]:
    return [
        (training(m, 16, seed, one), {}) for m, several in scores.items() for seed, one in enumerate(several)
    ]


LUCKY = {"rnn": (0.12, 0.12, 0.12), "gru": (1.0, 1.0, 1.0)}
MIXED = {f"m{i}": tuple(1.0 if seed == i % 3 else 0.12 for seed in SEEDS) for i in range(3)}


def test_equal_scores_of_three_seeds_are_no_proof_where_other_models_vary(tmp_path: Path):
    alone = by_label(read(tmp_path / "a", scored(LUCKY)))["gru"]
    assert alone.judged.outcome is Outcome.BETTER
    beside = by_label(read(tmp_path / "b", scored(LUCKY | MIXED)))["gru"]
    assert beside.judged.outcome is Outcome.UNDECIDED
    assert beside.result.high - beside.result.low > 0.5
    assert beside.judged.needed is not None
    assert more_seeds(beside.judged.needed, 3, range(3)) in beside.words


def test_from_five_seeds_on_every_difference_has_its_own_spread(tmp_path: Path):
    five = {label: (*scores, *scores[:2]) for label, scores in (LUCKY | MIXED).items()}
    assert by_label(read(tmp_path, scored(five)))["gru"].judged.outcome is Outcome.BETTER


def test_a_failed_run_of_another_model_takes_no_guard_away(tmp_path: Path):
    others = {"b": (0.125, 1.0, 0.125), "c": (1.0, 0.125, 0.125)}
    work = scored({"rnn": (0.125, 0.126, 0.125), "gru": (1.0, 1.0, 1.0)} | others)
    whole = by_label(read(tmp_path / "a", work))["gru"]
    assert whole.judged.outcome is Outcome.UNDECIDED
    lost = scored({"e": (0.125, 0.125, 0.125)})
    lost = [lost[0], *((dataclasses.replace(run, status="failed"), c) for run, c in lost[1:])]
    beside = by_label(read(tmp_path / "b", work + lost))["gru"]
    assert beside.judged.outcome is Outcome.UNDECIDED
    assert beside.result.pooled is not None
    assert whole.result.pooled is not None
    assert beside.result.pooled.sd == pytest.approx(whole.result.pooled.sd)


def without_a_line(work: list[Work], **metrics: Any) -> list[Work]:
    """The same runs of a task on which nothing counts as solved."""
    return [
        (changed(dataclasses.replace(run, config={**run.config, "task": {"name": "order"}}), **metrics), c)
        for run, c in work
    ]


def test_a_task_without_a_line_that_counts_as_solved_needs_the_spread_of_all_models_too(tmp_path: Path):
    beside = by_label(read(tmp_path, without_a_line(scored(LUCKY | MIXED))))["gru"]
    assert beside.task.solved_at is None
    assert beside.judged.outcome is Outcome.UNDECIDED


@pytest.mark.parametrize(("answers", "outcome"), [(40, Outcome.UNDECIDED), (40_000, Outcome.BETTER)])
def test_one_more_answer_in_each_seed_is_a_difference_only_in_a_large_test_set(
    tmp_path: Path, answers: int, outcome: Outcome
):
    work = scored({"lstm": (0.85, 0.875, 0.85), "gru": (0.875, 0.9, 0.875)})
    found = by_label(read(tmp_path, without_a_line(work, test_answers=answers)))["gru"]
    assert found.judged.outcome is outcome
    assert found.result.sd == pytest.approx(1 / (answers * 6**0.5))


def test_rounding_averages_out_over_the_sizes_of_a_task(tmp_path: Path):
    work = [
        (training(model, rung, seed, score), {})
        for model, score in {"rnn": 0.3, "gru": 0.5}.items()
        for rung in (16, 32, 64, 128)
        for seed in SEEDS
    ]
    sweep = read(tmp_path, work)
    each, whole = compare(sweep, whole=False)[0], by_label(sweep)["gru"]
    assert each.result.sd == pytest.approx(1 / (200 * 6**0.5))
    assert whole.result.sd == pytest.approx(each.result.sd / 2)


def unscaled(losses: dict[str, tuple[float, ...]], diverged: str = "") -> list[Work]:
    """A squared error without any floor; the last run of one model may have diverged."""
    nothing_known = card(metric=SQUARED_ERROR.name, floors={})
    work = []
    for model, several in losses.items():
        for seed, loss in enumerate(several):
            run = training(model, 16, seed, 0.0, card=nothing_known, metrics={"test_loss": loss})
            ended = "diverged" if model == diverged and seed == len(several) - 1 else "done"
            work.append((dataclasses.replace(run, status=ended), {}))
    return without_a_line(work)


@pytest.mark.parametrize(("diverged", "refused"), [("gru", {"gru"}), ("rnn", {"gru", "lstm"})])
def test_a_diverged_run_that_no_floor_can_score_is_not_left_out_of_a_comparison(
    tmp_path: Path, diverged: str, refused: set[str]
):
    losses = {"rnn": (0.5, 0.51, 0.5, 0.52), "lstm": (0.4, 0.4, 0.41, 0.42), "gru": (0.1, 0.1, 0.11, 0.1)}
    sweep = read(tmp_path, unscaled(losses, diverged))
    why = f"1 of 4 runs of {diverged} diverged, and the task has no floor to score them by"
    found = by_label(sweep)
    assert {label for label, c in found.items() if c.reasons} == refused
    assert all(found[label].words == f"refused: {why}" for label in refused)
    told = headline(sweep, cells(sweep))
    claims = f"gru reaches mean squared error 0.1033 ({why})"
    assert (claims in told) == (diverged == "gru")
    assert ("the lowest mean squared error" in told) == (diverged != "gru")


def test_a_diverged_run_that_a_floor_scores_is_compared(tmp_path: Path):
    work = scored({"rnn": (0.12, 0.13, 0.14), "gru": (0.9, 0.9, 0.91)})
    work[-1] = (dataclasses.replace(work[-1][0], status="diverged"), {})
    found = by_label(read(tmp_path, work))["gru"]
    assert (found.reasons, found.result.n) == ((), 3)


def test_equal_errors_without_a_scale_cannot_be_told_apart_and_say_why(tmp_path: Path):
    found = by_label(read(tmp_path, unscaled({"rnn": (0.5, 0.6, 0.7), "gru": (0.5, 0.6, 0.7)})))["gru"]
    assert found.words == "cannot tell (no seed differed; the task has no margin)"


def test_equivalence_of_solvers_says_what_it_cannot_see(tmp_path: Path):
    found = by_label(read(tmp_path, scored({"rnn": (1.0, 1.0, 1.0), "gru": (1.0, 1.0, 1.0)})))
    assert (
        found["gru"].words == "equivalent within 0.02 (3 seeds may miss what happens in up to 63 % of runs)"
    )


# Several tasks


def two_tasks(seeds: int = 3) -> list[Work]:
    """An accuracy with a floor of 1/8, and a squared error with one of 1/6."""
    errors = card(metric=SQUARED_ERROR.name, floors={"predict the mean": 1 / 6})
    work = []
    for model, score in SCORES.items():
        for seed in range(seeds):
            work.append((training(model, 16, seed, score), {}))
            run = training(
                model, None, seed, 0.0, task="adding", card=errors, metrics={"test_loss": (1 - score) / 6}
            )
            work.append((dataclasses.replace(run, config={**run.config, "task": {"name": "adding"}}), {}))
    return work


def test_scores_of_several_tasks_come_to_one_scale(tmp_path: Path):
    sweep = read(tmp_path, two_tasks())
    runs_ = aggregate.normalised(sweep)
    means = runs_.groupby(["label", "task"])["value"].mean()
    assert means["gru", "order"] == pytest.approx((0.9 - 0.125) / 0.875)
    assert means["gru", "adding"] == pytest.approx(0.9)
    assert means["rnn", "order"] == 0.0  # below the floor is no learning either
    found = {one.label: one for one in aggregate.standings(sweep)}
    assert found["gru"].score.mean == pytest.approx((0.9 + 0.775 / 0.875) / 2)
    assert (found["gru"].score.n, found["gru"].remark) == (3, "")
    assert found["lstm"].score.low == pytest.approx(found["lstm"].score.mean)


def test_several_tasks_in_a_table_and_in_words(tmp_path: Path):
    sweep = read(tmp_path, two_tasks())
    found = aggregate.standings(sweep)
    table = aggregate.table(sweep, found)
    assert table is not None
    assert [row[0].text for row in table.rows] == ["rnn", "lstm", "gru"]
    assert all(len(row) == len(table.heads) for row in table.rows)
    said = aggregate.words(sweep, found)
    assert "gru gets 89 % of the way" in said
    assert "The interquartile mean of 2 tasks is their mean: nothing is cut." in said


def test_one_task_and_tasks_without_a_scale_have_no_common_one(tmp_path: Path):
    assert aggregate.standings(read(tmp_path / "one", runs())) == []
    bits = [
        (dataclasses.replace(r, card=card(metric="bits per character")) if r.task == "adding" else r, c)
        for r, c in two_tasks()
    ]
    sweep = read(tmp_path / "bits", bits)
    assert aggregate.standings(sweep) == []
    assert [task.key for task in aggregate.on_scale(sweep)[1]] == ["adding"]
    assert profile.plot(sweep) is None


def test_a_model_without_a_result_on_a_task_is_not_ranked_over_all(tmp_path: Path):
    work = [(r, c) for r, c in two_tasks() if (r.model, r.task) != ("gru", "adding")]
    sweep = read(tmp_path, work)
    assert [one.label for one in aggregate.standings(sweep)] == ["rnn", "lstm"]
    assert "gru" not in (plot.shows if (plot := profile.plot(sweep)) else "")


def test_what_may_not_be_compared_is_marked_over_all_tasks(tmp_path: Path):
    work = [(given(r, steps=400) if (r.model, r.task) == ("gru", "adding") else r, c) for r, c in two_tasks()]
    found = {one.label: one.remark for one in aggregate.standings(read(tmp_path, work))}
    assert found == {"rnn": "", "lstm": "", "gru": "not comparable on adding: unequal budgets"}


def test_nobody_is_called_the_most_beside_who_must_not_be_compared(tmp_path: Path):
    fair = read(tmp_path / "fair", two_tasks())
    assert "best possible score, the most." in aggregate.words(fair, aggregate.standings(fair))
    assert "On adding, gru has the lowest mean squared error: 0.0167." in headline(fair, cells(fair))
    work = [(given(r, steps=400) if (r.model, r.task) == ("gru", "adding") else r, c) for r, c in two_tasks()]
    sweep = read(tmp_path / "unfair", work)
    why = "(not comparable with rnn and lstm: unequal budgets)"
    assert f"best possible score {why}." in aggregate.words(sweep, aggregate.standings(sweep))
    assert f"On adding, gru reaches mean squared error 0.0167 {why}." in headline(sweep, cells(sweep))


def test_many_who_must_not_be_compared_are_counted():
    names = [f"m{i}" for i in range(6)]
    pairs = frozenset(frozenset((name, "gru")) for name in names)
    finding = Finding("different code", "", "order", pairs)
    assert barred([finding, finding], "gru", [*names, "gru"]) == (
        "not comparable with m0, m1, m2, m3 and 2 more: different code"
    )
    assert barred([finding], "m0", names) == ""


def many_tasks(count: int) -> list[Work]:
    return [
        (
            training(
                model, 16, 0, level + 0.01 * number, task=f"task{number}",
                config={"task": {"name": f"task{number}"}, "train": {"steps": 100, "batch_size": 4}},
            ),
            {},
        )
        for number in range(count)
        for model, level in (("rnn", 0.3), ("gru", 0.6), ("lstm", 0.3))
    ]  # fmt: skip


def test_wilcoxon_over_tasks_needs_six_of_them(tmp_path: Path):
    few = aggregate.standings(read(tmp_path / "few", many_tasks(5)))
    assert all(np.isnan(one.p) for one in few)
    found = {one.label: one.p for one in aggregate.standings(read(tmp_path / "many", many_tasks(6)))}
    assert found["gru"] == pytest.approx(2 * 2 / 2**6)  # exact, and of two tests the smaller
    assert found["lstm"] == 1.0
    assert np.isnan(found["rnn"])


def test_a_profile_counts_runs_and_weighs_tasks_alike():
    frame = pd.DataFrame(
        {
            "label": "a",
            "task": ["x"] * 4 + ["y"],
            "rung": [1, 1, 2, 2, None],
            "seed": [0, 1, 0, 1, 0],
            "value": [0.0, 1.0, 1.0, 1.0, 0.25],
        }
    )
    found = profile.profiles(frame, ["a", "b"])
    assert list(found) == ["a"]
    assert found["a"].iloc[0] == 1.0
    assert found["a"].loc[0.25] == pytest.approx((0.75 + 1) / 2)
    assert found["a"].iloc[-1] == pytest.approx(0.75 / 2)


def test_a_profile_is_drawn_and_told(tmp_path: Path):
    plot = profile.plot(read(tmp_path, two_tasks()))
    assert plot is not None
    assert plot.shows == (
        "At least half of the way: gru in 100 %, lstm in 50 % and rnn in 0 % of the runs. "
        "gru lies nowhere below another."
    )
    with theme.drawing():
        assert len(plot.draw().axes[0].lines) == 3


@pytest.mark.parametrize("work", [[], small({"gru": 0.998}), [(training("gru", 16, 0, 0.5), tables(0.5))]])
def test_nothing_to_compare_is_nothing_to_refuse(tmp_path: Path, work: list[Work]):
    sweep = read(tmp_path, work)
    assert premises(sweep) == sweep.clocks.words() == aggregate.standings(sweep) == []
    assert aggregate.table(sweep, []) is None
    assert (aggregate.words(sweep, []), profile.plot(sweep)) == ("", None)


def test_half_a_sweep_is_judged_as_far_as_it_goes(tmp_path: Path):
    sweep = read(tmp_path, runs(gru={"steps": 400}), pending=3)
    assert by_label(sweep)["gru"].judged.outcome is Outcome.TOO_FEW
    assert stats.FEWEST == 3
