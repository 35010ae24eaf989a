"""The main table, score against cost, the Pareto front, the noise and the order of the page."""

from __future__ import annotations

import dataclasses
import html
import itertools
import math
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made import Work, changed, small, tables, timing, training, usual, write_sweep
from scipy import stats as scipy_stats

from seqbench import stats
from seqbench.metric import ACCURACY, SQUARED_ERROR
from seqbench.report import fairness, main_table, noise, svg, theme
from seqbench.report.frame import Sweep, read_sweep
from seqbench.report.main_table import Whole
from seqbench.report.page import render
from seqbench.report.plots import pareto, progress
from seqbench.report.plots.pareto import Point
from seqbench.report.speeds import speeds
from seqbench.report.summary import cells
from seqbench.report.tables import differences
from seqbench.report.verdict import compare

NAMES = ("شبكة", "循环神经网络", "x" * 90, "<b>&amp;</b>", "_hidden")


def read(folder: Path, work: list[Work], **plan: Any) -> Sweep:
    return read_sweep(write_sweep(folder, work, **plan))


def wholes(sweep: Sweep) -> list[Whole]:
    grid, timed = cells(sweep), speeds(sweep)
    costs = fairness.costs(sweep, grid, timed)
    return main_table.wholes(sweep, grid, compare(sweep, whole=True), costs, timed)


def counted(model: str, flops: float, **metrics: Any) -> Work:
    """A speed record that also counts operations, as many at T=16 and twice as many at T=32."""
    run, found = timing(model)
    columns = found["speed"]
    columns = {**columns, "flops": [flops * rung / 16 for rung in columns["rung"]]}
    return dataclasses.replace(run, metrics={**run.metrics, **metrics}), {"speed": columns}


def timed(model: str, rung: int, accuracy: float, cpu_s: float) -> Work:
    """A run whose five evaluations stand at equal distances until ``cpu_s``."""
    columns = tables(accuracy)
    clock = [cpu_s * (number + 1) / 5 for number in range(5)]
    columns["evaluations"] |= {"train_cpu_s": clock, "train_wall_s": clock}
    return training(model, rung, 0, accuracy), columns


def column(sweep: Sweep, title: str) -> list[str]:
    shown = main_table.table(wholes(sweep), sweep.reference or "")
    place = [name for name, _ in shown.heads].index(title)
    return [row[place].text for row in shown.rows]


# The main table


def test_a_row_is_the_whole_task(tmp_path: Path):
    work = [
        (training("rnn", 16, 0, 1.0), {}), (training("rnn", 32, 0, 0.2), {}),
        (training("rnn", 16, 1, 1.0), {}), (training("rnn", 32, 1, 0.4), {}),
    ]  # fmt: skip
    (row,) = wholes(read(tmp_path / "s", work))
    assert row.score.mean == pytest.approx((0.6 + 0.7) / 2)
    assert row.score.n == 2  # seeds, not runs
    assert (row.solved, row.finished, row.planned, row.done) == (2, 4, 4, 4)
    assert row.steps == 50


def test_a_seed_without_one_of_the_sizes_has_no_score(tmp_path: Path):
    work: list[Work] = [
        (training("rnn", rung, seed, 0.5 + seed / 10), {}) for seed in (0, 1) for rung in (16, 32)
    ]
    sweep = read(
        tmp_path / "s",
        work,
    )
    assert wholes(sweep)[0].score.n == 2
    half = read(tmp_path / "half", work)
    (tmp_path / "half" / "run-3" / "run.json").unlink()
    half = read_sweep(tmp_path / "half")
    (row,) = wholes(half)
    assert (row.score.n, row.score.mean) == (1, pytest.approx(0.5))
    assert row.missing == {"pending": 1}
    assert column(half, "runs ok") == ["3/4\n1 pending"]


def test_columns_stand_only_where_something_is_known(tmp_path: Path):
    bare = read(tmp_path / "bare", small({"rnn": 0.1, "gru": 1.0}))
    heads = [name for name, _ in main_table.table(wholes(bare), "rnn").heads]
    assert heads == [
        "model", "accuracy", "against rnn", "p (Holm)", "solved", "steps", "CPU s", "parameters", "runs ok",
    ]  # fmt: skip
    rich = read(tmp_path / "rich", [*usual({"rnn": 0.1}), counted("rnn", 1e6)])
    heads = [name for name, _ in main_table.table(wholes(rich), "rnn").heads]
    assert "against rnn" not in heads
    assert {"tokens/s", "FLOPs", "memory, MB"} <= set(heads)
    assert column(rich, "FLOPs") == ["2M"]
    assert column(rich, "memory, MB") == ["5"]


