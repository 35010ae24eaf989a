"""Two sweeps against each other: pairs, verdicts, refusals, what differs, exit codes."""

from __future__ import annotations

import dataclasses
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from faults import markup
from made import Work, card, changed, settings, small, timing, training, usual, write_sweep
from rich.console import Console
from scipy import stats as scipy_stats
from statsmodels.stats.multitest import multipletests

from seqbench.compare import show
from seqbench.compare.__main__ import main
from seqbench.compare.changes import Change, environment, only_in
from seqbench.compare.changes import settings as differing_settings
from seqbench.compare.judge import NO_PAIR, SAME, Found, compare
from seqbench.records import Run
from seqbench.report.frame import read_sweep

SEEDS = 8
JITTER = [0.0, 0.004, -0.003, 0.002, 0.001, -0.002, 0.003, -0.001]


@pytest.fixture(autouse=True)
def own_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEQBENCH_LOCKS", str(tmp_path))


def runs(model: str = "gru", score: float = 0.5, rungs: tuple[int | None, ...] = (16,), wide: float = 1.0):
    """Eight seeds of a model with scores around a mean."""
    return [
        training(model, rung, seed, round(score + wide * JITTER[(seed + shift) % SEEDS], 4))
        for shift, rung in enumerate(rungs)
        for seed in range(SEEDS)
    ]


def work(*groups: list[Run]) -> list[Work]:
    return [(run, {}) for group in groups for run in group]


def found_in(folder: Path, a: list[Work], b: list[Work]) -> Found:
    return compare(
        read_sweep(write_sweep(folder / "a", a)),
        read_sweep(write_sweep(folder / "b", b)),
    )


def words(found: Found) -> dict[str, str]:
    return {row.label: row.words for row in found.whole}


def test_the_same_folder_twice_has_no_difference_at_all(tmp_path, capsys):
    folder = write_sweep(tmp_path / "s", usual({"gru": 0.9, "rnn": 0.2}))
    assert main([str(folder), str(folder), "--json", str(tmp_path / "c.json")]) == show.EXIT_FINE
    assert "The same records: 2 comparisons, no difference." in capsys.readouterr().out
    plain = json.loads((tmp_path / "c.json").read_text())
    rows = plain["comparisons"] + plain["rungs"]
    assert len(rows) == 6
    for row in rows:
        assert (row["verdict"], row["difference"]["mean"], row["p_holm"]) == (SAME, 0.0, None)
    nothing = ("settings", "environment", "only_in_a", "only_in_b", "failed_in_b")
    assert [plain[key] for key in nothing] == [[]] * len(nothing)


def test_worse_and_better_with_their_exit_codes(tmp_path):
    high, low = work(runs(score=0.9)), work(runs(score=0.5, wide=2))
    down, up = found_in(tmp_path / "down", high, low), found_in(tmp_path / "up", low, high)
    assert (words(down), show.exit_code(down)) == ({"gru": "worse"}, show.EXIT_WORSE)
    assert (words(up), show.exit_code(up)) == ({"gru": "better"}, show.EXIT_FINE)
    assert down.whole[0].result.mean == pytest.approx(-0.4, abs=0.01) == -up.whole[0].result.mean


def test_numbers_are_those_of_scipy_and_statsmodels(tmp_path):
    a = [runs("gru", 0.5), runs("rnn", 0.5), runs("lstm", 0.5)]
    b = [runs("gru", 0.53, wide=-4), runs("rnn", 0.5, wide=-9), runs("lstm", 0.58, wide=7)]
    found = found_in(tmp_path, work(*a), work(*b))
    tests = []
    for left, right, row in zip(a, b, found.whole, strict=True):
        x, y = ([run.metrics["test_accuracy"] for run in side] for side in (left, right))
        tests.append(scipy_stats.ttest_rel(y, x))
        ends = tests[-1].confidence_interval(0.95)
        assert (row.result.low, row.result.high) == pytest.approx((ends.low, ends.high))
        assert (row.a.mean, row.b.mean) == pytest.approx((sum(x) / SEEDS, sum(y) / SEEDS))
    adjusted = multipletests([test.pvalue for test in tests], method="holm")[1]
    assert [row.compared.judged.p for row in found.whole] == pytest.approx(list(adjusted))
    assert words(found)["rnn"].startswith("cannot tell (")


