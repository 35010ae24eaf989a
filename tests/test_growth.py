"""The page of a grid: powers, crossings, what was left out, figures, and sweeps that train nothing."""

from __future__ import annotations

import html
import itertools
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made import Work, timing, training, usual, write_sweep

from seqbench.adapters.base import read_board
from seqbench.report import index, page, theme
from seqbench.report.export import export
from seqbench.report.frame import Sweep, read_sweep
from seqbench.report.lesson import render as render_lesson
from seqbench.report.page import context, render
from seqbench.report.plots import growth
from seqbench.report.scaling import Meeting, crossings, laws, lengths, met, sizes
from seqbench.report.speed_tables import costs
from seqbench.report.speeds import points, speeds
from seqbench.report.verdict import headline, verdicts
from seqbench.stats import power_of, power_of_medians

LENGTHS, SIZES = (32, 64, 128, 256, 512, 1024), (1, 8, 32)
NOISE = (0.98, 1.0, 1.01, 1.02, 0.99)


def spoken(text: str) -> str:
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", text)))


def table(time: Any, flops: Any, saved: Any, lengths: tuple[int, ...] = LENGTHS) -> dict[str, list[Any]]:
    """A grid with a training step of ``time(T) * batch`` seconds, and a forward pass of a third."""
    places = [(t, 8) for t in lengths] + [(128, b) for b in SIZES if b != 8]
    rows = [
        {
            "steps": t, "batch_size": b, "mode": mode, "step_s": share * noise * time(t) * b, "cpu_s": 0.0,
            "valid_tokens": t * b, "memory_bytes": 2 * saved(t) * b, "saved_bytes": saved(t) * b,
            "flops": flops(t), "peak_flops_per_s": 1e11,
        }
        for (t, b), (mode, share), noise in itertools.product(
            places, (("train", 1.0), ("forward", 1 / 3)), NOISE
        )
    ]  # fmt: skip
    return {name: [row[name] for row in rows] for name in rows[0]}


def gridded(model: str, columns: dict[str, list[Any]], **more: dict[str, list[Any]]) -> Work:
    run, _ = timing(model)
    return run, {"grid": columns, **more}


LOOPING = table(lambda t: 1e-5 * t, lambda t: 1e6 * t, lambda t: 1000 * t)
ATTENDING = table(  # quicker up to T=256, where both take 2.56 ms, and slower beyond
    lambda t: 5e-6 * t + 5e-6 / 256 * t * t,
    lambda t: 1e6 * t + 1e4 * t * t,
    lambda t: 3000 * t,
)
LEFT_OUT = {
    "steps": [2048, 4096], "batch_size": [8, 8], "reason": ["time", "out of memory"],
    "about_s": [9.1, 30.0], "about_bytes": [3.1e9, 9e9], "limit_s": [5.0, 5.0], "limit_bytes": [8e9, 8e9],
}  # fmt: skip


def alone(folder: Path, **more: dict[str, list[Any]]) -> Sweep:
    work = [gridded("rnn", LOOPING), gridded("transformer", ATTENDING, **more)]
    return read_sweep(write_sweep(folder, work))


# Powers


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_the_power_of_medians_is_that_of_the_law_and_its_interval_holds_it(power):
    rng = np.random.default_rng(3)
    found = power_of_medians({t: t**power * rng.lognormal(0, 0.05, 40) for t in LENGTHS})
    assert found.value == pytest.approx(power, abs=0.03)
    assert found.low < found.value < found.high
    assert found.low < power < found.high
    assert (found.first, found.last) == (256, 1024)


def test_only_the_longer_half_counts():
    bent = {t: [max(t, 256.0)] * 9 for t in LENGTHS}  # level at first
    assert power_of_medians(bent).value == pytest.approx(1.0)
    assert power_of({t: max(t, 256.0) for t in LENGTHS}).value == pytest.approx(1.0)


def test_more_noise_makes_the_interval_wider():
    rng = np.random.default_rng(3)
    widths = []
    for spread in (0.01, 0.1, 0.5):
        found = power_of_medians({t: t * rng.lognormal(0, spread, 30) for t in LENGTHS})
        widths.append(found.high - found.low)
    assert widths == sorted(widths)
    assert widths[2] > 5 * widths[0]


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(200):
        found = power_of_medians({t: t * rng.lognormal(0, 0.1, 20) for t in (256, 512, 1024)})
        hits += found.low <= 1 <= found.high
    assert 170 <= hits <= 200


def test_too_little_has_no_power_and_no_interval():
    assert math.isnan(power_of_medians({}).value)
    assert math.isnan(power_of_medians({32: [1.0] * 9}).value)
    assert math.isnan(power_of_medians({32: [1.0] * 9, 64: [math.nan, 0.0, -1.0]}).value)
    few = power_of_medians({32: [1.0, 1.1], 64: [2.0, 2.1]})
    assert few.value == pytest.approx(1.0, abs=0.1)
    assert math.isnan(few.low)
    assert math.isnan(power_of({32: 1.0, 64: 2.0}).low)


