"""The README is true: every command and every file it shows runs, at a tiny budget."""

from __future__ import annotations

import functools
import re
import shlex
from pathlib import Path

import pytest
from conftest import Command

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
SHARED_IMDB = ROOT.parent / "shared" / "hub" / "stanfordnlp" / "imdb"
QUICK = [
    "train.steps=2", "train.eval_every=2", "train.eval_examples=8", "train.test_examples=8",
    "speed.enabled=false", "seeds=1",
]  # fmt: skip
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
COMMANDS = [
    line.split("#")[0].strip()
    for language, block in BLOCKS
    if not language
    for line in block.splitlines()
    if line.startswith("python ")
]
FILES = {
    block.splitlines()[0].removeprefix("# "): block for language, block in BLOCKS if language == "python"
}
DATA = {  # what a reader would have
    "reviews.csv": "text,label\n" + "film 1 was good,good\nfilm 2 was bad,bad\n" * 40,
    "book.txt": "It was the best of times, it was the worst of times.\n" * 200,
}


def program(command: str) -> str:
    """What a command starts: a module or a file."""
    words = shlex.split(command)
    return words[2] if words[1] == "-m" else words[1]


FIRST = {program(command): command for command in reversed(COMMANDS)}  # these are started cold


@pytest.fixture
def run(python_in: Command, tmp_path: Path) -> Command:
    """Run a README command with this Python, from outside the checkout, with caches of its own."""
    places = {"SEQBENCH_LOCKS": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    return functools.partial(python_in, tmp_path, timeout=150, **places)


def test_the_gate_takes_what_the_readme_says():
    from seqbench.perf import __main__ as gate

    [command] = [c for c in COMMANDS if "seqbench.perf" in c]
    gate._options(gate._parser().parse_args(shlex.split(command)[3:]))


def test_the_readme_shows_commands_and_files():
    assert len(COMMANDS) >= 8
    assert set(FILES) == {"my_layer.py", "my_task.py"}


# tests/test_perf_workers.py runs the gate, which needs a repository with two revisions; test_launch.py and
# launchers/ run the launchers, and test_collect.py has runs of several machines
ELSEWHERE = ("imdb", "report", "seqbench.perf", "hydra/launcher=", "seqbench.collect")


@pytest.mark.parametrize("command", [c for c in COMMANDS if not any(word in c for word in ELSEWHERE)])
def test_command_runs(command: str, run: Command, tmp_path: Path):
    for name, text in {**FILES, **DATA}.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    words = ["tune=3" if word.startswith("tune=") else word for word in shlex.split(command)[1:]]
    chosen = {word.split("=")[0] for word in words}
    quick = [word for word in QUICK if word.split("=")[0] not in chosen]
    tells = {"--help", "seqbench.tasks", "seqbench.check", "seqbench.new", "dry_run=true"} & set(words)
    quick = [word for word in quick if not ("budget=" in command and word.startswith("seeds="))]
    done = run(*words, *([] if tells - {"dry_run=true"} else quick), cold=command in FIRST.values())
    assert done.returncode == 0, done.stdout + done.stderr
    assert tells or list((tmp_path / "reports").glob("*.html"))


def test_the_report_command_makes_the_page_again(run: Command, tmp_path: Path):
    assert any(command.startswith("python -m seqbench.report ") for command in re.findall(r"`(.*?)`", README))
    assert run("-m", "seqbench", "sweep=s", "task.lengths=[8]", *QUICK).returncode == 0
    page = tmp_path / "reports" / "s.html"
    first = page.read_bytes()
    page.unlink()
    assert run("-m", "seqbench.report", "runs/s", cold=True).returncode == 0
    assert page.read_bytes() == first


def test_imdb_without_the_hub_names_the_local_option(run: Command):
    command = next(c for c in COMMANDS if "task=imdb" in c and "FOLDER" not in c)
    done = run(*shlex.split(command)[1:], *QUICK[:-1], HF_HUB_OFFLINE="1")
    assert done.returncode == 2
    assert "task.path=" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.skipif(not SHARED_IMDB.exists(), reason="the local copy of IMDb is not at hand")
def test_imdb_from_a_local_copy(run: Command):
    command = next(c for c in COMMANDS if "FOLDER" in c).replace("FOLDER", str(SHARED_IMDB))
    quick = ["train.epochs=0.002", "train.eval_every=100", "speed.enabled=false", "probes=[]"]
    done = run(*shlex.split(command)[1:], *quick)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_local_link_leads_somewhere_and_no_placeholder_is_left():
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
    assert not re.search(r"\b[A-Z]+_NUMBERS\b|\bTODO\b", README)


@pytest.mark.parametrize("name", ["default.html", "default.lesson.html", "speed.html"])
def test_the_sample_is_a_page_that_needs_nothing_else(name: str):
    page = (ROOT / "reports" / "sample" / name).read_text(encoding="utf-8")
    assert len(page.encode()) < 500_000
    assert not re.search(r"(?:src|href)=\"(?!#|data:)", page)
    assert "default-src &#39;none&#39;;" in page