def test_a_task_is_judged_by_the_mean_of_its_shared_rungs_and_each_rung_beside_it(tmp_path):
    a = work(runs(score=0.9, rungs=(16, 32)))
    b = work(runs(score=0.9, rungs=(16, 64), wide=-1), runs(score=0.4, rungs=(32,)))
    found = found_in(tmp_path, a, b)
    assert [(row.place, show._word(row)) for row in found.rungs] == [
        ("order T=16", "equivalent"),
        ("order T=32", "worse"),
    ]
    assert found.whole[0].words == "worse"
    assert found.whole[0].result.mean == pytest.approx(
        (found.rungs[0].result.mean + found.rungs[1].result.mean) / 2
    )
    assert only_in(found.a, found.b)["B"] == ["gru on order T=64: seeds 0, 1, 2, 3, 4, 5, 6, 7"]
    assert show.exit_code(found) == show.EXIT_WORSE


def test_worse_at_one_rung_is_worse_even_where_the_mean_hides_it(tmp_path):
    rungs = (2, 4, 8, 16)
    a = work(runs(score=0.9, rungs=rungs))
    b = work(runs(score=0.9, rungs=rungs[:-1]), runs(score=0.85, rungs=rungs[-1:], wide=-1))
    found = found_in(tmp_path, a, b)
    assert found.whole[0].words.startswith("equivalent")
    assert "Worse at a rung: gru on order T=16." in show.headline(found)
    assert show.exit_code(found) == show.EXIT_WORSE


def with_settings(run: Run, group: str, **values: Any) -> Run:
    return dataclasses.replace(run, config={**run.config, group: {**run.config[group], **values}})


REFUSED: dict[str, tuple[Callable[[Run], Run], str]] = {
    "variant": (lambda r: dataclasses.replace(r, card=card(id="order/b")), "order/ladder and order/b"),
    "task setting": (lambda r: with_settings(r, "task", solved_at=0.9), "task.solved_at 0.998 and 0.9"),
    "data": (lambda r: changed(r, data_sha256="x"), "hashes of the first training batches differ, seed 0, 1"),
    "first batch": (lambda r: changed(r, first_batch_sha256="x", steps=3), "training batches differ"),
    "data files": (lambda r: dataclasses.replace(r, ground={"task": "new"}), "other data files"),
    "test set": (lambda r: changed(r, test_answers=100), "other test sets (200 and 100 answers)"),
    "steps": (lambda r: with_settings(r, "train", steps=200), "train.steps 100 and 200"),
    "passes": (lambda r: with_settings(r, "train", epochs=3), "train.epochs default and 3"),
    "batch": (lambda r: with_settings(r, "train", batch_size=8), "train.batch_size 4 and 8"),
    "parameters": (lambda r: changed(r, matched_parameters=1100), "1,000 and 1,100 parameters"),
    "matching": (lambda r: with_settings(r, "match", by="flops"), "match.by params and flops"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_scores_are_not_compared_where_they_mean_different_things(tmp_path, name):
    change, reason = REFUSED[name]
    before = [dataclasses.replace(run, ground={"task": "old"}) for run in runs(score=0.9)]
    before = [with_settings(run, "train", epochs=None) for run in before]
    found = found_in(tmp_path, work(before), work([change(run) for run in before]))
    (row,) = found.whole
    assert row.words.startswith("refused: other ")
    assert reason in row.words
    assert row.result is row.compared is None
    assert show.exit_code(found) == show.EXIT_CANNOT_TELL
    assert json.loads(show.to_json(found))["comparisons"][0]["difference"] is None


def test_one_refused_rung_refuses_the_mean_and_not_the_other_rung(tmp_path):
    a, b = runs(score=0.9, rungs=(16, 32)), runs(score=0.9, rungs=(16, 32), wide=-1)
    b = [changed(run, data_sha256="x") if run.rung == 32 else run for run in b]
    found = found_in(tmp_path, work(a), work(b))
    assert [show._word(row) for row in [*found.whole, *found.rungs]] == ["refused", "equivalent", "refused"]
    assert show.exit_code(found) == show.EXIT_FINE


def test_a_short_run_is_compared_by_its_first_batch_alone(tmp_path):
    a = runs(score=0.9)
    b = [changed(run, data_sha256="of 3 batches", steps=3) for run in a]
    assert words(found_in(tmp_path, work(a), work(b)))["gru"].startswith("equivalent")


def test_settings_versions_and_machines_that_differ_are_listed(tmp_path):
    a = [run for model in ("gru", "rnn") for run in runs(model, 0.9)]
    b = [with_settings(run, "train", lr=0.03) if run.model == "gru" else run for run in a]
    b = [with_settings(run, "train", new_setting=1) for run in b]
    b = [dataclasses.replace(run, environment={**run.environment, "versions": {"torch": "2"}}) for run in b]
    found = found_in(tmp_path, work(a), work(b))
    assert set(differing_settings(found)) == {
        Change("train.lr", "0.01", "0.03", "gru"),
        Change("train.new_setting", "not known", "1", "all models"),
    }
    assert environment(found.a, found.b) == [Change("torch version", "1", "2")]
    assert "refused" not in " ".join(words(found).values())


def test_seeds_and_models_of_one_sweep_alone_are_named_and_left_out(tmp_path):
    a = [*runs("gru", 0.9), *runs("rnn", 0.5)]
    b = [run for run in [*runs("gru", 0.9, wide=-1), *runs("lstm", 0.5)] if run.seed >= 2]
    found = found_in(tmp_path, work(a), work(b))
    assert only_in(found.a, found.b) == {
        "A": ["gru on order: seeds 0, 1", "rnn on order"],
        "B": ["lstm on order"],
    }
    assert [(row.label, row.result.n) for row in found.whole] == [("gru", SEEDS - 2)]


def test_a_run_that_fails_now_is_worse_and_one_that_diverges_scores_the_floor(tmp_path):
    a, b = runs(score=0.9), runs(score=0.9, wide=-1)
    error = {"type": "RuntimeError", "message": "it broke", "place": "x.py:1"}
    b[3] = dataclasses.replace(b[3], status="failed", error=error, metrics={})
    b[4] = dataclasses.replace(b[4], status="diverged")
    found = found_in(tmp_path, work(a), work(b))
    assert found.broken == ["gru order 16 seed 3: done in A, failed in B (RuntimeError: it broke)"]
    assert show.exit_code(found) == show.EXIT_WORSE
    assert found.whole[0].result.n == SEEDS - 1
    scores = [run.metrics["test_accuracy"] for run in b if run.seed not in (3, 4)]
    assert found.whole[0].b.mean == pytest.approx((sum(scores) + 0.125) / (SEEDS - 1))


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ([], []),
        (small({"gru": 0.9}), []),
        (small({"gru": 0.9}), small({"rnn": 0.9})),
        (small({"gru": 0.9}), small({"gru": 0.8})),  # one seed
    ],
)
def test_nothing_can_be_told(tmp_path, a, b):
    found = found_in(tmp_path, a, b)
    assert show.exit_code(found) == show.EXIT_CANNOT_TELL
    for text in (show.to_document(found), show.to_json(found)):
        assert "Nothing can be told" in text or "cannot tell (needs at least" in text


