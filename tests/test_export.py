"""The page's tables and figures as files: complete, exact, literal, the same bytes again."""

from __future__ import annotations

import csv
import html
import io
import itertools
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from faults.payloads import PAYLOADS
from made import FIVE, small, tables, training, usual, write_sweep
from markdown_it import MarkdownIt
from PIL import Image

from seqbench import stats
from seqbench.report import __main__ as command
from seqbench.report import export, formats
from seqbench.report.frame import read_sweep
from seqbench.report.main_table import glance
from seqbench.report.page import Drawn, context, render
from seqbench.report.plots.base import Plot
from seqbench.report.summary import cells
from seqbench.report.tables import NONE, Entry, Table, model, number, outcomes, span, text

LETTERS = re.compile(r"\\([\\`*_{}\[\]<>#|~$!@:.])")


@pytest.fixture(autouse=True)
def own_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEQBENCH_LOCKS", str(tmp_path))


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep with a figure of most kinds, small enough to be drawn several times."""
    return write_sweep(tmp_path_factory.mktemp("runs") / "mine", usual({"rnn": 0.12, "gru": 0.998}, seeds=2))


@pytest.fixture(scope="module")
def exported(sweep: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("out") / "new" / "folder"
    made = export.export(read_sweep(sweep), folder)
    assert made.problems == []
    assert sorted(made.files) == sorted(folder.iterdir())
    return folder


def read(content: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(content)))


def of(*heads: tuple[str, bool], rows: list[list[Entry]]) -> Table:
    return Table("a caption", list(heads), rows)


# Complete


def test_every_table_and_every_figure_of_the_page_is_a_file(sweep, exported):
    page = render(read_sweep(sweep))
    names = {path.name for path in exported.iterdir()}
    figures = re.findall('<figure id="figure-([^"]+)">', page)
    assert len(figures) >= 5
    assert {f"{export.safe(key)}.{kind}" for key in figures for kind in export.FIGURES} <= names
    drawn = {name for name in names if name.endswith(export.FIGURES)}
    assert len(drawn) == len(export.FIGURES) * len(figures)
    captions = set(map(html.unescape, re.findall("<caption>(?:<span>)?([^<]+)</", page)))
    written = {LETTERS.sub(r"\1", p.read_text().splitlines()[0]) for p in exported.glob("*.md")}
    assert len(captions) >= 5
    assert captions <= written
    for kind in ("md", "tex"):
        stems = {path.stem for path in exported.glob(f"*.{kind}")}
        assert stems | {"runs"} == {path.stem for path in exported.glob("*.csv")}


def test_all_runs_are_there_as_they_were_recorded(sweep, exported):
    rows = read((exported / "runs.csv").read_text())
    runs = read_sweep(sweep).runs
    assert [row["folder"] for row in rows] == list(runs["folder"])
    assert [float(row["test_score"]) for row in rows if row["test_score"]] == list(
        runs["test_score"].dropna()
    )


def test_chosen_formats_only(sweep, tmp_path):
    made = export.export(read_sweep(sweep), tmp_path / "x", ["csv"])
    assert {path.suffix for path in made.files} == {".csv"}


# CSV


def test_numbers_are_whole_and_their_columns_are_named_with_units():
    table = of(
        ("model", False), ("train step (ms)", True), ("95 % interval", True), ("valid tokens/s", True),
        ("steps to solve", True), ("95 % interval", True),
        rows=[
            [model("gru"), number(1 / 3, "{:.1f}"), span(0.1, 2 / 3, "[0.10, 0.67]"), number(7.0, "{:,.0f}"),
             number(50.0, "{:.0f}"), span(float("nan"), 1.0, "?")],
            [model("rnn"), number(None), span(0.0, 1.0, "[0.00, 1.00]"), number(1234567.0, "{:,.0f}"),
             Entry("not in half", float("inf")), span(0.5, 1.0, "[0.50, 1.00]")],
        ],
    )  # fmt: skip
    assert read(formats.to_csv(table)) == [
        {"model": "gru", "train_step_ms": repr(1 / 3), "95_percent_interval_low": "0.1",
         "95_percent_interval_high": repr(2 / 3), "valid_tokens_per_s": "7", "steps_to_solve": "50",
         "steps_to_solve_shown": "", "95_percent_interval_low_2": "", "95_percent_interval_high_2": ""},
        {"model": "rnn", "train_step_ms": "", "95_percent_interval_low": "0.0",
         "95_percent_interval_high": "1.0", "valid_tokens_per_s": "1234567", "steps_to_solve": "",
         "steps_to_solve_shown": "not in half", "95_percent_interval_low_2": "0.5",
         "95_percent_interval_high_2": "1"},
    ]  # fmt: skip


def test_what_only_places_a_cell_is_no_number(tmp_path):
    work = usual({"gru": 0.998, "rnn": 0.1}, seeds=1)
    sweep = read_sweep(write_sweep(tmp_path / "s", work, pending=3))
    grid = cells(sweep)
    for table, column in ((outcomes(sweep.tasks[0], grid), "solved"), (glance(sweep, grid), "order_t_16")):
        assert table is not None
        solved, waiting = read(formats.to_csv(table))[:2]
        assert float(solved[column]) == 1.0
        assert (waiting[column], waiting[f"{column}_shown"]) == ("", "1 pending")


def test_numbers_of_the_page_are_not_rounded(sweep, exported):
    shown = read((exported / "differences.csv").read_text())
    from seqbench.report.verdict import compare

    (found,) = compare(read_sweep(sweep), whole=True)
    ends = [float(shown[0][f"95_percent_interval_{end}"]) for end in ("low", "high")]
    assert ends == [found.result.low, found.result.high]
    assert float(shown[0]["difference_to_rnn"]) == found.result.mean
    solved = next(row for row in read((exported / "outcomes.csv").read_text()) if row["model"] == "gru")
    assert float(solved["rate_95_percent_wilson_low"]) == stats.wilson(2, 2).low


@pytest.mark.parametrize("value", ["=1+1", "@SUM(A1)", "+1", "-1", "\t=1", "=cmd|'/c calc'!A0"])
def test_no_cell_is_a_formula(value):
    (row,) = read(formats.to_csv(of(("=model", False), rows=[[text(value)]])))
    assert row == {"model": f"'{value}"}


def test_columns_have_names_of_their_own_whatever_their_titles():
    heads = [
        ("=1", True),
        ("1", True),
        ("", True),
        ("\u5faa\u73af", True),
        ("x" * 200, True),
        ("A", True),
        ("a", True),
    ]
    table = of(*heads, rows=[[number(1.0)] * len(heads)])
    (row,) = read(formats.to_csv(table))
    assert list(row) == ["1", "1_2", "column", "\u5faa\u73af", "x" * 80, "a", "a_2"]


# Markdown


def cells_of(markdown: str) -> list[list[str]]:
    """The cells of a document's table as a reader of Markdown shows them; anything but text is an error."""
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(markdown)
    rows: list[list[str]] = []
    for token in tokens:
        if token.type == "tr_open":
            rows.append([])
        if token.type == "inline" and rows:
            assert {child.type for child in token.children or []} <= {"text", "text_special"}, token.content
            rows[-1].append("".join(child.content for child in token.children or []))
    return rows


