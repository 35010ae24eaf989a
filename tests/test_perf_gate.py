"""The regression gate without workers: counters, baselines, verdicts, formats, revisions, usage."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import yaml

from seqbench import store
from seqbench.errors import UsageError
from seqbench.perf import __main__ as command
from seqbench.perf import counting, gate, quality, record, revisions, show, trials
from seqbench.perf.client import Refused
from seqbench.perf.gate import Check, Options, Row
from seqbench.perf.judge import Verdict

PASS, FAIL, CANNOT_TELL = Verdict.PASS, Verdict.FAIL, Verdict.CANNOT_TELL
FACTS = {"torch": "2.13.0", "python": "3.11.7", "device": "cpu", "gpu": None}


def counters(**changes: object) -> dict[str, object]:
    plain = dict.fromkeys(counting.COUNTERS, 100)
    return {**plain, "width": 8, "counted_on": "meta", "by_operator": {"mm": 60, "add": 40}, **changes}


# Counters


@pytest.mark.parametrize("name", counting.COUNTERS)
def test_any_growth_fails_and_a_decrease_is_noted(name):
    grown = counting.compare(counters(), counters(**{name: 101}))
    assert (grown.verdict, counting.TITLES[name] in grown.words, "(+1)" in grown.words) == (FAIL, True, True)
    less = counting.compare(counters(), counters(**{name: 99}))
    assert (less.verdict, less.words.startswith("less: ")) == (PASS, True)
    allowed = counting.compare(counters(), counters(**{name: 101}), [name])
    assert (allowed.verdict, "growth is allowed" in allowed.words) == (PASS, True)


def test_equal_counters_pass():
    assert counting.compare(counters(), counters()) == counting.Counted(PASS, "equal")


def test_what_grew_is_named_by_operator():
    head = counters(operators=103, by_operator={"mm": 70, "mul": 1, "add": 32})
    assert "mm +10, add -8, mul +1" in counting.compare(counters(), head).words


def test_operators_of_different_versions_of_torch_are_not_compared():
    found = counting.compare(counters(), counters(operators=500), torch="base runs torch 1, head 2")
    assert found == counting.Counted(CANNOT_TELL, "base runs torch 1, head 2")
    grown = counting.compare(counters(), counters(operators=500, parameters=101), torch="other torch")
    assert grown.verdict is FAIL
    assert "operators" not in grown.words


def test_operations_counted_in_different_ways_are_not_compared():
    found = counting.compare(counters(), counters(counted_on="cpu", train_flops=0))
    assert found.verdict is CANNOT_TELL


def test_a_baseline_comes_back_as_it_was_written_and_holds_no_time(tmp_path):
    path = tmp_path / "deep" / "counters.json"
    counting.write_baseline(path, {"lstm T=128": counters()}, {"torch": "2.13.0"})
    assert counting.read_baseline(path)["counters"] == {"lstm T=128": counters()}
    assert not [word for word in ('_s"', "second", "utc", 'cpu"') if word in path.read_text()]
    again = path.read_bytes()
    counting.write_baseline(path, {"lstm T=128": counters()}, {"torch": "2.13.0"})
    assert path.read_bytes() == again


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"schema": 1, "counters": 3}', '{"schema": 1, "counters": {"a": {}}}', '{"schema": 9}'],
)
def test_a_file_that_is_no_baseline_is_refused_in_one_line(tmp_path, content):
    path = tmp_path / "x.json"
    path.write_text(content)
    with pytest.raises(UsageError, match="--store") as found:
        counting.read_baseline(path)
    assert "\n" not in str(found.value)


# Quality


def trained(*scores: float, solved: int = 0) -> quality.Trained:
    return quality.Trained(scores, solved)


def test_quality_is_judged_over_all_models_together():
    good, bad = trained(1.0, 0.99, 1.0, 0.98, 1.0, solved=5), trained(0.25, 0.31, 0.24, 0.27, 0.26)
    mixed = trained(1.0, 0.3, 0.9, 0.4, 1.0, solved=2)
    verdicts = [one.verdict for one in quality.judge([(good, good), (good, bad), (bad, good), (good, mixed)])]
    assert verdicts == [PASS, FAIL, PASS, CANNOT_TELL]
    assert "solved 5 -> 0 of 5" in quality.judge([(good, bad)])[0].words


# Verdicts and exit codes


def row(**checks: Verdict) -> Row:
    return Row("lstm", 128, {name: Check(verdict, f"{name} says so") for name, verdict in checks.items()})


@pytest.mark.parametrize(
    ("checks", "verdict", "code"),
    [
        ({"counters": PASS, "time": PASS}, "not slower", 0),
        ({"counters": FAIL}, "slower", 1),
        ({"counters": PASS, "time": FAIL}, "slower", 1),
        ({"counters": CANNOT_TELL, "time": FAIL}, "slower", 1),
        ({"counters": PASS, "time": PASS, "quality": FAIL}, "worse", 1),
        ({"counters": PASS, "time": CANNOT_TELL}, "cannot tell", 3),
        ({}, "cannot tell", 3),
    ],
)
def test_the_verdict_follows_from_the_checks(checks, verdict, code):
    assert row(**checks).verdict == verdict
    assert gate.exit_code([row(counters=PASS), row(**checks)]) == code


def test_nothing_checked_is_not_fine():
    assert gate.exit_code([]) == gate.EXIT_CANNOT_TELL


def test_only_a_failure_of_head_itself_is_held_against_it():
    assert gate.blamed("head", Refused("boom", "RuntimeError")).verdict is FAIL
    assert gate.blamed("head", Refused("no Stepper", "not there")).verdict is CANNOT_TELL
    assert gate.blamed("base", Refused("boom", "RuntimeError")).verdict is CANNOT_TELL


def test_a_gate_is_good_enough_at_one_of_fifty_and_nine_of_ten():
    slow, fine = row(counters=PASS, time=FAIL), row(counters=PASS, time=PASS)
    assert trials.Tried([slow, *[fine] * 49], 0.0, {}).good
    assert not trials.Tried([slow, slow, *[fine] * 48], 0.0, {}).good
    assert trials.Tried([*[slow] * 9, fine], 0.2, {}).good
    assert not trials.Tried([*[slow] * 8, fine, fine], 0.2, {}).good
    words = trials.Tried([slow, *[fine] * 49], 0.0, {}).words
    assert words.startswith("identical code accused in 1 of 50 (2.0%, 95 % interval 0.4% to 10.5%)")


# What is written


HOSTILE = 'a|b <script>\x00\x1b[31m & "quoted" ]]> `x`\nnext'


def checked_plain(name: str = "lstm", words: str = "equal") -> dict[str, object]:
    rows = [
        Row(name, 128, {"counters": Check(PASS, words), "time": Check(CANNOT_TELL, words)}),
        Row(name, 512, {"counters": Check(FAIL, words)}),
    ]
    sides = {"name": "main", "commit": "0" * 40}, {"name": "working tree", "commit": "1" * 40 + "+"}
    return record.of_check("check", *sides, FACTS, Options(), rows, ["a note"])


@pytest.mark.parametrize("words", ["equal", HOSTILE])
def test_junit_is_valid_xml_with_a_case_for_each_model_and_check(words):
    suite = ET.fromstring(show.to_junit(checked_plain(words=words)).encode()).find("testsuite")
    counted = {key: suite.get(key) for key in ("tests", "failures", "skipped", "errors")}
    assert counted == {"tests": "3", "failures": "1", "skipped": "1", "errors": "0"}
    cases = [(case.get("classname"), case.get("name")) for case in suite]
    assert cases == [
        ("seqbench.perf.counters", "lstm T=128"),
        ("seqbench.perf.time", "lstm T=128"),
        ("seqbench.perf.counters", "lstm T=512"),
    ]
    assert suite[2].find("failure").get("type") == "slower"
    assert suite[1].find("skipped") is not None


def test_markdown_is_a_table_whatever_the_words():
    lines = show.to_markdown(checked_plain(words=HOSTILE)).splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 4
    assert all(line.replace("\\|", "").count("|") == 6 for line in table)
    assert "<script" not in "".join(lines).replace("\\<", "")


def test_json_holds_the_record_and_the_terminal_ends_with_the_outcome():
    plain = checked_plain()
    assert json.loads(show.to_json(plain))["models"][1]["verdict"] == "slower"
    assert show.lines(plain)[-1] == "main -> working tree: 1 slower, 1 cannot tell"


def test_a_record_is_sealed_and_nothing_is_overwritten(tmp_path):
    plain = checked_plain()
    paths = {record.keep(plain, tmp_path) for _ in range(3)}
    assert len(paths) == 3
    for path in paths:
        kept = store.unsealed(path, store.read_json(path))
        assert kept["machine"]["id"]
        assert kept["models"][0]["checks"]["time"]["verdict"] == "cannot tell"


def test_a_runs_folder_that_takes_nothing_is_named(tmp_path):
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(UsageError, match="--runs"):
        record.keep(checked_plain(), tmp_path / "runs")


# Revisions


def git(root: Path, *words: str) -> str:
    who = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", "-C", str(root), *who, *words], check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path) -> Path:
    root = tmp_path / "a repository"
    (root / "seqbench").mkdir(parents=True)
    (root / "requirements").mkdir()
    (root / "seqbench" / "__init__.py").write_text("one")
    (root / "requirements" / "torch.txt").write_text("torch==1\n")
    (root / "pyproject.toml").write_text('[project]\ndependencies = ["torch>=1"]\n')
    git(root, "init", "-q", "-b", "main")
    git(root, "add", ".")
    git(root, "commit", "-qm", "one")
    (root / "seqbench" / "__init__.py").write_text("two")
    git(root, "commit", "-qam", "two")
    return root


def test_revisions_are_laid_out_and_the_repository_is_left_as_it_was(repository, tmp_path):
    (repository / "seqbench" / "new.py").write_text("not added yet")
    before = git(repository, "status", "--porcelain"), git(repository, "worktree", "list")
    base = revisions.lay_out(repository, "HEAD~1", tmp_path / "base")
    head = revisions.lay_out(repository, "", tmp_path / "head")
    assert (base.folder / "seqbench" / "__init__.py").read_text() == "one"
    assert (head.folder / "seqbench" / "__init__.py").read_text() == "two"
    assert (head.folder / "seqbench" / "new.py").is_file()
    assert base.commit == git(repository, "rev-parse", "HEAD~1")
    assert head.commit == git(repository, "rev-parse", "HEAD") + "+"
    assert (git(repository, "status", "--porcelain"), git(repository, "worktree", "list")) == before


def test_a_file_removed_in_the_working_tree_is_not_in_its_copy(repository, tmp_path):
    (repository / "requirements" / "torch.txt").unlink()
    head = revisions.lay_out(repository, "", tmp_path / "head")
    assert not (head.folder / "requirements" / "torch.txt").exists()


def test_pins_that_differ_are_named(repository, tmp_path):
    base = revisions.lay_out(repository, "HEAD", tmp_path / "base")
    assert revisions.differing_pins(base, base) == []
    (repository / "requirements" / "torch.txt").write_text("torch==2\n")
    (repository / "pyproject.toml").write_text('[project]\ndependencies = ["torch>=2"]\n')
    head = revisions.lay_out(repository, "", tmp_path / "head")
    assert revisions.differing_pins(base, head) == ["pyproject.toml (dependencies)", "requirements/torch.txt"]


@pytest.mark.parametrize("name", ["nothing", "--help", "HEAD~9", "HEAD:seqbench"])
def test_an_unknown_revision_is_refused_with_the_way_to_find_one(repository, tmp_path, name):
    with pytest.raises(UsageError, match="git log --oneline"):
        revisions.lay_out(repository, name, tmp_path / "x")


def test_a_folder_without_git_or_without_seqbench_is_refused(tmp_path, repository):
    with pytest.raises(UsageError, match="go to a checkout of seqbench"):
        revisions.repository(tmp_path)
    git(repository, "rm", "-rq", "--cached", "seqbench")
    (repository / "seqbench" / "__init__.py").unlink()
    with pytest.raises(UsageError, match="no seqbench/"):
        revisions.repository(repository)


def test_an_environment_that_cannot_be_built_says_why(repository, tmp_path):
    tree = revisions.lay_out(repository, "HEAD", tmp_path / "x")
    with pytest.raises(UsageError, match="no Makefile"):
        revisions.build(tree)
    (tree.folder / "Makefile").write_text(".venv/.bench:\n\t@echo no such wheel >&2; exit 1\n")
    with pytest.raises(UsageError, match="cannot be built: make"):
        revisions.build(tree)
    (tree.folder / "Makefile").write_text(".venv/.bench:\n\t@test -n '$(PYTHON)' && mkdir .venv\n")
    assert revisions.build(tree) == str(tree.folder / ".venv" / "bin" / "python")


# The command line


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "expected BASE..HEAD"),
        (["main"], "'main': expected BASE..HEAD"),
        (["a...b"], "expected BASE..HEAD"),
        (["..b"], "expected BASE..HEAD"),
        (["nothing..HEAD"], "is no revision"),
        (["--aa", "0"], "must be at least 1"),
        (["--planted", "-3"], "must be a percentage"),
        (["--aa", "3", "--store", "x"], "one at a time"),
        (["a..b", "--store", "x"], "leave a..b out"),
        (["a..b", "--lengths", "x"], "--lengths x: expected"),
        (["a..b", "--models", ","], "--models: expected"),
        (["a..b", "--allow", "operator"], "did you mean 'operators'"),
        (["a..b", "--seconds", "0"], "--seconds 0.0: must be between"),
        (["a..b", "--margin", "7"], "--margin 7.0: must be between"),
        (["--baseline", "nothing.json"], "no such file"),
    ],
)
def test_what_cannot_be_used_is_said_in_one_line(repository, monkeypatch, capsys, words, says):
    monkeypatch.chdir(repository)
    assert command.main(words) == 2
    said = capsys.readouterr().err
    assert says in said
    assert said.startswith("seqbench.perf: ")
    assert said.count("\n") == 1


# The documentation

DOCS = Path(__file__).resolve().parent.parent / "docs"


def documented(name: str) -> list[list[str]]:
    """The words of every command of the gate on a page."""
    text = (DOCS / name).read_text(encoding="utf-8")
    found = re.findall(r"^.*-m seqbench\.perf\b(.*)$", text, flags=re.MULTILINE)
    return [shlex.split(line.split("||")[0].split("`")[0], comments=True) for line in found]


@pytest.mark.parametrize("name", ["performance.md", "ci/github-workflow.yml"])
def test_every_documented_command_is_understood(name):
    commands = documented(name)
    assert commands
    for words in commands:
        command._options(command._parser().parse_args(words))


def test_the_sample_workflow_is_valid_and_tells_cannot_tell_from_slower():
    flow = yaml.safe_load((DOCS / "ci/github-workflow.yml").read_text(encoding="utf-8"))
    [step] = [s for s in flow["jobs"]["perf"]["steps"] if "seqbench.perf" in s.get("run", "")]
    for code, fine in ((0, True), (1, False), (2, False), (3, True)):
        script = re.sub(r"\.venv/bin/python -m seqbench\.perf[^|]*", f"(exit {code}) ", step["run"])
        done = subprocess.run(
            ["bash", "-e", "-c", script], env={"GITHUB_STEP_SUMMARY": "/dev/null"}, check=False
        )
        assert (done.returncode == 0) is fine, code


@pytest.mark.slow
def test_the_documented_command_compares_two_files_of_benchmarks(tmp_path):
    page = (DOCS / "performance.md").read_text(encoding="utf-8")
    [documented_] = re.findall(r"^\S*pytest-benchmark (compare .*)$", page, flags=re.MULTILINE)
    (tmp_path / "test_x.py").write_text("def test_x(benchmark):\n    benchmark(sum, range(9))\n")
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    for name in ("before", "after"):
        save = ["--benchmark-enable", f"--benchmark-save={name}", "-q", "-p", "no:xdist"]
        words = [sys.executable, "-m", "pytest", "test_x.py", *save]
        subprocess.run(words, cwd=tmp_path, env=clean, check=True)
    program = Path(sys.executable).with_name("pytest-benchmark")
    said = subprocess.check_output([program, *shlex.split(documented_)], cwd=tmp_path, text=True)
    assert "before" in said
    assert "after" in said
    assert "test_x.py::test_x" in said
