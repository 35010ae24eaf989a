"""The README is true: every command and every file it shows runs, at a tiny budget."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

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


def run(words: list[str], folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a README command in ``folder`` with this Python, from outside the checkout."""
    return subprocess.run(
        [sys.executable, *words],
        cwd=folder, capture_output=True, text=True, timeout=150, check=False,
        env={
            **os.environ, "SEQBENCH_LOCKS": str(folder), "XDG_CACHE_HOME": str(folder / "cache"),
            **environment,
        },
    )  # fmt: skip


def test_the_readme_shows_commands_and_files():
    assert len(COMMANDS) >= 8
    assert set(FILES) == {"my_layer.py", "my_task.py"}


@pytest.mark.parametrize("command", [c for c in COMMANDS if "imdb" not in c and "report" not in c])
def test_command_runs(command: str, tmp_path: Path):
    for name, text in {**FILES, **DATA}.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    words = ["tune=3" if word.startswith("tune=") else word for word in shlex.split(command)[1:]]
    chosen = {word.split("=")[0] for word in words}
    quick = [word for word in QUICK if word.split("=")[0] not in chosen]
    tells = {"--help", "seqbench.tasks", "seqbench.check", "seqbench.new"} & set(words)  # and trains nothing
    done = run([*words, *([] if tells else quick)], tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert tells or list((tmp_path / "reports").glob("*.html"))


def test_the_report_command_makes_the_page_again(tmp_path: Path):
    assert any(command.startswith("python -m seqbench.report ") for command in re.findall(r"`(.*?)`", README))
    assert run(["-m", "seqbench", "sweep=s", "task.lengths=[8]", *QUICK], tmp_path).returncode == 0
    page = tmp_path / "reports" / "s.html"
    first = page.read_bytes()
    page.unlink()
    assert run(["-m", "seqbench.report", "runs/s"], tmp_path).returncode == 0
    assert page.read_bytes() == first


def test_imdb_without_the_hub_names_the_local_option(tmp_path: Path):
    command = next(c for c in COMMANDS if "task=imdb" in c and "FOLDER" not in c)
    done = run([*shlex.split(command)[1:], *QUICK[:-1]], tmp_path, HF_HUB_OFFLINE="1")
    assert done.returncode == 2
    assert "task.path=" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.skipif(not SHARED_IMDB.exists(), reason="the local copy of IMDb is not at hand")
def test_imdb_from_a_local_copy(tmp_path: Path):
    command = next(c for c in COMMANDS if "FOLDER" in c).replace("FOLDER", str(SHARED_IMDB))
    quick = ["train.epochs=0.002", "train.eval_every=100", "speed.enabled=false", "probes=[]"]
    done = run([*shlex.split(command)[1:], *quick], tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_local_link_leads_somewhere_and_no_placeholder_is_left():
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
    assert not re.search(r"\b[A-Z]+_NUMBERS\b|\bTODO\b", README)