def test_the_groups_cover_the_heads(tmp_path: Path):
    for models in ({"rnn": 0.1}, {"rnn": 0.1, "gru": 1.0}):
        shown = main_table.table(wholes(read(tmp_path / str(len(models)), usual(models))), "rnn")
        assert sum(span for _, span in shown.groups) == len(shown.heads)
        assert all(len(row) == len(shown.heads) for row in shown.rows)


def test_the_difference_has_its_word_and_its_numbers(tmp_path: Path):
    sweep = read(tmp_path / "s", small({"rnn": 0.1, "gru": 0.5}, seeds=3))
    (reference, gru) = column(sweep, "against rnn")
    assert reference == "reference"
    assert gru == "+0.400 better\n[+0.395, +0.405]"  # equal in all seeds: the rounding of 200 answers
    shown = main_table.table(wholes(sweep), "rnn")
    half = scipy_stats.t.ppf(0.975, 2) * stats.rounding_spread([200]) / math.sqrt(3)
    assert shown.rows[1][2].numbers == pytest.approx((0.4, 0.4 - half, 0.4 + half))


def test_a_tiny_p_is_only_said_to_be_one(tmp_path: Path):
    sweep = read(tmp_path / "s", small({"rnn": 0.1, "gru": 0.5}, seeds=6))
    (found,) = compare(sweep, whole=True)
    assert 0 < found.judged.p < 1e-6
    shown = differences([found], "rnn").rows[0][5]
    assert (shown.text, shown.numbers) == ("< 0.0001", (found.judged.p,))


@pytest.mark.parametrize("longer", [False, True])
def test_variants_whose_names_begin_alike_stay_apart(tmp_path: Path, longer: bool):
    """Eight variants, whose settings do not fit into a label."""
    name = "gated_deltanet" + "_of_a_user" * 6 * longer
    work = []
    for place, variant in enumerate(itertools.product((True, False), (0, 4), (1e-3, 1e-2))):
        for seed in range(2):
            run = training(name, 16, seed, 0.1 * place)
            model = {"name": name, "negative_eigenvalues": variant[0], "convolution": variant[1]}
            config = {**run.config, "model": model, "train": {**run.config["train"], "lr": variant[2]}}
            work.append((dataclasses.replace(run, config=config), {}))
    sweep = read(tmp_path / "s", work)
    assert len(set(sweep.labels)) == len(sweep.labels) == 8
    assert max(map(len, sweep.labels)) <= 60
    assert [cell.score.mean for cell in cells(sweep)] == pytest.approx([0.1 * place for place in range(8)])
    assert read_sweep(sweep.folder).labels == sweep.labels


def test_models_whose_names_begin_alike_stay_apart(tmp_path: Path):
    one, other = "m" * 70 + "1", "m" * 70 + "2"
    sweep = read(tmp_path / "s", small({one: 0.1, other: 0.9}), reference=other)
    assert len(sweep.labels) == 2
    assert sweep.reference == sweep.labels[1]
    assert [cell.score.mean for cell in cells(sweep)] == [0.1, 0.9]


def test_a_diverged_run_is_counted_beside_the_ones_that_are_done(tmp_path: Path):
    lost = training("rnn", 16, 1, 0.0, status="diverged", metrics={"test_accuracy": None, "solved": False})
    sweep = read(tmp_path / "s", [*small({"rnn": 1.0}), (lost, {})])
    assert column(sweep, "runs ok") == ["1/2\n1 diverged"]
    assert column(sweep, "solved") == ["1/2"]


def test_many_models_are_summed_up_before_they_are_listed(tmp_path: Path):
    models = {"rnn": 0.1} | {f"m{i}": 0.5 for i in range(4)} | {f"n{i}": 0.1 for i in range(5)}
    text = html.unescape(render(read(tmp_path / "many", small(models, seeds=3))))
    assert (
        "On order: better than rnn: m0, m1, m2 and m3; equivalent to rnn within 0.02: n0, n1, n2, n3 and n4."
        in text
    )
    assert "Each of the 10 models in words" in text
    few = html.unescape(render(read(tmp_path / "few", small({"rnn": 0.1, "gru": 0.5}, seeds=2))))
    assert "models in words" not in few


def test_floors_and_published_scores_stand_below_it(tmp_path: Path):
    text = html.unescape(render(read(tmp_path / "s", small({"rnn": 0.1}))))
    assert "Floors of order T=16: chance 0.125 and bag of tokens 0.667." in text


