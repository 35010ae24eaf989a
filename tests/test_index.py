"""The page over all sweeps: order, links, what is no sweep, what is kept, and nothing that can act."""

from __future__ import annotations

import html
import json
import os
import re
from pathlib import Path

import pytest
from faults import markup
from faults.payloads import PAYLOADS
from made import small, training, write_sweep

from seqbench import records, report, store
from seqbench.errors import UsageError
from seqbench.report import __main__ as command
from seqbench.report import index
from seqbench.report.frame import Sweep, read_sweep
from seqbench.report.index import Row, write_index
from seqbench.report.summary import cells
from seqbench.report.verdict import headline

DAY = 24 * 3600


def made(runs: Path, name: str, day: int, pending: int = 0) -> Path:
    """A small sweep whose records were written on this day of 1970."""
    folder = write_sweep(runs / name, small({"gru": 0.9, "rnn": 0.4}, seeds=2), pending=pending)
    for path in folder.glob("*/run.json"):
        os.utime(path, (day * DAY, day * DAY))
    return folder


def rows(page: Path) -> dict[str, list[str]]:
    """Cells of every row as text, by the name in the first."""
    body = page.read_text(encoding="utf-8").split("<tbody>")[1].split("</tbody>")[0]
    found = {}
    for row in re.findall(r"<tr>(.*)</tr>", body):
        cells_ = [
            html.unescape(re.sub("<[^>]*>", "\n", cell)) for cell in re.findall(r"<td[^>]*>(.*?)</td>", row)
        ]
        found[cells_[0].strip().split("\n")[0]] = cells_
    return found


@pytest.fixture
def runs(tmp_path) -> Path:
    return tmp_path / "runs"


@pytest.fixture
def out(tmp_path) -> Path:
    return tmp_path / "reports" / "index.html"


def test_the_newest_sweep_comes_first_with_its_date(runs, out):
    made(runs, "b-old", 10)
    made(runs, "a-older", 5)
    made(runs, "c-new", 20)
    found = rows(write_index(runs, out))
    assert list(found) == ["c-new", "b-old", "a-older"]
    assert [cells_[2] for cells_ in found.values()] == [
        "1970-01-21 00:00",
        "1970-01-11 00:00",
        "1970-01-06 00:00",
    ]


def test_a_row_says_what_the_page_says(runs, out):
    folder = made(runs, "s", 1, pending=1)
    failed = records.read_run(folder / "run-0")
    records.write_run(
        folder / "run-0", training("gru", 16, 0, 0.9, identity=failed.identity, status="failed"), {}
    )
    sweep = read_sweep(folder)
    [row] = rows(write_index(runs, out)).values()
    assert headline(sweep, cells(sweep)) in row[1]
    assert "gru or rnn: which learns order (T=16)?" in row[1]
    assert row[3:9] == ["order", "2", "2", "2 of 4", "1 failed", "1"]
    assert row[9] == "a chip"


def test_a_name_leads_to_its_page_where_there_is_one(runs, out):
    out.parent.mkdir()
    for name in ("plain", "odd #%?&", "none"):
        made(runs, name, 1)
    for name in ("plain", "odd #%?&"):
        (out.parent / f"{name}.html").write_text("a page")
    (out.parent / "none.lesson.html").write_text("a lesson")
    text = write_index(runs, out).read_text()
    assert re.findall(r'href="([^"]*)"', text) == [
        "./none.lesson.html", "./odd%20%23%25%3F%26.html", "./plain.html",
    ]  # fmt: skip
    assert f"python -m seqbench.report {runs}/none --out {out.parent}/none.html" in text


def test_the_command_for_a_missing_page_is_short_at_the_usual_place(tmp_path, runs, monkeypatch):
    made(runs, "two words", 1)
    monkeypatch.chdir(tmp_path)
    assert command.main([]) == 0
    text = html.unescape(Path("reports/index.html").read_text())
    assert "<code>python -m seqbench.report 'runs/two words'</code>" in text


def test_what_is_no_sweep_is_a_row_with_a_reason_after_all_others(runs, out):
    made(runs, "good", 1)
    (runs / "foreign").mkdir()
    (runs / "broken").mkdir()
    (runs / "broken" / "plan.json").write_text("{")
    newer = made(runs, "newer", 2)
    plan = json.loads((newer / "plan.json").read_text())
    (newer / "plan.json").write_text(json.dumps({**plan, "schema": 99}))
    (runs / "loop").symlink_to(runs, target_is_directory=True)
    (runs / "README.md").write_text("not a folder")
    (runs / ".hidden").mkdir()
    found = rows(write_index(runs, out))
    assert next(iter(found)) == "good"
    assert set(found) == {"good", "foreign", "broken", "newer", "loop"}
    assert found["foreign"][1] == "Not a sweep that can be read: it has no plan.json"
    assert "plan.json: not valid JSON" in found["broken"][1]
    assert "use a newer seqbench" in found["newer"][1] or "schema 99" in found["newer"][1]


def test_a_sweep_that_breaks_the_reader_costs_no_other_its_row(runs, out, monkeypatch):
    made(runs, "good", 1)
    made(runs, "evil", 2)
    honest = index.read_sweep

    def evil(folder: Path) -> Sweep:
        if folder.name == "evil":
            raise RecursionError("far too deep")
        return honest(folder)

    monkeypatch.setattr(index, "read_sweep", evil)
    found = rows(write_index(runs, out))
    assert "cannot be read (RecursionError: far too deep)" in found["evil"][1]
    assert "gru" in found["good"][1]


