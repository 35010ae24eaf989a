"""The page: made from records alone, from any folder, safely, and the same each time."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import html
import html.parser
import io
import math
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made import (
    FIVE,
    Work,
    card,
    changed,
    settings,
    small,
    tables,
    timing,
    training,
    usual,
    write_sweep,
)
from rich.console import Console

from seqbench import hooks, records
from seqbench.collected import UNKNOWN
from seqbench.errors import UsageError
from seqbench.report import __main__ as command
from seqbench.report import facts, page, summary, theme
from seqbench.report.doubt import more_seeds
from seqbench.report.frame import Sweep, read_sweep
from seqbench.report.page import render, write_page
from seqbench.report.premises import data_identity
from seqbench.report.summary import Flow, cells, flow_table, flows
from seqbench.report.verdict import compare, verdicts

XSS = '<script>alert("x")</script>"\'&lt;${7*7}{{7*7}}\x00\x1b[31m'


def flowing(sweep: Sweep) -> list[Flow]:
    return flows(sweep, flow_table(sweep))


class Page(html.parser.HTMLParser):
    """Ids, tags and what the page would load; fails on tags that are not closed in order."""

    VOID = ("meta", "br", "hr", "img", "link", "input")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        self.open += [] if tag in self.VOID else [tag]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def checked(text: str) -> Page:
    """Everything that must hold for every page."""
    page = Page(text)
    assert len(page.ids) == len(set(page.ids))
    assert len(text) < 2_000_000
    for name, value in page.attributes:
        assert not name.startswith("on")
        assert name not in ("style", "src", "srcset")
        assert "://" not in value
        if name in ("href", "xlink:href"):
            assert value.startswith(("#", "data:text/csv"))
            assert value.startswith("data:") or value[1:] in page.ids
        for reference in re.findall(r"url\(#([^)]*)\)", value):
            assert reference in page.ids
    assert page.tags.count("script") == 1
    assert page.tags.count("style") == 1
    assert "<svg:" not in text
    for part in ("@import", 'http-equiv="refresh"', "javascript:"):
        assert part not in text
    for tag in ("style", "script"):
        content = re.search(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        assert content is not None
        digest = base64.b64encode(hashlib.sha256(content[1].encode()).digest()).decode()
        assert f"{tag}-src &#39;sha256-{digest}&#39;" in text
    for figure in re.findall(r'<svg viewBox="[^"]*" role="img".*?</svg>', text, re.DOTALL):
        assert "<title id=" in figure
        assert "<desc id=" in figure
    return page


def test_five_models(tmp_path: Path):
    sweep = read_sweep(write_sweep(tmp_path / "five", usual(FIVE)))
    text = render(sweep)
    page = checked(text)
    for key in ("learning0", "gradient", "ladder0", "speed0", "norms"):
        assert f"figure-{key}" in page.ids
    assert "smoke: 3 seeds" in text
    assert len(text) < 500_000
    assert "gru and transformer to T=32" in text
    assert "All models saw the same data" in text


def test_same_records_same_bytes_and_a_copy_too(tmp_path: Path):
    work = [(training("rnn", 16, 0, 0.2), tables(0.2)), timing("rnn")]
    folder = write_sweep(tmp_path / "a" / "one", work)
    other = write_sweep(tmp_path / "b" / "one", work)
    assert render(read_sweep(folder)) == render(read_sweep(other))


def test_no_runs_at_all(tmp_path: Path):
    text = render(read_sweep(write_sweep(tmp_path / "none", [])))
    checked(text)
    assert "No run has finished yet" in text


def test_nothing_finished_yet(tmp_path: Path):
    work = usual({"rnn": 0.1, "gru": 1.0})
    text = render(read_sweep(write_sweep(tmp_path / "s", work, pending=len(work))))
    checked(text)
    assert "this is half a sweep" in text
    assert "No run has finished yet" in text


def test_half_a_sweep_counts_what_is_missing(tmp_path: Path):
    sweep = read_sweep(write_sweep(tmp_path / "s", small({"rnn": 0.1, "gru": 1.0}, seeds=3), pending=3))
    checked(render(sweep))
    cell = next(c for c in cells(sweep) if c.label == "gru")
    assert (cell.planned, cell.finished, cell.missing) == (3, 0, {"pending": 3})


def test_all_failed(tmp_path: Path):
    error = {"type": "RuntimeError", "message": "it broke " + XSS, "place": "x.py:1"}
    runs = [training("rnn", 16, seed, 0.0, status="failed", error=error, metrics={}) for seed in range(3)]
    folder = write_sweep(tmp_path / "s", [(dataclasses.replace(run, metrics={}), {}) for run in runs])
    (folder / "run-0" / "log.txt").write_text("line\n" * 100 + "last words " + XSS)
    text = render(read_sweep(folder))
    checked(text)
    assert "it broke" in text
    assert "last words" in text
    assert "<script>alert" not in text


def test_one_seed_gives_no_interval_and_no_verdict(tmp_path: Path):
    sweep = read_sweep(write_sweep(tmp_path / "s", small({"rnn": 0.1, "gru": 1.0})))
    checked(render(sweep))
    assert {c.words for c in compare(sweep, whole=True)} == {"cannot tell (needs at least 3 seeds)"}


def test_one_model_has_nothing_to_compare(tmp_path: Path):
    sweep = read_sweep(write_sweep(tmp_path / "s", small({"gru": 1.0}, seeds=3)))
    text = render(sweep)
    checked(text)
    assert "Does gru learn" in text
    assert compare(sweep, whole=True) == []


def test_many_models(tmp_path: Path):
    work = small({f"model{i}": 0.5 for i in range(24)})
    work[0] = (work[0][0], tables(0.5))
    sweep = read_sweep(write_sweep(tmp_path / "s", work))
    checked(render(sweep))
    assert len({(s.colour, s.dash, s.marker) for s in theme.styles(sweep.labels).values()}) == 24


def test_a_diverged_run_counts_as_the_lowest_floor(tmp_path: Path):
    work = [(training("rnn", 16, seed, 1.0), {}) for seed in range(2)]
    lost = training("rnn", 16, 2, 0.0, status="diverged", metrics={"test_accuracy": None, "solved": False})
    sweep = read_sweep(write_sweep(tmp_path / "s", [*work, (lost, {})]))
    (cell,) = cells(sweep)
    assert (cell.solved, cell.finished, cell.diverged) == (2, 3, 1)
    assert cell.score.mean == pytest.approx((1 + 1 + 0.125) / 3)
    checked(render(sweep))


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def escape_by_link(folder: Path) -> None:
    (folder / "run-0").rename(folder.parent / "elsewhere")
    (folder / "run-0").symlink_to(folder.parent / "elsewhere")


def wrong_types(folder: Path) -> None:
    run = records.read_run(folder / "run-0")
    odd: Any = {"test_accuracy": ["a"], "parameters": "many", "causal": {}, "solved": "yes", "kernel": 3}
    changed = dataclasses.replace(run, metrics=odd, config={"task": 3, "train": []}, card={"floors": [1]})
    odd_tables: dict[str, dict[str, list[Any]]] = {
        "evaluations": {"step": ["x", "y"], "loss": [1.0, 2.0], "accuracy": ["NaN", "inf"]},
        "speed": {"unknown": [1]},
    }
    records.write_run(folder / "run-0", changed, odd_tables)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "record": lambda folder: flip(folder / "run-0" / "run.json"),
    "table": lambda folder: flip(folder / "run-0" / "evaluations.parquet"),
    "table-missing": lambda folder: (folder / "run-0" / "parameters.parquet").unlink(),
    "deep-json": lambda folder: (folder / "run-0" / "run.json").write_text("[" * 100_000),
    "nan": lambda folder: (folder / "run-0" / "run.json").write_text('{"schema": 1, "a": NaN}'),
    "not-a-record": lambda folder: (folder / "run-0" / "run.json").write_text("[]"),
    "link": escape_by_link,
    "types": wrong_types,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_damage_is_a_finding_not_a_crash(tmp_path: Path, damage: Callable[[Path], None]):
    folder = write_sweep(tmp_path / "s", small({"rnn": 0.1, "gru": 1.0}))
    damage(folder)
    sweep = read_sweep(folder)
    text = render(sweep)
    checked(text)
    assert sweep.problems
    assert "Not readable" in text


def test_a_run_with_a_damaged_file_is_not_done(tmp_path: Path):
    folder = write_sweep(tmp_path / "s", small({"rnn": 0.1}, seeds=2))
    path = folder / "run-1" / "evaluations.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    sweep = read_sweep(folder)
    assert list(sweep.runs["status"]) == ["done", "damaged"]
    assert summary.counted(sweep) == "2 runs planned = 1 done + 1 damaged"
    assert "run-1: a file is missing or not what the record says" in sweep.problems


def test_every_status_is_counted_and_the_parts_add_up(tmp_path: Path):
    ended = [status for status in records.STATUSES if status not in ("damaged", "pending")]
    work: list[Work] = [
        (training("rnn", 16, seed, 0.5, status=status), {}) for seed, status in enumerate(ended)
    ]
    folder = write_sweep(tmp_path / "s", [*work, *small({"gru": 0.5}, seeds=2)], pending=1)
    (folder / f"run-{len(work)}" / "run.json").write_text("{")
    said = summary.counted(read_sweep(folder))
    assert said.startswith("9 runs planned = 1 done + ")
    assert all(f"1 {status}" in said for status in records.STATUSES)
    assert said in html.unescape(render(read_sweep(folder)))


def test_finished_runs_that_no_plan_names_are_counted_and_left_out(tmp_path: Path):
    folder = write_sweep(tmp_path / "s", small({"rnn": 0.1, "gru": 0.5}))
    plan = records.read_plan(folder)
    records.write_plan(folder, {**plan, "runs": plan["runs"][:1]})
    sweep = read_sweep(folder)
    assert (len(sweep.runs), dict(sweep.left_out)) == (1, {UNKNOWN: 1})
    told = f"1 finished runs of this folder ({UNKNOWN}: 1)"
    assert f"Left out of this page: {told}" in html.unescape(render(sweep))
    assert f"left out: {told}" in finish(folder, tmp_path / "reports", 120)[1]


def test_runs_of_different_code_are_not_called_comparable(tmp_path: Path):
    other = training("gru", 16, 0, 0.5, environment={"code_sha256": "b", "cpu": "a chip"})
    same = training("rnn", 16, 0, 0.5, environment={"code_sha256": "a", "cpu": "a chip"})
    text = shown([(same, {}), (other, {})], tmp_path / "s")
    assert "made with different code or versions" in text
    assert "Comparisons that this touches are refused" in text


def test_a_record_of_another_run_is_damaged(tmp_path: Path):
    folder = write_sweep(tmp_path / "s", usual({"rnn": 0.1}, seeds=1))
    plan = records.read_plan(folder)
    plan["runs"][0]["identity"] = "f" * 64
    records.write_plan(folder, plan)
    assert list(read_sweep(folder).runs["status"]) == ["damaged", "done", "done"]


@pytest.mark.parametrize(
    "name", ["../secret", "/etc", "..", "a/b", "", ".", "a\x00b", 3, None, ["x"], "x" * 5000]
)
def test_a_plan_cannot_point_outside_the_sweep(tmp_path: Path, name: Any):
    outside = training("rnn", 16, 0, 1.0)
    records.write_run(tmp_path / "secret", dataclasses.replace(outside, identity="1"), {})
    folder = write_sweep(tmp_path / "s", [])
    entry = {
        "folder": name,
        "identity": "1",
        "kind": "train",
        "model": "rnn",
        "task": "order",
        "rung": 16,
        "seed": 0,
    }
    records.write_plan(folder, {"runs": [entry, "text", None, 7, {}, []], "commands": 5, "models": {}})
    sweep = read_sweep(folder)
    assert sweep.runs.empty
    assert sweep.problems == ["6 entries of plan.json are not runs"]
    checked(render(sweep))


def test_hostile_text_everywhere(tmp_path: Path):
    dirt = f"{XSS} _$x^2$ \N{RIGHT-TO-LEFT OVERRIDE}\ud800 \N{SNOWMAN} \u4e2d"
    dirt = dirt.encode("utf-8", "replace").decode()
    run = training(
        dirt, 16, 0, 0.5, task=dirt, environment={dirt: dirt, "versions": {dirt: dirt}},
        card=card(**dict.fromkeys(("id", "tests", "definition", "source", "answers", "rung_symbol"), dirt))
        | {"floors": {dirt: 0.2}, "reference_points": {dirt: 0.9}},
        metrics={"kernel": dirt, "readout": dirt, "first_batch_sha256": dirt, "data_sha256": dirt},
        config=settings(dirt, 16, init=dirt),
    )  # fmt: skip
    second = dataclasses.replace(run, model="_hidden", config=settings("_hidden", 16), seed=1)
    bad = dataclasses.replace(run, seed=2, status="failed", error={"type": dirt, "message": dirt})
    work: list[Work] = [(run, tables(0.5)), (second, tables(0.5)), (bad, {})]
    folder = write_sweep(tmp_path / "s", work, commands=[[dirt, "=cmd()"]], reference=dirt)
    (folder / "run-2" / "log.txt").write_bytes(b"\xff\xfe" + dirt.encode())
    text = render(read_sweep(folder))
    checked(text)
    assert "<script>alert" not in text
    assert "{{7*7}}" in text
    assert "\x1b" not in text
    code, said = finish(folder, tmp_path / "reports", 80)
    assert code == 1
    assert "\x1b" not in said


def test_csv_cells_cannot_be_formulas(tmp_path: Path):
    run = training("rnn", 16, 0, 0.5, metrics={"kernel": "=1+1", "readout": "@x"})
    link = facts.csv_link(read_sweep(write_sweep(tmp_path / "s", [(run, {})])))
    content = base64.b64decode(link.split(",", 1)[1]).decode()
    assert "'=1+1" in content
    assert "'@x" in content
    for start in "=+-@\t\r":
        assert facts.guarded(f"{start}x").startswith("'")


def test_labels_name_what_differs(tmp_path: Path):
    work = []
    for bias in (None, 1.0):
        config = settings("lstm", 16, forget_bias=bias)
        work += [(training("lstm", 16, seed, 0.5, config=config), {}) for seed in range(2)]
    work += [(training("gru", 16, seed, 0.5), {}) for seed in range(2)]
    sweep = read_sweep(write_sweep(tmp_path / "s", work))
    assert sweep.labels == ["lstm (forget_bias=default)", "lstm (forget_bias=1)", "gru"]
    assert sweep.reference == "lstm (forget_bias=default)"


def test_task_settings_that_differ_make_different_tasks(tmp_path: Path):
    work = []
    for symbols in (3, 4):
        config = settings("rnn", 16)
        config["task"]["symbols"] = symbols
        work.append((training("rnn", 16, 0, 0.5, config=config), {}))
    sweep = read_sweep(write_sweep(tmp_path / "s", work))
    assert {task.key for task in sweep.tasks} == {"order (symbols=3)", "order (symbols=4)"}


def test_a_task_without_ladder_and_without_a_line_for_solved(tmp_path: Path):
    points = {"a bag of embeddings (tutorial)": 0.86}
    work: list[Work] = []
    for model, accuracy in {"lstm": 0.85, "gru": 0.87}.items():
        for seed in range(3):
            config = settings(model, None)
            config["task"] = {"name": "imdb", "solved_at": None}
            described = card(floors={"chance": 0.5}, reference_points=points, id="imdb/word")
            run = training(
                model, None, seed, accuracy + 0.001 * seed, task="imdb", config=config, card=described,
                metrics={"solved": None, "solved_step": None, "solved_cpu_s": None},
            )  # fmt: skip
            work.append((run, tables(accuracy)))
    sweep = read_sweep(write_sweep(tmp_path / "s", work))
    text = render(sweep)
    page = checked(text)
    assert "a bag of embeddings (tutorial)" in text
    assert "test set alone" in text
    assert "gru has the highest accuracy" in text
    assert not any(name.startswith("figure-ladder") for name in page.ids)


@pytest.mark.parametrize("key", ["first_batch_sha256", "data_sha256"])
def test_different_data_is_said_loudly(tmp_path: Path, key: str):
    work = small({"rnn": 0.1, "gru": 1.0})
    odd = changed(work[0][0], **{key: "other"})
    text = render(read_sweep(write_sweep(tmp_path / "s", [(odd, work[0][1]), *work[1:]])))
    assert "did NOT see the same data" in text
    assert "their first training batches differ: T=16 seed 0" in text


def test_the_first_ten_batches_are_what_is_called_identical(tmp_path: Path):
    text = render(read_sweep(write_sweep(tmp_path / "s", small({"rnn": 0.1, "gru": 1.0}))))
    assert "the first ten training batches are identical" in text


def test_a_run_that_ended_before_ten_batches_is_no_false_alarm(tmp_path: Path):
    """Its hash covers fewer batches, so only that of the first one can be compared."""
    early = training("rnn", 16, 0, 0.0, status="diverged", metrics={"data_sha256": "of three", "steps": 0})
    work: list[Work] = [(early, {}), *small({"gru": 1.0, "lstm": 1.0})]
    assert data_identity(read_sweep(write_sweep(tmp_path / "s", work))) == (1, [])


def test_a_canary_that_solves_a_task_is_a_warning(tmp_path: Path):
    work: list[Work] = [(training("bag", 16, 0, 1.0, metrics={"canary": True}), {})]
    work += small({"rnn": 0.1})
    sweep = read_sweep(write_sweep(tmp_path / "s", work, reference=None))
    assert "bag on order T=16 (1.000)" in render(sweep)
    assert sweep.reference == "rnn"


def test_gradients_of_a_bidirectional_model_are_fitted_at_the_near_end(tmp_path: Path):
    both = tables(0.5)
    far = [max(0.5**d, 0.5 ** (23 - d)) for d in range(24)]
    both["gradient_flow"]["median"] = far * 2
    work: list[Work] = [
        (training("bilstm", 16, seed, 0.5, metrics={"causal": False}), both) for seed in range(2)
    ] + [(training("rnn", 16, seed, 0.5), tables(0.5, 0.7)) for seed in range(2)]
    found = {flow.label: flow for flow in flowing(read_sweep(write_sweep(tmp_path / "s", work)))}
    assert found["bilstm"].two_ended
    assert found["bilstm"].decay.factor == pytest.approx(0.5)
    assert not found["rnn"].two_ended
    assert found["rnn"].decay.factor == pytest.approx(0.7)


def beyond(label: str, far: float) -> Work:
    """A run that was trained to length 40 and tested at 20, 40 and 160."""
    described = card(slice_axis="length", trained_to=40)
    sliced = {"value": [20, 40, 160], "accuracy": [1.0, 1.0, far], "loss": [0.1] * 3, "answers": [64] * 3}
    return training(label, 16, 0, 1.0, card=described), {"slices": sliced}


def test_what_happens_beyond_training_is_drawn_and_said(tmp_path: Path):
    text = shown([beyond("rnn", 0.99), beyond("transformer", 0.52)], tmp_path / "s")
    assert "Beyond training: order trained at T=16" in text
    assert (
        "At length 160, 4 times what training showed, rnn (1.00 to 0.99) keeps what it reached, "
        "transformer (1.00 to 0.52) falls." in text
    )
    checked(render(read_sweep(tmp_path / "s")))


def test_a_model_at_the_floor_has_nothing_to_keep_beyond_training(tmp_path: Path):
    low, columns = beyond("gru", 0.12)
    columns["slices"]["accuracy"] = [0.12, 0.13, 0.12]
    text = shown([beyond("rnn", 1.0), (low, columns)], tmp_path / "s")
    assert "rnn (1.00 to 1.00) keeps what it reached. gru has learned nothing that could carry over" in text


def test_without_extra_test_sets_there_is_nothing_beyond_training(tmp_path: Path):
    assert "Beyond training" not in shown(small({"rnn": 0.1}), tmp_path / "s")


def test_the_verdict_names_better_and_the_reference(tmp_path: Path):
    sweep = read_sweep(write_sweep(tmp_path / "s", usual({"rnn": 0.12, "gru": 0.998})))
    lines = {
        v.label: v.line for v in verdicts(sweep, cells(sweep), flowing(sweep), compare(sweep, whole=True))
    }
    assert lines["rnn"].startswith("rnn: the reference")
    assert "better than rnn on order" in lines["gru"]
    assert "solves order at T=16, 32" in lines["gru"].lower().replace("t=", "T=")


def test_colours_are_visible_and_belong_to_names():
    for colour in theme.COLOURS:
        assert min(theme.contrast(colour, page) for page in (theme.LIGHT_PAGE, theme.DARK_PAGE)) >= 3
    names = ["mine", "other", "lstm (forget_bias=1)", *theme.CORE]
    assert theme.styles(names) == theme.styles(names[::-1])
    assert theme.styles(["lstm"])["lstm"] == theme.styles(names)["lstm"]


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    folder = write_sweep(tmp_path / "runs" / "mine", small({"rnn": 0.1}))
    monkeypatch.chdir(tmp_path)
    assert command.main(["runs/mine"]) == 0
    assert capsys.readouterr().out == "reports/mine.html\n"
    assert (tmp_path / "reports" / "mine.html").is_file()
    assert command.main([str(folder), "--out", str(tmp_path / "x" / "y.html")]) == 0
    capsys.readouterr()
    for wrong in ("nowhere", "runs", "runs/mine/plan.json"):
        assert command.main([wrong]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.count("\n") == 1
        assert "give the folder of a sweep" in captured.err
    assert command.main(["runs/mine", "--out", "runs"]) == 2
    assert "--out" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"runs": 3}', "\x00"])
def test_a_broken_plan_is_one_line(tmp_path: Path, text: str):
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(UsageError, match="give the folder of a sweep"):
        read_sweep(tmp_path)


def test_the_report_imports_no_torch_and_no_hydra(tmp_path: Path):
    folder = write_sweep(tmp_path / "s", small({"rnn": 0.1}))
    script = (
        "import sys; from pathlib import Path; from seqbench.report import build\n"
        f"build(Path({str(folder)!r}), Path({str(tmp_path / 'out.html')!r}))\n"
        "bad = {'torch', 'hydra', 'omegaconf'} & set(sys.modules)\n"
        "own = {m for m in sys.modules if m.startswith('seqbench.')}\n"
        "allowed = ('seqbench.report', 'seqbench.records', 'seqbench.stats', 'seqbench.errors', "
        "'seqbench.store', 'seqbench.secret', 'seqbench.locks', 'seqbench.metric', 'seqbench.collected')\n"
        "bad |= {m for m in own if not m.startswith(allowed)}\n"
        "sys.exit(str(bad) if bad else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def finish(folder: Path, reports: Path, width: int) -> tuple[int, str]:
    terminal = io.StringIO()
    code = hooks.finish(folder, reports, Console(width=width, file=terminal))
    return code, terminal.getvalue()


def test_terminal_summary(tmp_path: Path):
    folder = write_sweep(tmp_path / "s", small(FIVE, seeds=3))
    code, text = finish(folder, tmp_path / "reports", 80)
    assert code == 0
    assert max(map(len, text.splitlines()[:20])) <= 80
    assert "transformer" in text
    assert "3/3" in text
    assert "15 runs planned = 15 done" in text
    assert (tmp_path / "reports" / "s.html").is_file()


def test_terminal_summary_names_failures_and_fails(tmp_path: Path):
    error = {"type": "Diverged", "message": "[bold]step 7[/bold]", "place": "x"}
    lost = training("rnn", 16, 3, 0.0, status="diverged", error=error)
    folder = write_sweep(tmp_path / "s", [*small({"rnn": 0.1}), (lost, {})])
    code, text = finish(folder, tmp_path / "reports", 80)
    assert code == 1
    assert "[bold]step 7[/bold]" in text
    assert "run-1/log.txt" in text
    assert "2 runs planned = 1 done + 1 diverged" in text


def test_a_run_of_the_command_that_no_plan_names_is_not_fine(tmp_path: Path):
    folder = write_sweep(tmp_path / "s", small({"rnn": 0.1}))
    for wanted, expected in ((["run-0"], 0), (["run-0", "absent-0"], 1), ([], 1)):
        terminal = io.StringIO()
        assert hooks.finish(folder, tmp_path, Console(file=terminal, width=80), wanted) == expected
        assert ("planned them anew" in terminal.getvalue()) == ("absent-0" in wanted)


def test_terminal_summary_of_nothing(tmp_path: Path):
    code, text = finish(write_sweep(tmp_path / "s", []), tmp_path / "reports", 60)
    assert code == 1
    assert "No runs planned" in text


def test_accuracy_is_never_a_fake_number(tmp_path: Path):
    sweep = read_sweep(write_sweep(tmp_path / "s", [(training("rnn", 16, 0, 0.5), {})], pending=1))
    (cell,) = cells(sweep)
    assert math.isnan(cell.score.mean)
    assert cell.note == ""


def shown(work: list[Work], folder: Path, **plan: Any) -> str:
    return html.unescape(render(read_sweep(write_sweep(folder, work, **plan))))


def test_a_difference_that_only_the_correction_takes_away_is_explained(tmp_path: Path):
    """The page never says that a difference could be detected which is smaller than the one it saw."""
    reached = {"rnn": (0.1, 0.1, 0.2, 0.3), "gru": (0.4, 0.6, 0.5, 0.55)}
    reached |= {f"m{i}": (0.1, 0.2, 0.1, 0.2 + 0.05 * i) for i in range(7)}
    work: list[Work] = [
        (training(model, 16, seed, score), {}) for model, s in reached.items() for seed, score in enumerate(s)
    ]
    sweep = read_sweep(write_sweep(tmp_path / "s", work))
    (gru,) = [c for c in compare(sweep, whole=True) if c.label == "gru"]
    assert gru.result.low > 0
    words = "its own interval excludes 0, but not after correction for 8 comparisons"
    assert gru.judged.needed is not None
    needed = more_seeds(gru.judged.needed, 4, range(4))
    assert gru.words == f"cannot tell (could detect {gru.judged.detectable:.2g}; {words}; {needed})"
    assert gru.judged.detectable > gru.result.mean
    text = html.unescape(render(sweep))
    assert text.count(words) == 2  # the verdict and the table


def test_the_test_set_counts_once_however_many_seeds(tmp_path: Path):
    def half_width(seeds: int) -> float:
        work: list[Work] = [(training("rnn", 16, seed, 0.8), {}) for seed in range(seeds)]
        (cell,) = cells(read_sweep(write_sweep(tmp_path / str(seeds), work)))
        assert cell.test.n == 200
        return cell.test.high - cell.test.low

    assert half_width(1) == half_width(10) > 0.1


def timed(model: str, counts: dict[int, int]) -> Work:
    """A speed record with so many steps at each rung, the last one ten times slower than the rest."""
    run, _ = timing(model)
    rows = [
        (rung, mode, 1e-4 * rung * (10 if k == count - 1 else 1), 4 * rung)
        for rung, count in counts.items() for mode in ("train", "forward") for k in range(count)
    ]  # fmt: skip
    names = ("rung", "mode", "step_s", "valid_tokens")
    columns = dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
    return run, {"speed": {**columns, "memory_bytes": [5e6] * len(rows)}}


def test_few_timed_steps_have_no_percentile_and_no_exponent(tmp_path: Path):
    work = small({"rnn": 0.5, "gru": 0.5})
    work += [timed("rnn", {16: 7, 32: 7}), timed("gru", {16: 30, 32: 8})]
    text = shown(work, tmp_path / "s")
    assert ">16.00 (max of 7)<" in text
    assert ">7, 7<" in text
    assert ">30, 30<" in text
    assert "max of 30" not in text
    assert "time grows like a power of the length: gru 1.0." in text


def with_rate(model: str, rate: float, seed: int = 0, tuned: bool | None = None, **metrics: Any) -> Work:
    config = settings(model, 16)
    config["train"] |= {"lr": rate} | ({} if tuned is None else {"tuned": tuned})
    return training(model, 16, seed, 0.5, config=config, metrics=metrics), {}


@pytest.mark.parametrize(
    ("rates", "words"),
    [
        ([("rnn", 0.01), ("gru", 0.01)], "learning rate 0.01"),
        ([("rnn", 0.01), ("gru", 0.003)], "one learning rate per model and task"),
        ([("rnn", 0.01), ("gru", 0.003), ("gru", 0.01)], "a sweep over learning rates (gru)"),
    ],
)
def test_learning_rates_in_words(tmp_path: Path, rates: list[tuple[str, float]], words: str):
    text = shown([with_rate(*pair) for pair in rates], tmp_path / "s")
    assert f"; {words}." in text
    assert ("a response over learning rates is not part" in text) == ("sweep" not in words)


def test_a_learning_rate_that_was_not_tuned_is_a_warning(tmp_path: Path):
    work = [
        with_rate("mine", 0.01, tuned=False), with_rate("rnn", 0.01, tuned=True),
        with_rate("lstm", 0.01, tuned=True), with_rate("bag", 0.01, tuned=False, canary=True),
    ]  # fmt: skip
    assert "<li>mine: learning rate not tuned for order; rnn, lstm are.</li>" in shown(work, tmp_path / "a")
    assert "not tuned" not in shown(work[1:], tmp_path / "b")
    assert "not tuned" not in shown([with_rate("x", 0.1), with_rate("rnn", 0.1, tuned=True)], tmp_path / "c")


def test_a_size_that_is_not_matched_is_a_warning(tmp_path: Path):
    (rnn, _), (mine, _), (bag, _) = small({"rnn": 0.5, "mine": 0.5, "bag": 0.5})
    bag = changed(bag, matched_parameters=98, canary=True)
    text = shown([(rnn, {}), (changed(mine, matched_parameters=1015), {}), (bag, {})], tmp_path / "a")
    assert "1,000 to 1,015 parameters, matched to 1,000 within 1.5 %" in text
    assert "NOT matched" not in text
    text = shown([(rnn, {}), (changed(mine, matched_parameters=1500), {}), (bag, {})], tmp_path / "b")
    assert "Sizes are NOT matched: mine has 1,500 parameters instead of 1,000." in text
    assert "1,000 to 1,500 parameters (shared embedding not counted)" in text
    assert ", matched to" not in text


def test_the_command_repeats_the_program_and_quotes(tmp_path: Path):
    words = ["-m", "model=a,b", "task.path=/a folder/x", "x=" + "y" * 200]
    folder = write_sweep(
        tmp_path / "a", small({"rnn": 0.1}), program=["python", "my_layer.py"], commands=[words]
    )
    expected = f"python my_layer.py -m model=a,b 'task.path=/a folder/x' x={'y' * 200}"
    assert facts.commands(read_sweep(folder)) == [expected]
    assert f"repeat: {expected}\n" in finish(folder, tmp_path / "reports", 80)[1]
    old = read_sweep(write_sweep(tmp_path / "b", [], commands=[["task=imdb"], ["task=mqar"]]))
    assert facts.commands(old) == ["python -m seqbench task=imdb", "python -m seqbench task=mqar"]


@pytest.mark.parametrize(("norm", "said"), [(0.3, True), (1e-5, False), (0.0, False)])
def test_only_a_healthy_norm_is_called_healthy(tmp_path: Path, norm: float, said: bool):
    columns = tables(0.5)
    columns["parameters"]["encoder.recurrent"] = [norm] * 5
    assert ("which looks healthy" in shown([(training("rnn", 16, 0, 0.5), columns)], tmp_path / "s")) == said


@pytest.mark.parametrize(
    ("forget", "chrono", "default"), [(None, None, True), (1.0, None, False), (None, 32, False)]
)
def test_words_on_the_lstms_gate_hold_only_for_the_default(
    tmp_path: Path, forget: float | None, chrono: int | None, default: bool
):
    config = settings("lstm", 16, forget_bias=forget, chrono=chrono)
    work: list[Work] = [(training("lstm", 16, 0, 0.5, config=config), tables(0.5))]
    work += [(training("rnn", 16, 0, 0.5), tables(0.5))]
    text = shown(work, tmp_path / "s")
    said = "torch's initial forget bias is about 0, so the LSTM's forget gate should start about half open"
    assert (said in text) == default
    assert (
        "its gradient starts out vanishing too (half gone after 1.0 steps, in the RNN after 1.0)" in text
    ) == default
    assert text.count("(at torch's default initialisation)") == default


def test_probes_that_measured_nothing_say_why(tmp_path: Path):
    silent = changed(training("mine", 16, 0, 0.5), gradient_flow_not_applicable="it has no <steps>")
    broken = changed(training("rnn", 16, 0, 0.5), gradient_flow_failed="RuntimeError: odd")
    text = shown([(silent, {}), (broken, {})], tmp_path / "s")
    assert "gradient_flow does not apply to mine (order: 1 run): it has no <steps>" in text
    assert "gradient_flow failed on rnn (order: 1 run): RuntimeError: odd" in text
    assert "Probes that measured nothing" not in shown(small({"rnn": 0.5}), tmp_path / "none")


def test_a_gradient_of_zero_is_drawn_without_a_warning(tmp_path: Path):
    columns = tables(0.5)
    columns["gradient_flow"]["median"] = [0.0] * 48
    for models in (["rnn"], ["rnn", "gru"]):
        work: list[Work] = [
            (training(m, 16, 0, 0.5, metrics={"causal": m == "rnn"}), columns) for m in models
        ]
        checked(render(read_sweep(write_sweep(tmp_path / models[-1], work))))


def test_below_a_floor_is_slow_learning_too(tmp_path: Path):
    text = shown(small({"rnn": 0.3, "lstm": 0.5, "gru": 0.998}, seeds=2), tmp_path / "s")
    assert (
        'Below "bag of tokens" (0.67), which needs less than this task asks, end rnn (0.30) and lstm' in text
    )
    assert "which does not show that they cannot learn it" in text
    assert "slow learning" not in shown(small({"rnn": 0.66, "gru": 0.998}), tmp_path / "none")


def test_a_page_that_cannot_be_written_is_one_line(tmp_path: Path):
    folder = write_sweep(tmp_path / "s", small({"rnn": 0.1}))
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "deeper"):
        with pytest.raises(UsageError, match=r"^[^\n]*file.*reports_dir=FOLDER[^\n]*$"):
            write_page(read_sweep(folder), place / "page.html")
    code, said = finish(folder, tmp_path / "file", 200)
    assert code == 1
    assert "no report: " in said


def test_nothing_finished_fails(tmp_path: Path):
    work = small({"rnn": 0.1})
    assert finish(write_sweep(tmp_path / "s", work, pending=1), tmp_path / "reports", 80)[0] == 1


def test_published_scores_stand_under_their_table(tmp_path: Path):
    described = card(reference_points={"a tutorial": 0.862, "a book, with a long name" * 4: 0.8566})
    folder = write_sweep(tmp_path / "s", [(training("rnn", 16, 0, 0.5, card=described), {})])
    said = finish(folder, tmp_path / "reports", 80)[1]
    assert f"\npublished: {'a book, with a long name' * 4} 0.8566; a tutorial 0.862\n" in said


def test_the_comparisons_are_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    calls: list[str] = []
    for name in ("compare", "flow_table"):
        whole = getattr(page, name)
        monkeypatch.setattr(page, name, lambda *a, n=name, f=whole, **k: calls.append(n) or f(*a, **k))
    render(read_sweep(write_sweep(tmp_path / "s", usual({"rnn": 0.1, "gru": 1.0}))))
    assert sorted(calls) == ["compare", "compare", "flow_table"]  # of whole tasks, and of every rung


def test_what_only_an_impossible_difference_would_show_is_said(tmp_path: Path):
    """The reference reaches 0.35, so nobody can be better by more than 0.65."""
    reached = {"rnn": (0.3, 0.35, 0.4), "gru": (0.3, 0.7, 0.35), "lstm": (0.7, 0.35, 0.3)}
    work: list[Work] = [
        (training(model, 16, seed, score), {}) for model, s in reached.items() for seed, score in enumerate(s)
    ]
    sweep = read_sweep(write_sweep(tmp_path / "s", work))
    found = compare(sweep, whole=True)
    assert all(c.judged.detectable > 0.65 for c in found)
    for c in found:
        assert c.most == pytest.approx(0.65)
        beyond = f"found with power 0.8 only from {c.judged.detectable:.2g} on, more than is possible here"
        assert c.words.startswith(f"cannot tell ({beyond}")
    text = html.unescape(render(sweep))
    assert "could detect" not in text
    assert "intervals are not cut" in text


def test_a_reference_near_the_best_score_leaves_room_below_it(tmp_path: Path):
    """Nobody can be better by 0.3, but worse by that much."""
    reached = {"rnn": (0.90, 0.90, 0.90), "gru": (0.85, 0.90, 0.75), "lstm": (0.8, 0.92, 0.9)}
    work: list[Work] = [
        (training(model, 16, seed, score), {}) for model, s in reached.items() for seed, score in enumerate(s)
    ]
    for c in compare(read_sweep(write_sweep(tmp_path / "s", work)), whole=True):
        assert 0.1 < c.judged.detectable < c.most == pytest.approx(0.9)
        assert c.words.startswith(f"cannot tell (could detect {c.judged.detectable:.2g}")


def test_the_verdict_of_a_difference_may_wrap_and_stands_in_sight(tmp_path: Path):
    text = shown(small({"rnn": 0.1, "gru": 0.5}, seeds=2), tmp_path / "s")
    (style,) = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    assert re.search(r"td\.undecided[^{]*\{[^}]*white-space:normal", style)
    assert not re.search(r"td\.(cannot|undecided)\{[^}]*nowrap", style)
    row = text[text.index('id="differences"') :]
    assert row.index(">verdict<") < row.index(">difference to rnn<")  # wide tables scroll: numbers go first