# From the records


def test_points_are_medians_with_their_share_of_the_peak(tmp_path):
    found = points(alone(tmp_path / "s"))
    one = found[(found["label"] == "rnn") & (found["steps"] == 64) & (found["mode"] == "train")].iloc[0]
    assert one["median_s"] == pytest.approx(1e-5 * 64 * 8)
    assert one["slow_s"] == pytest.approx(1.02e-5 * 64 * 8)  # the slowest: five are too few for a p90
    assert one["valid_tokens_per_s"] == pytest.approx(1e5)
    assert one["flops_per_s"] == pytest.approx(3 * 1e6 * 64 * 8 / (1e-5 * 64 * 8))
    assert one["peak_share"] == pytest.approx(3.0)
    forward = found[(found["label"] == "rnn") & (found["steps"] == 64) & (found["mode"] == "forward")].iloc[0]
    assert forward["peak_share"] == pytest.approx(3.0)  # a third of the time, and of the operations


def test_other_programs_that_ran_meanwhile_do_not_count(tmp_path):
    shared = {**LOOPING, "work_s": LOOPING["step_s"], "step_s": [3 * step_s for step_s in LOOPING["step_s"]]}
    quiet = read_sweep(write_sweep(tmp_path / "a", [gridded("rnn", LOOPING)]))
    busy = read_sweep(write_sweep(tmp_path / "b", [gridded("rnn", shared)]))
    assert points(busy).equals(points(quiet))
    assert laws(busy, "order") == laws(quiet, "order")


def test_the_two_axes_are_found_in_the_points(tmp_path):
    found = points(alone(tmp_path / "s"))
    assert sorted(set(lengths(found)["steps"])) == list(LENGTHS)
    assert set(lengths(found)["batch_size"]) == {8}
    assert sorted(set(sizes(found)["batch_size"])) == list(SIZES)
    assert set(sizes(found)["steps"]) == {128}
    assert lengths(found[found["steps"] == 32]).empty


def test_laws_tell_square_from_proportion(tmp_path):
    rnn, transformer = laws(alone(tmp_path / "s"), "order")
    assert not rnn.square
    assert transformer.square
    assert rnn.time.value == pytest.approx(1.0, abs=0.01)
    assert 1.5 < transformer.time.value < 2.0
    assert rnn.saved.value == transformer.saved.value == pytest.approx(1.0)
    assert transformer.pairs == pytest.approx(1e4 * 1024 / (1e6 + 1e4 * 1024))


def test_the_crossing_is_where_the_planted_lines_cross(tmp_path):
    sweep = alone(tmp_path / "s")
    (one,) = crossings(sweep, "order", laws(sweep, "order"))
    assert (one.label, one.other, one.quicker) == ("transformer", "rnn", (True, False))
    assert one.at == (pytest.approx(256, rel=0.01),)


def test_a_crossing_between_lengths_is_interpolated(tmp_path):
    square = table(lambda t: 1e-5 / 300 * t * t, lambda t: 1e4 * t * t, lambda t: 1000 * t)
    sweep = read_sweep(write_sweep(tmp_path / "s", [gridded("rnn", LOOPING), gridded("t", square)]))
    (one,) = crossings(sweep, "order", laws(sweep, "order"))
    assert one.at == (pytest.approx(300, rel=0.001),)  # both are straight on logarithmic axes
    assert met([one]) == ["t is quicker than rnn up to about T=300, then rnn up to T=1024"]


def test_meetings_are_said_and_those_without_a_crossing_together():
    found = [
        Meeting("t", "rnn", (False, True, False), (70.0, 1234.0), 32, 4096),
        Meeting("t", "lstm", (False,), (), 32, 4096),
        Meeting("t", "gru", (False,), (), 32, 4096),
        Meeting("t", "slow", (True,), (), 32, 4096),
    ]
    assert met(found) == [
        "rnn is quicker than t up to about T=70, then t up to about T=1,200, then rnn up to T=4096",
        "t is slower than lstm, gru from T=32 to T=4096: no crossing up to T=4096",
        "t is quicker than slow from T=32 to T=4096: no crossing up to T=4096",
    ]


# The page


def test_a_sweep_that_trains_nothing_reads_as_one(tmp_path):
    sweep = alone(tmp_path / "s", left_out=LEFT_OUT)
    assert sweep.speed_alone
    text = spoken(render(sweep))
    assert "How fast: rnn, transformer, and how does that change with length and batch size?" in text
    assert "nothing was trained" in text
    assert "Transformer is quicker than rnn up to about T=260, then rnn up to T=1024" in text
    assert "left out at T=2048, batch 8: would take about 9.1 s and 3.1 GB, more than the 5 s allowed" in text
    assert "T=4096, batch 8: tried, and ran out of memory" in text
    for absent in ("Fairness", "seeds", "no result yet", "did not learn", "No run has finished", "nan"):
        assert absent not in text
    assert [line.label for line in verdicts(sweep, [], [], [])] == ["rnn", "transformer"]