def test_half_a_sweep_and_one_without_records_have_rows(runs, out):
    made(runs, "planned", 1, pending=4)
    [row] = rows(write_index(runs, out)).values()
    assert row[2] == "\N{EN DASH}"
    assert row[6:9] == ["0 of 4", "0", "4"]
    assert "No run has finished yet." in row[1]


def test_no_sweep_at_all_makes_a_page_that_says_how_to_start(runs, out):
    runs.mkdir()
    assert "No sweep yet" in write_index(runs, out).read_text()


@pytest.mark.parametrize("start", [0, 20, 40, 60])
def test_nothing_in_a_sweep_or_its_name_can_act(runs, out, start):
    text = markup.Fields(start)
    markup.write_sweep(runs / "s", text)
    out.parent.mkdir()
    for payload in PAYLOADS[start : start + 20]:
        name = payload.replace("/", "\u2215").encode(
            "utf-8", "surrogateescape" if "\ud800" not in payload else "replace"
        )
        name = name.replace(b"\0", b"")[:200] or b"empty"
        if not name.startswith(b"."):
            os.makedirs(os.path.join(os.fsencode(runs), name), exist_ok=True)
            (out.parent / f"{os.fsdecode(name)}.html").write_text("a page")
    page = markup._Strict()
    content = write_index(runs, out).read_text(encoding="utf-8")
    page.feed(content)
    page.close()
    local = re.compile(r"address '\./[\w.%~-]+\.html'")
    assert [wrong for wrong in page.wrong if not local.fullmatch(wrong)] == []
    assert page.open == []
    assert page.order.count("script") == page.order.count("style") == 1
    assert {c for c in content if markup._unprintable(c)} == set()


def test_the_same_records_give_the_same_bytes_whatever_is_kept(runs, out, tmp_path):
    made(runs, "a", 1)
    made(runs, "b", 2)
    first = write_index(runs, out).read_bytes()
    assert write_index(runs, out).read_bytes() == first
    (out.parent / ".index.json").write_text("{not what was written")
    assert write_index(runs, out).read_bytes() == first
    (out.parent / ".index.json").unlink()
    assert write_index(runs, out).read_bytes() == first


def test_what_did_not_change_is_not_read_again(runs, out, monkeypatch):
    made(runs, "a", 1)
    changed = made(runs, "b", 2)
    write_index(runs, out)
    asked: list[str] = []
    honest = index.summarise
    monkeypatch.setattr(index, "summarise", lambda folder: asked.append(folder.name) or honest(folder))
    write_index(runs, out)
    assert asked == []
    run = records.read_run(changed / "run-1")
    records.write_run(
        changed / "run-1", training("gru", 16, 1, 0.9, identity=run.identity, status="failed"), {}
    )
    assert rows(write_index(runs, out))["b"][7] == "1 failed"
    assert asked == ["b"]


def test_a_file_that_goes_missing_is_seen(runs, out):
    folder = made(runs, "a", 1)
    write_index(runs, out)
    (folder / "run-0" / "evaluations.parquet").unlink()
    assert rows(write_index(runs, out))["a"][7] == "1 damaged"


def test_rows_that_were_kept_with_other_types_are_computed_again(runs, out):
    made(runs, "a", 1)
    first = write_index(runs, out).read_bytes()
    kept = out.parent / ".index.json"
    [identity] = json.loads(kept.read_text())["rows"]
    plain = {
        "question": "",
        "headline": "",
        "tasks": "",
        "models": 1,
        "seeds": 1,
        "machine": "",
        "problem": "",
    }
    for counts in (3, {"done": "many"}, None):
        store.write_sealed(kept, {"rows": {identity: {**plain, "counts": counts}}})
        assert write_index(runs, out).read_bytes() == first
    store.write_sealed(kept, {"rows": [identity]})
    assert write_index(runs, out).read_bytes() == first


def test_other_code_reads_everything_again(runs, out, monkeypatch):
    made(runs, "a", 1)
    write_index(runs, out)
    before = json.loads((out.parent / ".index.json").read_text())["rows"].keys()
    monkeypatch.setattr(index, "_code", lambda: "another")
    write_index(runs, out)
    assert not before & json.loads((out.parent / ".index.json").read_text())["rows"].keys()


def test_a_sweep_called_index_keeps_its_page(runs, out, tmp_path, monkeypatch):
    folder = made(runs, "index", 1)
    monkeypatch.chdir(tmp_path)
    page = report.build(folder)
    assert page == Path("reports/index.sweep.html")
    before = page.read_bytes()
    assert 'href="./index.sweep.html"' in report.build_index().read_text()
    assert page.read_bytes() == before


def test_no_runs_folder_and_flags_that_need_a_sweep_end_with_2(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert command.main([]) == 2
    assert "runs: No such file or directory" in capsys.readouterr().err
    assert command.main(["--lesson"]) == 2
    assert "--lesson: needs the folder of a sweep" in capsys.readouterr().err


def test_an_index_that_cannot_be_written_says_where_else(runs, tmp_path):
    made(runs, "a", 1)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UsageError, match=r"--out FILE"):
        write_index(runs, tmp_path / "file" / "index.html")


def test_a_row_is_plain_data_and_back():
    row = Row(question="q", counts={"done": 1}, models=2)
    assert index._row(json.loads(json.dumps(row.__dict__))) == row
