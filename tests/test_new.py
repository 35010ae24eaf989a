"""The template runs as it stands: it trains, passes its own test, and is never written over anything."""

from __future__ import annotations

import ast

import pytest
from conftest import ROOT

TINY = [
    "task=temporal_order", "task.lengths=[8]", "train.steps=2", "train.eval_every=2", "train.eval_examples=8",
    "train.test_examples=8", "speed.enabled=false", "canaries=false",
]  # fmt: skip


@pytest.fixture
def new(run_python):
    return lambda *args: run_python("-m", "seqbench.new", *args)


@pytest.mark.slow
@pytest.mark.parametrize("where", ["", "a folder/"])
def test_the_file_runs_from_any_folder_and_its_test_passes(new, run_python, tmp_path, where):
    (tmp_path / "a folder").mkdir()
    written = new(f"{where}my_layer.py")
    assert written.returncode == 0, written.stderr
    assert "model=my_layer,lstm seeds=1" in written.stdout
    swept = run_python(f"{where}my_layer.py", "-m", "model=my_layer,lstm", "seeds=1", *TINY)
    assert swept.returncode == 0, swept.stdout + swept.stderr
    assert len(list(tmp_path.glob("runs/*/*/run.json"))) == 2
    tested = run_python("-m", "pytest", "-q", f"{where}test_my_layer.py")
    assert tested.returncode == 0, tested.stdout + tested.stderr
    assert "1 passed" in tested.stdout


def test_the_test_fails_with_the_sentence_once_the_layer_is_broken(new, run_python, tmp_path):
    new("mine.py")
    file = tmp_path / "mine.py"
    text = file.read_text()
    assert "stack(outputs, dim=1), h_BH" in text
    file.write_text(text.replace("stack(outputs, dim=1), h_BH", "stack(outputs, dim=1).flip(1), h_BH"))
    tested = run_python("-m", "pytest", "-q", "test_mine.py")
    assert tested.returncode == 1
    assert "mine: causality: expected earlier outputs" in tested.stdout


def test_the_template_keeps_to_the_line_and_the_name_of_its_file(new, run_python, tmp_path):
    new("slow_gate2.py")
    text = (tmp_path / "slow_gate2.py").read_text()
    names = [node.name for node in ast.parse(text).body if isinstance(node, ast.ClassDef)]
    assert names == ["SlowGate2", "SlowGate2Layer"]
    assert 'name: str = "slow_gate2"' in text
    files = ["slow_gate2.py", "test_slow_gate2.py"]
    for words in (["check", "--ignore=D,ANN,I001"], ["format", "--check"]):
        linted = run_python("-m", "ruff", *words, f"--config={ROOT / 'pyproject.toml'}", *files)
        if "No module named ruff" in linted.stderr:
            pytest.skip("ruff is not installed: make lint")
        assert linted.returncode == 0, linted.stdout


SLIPS = {
    "": "expected one name",
    "a.py b.py": "expected one name",
    "--help": "expected one name",
    "layer": "layer: expected a name that ends in .py",
    "My-Layer.py": "My-Layer.py: expected small letters",
    "class.py": "class.py: expected small letters",
    "2fast.py": "2fast.py: expected small letters",
    "lstm.py": "lstm.py: a model is called 'lstm' already",
    "none.py": "none.py: 'none' would mean something else there",
    "null.py": "null.py: 'null' would mean something else there",
    "encoder.py": "encoder.py: 'encoder' would mean something else there",
    "json.py": "json.py: a module is called 'json' already",
    "torch.py": "torch.py: a module is called 'torch' already",
    "nowhere/mine.py": "nowhere: no such folder",
    "there.py": "there.py: already there",
    "half.py": "test_half.py: already there",
}


@pytest.mark.parametrize("words", SLIPS)
def test_a_slip_gets_one_line_and_nothing_is_written(new, tmp_path, words):
    (tmp_path / "there.py").write_text("mine")
    (tmp_path / "test_half.py").write_text("mine")
    result = new(*words.split())
    assert result.returncode == 2
    assert result.stderr.startswith(f"seqbench.new: {SLIPS[words]}")
    assert result.stderr.count("\n") == 1
    assert {path.name for path in tmp_path.iterdir()} == {"there.py", "test_half.py"}
    assert {path.read_text() for path in tmp_path.iterdir()} == {"mine"}


def test_the_commands_can_be_copied_where_a_folder_has_a_space(new, tmp_path):
    (tmp_path / "a folder").mkdir()
    told = new("a folder/my_gate.py").stdout
    assert "  python -m seqbench.check 'a folder/my_gate.py'\n" in told
    assert "  python 'a folder/my_gate.py' -m model=my_gate,lstm seeds=1\n" in told
    assert "  pytest 'a folder/test_my_gate.py'\n" in told