# The page


def test_the_page_has_its_order(tmp_path: Path):
    broken = training("gru", 16, 7, 0.0, status="failed", error={"type": "E", "message": "m", "place": "x"})
    work = [*usual({"rnn": 0.12, "gru": 0.998}, seeds=2), (dataclasses.replace(broken, metrics={}), {})]
    text = render(read(tmp_path / "s", work))
    found = re.findall(r'<section id="([a-z-]+)">', text)
    assert found == [
        "verdict", "results", "learning", "lengths", "gradient-flow", "speed", "fairness", "noise", "failed",
        "reproduce",
    ]  # fmt: skip
    assert text.index('id="main"') < text.index('id="glance"') < text.index('id="outcomes1"')


@pytest.mark.parametrize("models", [0, 1, 2, 60])
def test_any_number_of_models(tmp_path: Path, models: int):
    work = [one for n in range(models) for one in (*small({f"model{n}": 0.5}), counted(f"model{n}", 1e6 + n))]
    text = render(read(tmp_path / "s", work))
    assert ('id="main"' in text) == (models > 0)
    assert ('id="figure-pareto0"' in text) == (models > 1)
    assert len(text) < 2_000_000


def test_names_in_any_script_and_of_any_length(tmp_path: Path):
    work = [one for n, name in enumerate(NAMES) for one in (*small({name: 0.1 + n / 10}), timing(name))]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        text = render(read(tmp_path / "s", work))
    assert 'id="figure-pareto0"' in text
    assert "<b>&amp;</b>" not in text
    assert "cannot be drawn" not in text


# Score against time and operations


def test_operations_are_three_passes_of_a_batch_for_each_step(tmp_path: Path):
    sweep = read(tmp_path / "s", [timed("rnn", 16, 0.5, 10.0), counted("rnn", 1000.0)])
    table = progress.costed(sweep, sweep.tasks[0], 16)
    assert list(table["flops"]) == [3 * 4 * 1000.0 * step for step in (20, 40, 60, 80, 100)]  # a batch of 4
    figure = progress.plot(sweep, sweep.tasks[0], cells(sweep), 0)
    assert figure is not None
    assert figure.title == "Score against CPU time of training and training FLOPs: order T=16"


def test_what_was_not_recorded_is_not_drawn(tmp_path: Path):
    sweep = read(tmp_path / "none", small({"rnn": 0.5}))
    assert progress.plot(sweep, sweep.tasks[0], cells(sweep), 0) is None
    sweep = read(tmp_path / "time", [timed("rnn", 16, 0.5, 10.0)])
    figure = progress.plot(sweep, sweep.tasks[0], cells(sweep), 0)
    assert figure is not None
    assert "FLOPs" not in figure.title + figure.how


def test_the_highest_size_that_someone_solves_is_drawn(tmp_path: Path):
    work = [timed("rnn", 16, 1.0, 1.0), timed("rnn", 32, 1.0, 1.0), timed("rnn", 64, 0.1, 1.0)]
    sweep = read(tmp_path / "s", work)
    assert progress.chosen(sweep.tasks[0], cells(sweep)) == 32
    none = read(tmp_path / "none", [*work[2:], timed("rnn", 16, 0.1, 1.0)])
    assert progress.chosen(none.tasks[0], cells(none)) == 64


def test_models_are_compared_at_the_cost_of_the_cheapest(tmp_path: Path):
    sweep = read(tmp_path / "s", [timed("slow", 16, 1.0, 10.0), timed("fast", 16, 0.5, 2.0)])
    figure = progress.plot(sweep, sweep.tasks[0], cells(sweep), 0)
    assert figure is not None
    # at 2 s the slow one has had the first of its five evaluations, at 0.1
    assert figure.shows == (
        "By the CPU time of training that fast used in all (2 s), fast stands at 0.50 and slow at 0.10."
    )


def test_a_run_on_a_gpu_is_drawn_against_time_on_the_clock(tmp_path: Path):
    run, columns = timed("rnn", 16, 0.5, 10.0)
    sweep = read(tmp_path / "s", [(dataclasses.replace(run, environment={"device": "a GPU"}), columns)])
    figure = progress.plot(sweep, sweep.tasks[0], cells(sweep), 0)
    assert figure is not None
    assert figure.title.startswith("Score against time of training:")