@pytest.mark.parametrize("start", range(0, len(PAYLOADS), 25))
def test_markdown_shows_names_literally(start):
    names = [name.replace("\0", "?") for name in PAYLOADS[start : start + 25]]
    table = of(("model | x", False), ("n", True), rows=[[text(name), number(1.0)] for name in names])
    rows = cells_of(formats.to_markdown(table))
    expected = [" ".join(name.splitlines()) for name in names]
    assert [row[0].split() for row in rows] == [word.split() for word in ["model | x", *expected]]


# LaTeX

_SPECIAL = re.compile(r"[#$%&_{}~^<>|\"\\]")


def wrong_latex(source: str) -> list[str]:
    """What TeX would stumble over in a table: an independent, strict reading of it."""
    faults, depth = [], 0
    body = "\n".join(line for line in source.splitlines() if not line.startswith("%"))
    for match in re.finditer(r"\\(?:[A-Za-z]+|.)|[{}]", body, re.DOTALL):
        depth += {"{": 1, "}": -1}.get(match.group(), 0)
        if depth < 0:
            faults.append(f"a brace too many at {match.start()}")
    faults += ["unclosed brace"] * (depth > 0)
    width = len(re.search(r"\\begin{tabular}{([lr]+)}", body).group(1))
    for line in body.split("\\toprule\n")[1].split("\\bottomrule")[0].splitlines():
        if line.endswith(r"\\") and "multicolumn" not in line:
            plain = literal(line[:-2])
            faults += [f"bare {sign!r} in {line}" for sign in set(re.findall(r"[#$%_{}~^<>|\"\\\[]", plain))]
            if plain.count("&") != width - 1:
                faults.append(f"{plain.count('&') + 1} cells instead of {width}: {line}")
    caption = literal(re.search(r"\\caption{(.*)}\n", body).group(1))
    return faults + [f"bare {sign!r} in {caption}" for sign in set(_SPECIAL.findall(caption))]