def few(scores: dict[str, tuple[float, ...]], **changes: Any) -> list[Work]:
    """Models with a score for each seed."""
    return [
        (training(model, 16, seed, score, **changes), {})
        for model, several in scores.items()
        for seed, score in enumerate(several)
    ]


LUCKY = {"gru": (0.125, 0.126, 0.124)}
MIXED = {"rnn": (1.0, 0.125, 0.125), "lstm": (0.125, 1.0, 0.125)}
SOLVED = {"gru": (1.0, 1.0, 1.0)}
OTHERWISE = {"rnn": (0.125, 1.0, 0.125), "lstm": (0.125, 0.125, 1.0)}


def test_few_seeds_are_judged_by_the_spread_of_all_models(tmp_path):
    alone = found_in(tmp_path / "1", few(SOLVED), few(LUCKY))
    assert words(alone) == {"gru": "worse"}
    beside = found_in(tmp_path / "2", few(SOLVED | MIXED), few(LUCKY | OTHERWISE))
    row = next(row for row in beside.whole if row.label == "gru")
    assert row.words.startswith("cannot tell")
    differences = [[0.875, -0.875, 0.0], [0.0, 0.875, -0.875], [0.875, 0.874, 0.876]]
    squares = sum(sum((d - sum(one) / 3) ** 2 for d in one) for one in differences)
    assert row.result.pooled.sd == pytest.approx((squares / 6) ** 0.5, rel=1e-3)
    assert row.result.pooled.df == 6
    assert show.exit_code(beside) == show.EXIT_CANNOT_TELL


