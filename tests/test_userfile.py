"""A file named on the command line is loaded with --allow-code alone, everywhere where it is needed."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import pytest

from seqbench import records, userfile
from seqbench.errors import UsageError

LAYER = """
from dataclasses import dataclass

from beside import WIDTH
from seqbench.cli import main
from seqbench.models.base import ModelConfig
from seqbench.registry import register

open("mark", "a").write("x")


class Helper:
    pass


@register("model")
@dataclass
class Mine(ModelConfig):
    name: str = "mine"

    def build(self, width_in, hidden):
        from seqbench.layers.recurrent import ElmanLayer

        return ElmanLayer(width_in, hidden, "tanh", "default")


main()
"""
TINY = [
    "task=temporal_order", "task.lengths=[8]", "train.steps=2", "train.eval_every=2", "train.eval_examples=8",
    "train.test_examples=8", "seeds=1", "canaries=false", "speed.enabled=false",
]  # fmt: skip


@pytest.fixture
def layer(tmp_path: Path) -> Path:
    """A file in a folder with a space, with another file beside it."""
    folder = tmp_path / "my layers"
    folder.mkdir()
    (folder / "beside.py").write_text("WIDTH = 1\n")
    (folder / "my_layer.py").write_text(LAYER)
    for name, text in (("broken", "import nowhere"), ("plain", "x = 1"), ("os", "x = 1"), ("a.b", "x = 1")):
        (folder / f"{name}.py").write_text(text)
    return folder / "my_layer.py"


def runs(folder: Path) -> dict[str, records.Run]:
    found = [records.read_run(path.parent) for path in folder.glob("runs/*/*/run.json")]
    return {run.label: run for run in found}


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_sweep_with_a_file_equals_the_file_run_by_itself(seqbench, run_python, layer, tmp_path):
    words = ["--allow-code", "-m", "model='my layers/my_layer.py:Mine',lstm", *TINY, "sweep=s"]
    first = seqbench(*words)
    assert first.returncode == 0, first.stdout + first.stderr
    found = runs(tmp_path)
    assert sorted(run.model for run in found.values()) == ["lstm", "mine"]
    assert {run.status for run in found.values()} == {"done"}
    assert (tmp_path / "mark").exists()
    plan = json.loads((tmp_path / "runs" / "s" / "plan.json").read_text())
    assert words in plan["commands"]
    assert "2 reused" in seqbench(*words).stdout
    itself = run_python(str(layer), "-m", "model=mine,lstm", *TINY, "sweep=s")  # the same file, run
    assert itself.returncode == 0, itself.stderr
    assert "2 reused" in itself.stdout
    layer.write_text(layer.read_text() + "\n# edited\n")
    again = seqbench(*words)
    assert "1 reused" in again.stdout, again.stdout + again.stderr  # lstm


def test_without_the_flag_the_right_command_is_told_and_nothing_is_loaded(seqbench, layer, tmp_path):
    words = ["-m", "model=my layers/my_layer.py:Mine,lstm", "seeds=1"]
    result = seqbench(*words)
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "would run that file; if you trust it, switch that on: " in result.stderr
    right = shlex.split(result.stderr.rpartition("switch that on: ")[2])
    assert right == ["python", "-m", "seqbench", "--allow-code", *words]
    assert not (tmp_path / "mark").exists()


def test_with_the_flag_it_composes(seqbench, layer, tmp_path):
    result = seqbench("--allow-code", "--cfg", "job", "model=my layers/my_layer.py:Mine")
    assert result.returncode == 0, result.stderr
    assert "name: mine" in result.stdout
    assert {path.name for path in tmp_path.iterdir()} == {"mark", "my layers"}


SLIPS = {
    "nowhere.py:Mine": "nowhere.py: no such file",
    "my layers:Mine": "no model 'my layers:Mine'",
    "my layers/my_layer.py:Mne": "my_layer.py: no class 'Mne'; did you mean 'Mine'? choices: Mine",
    "my layers/my_layer.py:Helper": "my_layer.py: 'Helper' is no registered model; choices: Mine",
    "my layers/my_layer.py": "expected my layers/my_layer.py:CLASS; choices: Mine",
    "my layers/my_layer.py:": "expected my layers/my_layer.py:CLASS; choices: Mine",
    "my layers/plain.py:Mine": "plain.py: no model there: decorate a ModelConfig",
    "my layers/broken.py:Mine": "broken.py: ModuleNotFoundError: No module named 'nowhere'",
    "my layers/os.py:Mine": "os.py: 'os' is also the name of another module: rename the file",
    "my layers/a.b.py:Mine": "a.b.py: a dot in the name of a module: rename the file",
}


@pytest.mark.parametrize("word", SLIPS)
def test_a_slip_gets_one_line(seqbench, layer, word):
    result = seqbench("--allow-code", f"model={word}")
    assert result.returncode == 2
    assert result.stdout == ""
    assert SLIPS[word] in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("variable", ["ALLOW_CODE", "SEQBENCH_ALLOW_CODE", "HYDRA_ALLOW_CODE"])
def test_no_variable_gives_the_flag(seqbench, layer, tmp_path, variable):
    result = seqbench("model=my layers/my_layer.py:Mine", **{variable: "1"})
    assert result.returncode == 2
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    "text",
    [
        "defaults:\n  - override /model: my_layer.py:Mine\n",
        "hydra:\n  sweeper:\n    params:\n      model: my_layer.py:Mine\n",
        "hydra:\n  sweeper:\n    params:\n      --allow-code: true\n",
        "model: {name: 'my_layer.py:Mine'}\n",
        "allow_code: true\nmodel: my_layer.py:Mine\n",
    ],
)
@pytest.mark.parametrize("flag", [[], ["--allow-code"]])
def test_no_configuration_names_a_file(seqbench, layer, tmp_path, text, flag):
    (tmp_path / "own" / "experiment").mkdir(parents=True)
    (tmp_path / "own" / "experiment" / "x.yaml").write_text(f"# @package _global_\n{text}")
    (tmp_path / "my_layer.py").write_text(layer.read_text())
    result = seqbench(*flag, "-m", "--config-dir=own", "experiment=x", "device=nowhere")
    assert result.returncode == 2
    assert not (tmp_path / "mark").exists()


def test_lists_are_split_outside_quotes_alone():
    assert userfile._parts("a,'b, c.py:X',\"d e.py:Y\", f") == ["a", "b, c.py:X", "d e.py:Y", "f"]
    assert userfile._parts("it's.py:X") == ["it's.py:X"]
    assert userfile.named(["-m", "model=a,b", "--allow-code", "x"], list) == ["-m", "model=a,b", "x"]


def test_two_files_of_one_name_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(userfile, "_modules", {})
    monkeypatch.setattr(sys, "path", list(sys.path))
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "same_name.py").write_text("x = 1\n")
    assert userfile.load(tmp_path / "one" / "same_name.py").x == 1
    assert userfile.load(tmp_path / "one" / "same_name.py") is sys.modules["same_name"]
    with pytest.raises(UsageError, match="'same_name' is also the name of another module"):
        userfile.load(tmp_path / "two" / "same_name.py")
    del sys.modules["same_name"]