def test_the_words_tell_where_attention_wins_and_loses(tmp_path):
    sweep = alone(tmp_path / "s")
    text = growth.time_in_words(sweep, "order", laws(sweep, "order"))
    assert "Where transformer wins, it is because" in text
    assert "In the limit transformer reaches 2; at T=1024 91% of its operations" in text
    slower = read_sweep(
        write_sweep(tmp_path / "t", [gridded("rnn", LOOPING), gridded("slow", table(
            lambda t: 1e-4 * t + 1e-7 * t * t, lambda t: 1e6 * t + 1e4 * t * t, lambda t: 1000 * t * t
        ))])
    )  # fmt: skip
    found = laws(slower, "order")
    text = growth.time_in_words(slower, "order", found)
    assert "slow is slower than rnn from T=32 to T=1024: no crossing up to T=1024" in text.replace(
        "Slow", "slow"
    )
    assert "wins at none of these lengths" in text
    assert "slow keeps its scores, one for every pair of steps." in growth.memory_in_words(found)


def test_the_best_share_is_told_where_the_two_axes_meet_too(tmp_path):
    quick = table(lambda t: 1e-5 * t * (1 if t == 128 else 2), lambda t: 1e6 * t, lambda t: 1000 * t)
    quick["step_s"] = [
        s * (2 if b != 8 else 1) for s, b in zip(quick["step_s"], quick["batch_size"], strict=True)
    ]
    sweep = read_sweep(write_sweep(tmp_path / "s", [gridded("rnn", quick)]))
    share = list(growth.plots(sweep, "order", points(sweep), 0))[-1]
    assert share.shows == "The most that each model reaches: rnn 300% (300 GFLOP/s, T=128, batch 8)."


def test_every_figure_is_drawn_from_the_points(tmp_path):
    sweep = alone(tmp_path / "s")
    plots = list(growth.plots(sweep, "order", points(sweep), 0))
    assert [plot.key for plot in plots] == [
        "growth-time0", "growth-memory0", "growth-batch0", "growth-share0"
    ]  # fmt: skip
    with theme.drawing():
        time, memory, batch, share = (plot.draw() for plot in plots)
    line = next(line for line in time.axes[0].lines if len(line.get_xdata()) == len(LENGTHS))
    assert list(line.get_xdata()) == list(LENGTHS)
    assert list(line.get_ydata()) == pytest.approx([1e-2 * t * 8 for t in LENGTHS])  # milliseconds
    assert list(memory.axes[0].lines[0].get_ydata()) == pytest.approx([8e-3 * t for t in LENGTHS])  # MB
    assert list(batch.axes[0].lines[0].get_xdata()) == list(SIZES)
    assert list(batch.axes[0].lines[0].get_ydata()) == pytest.approx([1e5] * 3)
    assert list(share.axes[0].lines[0].get_ydata()) == pytest.approx([300.0] * len(LENGTHS))


def test_the_table_of_points_has_those_that_were_left_out_in_their_place(tmp_path):
    shown = context(alone(tmp_path / "s", left_out=LEFT_OUT))["grid"]
    column = {title: place for place, (title, _) in enumerate(shown.heads)}
    rows = [[cell.text for cell in row] for row in shown.rows]
    mine = [row for row in rows if row[column["model"]] == "transformer"]
    assert [row[column["T"]] for row in mine] == [
        "32",
        "64",
        "128",
        "128",
        "128",
        "256",
        "512",
        "1024",
        "2048",
        "4096",
    ]
    assert [row[column["batch"]] for row in mine[2:5]] == ["1", "8", "32"]
    assert "left out at T=2048" in mine[-2][column["remark"]]
    assert "out of memory" in mine[-1][column["remark"]]
    assert mine[0][column["share of peak"]].endswith("%")


def test_a_grid_beside_training_is_a_part_of_the_usual_page(tmp_path):
    work = [
        *usual({"rnn": 0.5, "transformer": 0.998}),
        gridded("rnn", LOOPING),
        gridded("transformer", ATTENDING),
    ]
    sweep = read_sweep(write_sweep(tmp_path / "s", work))
    text = spoken(render(sweep))
    assert not sweep.speed_alone
    assert "Fairness" in text
    assert "Time of a step against length: order, batch=8" in text
    assert headline(sweep, page.cells(sweep)).startswith("On order, at least half of the runs")