def literal(words: str) -> str:
    """LaTeX without what is escaped."""
    plain = re.sub(r"\\[A-Za-z]+\{\}|\$\\?[a-z-]+\$|\{[\[\]]\}|\{\}", "", words)
    return re.sub(r"\\[#$%&_{}]", "", plain)


def hostile() -> Table:
    names = [
        *PAYLOADS,
        "[x",
        "a--b",
        "?`",
        "50 % & more \\\\ $x_1^2$ {y} ~ # \\input{x}",
        NONE,
        "\u2212\u00d7\u2026",
    ]
    names = ["".join(c if c.isprintable() else " " for c in name) for name in names]
    return Table(
        "caption_of % & #\\",
        [("model_&", False), ("95 %", True)],
        [[text(name), number(1.0)] for name in names],
        groups=(("", 1), ("group_ &", 1)),
    )


def test_latex_escapes_everything():
    source = formats.to_latex(hostile(), "key")
    assert wrong_latex(source) == []
    assert r"\label{tab:key}" in source
    assert all(rule in source for rule in (r"\toprule", r"\midrule", r"\bottomrule"))
    assert "XeLaTeX" in source  # some of these names are beyond Latin
    assert "XeLaTeX" not in formats.to_latex(
        of(("a", False), rows=[[text("\u00e9 \u2212 \u00d7 \u2013")]]), "k"
    )
    for sign in "&_%#":  # in the caption first, in a name last: each is found
        assert wrong_latex(source.replace(f"\\{sign}", sign, 1)) != []
        assert wrong_latex(sign.join(source.rsplit(f"\\{sign}", 1))) != []


def test_latex_of_a_sweep_is_sound(exported):
    sources = list(exported.glob("*.tex"))
    assert len(sources) >= 5
    for path in sources:
        assert wrong_latex(path.read_text()) == [], path


@pytest.mark.skipif(
    shutil.which("pdflatex") is None, reason="no pdflatex (apt-get install texlive-latex-recommended)"
)
def test_latex_compiles(exported, tmp_path):
    kept = [row for row in hostile().rows if not formats._PDFLATEX.search(row[0].text)]
    table = Table("caption_of % & #\\", [("model_&", False), ("95 %", True)], kept)
    (tmp_path / "hostile.tex").write_text(formats.to_latex(table, "hostile"))
    for path in exported.glob("*.tex"):
        shutil.copy(path, tmp_path / path.name)
    inputs = "\n".join(rf"\input{{{path.name}}}\clearpage" for path in sorted(tmp_path.glob("*.tex")))
    (tmp_path / "all.tex").write_text(
        rf"\documentclass{{article}}\usepackage{{booktabs}}\begin{{document}}{inputs}\end{{document}}"
    )
    command = ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "-no-shell-escape", "all.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout[-2000:]


# Figures


def test_figures_are_fit_for_print(exported):
    for path in exported.glob("*.pdf"):
        content = path.read_bytes()
        assert b"/FontFile2" in content, path  # letters travel with the file, as outlines that scale
        assert b"/Type3" not in content
    for path in exported.glob("*.svg"):
        root = ET.fromstring(path.read_text())
        assert not root.findall(".//{http://www.w3.org/2000/svg}text"), path
        assert "fill: #ffffff" in path.read_text()
    for path in exported.glob("*.png"):
        with Image.open(path) as image:
            assert image.convert("RGB").getpixel((0, 0)) == (255, 255, 255)
            assert image.width > 1500
            assert image.info["Title"]


def test_the_same_records_give_the_same_bytes_and_every_file_is_printed(tmp_path, python_in):
    folder = write_sweep(tmp_path / "s", small({"gru": 0.9, "rnn": 0.1}))
    export.export(read_sweep(folder), tmp_path / "here")
    arguments = ["-m", "seqbench.report", "s", "--export", "there"]
    done = python_in(tmp_path, *arguments, cold=True, PYTHONHASHSEED="7")
    assert done.returncode == 0, done.stderr
    here, there = (
        {path.name: path.read_bytes() for path in (tmp_path / n).iterdir()} for n in ("here", "there")
    )
    assert {name.rpartition(".")[2] for name in here} == set(export.FORMATS)
    assert here == there
    assert sorted(done.stdout.split()) == sorted(f"there/{name}" for name in there)


# Refusals


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--export", "x", "--formats", "pfd"], "no format 'pfd'; did you mean 'pdf'?"),
        (["--export", "x", "--formats", ","], "names no format; choices: csv"),
        (["--formats", "csv"], "only with --export FOLDER"),
        (["--export", "file"], "choose another folder with --export FOLDER"),
        (["--export", "file/x"], "choose another folder with --export FOLDER"),
    ],
)
def test_what_cannot_be_used_is_one_line(tmp_path, capsys, monkeypatch, arguments, reason):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    write_sweep(tmp_path / "s", small({"gru": 0.9}))
    assert command.main(["s", *arguments]) == command.EXIT_USAGE
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert reason in captured.err
    assert not (tmp_path / "x").exists()


