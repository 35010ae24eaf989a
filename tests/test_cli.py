"""The command line: every slip gets one line and exit code 2 before anything heavy is imported."""

from __future__ import annotations

import itertools
import json
import sys
from dataclasses import replace
from importlib.metadata import entry_points

import pytest

from seqbench import cli
from seqbench.config import Job
from seqbench.registry import plugins

HEAVY = ["torch", "pandas", "seaborn", "datasets", "matplotlib", "scipy", "statsmodels", "pyarrow"]

# What was typed, and what the one line must say.
SLIPS = {
    "model=lstn": "no model 'lstn'; did you mean 'lstm'? choices: attention, bag",
    "-m model=rnn,lstn": "no model 'lstn'; did you mean 'lstm'?",
    "model=": "no model ''; choices: attention",
    "task=mqr": "no task 'mqr'; did you mean 'mqar'?",
    "probes=[gradient_flo]": "probes=gradient_flo: no such probe; did you mean 'gradient_flow'?",
    "experiment=nowhere": "experiment/nowhere",
    "trian.lr=1": "no setting 'trian.lr'; did you mean 'train'?",
    "train.lrr=1": "no setting 'train.lrr' for train; did you mean 'lr'?",
    "+foo=1": "no setting 'foo'; did you mean 'force'?",
    "++train.x=3": "no setting 'train.x' for train",
    "model=rnn model.heads=2": "no setting 'model.heads' for rnn; choices: bidirectional",
    "-m model=transformer,rnn model.heads=2": "no setting 'model.heads' for rnn",
    "task=mqar task.lengths=[8]": "no setting 'task.lengths' for mqar",
    "hydra.foo=1": "hydra.foo=1: this part of Hydra can run code or hide settings; allowed are",
    "train": "'train': expected key=value",
    "-m lstm": "'lstm': expected key=value",
    "--hepl": "no flag '--hepl'; did you mean '--help'?",
    "model=rnn,lstm": "model=rnn,lstm: several values need -m",
    "train.lr=[1": "'train.lr=[1': cannot be read",
    "train.lr=abc": "train.lr: Value 'abc' of type 'str' could not be converted to Float",
    "train.batch_size=1.5": "train.batch_size: Value '1.5' of type 'float'",
    "train.steps=null": "train.steps",
    "force=maybe": "force: Value 'maybe' is not a valid bool",
    "task.lengths=16": "task.lengths: expected a list like [16]",
    "task.lengths=[]": "task.lengths=[]: expected different values",
    "task.lengths=[16,16]": "task.lengths=[16, 16]: expected different values",
    "task.lengths=[4]": "task.lengths=4: must be at least 8",
    "model.layers=0": "model.layers=0: must be at least 1",
    "network.dropout=1": "network.dropout=1.0: must be at most 0.95",
    "train.lr=nan": "train.lr=nan: must be a finite number",
    "train.lr=inf": "train.lr=inf: must be a finite number",
    "model=lstm model.forget_bias=inf": "model.forget_bias=inf: must be a finite number",
    "train.schedule=cosin": "train.schedule=cosin: not allowed; did you mean 'cosine'?",
    "device=cud": "device=cud: not allowed; did you mean 'cuda'? choices: auto, cpu, cuda",
    "seeds=0": "seeds=0: expected a positive number",
    "seeds=[1,1]": "seeds=[1, 1]: expected a positive number, or a list of different seeds",
    "task=mqar task.pairs=[20]": "task.pairs=20: needs as many keys; raise task.keys (now 16)",
    "model=transformer model.hidden=9": "model.hidden=9: must be a multiple of 4",
    "model=transformer model.bidirectional=true": "reads both directions with model.causal=false",
    "sweep=../up": "sweep=../up: use at most 80 letters",
    "--config-dir=/nonexistent": "/nonexistent",
}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["seqbench"])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")


@pytest.mark.parametrize("line", SLIPS)
def test_a_slip_gets_one_line_and_exit_code_2(line, capsys, tmp_path):
    with pytest.raises(SystemExit) as ended:
        cli.main(line.split(" "))
    out, err = capsys.readouterr()
    assert ended.value.code == 2
    assert out == ""
    assert err.startswith("seqbench: ")
    assert err.endswith("\n")
    assert err.count("\n") == 1
    assert SLIPS[line] in err
    assert list(tmp_path.iterdir()) == []  # nothing was started


CODE = """
import contextlib, io, json, sys
from seqbench.cli import main
lines, heavy = map(json.loads, sys.argv[1:])
codes = []
for line in lines:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            main(line)
        except SystemExit as ended:
            codes.append(ended.code)
print(json.dumps([codes, sorted(set(sys.modules) & set(heavy))]))
"""


def heavy_after(run_python, lines: list[list[str]]) -> tuple[list[int], list[str]]:
    """Exit codes of several command lines in one fresh process, and what heavy modules it then holds."""
    result = run_python("-c", CODE, json.dumps(lines), json.dumps([*HEAVY, "rich", "jinja2"]))
    assert result.returncode == 0, result.stderr
    codes, modules = json.loads(result.stdout)
    return codes, modules


def test_no_slip_imports_anything_heavy(run_python):
    lines = [line.split(" ") for line in list(SLIPS)[::8]]
    codes, modules = heavy_after(run_python, lines)
    assert codes == [2] * len(lines)
    assert modules == []