def test_records_without_the_new_columns_are_shown_without_them(tmp_path):
    sweep = read_sweep(write_sweep(tmp_path / "s", usual({"rnn": 0.5, "gru": 0.998}, seeds=1)))
    shown = context(sweep)
    assert shown["grid"] is shown["laws"] is None
    assert shown["growths"] == []
    titles = {title for title, _ in costs(sweep, speeds(sweep)).heads}
    assert "peak memory (MB)" in titles
    assert not titles & {"saved for backward (MB)", "share of peak"}


def test_the_share_of_the_tasks_own_batches_is_that_of_their_valid_tokens(tmp_path):
    run, columns = timing("rnn")
    speed = columns["speed"]
    rows = len(speed["rung"])
    more = {"flops": [1e6] * rows, "flops_steps": [10.0] * rows, "peak_flops_per_s": [1e12] * rows}
    more["saved_bytes"] = [3e6] * rows
    work = [(training("rnn", 16, 0, 0.5), {}), (run, {"speed": {**speed, **more}})]
    sweep = read_sweep(write_sweep(tmp_path / "s", work))
    found = speeds(sweep)
    train = found[(found["rung"] == 16) & (found["mode"] == "train")].iloc[0]
    rate = 3 * 1e6 / 10 * 64 / (1e-4 * 16 * 1.1)
    assert train["flops_per_s"] == pytest.approx(rate)
    assert train["peak_share"] == pytest.approx(rate / 1e12)
    titles = [title for title, _ in costs(sweep, found).heads]
    assert {"saved for backward (MB)", "share of peak"} <= set(titles)


def test_other_readers_take_a_sweep_without_training(tmp_path):
    sweep = alone(tmp_path / "s", left_out=LEFT_OUT)
    assert "rnn" in spoken(render_lesson(sweep))
    row = index.row_of(sweep)
    assert row.headline.startswith("At T=32, 8 sequences at once, transformer takes the least time")
    board = read_board(sweep, tmp_path / "s.html")
    assert len(board.runs) == 2
    made = export(sweep, tmp_path / "out")
    assert made.problems == []
    assert {"grid.csv", "laws.tex", "growth-time0.pdf"} <= {path.name for path in made.files}


def test_speed_of_the_tasks_own_batches_alone_has_its_table_and_figure(tmp_path):
    sweep = read_sweep(write_sweep(tmp_path / "s", [timing("rnn"), timing("gru")]))
    shown = context(sweep)
    assert [row[0].text for row in shown["costs"].rows] == ["order T=16"] * 2 + ["order T=32"] * 2
    assert len(shown["speeds"]) == 1
    assert headline(sweep, []) == "Speed was measured, and nothing was trained."
    assert "no result yet" not in spoken(render(sweep))


@pytest.mark.parametrize("absurd", [0.0, -1.0, math.inf, math.nan, 1e300])
@pytest.mark.parametrize("column", [name for name in LOOPING if name != "mode"])
def test_absurd_numbers_do_not_break_the_page(tmp_path, column, absurd):
    broken = {**LOOPING, column: [absurd] * len(LOOPING["steps"])}
    gone = {name: [absurd] * 2 if name == column else values for name, values in LEFT_OUT.items()}
    work = [gridded("rnn", broken, left_out=gone), gridded("transformer", ATTENDING)]
    shown = context(read_sweep(write_sweep(tmp_path / "s", work)))
    assert any(figure.key == "growth-time0" for figure in shown["growths"])


@pytest.mark.parametrize("absurd", [-1.0, math.inf, math.nan, 1e300])
@pytest.mark.parametrize("column", ["about_s", "about_bytes", "limit_s", "limit_bytes"])
def test_absurd_reasons_do_not_break_the_page(tmp_path, column, absurd):
    sweep = alone(tmp_path / "s", left_out={**LEFT_OUT, column: [absurd] * 2})
    assert "left out at T=2048" in " ".join(context(sweep)["left_out"])


@pytest.mark.slow
def test_the_experiment_measures_speed_and_trains_nothing(seqbench, tmp_path):
    settings = ("speed.steps=[8,16,32]", "speed.batch_sizes=[1,2]", "speed.batch_steps=8", "speed.seconds=0")
    result = seqbench(
        "-m", "experiment=speed", "model=rnn,transformer", *settings, "speed.min_steps=5", "sweep=s",
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    assert "2 runs planned = 2 done" in result.stdout
    sweep = read_sweep(tmp_path / "runs" / "s")
    found = points(sweep)
    assert {(row.steps, row.batch_size) for row in found.itertuples()} == {
        (8, 8),
        (16, 8),
        (32, 8),
        (8, 1),
        (8, 2),
    }
    assert (found["peak_share"] > 0).all()
    assert {law.label: law.square for law in laws(sweep, "temporal_order")}["rnn"] is False
    assert "Time of a step against length" in (tmp_path / "reports" / "s.html").read_text(encoding="utf-8")
