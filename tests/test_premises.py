"""A comparison whose premises fail is refused and says why; one whose difference was asked for is not."""

from __future__ import annotations

import dataclasses
import html
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made import FIVE, Work, card, changed, small, tables, timing, training, usual, write_sweep
from test_report_tuning import trial

from seqbench import stats
from seqbench.metric import SQUARED_ERROR
from seqbench.records import Run
from seqbench.report import aggregate, theme
from seqbench.report.frame import Sweep, read_sweep
from seqbench.report.page import render
from seqbench.report.plots import profile
from seqbench.report.premises import Finding, data_identity, premises, speed_premises
from seqbench.report.summary import cells
from seqbench.report.verdict import Comparison, compare, verdicts
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
    assert premises(sweep) == speed_premises(sweep) == speed_premises(sweep, "train") == []
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
    assert premises(read(tmp_path, runs(gru={"lr": 0.1, "tuned": True}, lstm={"clip": 0.5}))) == []


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


def test_times_of_two_machines_have_no_ranking_but_scores_do(tmp_path: Path):
    work = [
        *runs(),
        timing("rnn"),
        timing("lstm"),
        timing("gru", environment={"cpu": "another", "threads": 1}),
    ]
    sweep = read(tmp_path, work)
    assert premises(sweep) == []
    (finding,) = speed_premises(sweep)
    assert finding.about("gru", "rnn") == "times from different machines (cpu)"
    assert finding.separates("gru", "rnn")
    assert not finding.separates("lstm", "rnn")
    assert whats(speed_premises(read(tmp_path / "one", work[:-1]))) == []


def test_one_model_timed_on_two_machines_is_comparable_with_none(tmp_path: Path):
    pair = [timing("rnn"), timing("rnn", environment={"cpu": "another", "threads": 1})]
    (finding,) = speed_premises(read(tmp_path, [*runs(), *pair, timing("gru")]))
    assert "several machines" in finding.note
    assert finding.separates("gru", "rnn")


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
    assert f"a difference like this one takes about {beside.judged.needed} seeds" in beside.words


def test_from_five_seeds_on_every_difference_has_its_own_spread(tmp_path: Path):
    five = {label: (*scores, *scores[:2]) for label, scores in (LUCKY | MIXED).items()}
    assert by_label(read(tmp_path, scored(five)))["gru"].judged.outcome is Outcome.BETTER


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
    assert premises(sweep) == speed_premises(sweep) == aggregate.standings(sweep) == []
    assert aggregate.table(sweep, []) is None
    assert (aggregate.words(sweep, []), profile.plot(sweep)) == ("", None)


def test_half_a_sweep_is_judged_as_far_as_it_goes(tmp_path: Path):
    sweep = read(tmp_path, runs(gru={"steps": 400}), pending=3)
    assert by_label(sweep)["gru"].judged.outcome is Outcome.TOO_FEW
    assert stats.FEWEST == 3
