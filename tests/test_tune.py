"""Tuning: equal trials for every model, chosen on validation alone, and a file that says how."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from seqbench import cli, records, tune, tuned_file
from seqbench.config import Job, name_reference
from seqbench.errors import UsageError
from seqbench.metric import ACCURACY, SQUARED_ERROR
from seqbench.plan import Unit, plan, trial_units
from seqbench.records import Run
from seqbench.registry import lookup
from seqbench.sweep import sweep_folder
from seqbench.tune import Finding, Scale, Study, Trial, points, ranked, rounds, studies

SCALE = Scale(ACCURACY, floors=(0.25, 0.5), tie=0.02)


@pytest.fixture
def job(make_job, tmp_path) -> Callable[..., Job]:
    """A job that tunes with a directory of its own."""

    def make(model: str = "rnn", tune: int = 8, **options: Any) -> Job:
        tuning = {"dir": str(tmp_path / "tuned"), **options.pop("tuning", {})}
        options.setdefault("task_options", {"lengths": [8, 32]})
        return make_job(model, tune=tune, tuning=tuning, **options)

    return make


# The space


def test_learning_rates_are_evenly_spaced_and_the_same_whatever_else_is_varied():
    alone = points(9, 1e-4, 1.0, {})
    assert [point.lr for point in alone] == [1e-4, 3.16e-4, 1e-3, 3.16e-3, 1e-2, 3.16e-2, 0.1, 0.316, 1.0]
    more = points(9, 1e-4, 1.0, {"a": (0, 1), "b": ("x", "y", "z")})
    assert [point.lr for point in more] == [point.lr for point in alone]
    assert more == points(9, 1e-4, 1.0, {"a": (0, 1), "b": ("x", "y", "z")})


@pytest.mark.parametrize(("count", "high"), [(1000, 3e-2), (3, 3.000001e-4)])
def test_close_learning_rates_stay_apart(count, high):
    rates = [point.lr for point in points(count, 3e-4, high, {})]
    assert len(set(rates)) == count
    assert rates == sorted(rates)


def test_what_else_is_varied_is_spread_over_low_and_high_learning_rates():
    found = points(12, 3e-4, 3e-2, {"a": (0, 1), "b": ("x", "y", "z")})
    for name, values in {"a": (0, 1), "b": ("x", "y", "z")}.items():
        for half in (found[:6], found[6:]):
            counts = [sum(point.others[name] == value for point in half) for value in values]
            assert min(counts) >= 1
            assert max(counts) - min(counts) <= 2


@pytest.mark.parametrize(
    ("trials", "halvings", "wanted"),
    [
        (3, 2, [(3, 0.25), (2, 0.5), (2, 1.0)]),
        (5, 2, [(5, 0.25), (3, 0.5), (2, 1.0)]),
        (16, 3, [(16, 0.125), (8, 0.25), (4, 0.5), (2, 1.0)]),
        (7, 0, [(7, 1.0)]),
    ],
)
def test_half_of_the_trials_go_on_with_twice_the_steps(trials, halvings, wanted):
    assert [(one.trials, one.share) for one in rounds(trials, halvings)] == wanted


def test_a_share_of_the_budget_is_of_steps_or_of_passes(make_job):
    train = make_job(train={"steps": 3, "epochs": 6.0}).train
    assert (tune.budget(train, 0.25).steps, tune.budget(train, 0.25).epochs) == (1, 1.5)
    assert tune.budget(make_job().train, 1.0) == make_job().train


# The choice


def trial(point: int, score: float, loss: float = 1.0, steps: float = 100.0, solved: int = 0) -> Trial:
    return Trial(point, score, loss, steps, solved)


def order(trials: list[Trial], scale: Scale = SCALE) -> list[int]:
    return [one.point for one in ranked(trials, scale)]


def test_the_better_score_wins_between_the_floors():
    assert order([trial(0, 0.60, 0.1), trial(1, 0.70, 0.9), trial(2, 0.69, 0.2)]) == [1, 2, 0]
    errors = Scale(SQUARED_ERROR, (1 / 6,), 0.003)
    assert order([trial(0, 0.12), trial(1, 0.05), trial(2, 0.14)], errors) == [1, 0, 2]


def test_at_a_floor_a_clearly_lower_loss_wins_over_a_score_that_is_higher_by_chance():
    assert order([trial(0, 0.262, 1.39), trial(1, 0.25, 1.2), trial(2, 0.26, 1.39)]) == [1, 0, 2]
    assert order([trial(0, 0.51, 0.70), trial(1, 0.505, 0.60), trial(2, 0.5, 0.7)]) == [
        1,
        0,
        2,
    ]  # second floor
    assert order([trial(0, 0.21, 1.39), trial(1, 0.20, 1.2), trial(2, 0.2, 1.39)]) == [1, 0, 2]  # below all
    assert order([trial(0, 0.262, 1.39), trial(1, 0.21, 0.1)]) == [0, 1]  # no tie


def test_where_nothing_has_been_learned_the_range_stays_covered():
    noise = [trial(i, 0.25 + 0.001 * i, 1.39 - 0.0001 * i) for i in range(8)]
    assert order(noise) == [3, 7, 0, 5, 1, 2, 4, 6]
    assert order(noise[:1]) == [0]
    assert order([*noise, Trial(8, lost="diverged")])[-1] == 8


def test_slow_starters_next_to_the_best_go_on_before_those_far_from_it():
    learned = [trial(i, 0.25 + 0.001 * i, 1.39) for i in range(6)] + [trial(6, 0.4, 1.2)]
    assert order(learned) == [6, 5, 4, 3, 2, 1, 0]
    begun = [trial(i, 0.25, 1.2 if i == 3 else 1.39) for i in range(7)]
    assert order(begun) == [3, 2, 4, 1, 5, 0, 6]


def test_of_those_that_solve_the_sooner_wins_then_the_lower_loss():
    some = [trial(0, 1.0, 0.01, 300, 2), trial(1, 0.99, 0.02, 150, 2), trial(2, 0.99, 0.01, 150, 2)]
    assert order(some) == [2, 1, 0]


def test_scores_tie_with_the_best_and_never_in_a_chain():
    found = order([trial(0, 1.0, steps=300, solved=1), trial(1, 0.985, steps=200), trial(2, 0.97, steps=100)])
    assert found == [1, 0, 2]


def test_what_failed_is_the_worst_and_of_equal_ones_the_lower_learning_rate_comes_first():
    lost = Trial(0, lost="1 of 2 diverged")
    assert order([lost, trial(1, 0.1), trial(3, 0.9), trial(2, 0.9)]) == [2, 3, 1, 0]


def finding(job: Job, *rows: list[Trial], words: tuple[str, ...] = ()) -> Finding:
    [study] = studies([job], words)
    return Finding(study, SCALE, [(study.job.train, list(row)) for row in rows])


@pytest.mark.parametrize(("best", "edge"), [(0, True), (1, False), (6, False), (7, True)])
def test_the_edge_of_the_grid(job, best, edge):
    others = [trial(point, 0.8) for point in range(8) if point != best]
    assert finding(job(), [trial(best, 0.9), *others]).at_edge is edge


def test_an_edge_that_ties_with_the_rate_before_it_or_taught_nothing_is_none(job):
    assert finding(job(), [trial(7, 0.91), trial(6, 0.89)]).at_edge is True
    assert finding(job(), [trial(7, 0.90), trial(6, 0.89)]).at_edge is False
    assert (
        finding(job(), [trial(7, 1.0, steps=50, solved=2), trial(6, 1.0, steps=80, solved=2)]).at_edge
        is False
    )
    assert finding(job(), [trial(7, 0.25), trial(6, 0.20)]).at_edge is False  # both at the floor
    assert finding(job(), [trial(7, 0.40), Trial(6, lost="1 of 2 diverged")]).at_edge is True


def test_an_edge_is_judged_on_the_largest_budget_that_both_rates_got(job):
    first = [trial(7, 0.6), trial(6, 0.4), trial(5, 0.3)]
    assert finding(job(), first, [trial(7, 0.95), trial(6, 0.94)]).at_edge is False
    assert finding(job(), first, [trial(7, 0.95), trial(5, 0.94)]).at_edge is True


def test_a_trial_that_fails_later_gives_its_place_to_the_next(job):
    first = [trial(4, 0.6), trial(5, 0.5), trial(3, 0.4), Trial(7, lost="diverged")]
    assert finding(job(), first, [trial(5, 0.7), Trial(4, lost="diverged")]).best == 5
    assert finding(job(), first, [Trial(5, lost="x"), Trial(4, lost="x")]).best == 3


def test_where_everything_fails_the_settings_stay_as_they_were(job):
    given = job(train={"lr": 0.5, "tuned": True})
    found = finding(given, [Trial(i, lost="diverged") for i in range(8)])
    assert found.best is None
    assert found.at_edge is False
    assert found.job == given
    assert "no trial of 8 ended well" in tuned_file.in_words(found)
    assert tuned_file.why_not(found, [found], []) == "no trial ended well"


def a_run(**metrics: Any) -> Run:
    return Run("trial", "", metrics.pop("status", "done"), "t", 8, "m", 0, {}, metrics=metrics)


def test_a_trial_is_the_mean_over_its_runs_and_lost_with_any_of_them():
    good = a_run(best_valid_score=1.0, best_valid_loss=0.1, steps=60, solved_step=40)
    slow = a_run(best_valid_score=0.5, best_valid_loss=0.3, steps=100, solved_step=None)
    assert tune.trial_of(3, [good, slow], ACCURACY) == Trial(3, 0.75, 0.2, 70.0, 1, "")
    bad = a_run(status="diverged", best_valid_score=0.9)
    blind = a_run(best_valid_score=None, best_valid_loss=0.1, steps=1)
    assert tune.trial_of(3, [good, bad, None], ACCURACY).lost == "1 of 3 diverged, 1 of 3 failed"
    assert tune.trial_of(3, [blind], ACCURACY).lost == "1 of 1 without a score"


def test_floors_and_margin_come_from_the_cards_of_all_rungs():
    cards = [{"floors": {"chance": 0.25, "bag": 0.5}}, {"floors": {"chance": 0.15, "other": 0.9}}]
    runs = [
        dataclasses.replace(a_run(), rung=rung, card=card) for rung, card in zip((8, 32), cards, strict=True)
    ]
    assert tune.scale_of(runs) == Scale(ACCURACY, (0.2,), 0.02)
    error = dataclasses.replace(a_run(), card={"metric": "mean squared error", "floors": {"one": 0.5}})
    assert tune.scale_of([error]) == Scale(SQUARED_ERROR, (0.5,), 0.01)


# The search


def play(
    jobs: list[Job], folder: Path, score: Callable[[Unit], float | None]
) -> tuple[list[Finding], list[str], list[list[Unit]]]:
    """Search with made-up scores; None diverges."""
    lines: list[str] = []
    stages: list[list[Unit]] = []

    def stage(units: list[Unit], line: str) -> bool:
        lines.append(line)
        stages.append(units)
        for unit in units:
            value = score(unit)
            metrics = {"best_valid_score": value, "best_valid_loss": 1.0, "steps": unit.job.train.steps}
            run = Run(
                unit.kind, unit.identity, "done" if value is not None else "diverged", "t", unit.rung, "m",
                unit.seed, {}, card={"floors": {"chance": 0.125}}, metrics=metrics,
            )  # fmt: skip
            records.write_run(unit.folder, run, {})
        return True

    found = tune.search(studies(jobs, []), stage, folder)
    assert found is not None
    return found, lines, stages


def peak(at: float) -> Callable[[Unit], float]:
    return lambda unit: 0.9 - 0.2 * abs(math.log10(unit.job.train.lr / at))


def test_every_model_gets_the_same_trials_and_the_same_steps(job, tmp_path):
    jobs = [job(model, tuning={"halvings": 2}) for model in ("rnn", "gru", "lstm", "transformer")]
    found, lines, stages = play(jobs, tmp_path / "s", peak(3e-3))
    steps: dict[str, int] = {}
    rates: dict[str, list[float]] = {}
    for unit in [unit for stage in stages for unit in stage]:
        name = unit.job.model.name
        steps[name] = steps.get(name, 0) + unit.job.train.steps
    for unit in stages[0]:
        rates.setdefault(unit.job.model.name, []).append(unit.job.train.lr)
    # two rungs, two seeds: 8 trials of 100 steps, 4 of 200, 2 of 400
    assert steps == dict.fromkeys(steps, 4 * (8 * 100 + 4 * 200 + 2 * 400))
    assert len(steps) == 4
    assert all(one == rates["rnn"] for one in rates.values())
    assert lines == [
        "tuning 1 of 3: 8 trials for each of 4 models, 100 steps",
        "tuning 2 of 3: 4 trials for each of 4 models, 200 steps",
        "tuning 3 of 3: 2 trials for each of 4 models, 400 steps",
    ]
    assert [f.job.train.lr for f in found] == [0.00216] * 4
    assert all(f.job.train.tuned and f.job.train.steps == 400 for f in found)


def test_trials_are_validation_runs_on_tuning_seeds_that_nothing_else_counts(job, tmp_path):
    _, _, stages = play([job("gru")], tmp_path / "s", peak(3e-3))
    units = [unit for stage in stages for unit in stage]
    assert {unit.kind for unit in units} == {"trial"}
    assert {unit.seed for unit in units} == {1000, 1001}
    assert {unit.rung for unit in units} == {8, 32}
    assert all(unit.job.probes == [] and not unit.job.train.tuned for unit in units)
    assert len({unit.base for unit in units}) == 1
    compared = plan([job("gru")], tmp_path / "s")
    assert not {unit.identity for unit in compared} & {unit.identity for unit in units}
    same = dataclasses.replace(units[0].job, seeds=[1000])
    trained = plan([same], tmp_path / "s")[-1]
    assert trained.identity != trial_units(same, tmp_path / "s", "")[0].identity  # a trial has no test result


def test_a_diverging_learning_rate_drops_out_and_the_others_move_up(job, tmp_path):
    def score(unit: Unit) -> float | None:
        return None if unit.job.train.lr > 5e-3 and unit.seed == 1001 else 100 * unit.job.train.lr

    [found], _, stages = play([job(tuning={"halvings": 2})], tmp_path / "s", score)
    kept = [sorted({unit.job.train.lr for unit in stage}) for stage in stages[1:]]
    assert kept == [[0.000579, 0.00112, 0.00216, 0.00417], [0.00216, 0.00417]]
    assert (found.job.train.lr, found.at_edge) == (0.00417, False)  # higher ones were tried


def test_a_model_that_always_diverges_is_not_tuned_and_the_others_are(job, tmp_path):
    jobs = [job("rnn"), job("transformer")]
    rnn_fails = lambda unit: None if unit.job.model.name == "rnn" else peak(3e-3)(unit)  # noqa: E731
    (rnn, transformer), _, stages = play(jobs, tmp_path / "s", rnn_fails)
    assert (rnn.best, rnn.job) == (None, jobs[0])
    assert transformer.job.train.tuned
    assert {unit.job.model.name for unit in stages[1]} == {"transformer"}


def test_a_stage_that_was_stopped_ends_the_search(job, tmp_path):
    assert tune.search(studies([job()], []), lambda *_: False, tmp_path) is None


def test_the_runs_of_the_comparison_know_their_trials(job, tmp_path):
    found, _, stages = play([job("rnn"), job("gru")], tmp_path / "s", peak(3e-3))
    units = tune.marked(plan([f.job for f in found], tmp_path / "s"), found, tmp_path / "s")
    bases = {unit.job.model.name: unit.base for stage in stages for unit in stage}
    assert len(set(bases.values())) == 2
    for unit in units:
        assert unit.base == bases[unit.job.model.name]


# What is varied, and what cannot be tuned


def free(*jobs: Job, words: tuple[str, ...] = ()) -> list[set[str]]:
    return [set(study.free) for study in studies(list(jobs), words)]


def test_what_a_model_declares_is_varied_unless_somebody_chose_it(job):
    assert free(job("lstm"), job("rnn")) == [{"forget_bias"}, set()]
    assert free(job("lstm", tuning={"others": False})) == [set()]
    assert free(job("lstm"), words=("model.forget_bias=null",)) == [set()]
    assert free(job("lstm", model_options={"forget_bias": 2.0})) == [set()]
    several = [job("lstm", model_options={"forget_bias": bias}) for bias in (None, 1.0)]
    assert free(*several) == [set(), set()]


def test_a_file_of_an_earlier_tuning_fixes_nothing_and_changes_nothing(job, tmp_path):
    before = studies([job("gru")], [])
    (tmp_path / "tuned").mkdir()
    path = tmp_path / "tuned" / "temporal_order-gru.yaml"
    path.write_text("train:\n  lr: 0.5\nmodel:\n  update_bias: 7.0\n")
    later = job("gru", model_options={"update_bias": 7.0}, train={"lr": 0.5, "tuned": True})
    after = studies([later], [])
    assert [study.job for study in after] == [study.job for study in before]
    assert set(after[0].free) == {"update_bias"}
    assert sweep_folder([after[0].job]) == sweep_folder([before[0].job])
    assert studies([job("gru", train={"steps": 5})], [])[0].base != before[0].base


def composed(job: Callable[..., Job], **first: Any) -> list[Job]:
    """A gru, and an rnn that is matched to its cost, as composition leaves them."""
    jobs = [job("gru", match={"by": "flops"}, **first), job("rnn", match={"by": "flops"})]
    for one in jobs:
        name_reference(one, jobs)
    return jobs


def test_what_tuning_varies_of_the_first_model_is_no_part_of_what_others_are_matched_to(job, tmp_path):
    before = studies(composed(job), [])
    chosen = studies(composed(job, model_options={"update_bias": 7.0}), [])
    assert [study.job.match.reference["update_bias"] for study in chosen] == [7.0, 7.0]
    (tmp_path / "tuned").mkdir()
    (tmp_path / "tuned" / "temporal_order-gru.yaml").write_text("model:\n  update_bias: 7.0\n")
    after = studies(composed(job, model_options={"update_bias": 7.0}), [])
    assert [study.job.match.reference["update_bias"] for study in after] == [None, None]
    assert [study.base for study in after] == [study.base for study in before]


def test_the_comparison_is_matched_to_the_first_model_as_the_file_says_it_is(job, tmp_path):
    found, _, _ = play(composed(job), tmp_path / "s", peak(2.16e-3))
    gru, rnn = tune.compared(found)
    assert gru.model.update_bias == 3.0
    assert gru.match.reference == rnn.match.reference == dataclasses.asdict(gru.model)
    tuned = {"train": {"lr": gru.train.lr, "tuned": True}, "model_options": {"update_bias": 3.0}}
    later = composed(job, **tuned)[0]
    identities = [[unit.identity for unit in plan([one], tmp_path)] for one in (gru, later)]
    assert identities[0] == identities[1]
    marked = tune.marked(plan([gru, rnn], tmp_path), found, tmp_path)
    assert {unit.base for unit in marked} == {f.study.base for f in found}


def test_the_number_of_trials_and_their_space_decide_the_folder_and_where_files_go_does_not(job):
    folder = sweep_folder([studies([job()], [])[0].job])
    others = [job(tune=9), job(tuning={"high": 0.1}), job(tuning={"seeds": [7]}), job(tune=0)]
    assert folder not in [sweep_folder([other]) for other in others]
    assert sweep_folder([job(tuning={"dir": None})]) == sweep_folder([job()])


def test_tuning_is_no_part_of_what_a_run_is(make_job, tmp_path):
    plain = plan([make_job("gru")], tmp_path)
    tuning = plan([make_job("gru", tune=5, tuning={"low": 0.01})], tmp_path)
    assert [unit.identity for unit in plain] == [unit.identity for unit in tuning]


@pytest.mark.parametrize("count", [1, 2])
def test_two_trials_cannot_show_an_edge(job, count):
    with pytest.raises(UsageError, match=f"tune={count}: expected 0, or 3 or more"):
        job(tune=count)


@pytest.mark.parametrize(
    ("tuning", "words"),
    [
        ({"seeds": [5, 1]}, "tuning.seeds=.*1 is one of seeds"),
        ({"seeds": []}, "tuning.seeds=.*expected different seeds"),
        ({"seeds": [7, 7]}, "tuning.seeds=.*expected different seeds"),
        ({"low": 0.1, "high": 0.1}, "tuning.low=0.1: must be less than tuning.high=0.1"),
        ({"low": 0.0}, "tuning.low=0"),
        ({"halvings": -1}, "tuning.halvings=-1"),
        ({"dir": ""}, "tuning.dir=: expected a folder"),
        ({"dir": " "}, "tuning.dir=: expected a folder"),
    ],
)
def test_impossible_searches_are_refused_in_one_line(job, tuning, words):
    with pytest.raises(UsageError, match=words) as raised:
        job(tuning=tuning, seeds=[0, 1])
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("train", "told"),
    [
        (
            {"steps": 8},
            "tuning.halvings=6: 8 steps can be halved 3 times, then rounds are equally long: .*=3, or",
        ),
        ({"steps": 1}, "1 steps can be halved 0 times"),
        ({"epochs": 0.01}, "0.01 passes can be halved 4 times"),
    ],
)
def test_rounds_that_would_be_equally_long_are_refused(job, train, told):
    with pytest.raises(UsageError, match=told):
        studies([job(tuning={"halvings": 6}, train=train)], [])


def test_as_many_halvings_as_there_are_different_rounds_are_fine(job):
    [study] = studies([job(tuning={"halvings": 3}, train={"steps": 8})], [])
    shares = [one.share for one in rounds(8, 3)]
    assert [tune.budget(study.job.train, share).steps for share in shares] == [1, 2, 4, 8]


def test_seeds_may_overlap_where_nothing_is_tuned(job):
    assert job(tune=0, tuning={"seeds": [0]}, seeds=[0]).tune == 0


@pytest.mark.parametrize("word", ["train.lr=0.1", "+train.lr=0.1", "train.tuned=true"])
def test_a_learning_rate_cannot_be_given_and_searched(job, word):
    with pytest.raises(UsageError, match=r"tune=8 with train\.\w+: tuning chooses the learning rate"):
        studies([job()], [word])


def test_one_number_of_trials_for_all(job):
    with pytest.raises(UsageError, match="the same trials for every model"):
        studies([job("rnn"), job("gru", tune=9)], [])


def test_learning_rates_that_a_sweep_would_vary_are_one_search(job):
    assert len(studies([job(train={"lr": lr}) for lr in (0.1, 0.2)], [])) == 1


def test_a_place_that_cannot_be_written_to_is_refused_before_anything_runs(job, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"tuning.dir=.*file/tuned: .*file: not a folder"):
        studies([job(tuning={"dir": str(tmp_path / "file" / "tuned")})], [])
    studies([job()], [])
    assert not (tmp_path / "tuned").exists()
    with pytest.raises(UsageError, match=r"tuning.dir=/proc/tuned"):
        studies([job(tuning={"dir": "/proc/tuned"})], [])


def test_a_declared_value_that_the_model_does_not_take_is_refused(job, monkeypatch):
    monkeypatch.setattr(lookup("model", "rnn"), "tuned_settings", {"nonlinearity": ("tanh", "cubic")})
    with pytest.raises(UsageError, match="rnn': tuned_settings: model.nonlinearity=cubic: not allowed"):
        studies([job("rnn")], [])


@pytest.mark.parametrize(
    ("declared", "told"),
    [
        (["layers"], "expected settings with their values"),
        ({"layer": (1, 2)}, "no setting 'layer'; did you mean 'layers'?"),
        ({"name": ("a", "b")}, "no setting 'name'"),
        ({"layers": 3}, "layers=3: expected a list of values"),
        ({"layers": ()}, r"layers=\(\): expected a list of values"),
        ({"layers": (1, "two")}, "layers='two': Value 'two' of type 'str' could not be converted"),
        ({"layers": (0, 1)}, "model.layers=0: must be at least 1"),
    ],
)
def test_what_a_model_declares_wrongly_is_told_in_one_line(job, monkeypatch, declared, told):
    monkeypatch.setattr(lookup("model", "rnn"), "tuned_settings", declared)
    with pytest.raises(UsageError, match=f"^model 'rnn': tuned_settings: .*{told}"):
        studies([job("rnn")], [])


# The file


def tuned(job: Job, **others: Any) -> Finding:
    first = [trial(3, 0.5), trial(4, 0.4, steps=80, solved=1), Trial(7, lost="2 of 4 diverged")]
    return finding(job, first, [trial(3, 0.75), trial(4, 0.5)], **others)


def test_a_file_says_how_it_was_found_and_holds_what_was_found(job, tmp_path):
    found = tuned(job("gru"))
    path = tuned_file.write(found, ["python", "-m", "seqbench"], ["-m", "model=gru", "tune=8"])
    assert path == tmp_path / "tuned" / "temporal_order-gru.yaml"
    text = path.read_text()
    head = [line for line in text.splitlines() if line.startswith("#")]
    assert head[0] == "# @package _global_"
    assert "python -m seqbench -m model=gru tune=8" in head[1]
    for words in (
        "8 learning rates, 0.0003 to 0.03, update_bias from [null, 1.0, 3.0]", "validation accuracy",
        "T=8, 32", "seeds 1000, 1001", "0.00216 update_bias=3.0 0.500",
        "0.00417 update_bias=null 0.400 (1 solved",
        "mean 80 steps", "0.03 update_bias=3.0 2 of 4 diverged", "400 steps",
    ):  # fmt: skip
        assert words in " ".join(head), words
    assert "edge" not in text
    assert OmegaConf.to_container(OmegaConf.create(text)) == {
        "train": {"lr": 0.00216, "tuned": True},
        "model": {"update_bias": 3.0},
    }


def test_a_file_says_when_the_best_lies_at_the_edge(job):
    found = finding(job(), [trial(7, 0.9), trial(6, 0.5)])
    assert "# The best lies at the edge of the grid" in tuned_file.content(found, ["x"])
    assert "at the edge of the range" in tuned_file.in_words(found)


def test_no_word_of_a_command_ends_the_comment_or_shows_a_secret(job):
    text = tuned_file.content(tuned(job()), ["x\nhydra: 1", "a\u2028b: 2", "task.token=hf_abcdefghijklmnop"])
    plain = OmegaConf.to_container(OmegaConf.create(text))
    assert plain == {"train": {"lr": 0.00216, "tuned": True}}
    assert "hf_abc" not in text
    assert len(text.splitlines()) == len(text.split("\n")) - 1


def test_a_file_is_replaced_as_a_whole_or_not_at_all(job, tmp_path, monkeypatch):
    path = tuned_file.write(tuned(job()), ["x"], ["first"])
    before = path.read_text()
    tuned_file.write(tuned(job()), ["x"], ["second"])
    assert path.read_text() == before.replace("x first", "x second")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        tuned_file.write(tuned(job()), ["x"], ["third"])
    assert path.read_text() == before.replace("x first", "x second")
    assert [one.name for one in (tmp_path / "tuned").iterdir()] == [path.name]


def test_hydra_reads_the_file_back(job, tmp_path, monkeypatch):
    found = tuned(job("gru", task="even_pairs", task_options={}))  # no file of this name is shipped
    assert tuned_file.write(found, ["x"], []).name == "even_pairs-gru.yaml"
    monkeypatch.setattr(sys, "argv", ["seqbench"])
    [composed] = cli.compose([f"--config-dir={tmp_path}", "task=even_pairs", "model=gru"])
    assert (composed.train.lr, composed.train.tuned, composed.model.update_bias) == (0.00216, True, 3.0)
    [composed] = cli.compose([f"--config-dir={tmp_path}", "task=even_pairs", "model=rnn"])
    assert not composed.train.tuned


def test_settings_that_an_earlier_file_chose_stay_in_the_new_one(job, tmp_path):
    (tmp_path / "tuned").mkdir()
    path = tmp_path / "tuned" / "temporal_order-transformer.yaml"
    path.write_text("train:\n  lr: 0.5\nmodel:\n  causal: false\n")
    found = tuned(job("transformer", model_options={"causal": False}))
    assert tuned_file.why_not(found, [found], []) == ""
    assert "model:\n  causal: false\n" in tuned_file.content(found, ["x"])


def test_only_what_later_commands_would_find_again_is_written(job):
    plain, odd = tuned(job()), tuned(job(model_options={"layers": 2}))
    assert tuned_file.why_not(plain, [plain], ["model=rnn", "tune=8", "seeds=3"]) == ""
    assert tuned_file.why_not(plain, [plain], ["train.steps=20"]) == ""  # a folder was named
    home = tuned(job(tuning={"dir": None}))
    assert tuned_file.why_not(home, [home], ["tune=8"]) == ""
    for word in ("train.steps=20", "task.lengths=[8]", "+experiment=recall", "match.target=9"):
        assert "files are for the defaults" in tuned_file.why_not(home, [home], [word])
    assert "layers=2 is not the model's default" in tuned_file.why_not(odd, [odd], [])
    assert "several jobs of rnn on temporal_order" in tuned_file.why_not(plain, [plain, plain], [])


def test_files_go_to_the_checkout_one_stands_in_or_beside_the_runs(make_job, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert tuned_file.folder(make_job(runs_dir="a/runs")) == Path("a/tuned")
    monkeypatch.chdir(Path(tuned_file.__file__).parent.parent)
    assert tuned_file.folder(make_job()) == Path("conf/tuned")
    assert tuned_file.folder(make_job(tuning={"dir": "x"})) == Path("x")


def test_every_study_points_at_jobs_of_its_space(job):
    [study] = studies([job("lstm")], [])
    assert isinstance(study, Study)
    at = study.at(study.space[2], 0.5)
    assert (at.train.lr, at.train.steps, at.model.forget_bias) == (0.00112, 200, None)
    assert study.at(study.space[1]).model.forget_bias == 1.0
