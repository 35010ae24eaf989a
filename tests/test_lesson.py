"""The lesson: true for whatever the records say, every number from them, and as safe as the report."""

from __future__ import annotations

import dataclasses
import html
import math
import re
from pathlib import Path
from typing import Any

import pytest
from faults import markup
from made import FIVE, Work, card, small, tables, training, usual, write_sweep
from made_pages import SWEEPS, gates, probed
from rich.console import Console
from test_report import checked
from test_report_absurd import RUNS, TABLES
from test_report_attention import by_hand

from seqbench import hooks
from seqbench.records import Run
from seqbench.registry import plugins
from seqbench.report import __main__ as command
from seqbench.report import lesson, page
from seqbench.report.frame import Sweep, read_sweep
from seqbench.report.lesson_parts import amounts, gating, reading

ROOT = Path(__file__).resolve().parent.parent
TEMPLATE = Path(page.__file__).parent / "templates" / "lesson.html"
VANISHING = "python -m seqbench -m experiment=vanishing report=lesson"


def told(folder: Path, work: list[Work], **plan: Any) -> str:
    """The lesson of a sweep of made-up records, without its pictures."""
    return undrawn(read_sweep(write_sweep(folder, work, **plan)))


def undrawn(sweep: Sweep) -> str:
    """The lesson without its pictures, which are tested where they are made."""
    return page.filled("lesson.html", {**lesson.context(sweep), "pictures": {}})


def words(text: str) -> str:
    """What a reader gets to see outside of figures."""
    body = re.sub(r"<(svg|script|figcaption)[ >].*?</\1>", " ", text[text.index("<main>") :], flags=re.DOTALL)
    body = re.sub(r"</?(p|li|td|th|h[1-3]|pre|div)\b[^>]*>", " ", body)
    plain = html.unescape(re.sub(r"<[^>]*>", "", body)).replace("\N{MULTIPLICATION SIGN}", "x")
    return re.sub(r"[\s\u2009]+", " ", plain)


def fading(decay: float, model: str = "rnn", seeds: int = 3, **changes: Any) -> list[Work]:
    """Runs of one model whose gradient falls by ``decay`` per step."""
    return [(training(model, 32, seed, 0.5, **changes), tables(0.5, decay)) for seed in range(seeds)]


# Whatever is in the sweep


@pytest.mark.parametrize("name", ["no models", "half a sweep", "all failed", "60 models", "foreign names"])
def test_any_sweep_makes_a_lesson_that_loads_nothing(tmp_path, name):
    sweep = read_sweep(SWEEPS[name](tmp_path / "s"))
    text = undrawn(sweep) if name == "60 models" else lesson.render(sweep)
    checked(text)
    assert len(text.encode()) < 500_000
    for heading in ("1. The question", "3. Why gradients vanish", "7. Exercises", "Sources"):
        assert heading in text


def test_the_default_models_with_all_probes_have_every_picture(tmp_path):
    work = [(run, probed(0.6) if run.kind == "train" else columns) for run, columns in usual(FIVE, seeds=1)]
    looked = {"attention": by_hand([0.02, 0.93, 0.03, 0.02], deciding=(1,))}
    work = [
        (r, {**c, **looked}) if r.kind == "train" and r.model == "transformer" else (r, c) for r, c in work
    ]
    text = lesson.render(read_sweep(write_sweep(tmp_path / "s", work)))
    assert len(text.encode()) < 500_000
    ids = checked(text).ids
    for key in ("gradient", "states", "gates", "hops", "attention", "speed0", "ladder0"):
        assert f"figure-{key}" in ids
    assert "was not measured in this sweep" not in text
    own = re.sub(
        r"<(figure|table|nav|pre)[ >].*?</\1>", " ", text[: text.index('id="exercises"')], flags=re.DOTALL
    )
    assert 900 < len(words(own).split()) < 1800


def test_the_same_records_give_the_same_bytes(tmp_path):
    folder = write_sweep(tmp_path / "s", fading(0.5, seeds=1))
    assert lesson.render(read_sweep(folder)) == lesson.render(read_sweep(folder))


def test_with_an_lstm_alone_the_text_is_about_the_lstm(tmp_path):
    seen = words(told(tmp_path / "s", fading(0.5, "lstm")))
    assert "the gradient of lstm is multiplied by f = 0.5 " in seen
    assert "Did the gates pay?" not in seen
    assert "No model of this sweep attends." in seen
    assert seen.count(VANISHING) >= 3
    assert "model=rnn,jordan report=lesson" in seen