def test_the_median_carries_on_who_stopped_and_never_goes_back():
    curves = pd.DataFrame(
        {"seed": [0, 0, 1], "step": [1, 2, 1], "score": [0.1, 0.3, 0.9], "train_cpu_s": [1.0, 2.0, 9.0]}
    )
    middle = progress.median(curves, "train_cpu_s")
    assert list(middle["score"]) == pytest.approx([0.5, 0.6])
    assert list(middle["train_cpu_s"]) == [5.0, 5.0]


# The Pareto front


def point(label: str, score: float, speed: float) -> Point:
    return Point(label, score, score - 0.1, score + 0.1, speed, 0.9 * speed, 1.1 * speed)


def test_the_front_is_who_none_beats_in_both():
    found = [
        point("best", 0.9, 10.0),
        point("fast", 0.5, 100.0),
        point("worse", 0.4, 50.0),
        point("slow", 0.9, 5.0),
    ]
    assert [one.label for one in pareto.front(found, ACCURACY)] == ["fast", "best"]
    assert pareto.shows(found, ACCURACY) == (
        "On the front: fast (0.50, 100 tokens/s) and best (0.90, 10 tokens/s). worse is dominated by fast: "
        "no better and no faster. slow is dominated by best: no better and no faster."
    )


def test_less_is_better_where_the_metric_says_so():
    found = [point("good", 0.01, 10.0), point("bad", 0.2, 10.0)]
    assert [one.label for one in pareto.front(found, SQUARED_ERROR)] == ["good"]


def test_equals_are_both_on_the_front():
    found = [point("a", 0.5, 10.0), point("b", 0.5, 10.0)]
    assert [one.label for one in pareto.front(found, ACCURACY)] == ["a", "b"]


@pytest.mark.parametrize("count", [2, 12, 24])
def test_names_cover_no_other_name_and_no_point(count: int):
    rng = np.random.default_rng(count)
    spots = list(zip(20 + 400 * rng.random(count), 20 + 200 * rng.random(count), strict=True))
    points = [(x - 4, y - 4, x + 4, y + 4) for x, y in spots]
    taken, edges = list(points), (0.0, 0.0, 480.0, 240.0)
    for x, y in spots:
        taken.append(pareto.place(x, y, pareto.width("gated_deltanet"), taken, edges))
    names = taken[count:]
    for number, name in enumerate(names):
        others = points + names[:number]
        assert all(pareto._overlap(name, other) == 0 for other in others)
        assert pareto._outside(name, edges) == pytest.approx(0)


def test_more_points_than_names_fit_have_a_legend(tmp_path: Path):
    models = [f"m{i}" for i in range(25)]
    work = [one for n, name in enumerate(models) for one in (*small({name: n / 25}), timing(name))]
    sweep = read(tmp_path / "s", work)
    figure = pareto.plot(sweep, sweep.tasks[0], wholes(sweep), 0)
    assert figure is not None
    with theme.drawing():
        drawn = figure.draw()
    assert len(drawn.legends[0].get_texts()) == 25
    assert len(drawn.axes[0].texts) == 0


# The noise


def steps(model: str, times: list[float], **metrics: Any) -> Work:
    run, _ = timing(model)
    count = len(times)
    columns: dict[str, list[Any]] = {"rung": [16] * count, "mode": ["train"] * count, "step_s": times}
    columns |= {"valid_tokens": [64] * count, "memory_bytes": [5e6] * count}
    return dataclasses.replace(run, metrics={**run.metrics, **metrics}), {"speed": columns}


def noisy(sweep: Sweep) -> str:
    shown = noise.table(sweep, cells(sweep), compare(sweep, whole=True))
    assert shown is not None
    return "\n".join(" | ".join(cell.text for cell in row) for row in shown.rows)


def test_the_same_code_is_compared_with_itself(tmp_path: Path):
    quiet, drifting = [1.0] * 16, ([1.0] * 4 + [1.5] * 4) * 2
    sweep = read(
        tmp_path / "s", [*small({"rnn": 0.5, "gru": 0.5}), steps("rnn", quiet), steps("gru", drifting)]
    )
    assert [(one.place, one.ratio) for one in noise.halves(sweep)] == [
        ("rnn, order T=16", 1),
        ("gru, order T=16", 1.5),
    ]
    assert "up to 1.50 (gru, order T=16)" in noisy(sweep)
    assert "differ by less than 1.50 times cannot be told apart" in noisy(sweep)


def test_too_few_steps_have_no_a_a_figure(tmp_path: Path):
    sweep = read(tmp_path / "s", [*small({"rnn": 0.5}), steps("rnn", [1.0] * 7)])
    assert noise.halves(sweep) == []
    assert "not known | fewer than 8 timed steps" in noisy(sweep)
    assert math.isnan(noise.resolvable([]))