def test_an_unknown_sweep_leaves_nothing(tmp_path, capsys):
    assert command.main([str(tmp_path / "no"), "--export", str(tmp_path / "x")]) == command.EXIT_USAGE
    assert "no such folder" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_a_link_is_replaced_and_never_followed(tmp_path):
    sweep = read_sweep(write_sweep(tmp_path / "s", small({"gru": 0.9})))
    (tmp_path / "mine.csv").write_text("precious")
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "runs.csv").symlink_to(tmp_path / "mine.csv")
    export.export(sweep, tmp_path / "x", ["csv"])
    assert (tmp_path / "mine.csv").read_text() == "precious"
    assert not (tmp_path / "x" / "runs.csv").is_symlink()


def test_the_page_is_written_beside_only_when_asked_for(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_sweep(tmp_path / "s", small({"gru": 0.9}))
    assert command.main(["s", "--export", "x", "--formats", "md"]) == 0
    assert not (tmp_path / "reports").exists()
    assert command.main(["s", "--export", "x", "--formats", ".MD", "--out", "page.html"]) == 0
    assert "page.html\n" in capsys.readouterr().out
    assert (tmp_path / "page.html").is_file()


def broken() -> Plot:
    def draw():
        raise ZeroDivisionError

    return Plot("bad", "Bad", draw, "no way", "nothing")


def test_a_figure_that_cannot_be_drawn_is_named_and_the_others_are_written(tmp_path, capsys, monkeypatch):
    write_sweep(tmp_path / "s", small({"gru": 0.9}))

    def with_broken(sweep):
        return {"more": [Drawn(broken())], **context(sweep)}

    monkeypatch.setattr(export, "context", with_broken)
    code = command.main([str(tmp_path / "s"), "--export", str(tmp_path / "x"), "--formats", "svg"])
    captured = capsys.readouterr()
    assert code == command.EXIT_PARTLY
    assert captured.err == "seqbench.report: bad: this figure cannot be drawn (ZeroDivisionError)\n"
    assert captured.out.count(".svg\n") == len(list((tmp_path / "x").iterdir())) >= 1


def test_letters_that_the_font_lacks_are_told(tmp_path):
    sweep = read_sweep(write_sweep(tmp_path / "s", small({"\u5faa\u73af": 0.9, "gru": 0.5})))
    made = export.export(sweep, tmp_path / "x", ["svg"])
    assert made.problems == [
        "figures show boxes instead of these letters, which their font lacks: \u5faa \u73af"
    ]


@pytest.mark.parametrize("models", [{}, {"gru": 0.9}, FIVE])
def test_any_number_of_models(tmp_path, models):
    made = export.export(
        read_sweep(write_sweep(tmp_path / "s", small(models))), tmp_path / "x", export.TABLES
    )
    assert {"runs.csv"} <= {path.name for path in made.files}


@pytest.mark.parametrize("start", [0, 60])
def test_hostile_records_leave_plain_files(tmp_path, start):
    from faults import markup

    sweep = read_sweep(markup.write_sweep(tmp_path / "s", markup.Fields(start)))
    made = export.export(sweep, tmp_path / "x", ["csv", "md", "tex", *["svg"] * (start == 0)])
    assert all(re.fullmatch(r"[a-z0-9-]+\.(csv|md|tex|svg)", path.name) for path in made.files)
    for path in made.files:
        content = path.read_text(encoding="utf-8")
        if path.suffix == ".tex":
            assert wrong_latex(content) == [], path
        if path.suffix == ".md":
            assert cells_of(content), path
        if path.suffix == ".csv":
            for cell in itertools.chain.from_iterable(csv.reader(io.StringIO(content))):
                assert not re.match(r"[=+@\t\r]|-(?![\d.])", cell), cell


def test_a_diverged_and_a_failed_run_change_nothing_about_the_files(tmp_path):
    work = small({"gru": 0.9})
    work += [(training("rnn", 16, 0, 0.1, status="diverged"), tables(0.1))]
    work += [(training("lstm", 16, 0, 0.0, status="failed", metrics={}), {})]
    made = export.export(read_sweep(write_sweep(tmp_path / "s", work)), tmp_path / "x", ["csv", "tex"])
    for path in made.files:
        if path.suffix == ".tex":
            assert wrong_latex(path.read_text()) == []