def test_before_anything_has_finished_it_says_what_to_run(tmp_path):
    seen = words(told(tmp_path / "s", small({"rnn": 0.5}), pending=1))
    assert "No run has measured" not in seen
    assert "No run of this sweep has measured its gradient by distance yet." in seen
    assert "No run has left a description of this task yet." in seen
    assert "No run has finished yet." in seen
    assert VANISHING in seen


@pytest.mark.parametrize("start", [None, *range(0, len(markup.PAYLOADS), 17)])
def test_hostile_texts_stay_texts(tmp_path, monkeypatch, start):
    more = re.compile(markup._PAGE_TAG.pattern + "|nav|ol|dfn|var|sub|sup|em")
    monkeypatch.setattr(markup, "_PAGE_TAG", more)
    sweep = read_sweep(markup.write_sweep(tmp_path / "s", markup.Fields(start or 0)))
    text = lesson.render(sweep) if start is None else undrawn(sweep)
    assert set(markup.wrong_with_page(text)) <= {"no table to download"}


@pytest.mark.parametrize("name", TABLES)
def test_absurd_tables_do_no_harm(tmp_path, name):
    columns = {**tables(0.5), **TABLES[name]}
    text = told(tmp_path / "s", [(training("gru", 16, seed, 0.5), columns) for seed in range(2)])
    assert "7. Exercises" in text
    assert not re.search(r"\bnan\b|\binf\b", words(text))


@pytest.mark.parametrize("name", RUNS)
def test_absurd_records_do_no_harm(tmp_path, name):
    assert "7. Exercises" in told(tmp_path / "s", [(RUNS[name], tables(0.5))])


def test_an_example_that_is_no_list_of_lines_is_left_out(tmp_path):
    for number, example in enumerate(("a text", [1, None, ""], {"a": "b"})):
        work = fading(0.5, card=card(example=example))
        assert "Example of order" not in told(tmp_path / str(number), work)


# Every number follows the records


@pytest.mark.parametrize(
    ("decay", "said"),
    [
        (0.5, ["f = 0.5 per step", "Half of it is gone after 1.0 steps", "0.522 = 2·10⁻⁷", "ends at 2·10⁻⁷"]),
        (0.9, ["f = 0.9 per step", "Half of it is gone after 6.6 steps", "0.922 = 0.098", "ends at 0.098"]),
        (1.0, ["f = 1 per step", "nothing vanishes: over 22 steps 1 is left"]),
        (1.2, ["f = 1.2 per step", "over 22 steps the gradient is multiplied by 55", "it explodes"]),
    ],
)
def test_the_gradient_is_told_as_it_was_measured(tmp_path, decay, said):
    seen = words(told(tmp_path / "s", fading(decay)))
    for words_ in said:
        assert words_ in seen
    assert ("Half of it is gone" in seen) == (decay < 0.99)


def test_the_promise_of_the_factor_and_the_curve_are_two_numbers(tmp_path):
    columns = tables(0.5, 0.5)
    middle = columns["gradient_flow"]["median"]
    middle[1:24] = [0.5 * 0.9**d for d in range(10)] + [0.5 * 0.9**10 * 0.1**d for d in range(1, 14)]
    text = told(tmp_path / "s", [(training("rnn", 32, 0, 0.5), columns)])
    promised, measured = re.findall(r"= ([^ ;]+); the curve itself ends at (\S+)", words(text))[0]
    assert promised != measured


def test_a_readout_over_all_steps_is_no_proof_about_the_state(tmp_path):
    pooled = fading(0.9, metrics={"readout": "mean"})
    assert "A caution first: these runs read their answer from all steps" in told(tmp_path / "a", pooled)
    assert "A caution first" not in told(tmp_path / "b", fading(0.9))


def gated(start: float, end: float) -> dict[str, list[Any]]:
    return {**gates(), "mean": [start, end, 0.0, 0.0]}


@pytest.mark.parametrize(
    ("start", "end", "said"),
    [(0.5, 0.8, "rose (mean 0.50 to 0.80)"), (0.5, 0.3, "fell (mean 0.50 to 0.30)"),
     (0.7, 0.72, "hardly moved (mean 0.70 to 0.72)")],
)  # fmt: skip
def test_what_training_did_to_a_gate_is_told_as_it_was_measured(tmp_path, start, end, said):
    work = [(run, {**columns, "gates": gated(start, end)}) for run, columns in fading(0.5, "lstm")]
    seen = words(told(tmp_path / "s", work))
    assert f"The forget gate of lstm {said}." in seen
    assert "2.0 steps 30 steps" in seen


def test_gates_that_were_not_looked_at_are_said_to_be_missing(tmp_path):
    seen = words(told(tmp_path / "s", fading(0.5, "lstm")))
    assert "Where the gates stood before and after training was not measured in this sweep." in seen