def test_what_ran_the_same_to_the_last_bit_hides_no_spread_and_from_five_seeds_on_each_has_its_own(tmp_path):
    same = {f"m{number}": (0.9, 0.91, 0.92) for number in range(9)}
    a, b = few(SOLVED | MIXED | same), few(LUCKY | OTHERWISE | same)
    row = next(row for row in found_in(tmp_path / "1", a, b).whole if row.label == "gru")
    assert row.result.pooled.df == 6
    five = [{m: (*s, *s[:2]) for m, s in some.items()} for some in (SOLVED | MIXED, LUCKY | OTHERWISE)]
    assert words(found_in(tmp_path / "2", *map(few, five)))["gru"] == "worse"


def test_equal_steps_of_a_small_test_set_are_no_proof(tmp_path):
    """One answer of 40 more, three times: with more answers the same difference is one."""
    before, after = {"gru": (0.85, 0.875, 0.85)}, {"gru": (0.875, 0.9, 0.875)}
    coarse, fine = ({"metrics": {"test_answers": answers}} for answers in (40, 4_000_000))
    little = found_in(tmp_path / "1", few(before, **coarse), few(after, **coarse))
    assert words(little)["gru"].startswith("cannot tell")
    assert words(found_in(tmp_path / "2", few(before, **fine), few(after, **fine)))["gru"] == "better"


def test_diverged_runs_without_a_floor_to_score_them_by_refuse_the_comparison(tmp_path):
    def errors(diverged: tuple[int, ...], floors: dict[str, float]) -> list[Work]:
        described = card(metric="mean squared error", floors=floors)
        made = [changed(run, test_loss=run.metrics["test_accuracy"]) for run in runs(score=0.1)]
        status = [("diverged" if run.seed in diverged else "done") for run in made]
        return work(
            [dataclasses.replace(r, card=described, status=s) for r, s in zip(made, status, strict=True)]
        )

    found = found_in(tmp_path / "1", errors((), {}), errors((2, 5), {}))
    told = "2 of 8 runs of gru diverged, and the task has no floor to score them by"
    assert words(found) == {"gru": f"refused: B: {told}"}
    assert found.whole[0].result is None
    assert show.exit_code(found) == show.EXIT_CANNOT_TELL
    assert words(found_in(tmp_path / "2", errors((2, 5), {}), errors((), {}))) == {
        "gru": f"refused: A: {told}"
    }
    floored = found_in(tmp_path / "3", errors((), {"mean": 1.0}), errors((2, 5), {"mean": 1.0}))
    assert floored.whole[0].result.n == SEEDS


def test_half_a_sweep_has_no_pair(tmp_path):
    a = write_sweep(tmp_path / "a", work(runs(score=0.9)))
    b = write_sweep(tmp_path / "b", work(runs(score=0.9)), pending=SEEDS)
    found = compare(read_sweep(a), read_sweep(b))
    assert words(found) == {"gru": NO_PAIR}
    assert show.exit_code(found) == show.EXIT_CANNOT_TELL


def test_less_is_better_for_an_error(tmp_path):
    def errors(mean: float) -> list[Work]:
        described = card(metric="mean squared error", floors={"mean": 1.0})
        made = [changed(run, test_loss=run.metrics["test_accuracy"]) for run in runs(score=mean)]
        return work([dataclasses.replace(run, card=described) for run in made])

    assert words(found_in(tmp_path / "1", errors(0.2), errors(0.1))) == {"gru": "better"}
    assert words(found_in(tmp_path / "2", errors(0.1), errors(0.2))) == {"gru": "worse"}


def test_models_are_paired_by_their_settings_where_their_labels_differ(tmp_path):
    def lstm(bias: int, score: float) -> list[Run]:
        config = settings("lstm", 16, forget_bias=bias)
        return [dataclasses.replace(run, config=config) for run in runs("lstm", score)]

    found = found_in(tmp_path, work(lstm(0, 0.4), lstm(1, 0.9)), work(lstm(1, 0.6)))
    assert [row.label for row in found.whole] == ["lstm (forget_bias=1)"]
    assert found.whole[0].result.mean == pytest.approx(-0.3)
    assert only_in(found.a, found.b) == {"A": ["lstm (forget_bias=0) on order"], "B": []}


def timed(cpu: str, factor: float = 1.0) -> Work:
    run, columns = timing("gru", environment={"cpu": cpu, "device": "cpu", "threads": 1, "cores": 2})
    columns["speed"]["step_s"] = [factor * value for value in columns["speed"]["step_s"]]
    return run, columns