@pytest.mark.parametrize(
    ("busy", "said"), [(0.1, "little else"), (1.4, "small differences of speed mean nothing")]
)
def test_what_else_ran_is_said(tmp_path: Path, busy: float, said: str):
    work = [*small({"rnn": 0.5}), steps("rnn", [1.0] * 8, others_busy_cores=busy)]
    assert said in noisy(read(tmp_path / "s", work))
    assert "not recorded" in noisy(read(tmp_path / "old", [*small({"rnn": 0.5}), steps("rnn", [1.0] * 8)]))


def test_what_the_seeds_can_show_is_said(tmp_path: Path):
    reached = {"rnn": (0.1, 0.1, 0.1), "gru": (0.1, 0.2, 0.3)}
    work: list[Work] = [
        (training(model, 16, seed, score), {}) for model, s in reached.items() for seed, score in enumerate(s)
    ]
    sweep = read(tmp_path / "s", work)
    (found,) = compare(sweep, whole=True)
    assert found.judged.detectable < found.most == 0.9
    shown = f"difference of accuracy found with power 0.8, order | {found.judged.detectable:.2f} |"
    assert shown in noisy(sweep)
    assert "0 means that all seeds differed by the same amount" in noisy(sweep)
    assert "200 answers" in noisy(sweep)


@pytest.mark.parametrize(
    ("last", "words"),
    [(0.1, "(at its end more than is possible here: 0.90)"), (0.9, "(more than is possible here: 0.90)")],
)
def test_a_difference_that_nobody_can_reach_is_said_to_be_none(tmp_path: Path, last: float, words: str):
    reached = {"rnn": (0.1, 0.1, 0.1), "gru": (0.1, 0.9, 0.1), "lstm": (0.9, 0.1, last), "m": (0.1, 0.9, 0.1)}
    reached = reached if last > 0.5 else {**reached, "lstm": (0.1, 0.1, 0.1), "m": (0.1, 0.1, 0.1)}
    work: list[Work] = [
        (training(model, 16, seed, score), {}) for model, s in reached.items() for seed, score in enumerate(s)
    ]
    assert words in noisy(read(tmp_path / "s", work))


def test_without_records_there_is_no_noise_to_speak_of(tmp_path: Path):
    sweep = read(tmp_path / "s", small({"rnn": 0.5}), pending=1)
    assert noise.table(sweep, cells(sweep), []) is None


# Small pictures


def test_lines_lose_no_place_when_they_are_shortened():
    rng = np.random.default_rng(0)
    x, y = np.cumsum(rng.random(200)), 50 * rng.random(200)
    path = "M " + " L ".join(f"{a} {b} " for a, b in zip(x, y, strict=True))
    short = svg._relative(path)
    numbers = [float(n) for n in re.findall(r"-?(?:\d+\.?\d*|\.\d+)", short)]
    places = np.cumsum(np.array(numbers).reshape(-1, 2), axis=0)
    assert len(short) < len(path) / 3
    kept = [int(np.argmin(np.hypot(x - a, y - b))) for a, b in places]
    assert np.hypot(x[kept] - places[:, 0], y[kept] - places[:, 1]).max() < 0.08
    between = np.interp(x, places[:, 0], places[:, 1])
    slopes = np.abs(np.gradient(y, x)).max()
    assert np.abs(between - y).max() < 0.1 * slopes + 0.2


def test_a_straight_line_needs_two_points():
    assert svg._relative("M 0 0 L 1 1 L 2 2 L 30 30") == "M0 0l30 30"


def test_the_row_of_a_canary_has_no_cost(tmp_path: Path):
    (bag, columns) = small({"bag": 0.6})[0]
    sweep = read(tmp_path / "s", [*usual({"rnn": 0.5}), (changed(bag, canary=True), columns)])
    rows = {one.label: one for one in wholes(sweep)}
    assert math.isnan(rows["bag"].cost.params)
    assert rows["rnn"].cost.params == 1000


@pytest.mark.parametrize("count", [2, 3])
def test_tasks_stand_together_where_there_are_more_than_two(tmp_path: Path, count: int):
    work: list[Work] = [
        (training(model, 16, seed, level, task=name, config={"task": {"name": name}}), {})
        for name in ("order", "recall", "count")[:count]
        for model, level in (("rnn", 0.3), ("gru", 0.6))
        for seed in (0, 1)
    ]
    assert ("All tasks together" in render(read(tmp_path / "s", work))) == (count == 3)