def test_help_version_and_composition_import_nothing_heavy(run_python):
    lines = [["--help"], ["-h"], ["--version"], ["--cfg", "job"], ["--cfg", "job", "task=mqar", "model=gru"]]
    codes, modules = heavy_after(run_python, lines)
    assert codes == [0] * len(lines)
    assert modules == []


def test_the_check_for_heavy_modules_can_fail(run_python):
    code = CODE.replace(
        "from seqbench.cli import main", "from seqbench.cli import main\nimport seqbench.match"
    )
    result = run_python("-c", code, "[]", json.dumps(HEAVY))
    assert json.loads(result.stdout)[1] == ["torch"]


def test_the_module_and_the_console_script_end_alike(seqbench, run_python):
    [script] = [point for point in entry_points(group="console_scripts") if point.name == "seqbench"]
    assert script.load() is cli.main
    module = seqbench("model=lstn", cold=True)
    started = run_python("-c", f"from {script.module} import {script.attr} as run; run()", "model=lstn")
    assert module.returncode == started.returncode == 2
    assert module.stderr == started.stderr
    assert module.stderr.count("\n") == 1


def test_help_names_every_model_task_and_setting(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["--help"])
    text = capsys.readouterr().out
    assert ended.value.code == 0
    assert "python -m seqbench -m model=rnn,lstm,gru,transformer" in text
    words = [
        *plugins("model"),
        *plugins("task"),
        "train.lr=",
        "limit.time_s=",
        "seeds=3",
        "forget_bias",
        "Exit codes",
    ]
    assert [word for word in words if word not in text] == []
    assert "hydra" not in text.split("\n")[0].lower()
    assert "object at 0x" not in text


NEED_DATA = ("charlm", "text")  # tasks on a file of the user's
SOME = ["gru", "mamba2"]
PAIRS = {
    (model, task)
    for (model, one), (task, other) in itertools.product(plugins("model").items(), plugins("task").items())
    if not (other.forbids_looking_ahead and one().looks_ahead) and (model in SOME or task == "temporal_order")
}


@pytest.fixture(scope="module")
def every_job(tmp_path_factory) -> list[Job]:
    """Every model on the default task, and some models on every task."""
    file = tmp_path_factory.mktemp("data") / "own.csv"
    file.write_text("text,label\na,b\n")
    everywhere = [name for name in plugins("task") if name not in NEED_DATA]
    sweeps = [
        (list(plugins("model")), ["temporal_order"], []),
        (SOME, everywhere, []),
        *((SOME, [task], [f"task.path={file}"]) for task in NEED_DATA),
    ]
    jobs = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["seqbench"])
        for models, tasks, words in sweeps:
            able = [model for model in models if all((model, task) in PAIRS for task in tasks)]
            jobs += cli.compose(["-m", f"model={','.join(able)}", f"task={','.join(tasks)}", *words])
    return jobs


def test_every_model_and_every_task_composes(every_job):
    models = plugins("model")
    assert {(job.model.name, job.task.name) for job in every_job} == PAIRS
    assert all(type(job.model) is models[job.model.name] for job in every_job)
    assert all(isinstance(job, Job) for job in every_job)


@pytest.mark.parametrize("task", plugins("task"))
def test_the_same_recipe_goes_to_every_model_of_a_task(every_job, task):
    first, *others = [job for job in every_job if job.task.name == task]
    for job in others:
        assert (
            replace(job.train, lr=first.train.lr, tuned=first.train.tuned) == first.train
        )  # only the learning rate is tuned per model
        assert (job.network, job.match, job.task) == (first.network, first.match, first.task)


def test_a_sweep_without_a_task_runs_the_built_in_default():
    jobs = cli.compose(["-m", "model=rnn,lstm,gru,transformer"])
    assert {job.task.name for job in jobs} == {"temporal_order", "mqar"}
    assert len(jobs) == 8
    assert {tuple(job.seeds) for job in jobs} == {(0, 1, 2)}
    [single] = cli.compose(["model=gru"])
    assert (single.model.name, single.task.name) == ("gru", "temporal_order")


def test_the_command_line_wins_over_every_file():
    options = [
        "train.lr=0.125",
        "train.steps=7",
        "network.embedding_width=5",
        "seeds=[4,2]",
        "model.hidden=3",
    ]
    [job] = cli.compose(["model=lstm", *options])
    assert (job.train.lr, job.train.steps, job.network.embedding_width) == (0.125, 7, 5)
    assert (job.seeds, job.model.hidden) == ([4, 2], 3)


def experiments() -> list[str]:
    return sorted(path.stem for path in (cli.conf_folder() / "experiment").glob("*.yaml"))


@pytest.mark.parametrize("name", experiments())
def test_every_experiment_composes(name):
    assert cli.compose(["-m", f"experiment={name}"])


def test_every_tuned_file_and_recipe_belongs_to_something():
    tasks, models = plugins("task"), plugins("model")
    for path in (cli.conf_folder() / "tuned").glob("*.yaml"):
        task, model = path.stem.split("-", 1)
        assert task in tasks, path
        assert model in models, path
    assert {path.stem for path in (cli.conf_folder() / "recipe").glob("*.yaml")} <= set(tasks)


def test_cfg_job_prints_the_composed_settings_and_runs_nothing(seqbench, tmp_path):
    result = seqbench("--cfg", "job", "model=gru", "train.lr=0.5")
    assert result.returncode == 0
    assert "name: gru" in result.stdout
    assert "lr: 0.5" in result.stdout
    assert list(tmp_path.iterdir()) == []