def test_speed_is_compared_on_the_same_machine_only(tmp_path):
    scores = work(runs(score=0.9))
    found = found_in(tmp_path / "1", [*scores, timed("x")], [*scores, timed("x", 2.0)])
    assert [(t.rung, t.b_s / t.a_s) for t in found.timings] == [(32, pytest.approx(2.0))]
    assert show.exit_code(found) == show.EXIT_FINE  # times of two sweeps are shown, not judged
    found = found_in(tmp_path / "2", [*scores, timed("x")], [*scores, timed("y")])
    assert not found.timings
    assert re.search("A was timed on cpu x, .* B on cpu y,", found.no_speed)
    found = found_in(tmp_path / "3", [*scores, timed("x")], scores)
    assert found.no_speed == "B has no speed measurement"
    run, columns = timed("x")
    other = dataclasses.replace(run, ground={"machine": "another"}), columns
    found = found_in(tmp_path / "4", [*scores, timed("x")], [*scores, other])
    assert "fingerprints differ" in found.no_speed


def test_files_and_terminal_say_the_same(tmp_path, capsys):
    folders = [
        str(write_sweep(tmp_path / name, work(runs(score=score), runs("rnn", 0.3))))
        for name, score in (("a", 0.9), ("b", 0.5))
    ]
    document, numbers = tmp_path / "new" / "c.md", tmp_path / "new" / "c.json"
    assert main([*folders, "--markdown", str(document), "--json", str(numbers)]) == 1
    shown, plain = capsys.readouterr().out, json.loads(numbers.read_text())
    assert plain["exit_code"] == 1
    assert plain["headline"] in shown
    assert plain["headline"] in document.read_text()
    assert "\x1b" not in shown
    assert re.search(r"gru +worse +0\.90\d +0\.50\d +\u22120\.40\d", shown)
    assert "| order T=16 | gru | worse |" in document.read_text()


def test_colours_only_where_they_are_wanted(tmp_path, monkeypatch):
    found = found_in(tmp_path, work(runs(score=0.9)), work(runs(score=0.5, wide=2)))
    for colour in (True, False):
        monkeypatch.delenv("NO_COLOR", raising=False)
        if not colour:
            monkeypatch.setenv("NO_COLOR", "1")
        file = io.StringIO()
        show.to_terminal(found, Console(file=file, force_terminal=True, width=120, color_system="standard"))
        assert ("\x1b[1;31mworse" in file.getvalue()) == colour


@pytest.mark.parametrize("width", [60, 80, 200])
def test_verdicts_are_whole_at_every_width(tmp_path, width):
    found = found_in(tmp_path, work(runs(score=0.9)), work(runs(score=0.5, wide=9)))
    file = io.StringIO()
    show.to_terminal(found, Console(file=file, width=width))
    assert " worse " in file.getvalue()
    assert max(map(len, file.getvalue().splitlines())) <= width


@pytest.mark.parametrize("start", [0, 40, 80])
def test_hostile_names_stay_words(tmp_path, start, capsys):
    folder = markup.write_sweep(tmp_path / "s", markup.Fields(start))
    other = write_sweep(tmp_path / "t", work(runs(score=0.9)))
    for pair in ((folder, folder), (folder, other), (other, folder)):
        files = ["--markdown", str(tmp_path / "c.md"), "--json", str(tmp_path / "c.json")]
        assert main([*map(str, pair), *files]) in (0, 1, 3)
        captured = capsys.readouterr()
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e]", captured.out)
        assert captured.err == ""
        json.loads((tmp_path / "c.json").read_text())
        assert "<script>" not in (tmp_path / "c.md").read_text()


def test_what_cannot_be_used_is_one_line(tmp_path, capsys):
    good = str(write_sweep(tmp_path / "a", small({"gru": 0.9})))
    (tmp_path / "file").write_text("")
    for arguments, reason in (
        ([good, str(tmp_path / "nowhere")], "no such folder"),
        ([str(tmp_path / "file"), good], "give the folder of a sweep"),
        ([good, good, "--json", str(tmp_path / "file" / "x")], "--json FILE"),
        ([good, good, "--markdown", str(tmp_path)], "--markdown FILE"),
    ):
        assert main(arguments) == show.EXIT_USAGE
        captured = capsys.readouterr()
        assert captured.err.count("\n") == 1
        assert reason in captured.err
