"""The page of the regression gate: history by machine, what is damaged, and nothing that can act."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from faults import markup
from faults.payloads import PAYLOADS
from made import small, write_sweep

from seqbench import report, store
from seqbench.perf import record
from seqbench.perf.gate import Check, Options, Row
from seqbench.perf.judge import Verdict
from seqbench.report.index import write_index
from seqbench.report.perf_page import write_perf_page
from seqbench.report.perf_records import read

FACTS = {"torch": "2.13.0", "python": "3.11.7", "device": "cpu", "gpu": None}
VERDICTS = {"pass": Verdict.PASS, "fail": Verdict.FAIL, "cannot tell": Verdict.CANNOT_TELL}


def timed(ratio: float) -> Check:
    ends = {"ratio": ratio, "low": ratio - 0.02, "high": ratio + 0.02, "detectable": 0.08}
    return Check(Verdict.FAIL if ratio > 1.07 else Verdict.PASS, f"x{ratio:.3f}", ends)


def counted(operators: int) -> Check:
    counters = {"parameters": 10, "operators": operators, "by_operator": {"mm": operators}}
    return Check(Verdict.PASS, "equal", {"head": counters, "base": counters})


def plain(day: int, machine: str = "m0", **ratios: float) -> dict[str, Any]:
    """A check of the day on a machine, with these ratios by model."""
    rows = [Row(m, 128, {"counters": counted(100 + day), "time": timed(r)}) for m, r in ratios.items()]
    sides = {"name": "main", "commit": "0" * 40}, {"name": "working tree", "commit": f"{day:040x}+"}
    found = record.of_check("check", *sides, FACTS, Options(), rows, [])
    found["started_utc"] = f"2026-11-{day:02d}T10:00:00Z"
    found["machine"] = {**found["machine"], "id": machine, "cpu": f"CPU {machine}"}
    return found


@pytest.fixture
def runs(tmp_path) -> Path:
    return tmp_path / "runs"


@pytest.fixture
def out(tmp_path) -> Path:
    return tmp_path / "reports" / "perf.html"


def sections(page: str) -> list[str]:
    return page.split("<section>")[1:]


def test_no_check_at_all_says_how_to_make_one(runs, out):
    assert "python -m seqbench.perf main.." in write_perf_page(runs, out).read_text()


def test_machines_are_never_mixed(runs, out):
    for day, machine in ((1, "m0"), (2, "m1"), (3, "m0")):
        record.keep(plain(day, machine, lstm=1 + day / 1000), runs)
    newest, other = sections(write_perf_page(runs, out).read_text())
    assert ("CPU m0" in newest, "CPU m1" in newest) == (True, False)
    assert ("CPU m1" in other, "CPU m0" in other) == (True, False)
    assert "2 checks; the newest" in newest
    assert "x1.003 [0.983, 1.023]" in newest
    assert "1 check; the newest" in other
    assert (newest.count("<svg viewBox"), other.count("<svg viewBox")) == (1, 1)


def test_the_newest_check_leads_and_what_changed_in_counters_is_shown(runs, out):
    for day in (1, 2):
        record.keep(plain(day, lstm=1.0, gru=1.0 if day == 1 else 1.2), runs)
    [section] = sections(write_perf_page(runs, out).read_text())
    assert "2026-11-02 10:00: 1 slower, 1 not slower" in section
    assert "102 (+1)" in section
    rows = re.findall(r"<tr><td class=\"when\"[^>]*>2026-11-(\d\d)", section)
    assert rows == ["02", "01"]


def test_the_same_records_give_the_same_bytes(runs, out, tmp_path):
    for day in (1, 2):
        record.keep(plain(day, lstm=1.0), runs)
    first = write_perf_page(runs, out).read_bytes()
    assert write_perf_page(runs, tmp_path / "again" / "perf.html").read_bytes() == first


@pytest.mark.parametrize("damage", ["{", "[]", "seal", "schema", "kind of number", "link"])
def test_a_damaged_record_is_named_and_costs_the_others_nothing(runs, out, damage):
    record.keep(plain(1, lstm=1.0), runs)
    good = plain(2, lstm=1.0)
    path = runs / "perf" / "damaged.json"
    if damage == "seal":
        store.write_sealed(path, good)
        path.write_text(path.read_text().replace("main", "mean"))
    elif damage == "schema":
        store.write_sealed(path, {**good, "schema": 99})
    elif damage == "kind of number":
        store.write_sealed(path, {**good, "models": 3})
    elif damage == "link":
        path.symlink_to(runs / "nothing")
    else:
        path.write_text(damage)
    page = write_perf_page(runs, out).read_text()
    assert "damaged.json" in page.split("<section>")[0]
    assert len(sections(page)) == 1


@pytest.mark.parametrize("value", [0, -1.0, 1e400, 1e-320, 1e200, "x", None, True, [], 10**400])
def test_an_impossible_ratio_is_left_out_or_drawn_at_the_edge(runs, out, value):
    found = json.loads(json.dumps(store.json_safe(plain(1, lstm=1.0))))
    found["models"][0]["checks"]["time"]["ratio"] = value if value != 1e400 else 1e308
    store.make_folder(runs / "perf")
    store.write_sealed(runs / "perf" / "a.json", found)
    page = write_perf_page(runs, out).read_text()
    assert "lstm" in page
    assert "cannot be drawn" not in page


@pytest.mark.parametrize("start", [0, 20, 40, 60])
def test_nothing_in_a_record_can_act(runs, out, start):
    store.make_folder(runs / "perf")
    for number, payload in enumerate(PAYLOADS[start : start + 20]):
        words = payload.encode("utf-8", "replace").decode()
        found = plain(1 + number % 20, words, lstm=1.0)
        found["base"], found["head"] = {"name": words, "commit": words}, {"name": words, "commit": ""}
        found["machine"]["cpu"], found["versions"]["torch"], found["notes"] = words, words, [words]
        found["models"][0]["model"] = found["models"][0]["verdict"] = words
        found["models"][0]["checks"]["counters"]["words"] = words
        store.write_sealed(runs / "perf" / f"{number}.json", found)
    page = markup._Strict()
    content = write_perf_page(runs, out).read_text(encoding="utf-8")
    page.feed(content)
    page.close()
    assert page.wrong == []
    assert page.open == []
    assert page.order.count("script") == page.order.count("style") == 1
    assert {c for c in content if markup._unprintable(c)} == set()


def test_many_checks_make_a_page_of_modest_size(runs, out):
    store.make_folder(runs / "perf")
    models = dict.fromkeys(["rnn", "lstm", "gru", "bilstm", "transformer"], 1.0)
    found = plain(1, **models)
    for number in range(300):
        found["started_utc"] = f"2026-10-{1 + number // 24:02d}T{number % 24:02d}:00:00Z"
        store.write_sealed(runs / "perf" / f"{number:03d}.json", found)
    page = write_perf_page(runs, out)
    assert page.stat().st_size < 1 << 19
    assert "the newest 200" in page.read_text()


def test_the_index_tells_of_the_newest_check_and_makes_its_page(runs, tmp_path):
    write_sweep(runs / "a", small({"gru": 0.9}))
    index = tmp_path / "reports" / "index.html"
    assert "Regression checks" not in write_index(runs, index).read_text()
    record.keep(plain(1, lstm=1.2, gru=1.0), runs)
    page = write_index(runs, index).read_text()
    assert 'href="./perf.html"' in page
    assert "2026-11-01 10:00: 1 slower, 1 not slower" in page
    assert page.count("Not a sweep that can be read") == 0
    assert 'href="./index.html"' in (tmp_path / "reports" / "perf.html").read_text()


def test_a_sweep_that_is_called_like_the_gate_keeps_its_page(runs, tmp_path):
    write_sweep(runs / "perf", small({"gru": 0.9}))
    record.keep(plain(1, lstm=1.0), runs)
    assert report.stem(runs / "perf") == "perf.sweep"
    page = write_index(runs, tmp_path / "reports" / "index.html").read_text()
    assert "runs/perf --out" in page
    assert "Regression checks" in page


def test_records_are_read_in_the_order_of_their_days(runs):
    for day in (3, 1, 2):
        record.keep(plain(day, lstm=1.0), runs)
    found, problems = read(runs)
    assert ([one.started[8:10] for one in found], problems) == (["01", "02", "03"], [])