def test_what_a_bias_leaves_is_computed_for_the_distance_of_the_sweep():
    cells = [row[-1].text for row in gating.bias_table(22).rows]
    for cell, bias in zip(cells, (0, 1, 3), strict=True):
        share = (1 / (1 + math.exp(-bias))) ** 22
        assert cell.endswith(f"= {amounts.amount(share)}")
    assert [row[-1].text for row in gating.bias_table(50).rows] != cells


def biased(run: Run, bias: float | None) -> Run:
    """The run with this bias of its forget gate; None: as torch draws it."""
    model = {"name": run.model, "forget_bias": bias, "chrono": None}
    return dataclasses.replace(run, config={**run.config, "model": model})


def test_a_varied_bias_is_told_with_its_factors(tmp_path):
    work: list[Work] = []
    for bias, decay in ((None, 0.6), (1.0, 0.75), (3.0, 0.95)):
        for run, columns in fading(decay, "lstm", seeds=2):
            work.append((biased(run, bias), columns))
    seen = words(told(tmp_path / "s", work))
    assert "lstm (forget_bias=1) x0.75, lstm (forget_bias=3) x0.95." in seen
    assert "To see what the bias alone does" not in seen


def test_no_measured_number_stands_in_the_template():
    prose = re.sub(r"\{[{%].*?[%}]\}|<[^>]*>", " ", TEMPLATE.read_text(encoding="utf-8"))
    assert re.findall(r"\d[.,]\d|\N{MULTIPLICATION SIGN}\s*\d|\d\s*(?:%|steps|times|hops)", prose) == []


# What it refers to


def test_every_experiment_exists_and_the_own_one_is_marked(tmp_path):
    sweep = read_sweep(write_sweep(tmp_path / "s", fading(0.5), commands=[["-m", "experiment=positions"]]))
    exercises = reading.exercises(sweep)
    for one in exercises:
        assert (ROOT / "conf" / "experiment" / f"{one.experiment}.yaml").is_file()
    assert [one.experiment for one in exercises if one.here] == ["positions"]
    assert undrawn(sweep).count("(That is the experiment of this page.)") == 1


def test_every_word_and_source_is_referred_to():
    text = TEMPLATE.read_text(encoding="utf-8")
    assert set(re.findall(r'cite\("(\w+)"\)', text)) == set(reading.SOURCES)
    assert set(re.findall(r'term\("(\w+)"', text)) == set(reading.GLOSSARY)


@pytest.mark.parametrize("name", ["temporal_order", "mqar", "copy"])
def test_a_task_records_its_worked_example_and_the_lesson_shows_it(tmp_path, name):
    described = plugins("task")[name]().described()
    assert described["example"][0].startswith("Example")
    text = told(tmp_path / "s", fading(0.5, card={**card(), **described}))
    lines = [line for line in described["example"] if line.strip()]
    assert len(lines) >= 2
    for line in lines:
        assert html.escape(line.strip(), quote=False) in text.replace("&#34;", '"').replace("&#39;", "'")


# How it is asked for


@pytest.mark.parametrize(
    ("pages", "written"),
    [("full", [".html"]), ("lesson", [".lesson.html"]), ("both", [".html", ".lesson.html"])],
)
def test_a_sweep_writes_what_was_asked_for(tmp_path, pages, written):
    folder = write_sweep(tmp_path / "s", small({"gru": 0.998}))
    with (tmp_path / "out").open("w", encoding="utf-8") as out:
        assert hooks.finish(folder, tmp_path / "reports", Console(file=out, width=200), pages=pages) == 0
    assert sorted(path.name for path in (tmp_path / "reports").glob("s.*")) == sorted(
        "s" + end for end in written
    )
    said = (tmp_path / "out").read_text(encoding="utf-8")
    assert ("lesson: " in said) == (pages != "full")


def test_a_lesson_that_cannot_be_written_is_said(tmp_path):
    folder = write_sweep(tmp_path / "s", small({"gru": 0.998}))
    (tmp_path / "reports").write_text("in the way", encoding="utf-8")
    with (tmp_path / "out").open("w", encoding="utf-8") as out:
        assert hooks.finish(folder, tmp_path / "reports", Console(file=out, width=200), pages="lesson") == 1
    assert "no lesson: " in (tmp_path / "out").read_text(encoding="utf-8")


def test_the_report_command_makes_a_lesson_from_records(tmp_path, monkeypatch, capsys):
    folder = write_sweep(tmp_path / "s", small({"gru": 0.998}))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SEQBENCH_LOCKS", str(tmp_path))
    assert command.main([str(folder), "--lesson"]) == 0
    assert capsys.readouterr().out.strip() == str(Path("reports") / "s.lesson.html")
    assert "What can a network remember?" in Path("reports/s.lesson.html").read_text(encoding="utf-8")
