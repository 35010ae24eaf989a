"""What nobody vouches for does no harm: every campaign at a small size, and the guard by itself."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from faults import hostile
from faults.bad_words import BAD_YAML

from seqbench import guard
from seqbench.cli import conf_folder
from seqbench.errors import UsageError


@pytest.mark.slow
@pytest.mark.parametrize("campaign", hostile.CAMPAIGNS, ids=lambda campaign: campaign.name)
def test_campaign(campaign, tmp_path):
    figure = campaign.run(campaign.few, tmp_path, random.Random(0))
    assert figure.violations == []
    assert figure.tried >= 12


FINE = [
    "model=lstm", "-m=1", "train.lr=0.1,0.2", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2",
    "+hydra.launcher.batch_size=auto", "hydra.sweeper.params.task=mqar,imdb", "hydra.sweep.dir=elsewhere",
    "hydra.verbose=[a,b]", "experiment=mine/first", "sweep=my_target_run", "sweep=${task.name}-${model.name}",
    "runs_dir=../runs", "runs_dir=/tmp/a", "task.path=C:/data", "model.pad_token=<pad>", "task.keys=16",
    "cache_dir=a//b", "sweep=a$b", "model.note=max_tokens", "hydrant=1",
]  # fmt: skip


@pytest.mark.parametrize("word", FINE)
def test_ordinary_words_pass(word):
    guard.check_words([word])


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("a=_target_", "_target_ would run code"),
        ("a={_args_:[1]}", "_args_ would run code"),
        ("a={x:{_par\\tial_:1}}", "_partial_ would run code"),
        ("hydra.job.chdir=true", "can run code or hide settings; allowed are hydra/launcher=NAME"),
        ("+hydra.sweeper.params.+hydra.mode=RUN", "can run code or hide settings"),
        ("hydra.sweeper.params.experiment=../x", "expected a name below the configuration folder"),
        ("experiment=[a,/b]", "expected a name below the configuration folder"),
        ("a=${x}${oc.env:HOME}", "only ${setting} is read"),
        ("a=${${b}:HOME}", "only ${setting} is read"),
        ("hub.password=abc", "settings are recorded and a secret must not be"),
        ("model.note=ghp_0123456789abcdefghij", "settings are recorded and a secret must not be"),
        ("a=\N{ZERO WIDTH SPACE}", "cannot be printed"),
    ],
)
def test_the_reason_is_named(word, reason):
    with pytest.raises(UsageError) as error:
        guard.check_words([word])
    assert reason in str(error.value)


def test_an_error_shows_no_secret_and_no_more_than_a_line():
    assert guard.shown("hub.token=abcdef") == "hub.token=***"
    assert guard.shown("a\nb") == "a?b"
    assert len(guard.shown("x" * 1_000)) == 120


def test_the_own_configuration_passes_but_for_what_it_tells_hydra():
    with pytest.raises(UsageError, match="config.yaml: line .* can run code"):
        guard.check_folder(conf_folder())
    for name in ("experiment", "tuned", "recipe"):
        guard.check_folder(conf_folder() / name)


def test_a_folder_of_ones_own_works(tmp_path, seqbench):
    (tmp_path / "own" / "experiment").mkdir(parents=True)
    (tmp_path / "own" / "experiment" / "mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /model: gru\n  - override /task: mqar\n"
        "train:\n  lr: 0.25\nsweep: ${task.name}-${model.name}\n"
    )
    result = seqbench("--config-dir=own", "--cfg=job", "--resolve", "experiment=mine")
    assert result.returncode == 0, result.stderr
    for line in ("name: gru", "lr: 0.25", "sweep: mqar-gru"):
        assert line in result.stdout


def test_a_file_of_the_folder_may_be_a_link_inside_it(tmp_path):
    (tmp_path / "real.yaml").write_text("a: 1\n")
    (tmp_path / "link.yaml").symlink_to("real.yaml")
    guard.check_folder(tmp_path)


@pytest.mark.parametrize(("name", "content", "reason"), BAD_YAML, ids=range(len(BAD_YAML)))
def test_a_file_is_refused_with_its_place(tmp_path, name, content, reason):
    file = tmp_path / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    with pytest.raises(UsageError) as error:
        guard.check_folder(tmp_path)
    assert str(error.value).startswith(f"{tmp_path / name}: {reason}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("module", ["seqbench", "seqbench.report"])
def test_no_module_comes_from_the_current_folder(run_python, tmp_path: Path, module):
    names = [
        "argparse",
        "pathlib",
        "__future__",
        "typing",
        "json",
        "pandas",
        "hydra",
        "yaml",
        "multiprocessing",
    ]
    for name in names:
        (tmp_path / f"{name}.py").write_text("open('mark', 'w').close()\n")
    (tmp_path / "hydra_plugins").mkdir()
    (tmp_path / "hydra_plugins" / "evil.py").write_text("open('mark', 'w').close()\n")
    words = ["--cfg", "job"] if module == "seqbench" else ["nowhere"]
    result = run_python("-m", module, *words, cold=True)
    assert result.returncode == (0 if module == "seqbench" else 2), result.stderr
    assert not (tmp_path / "mark").exists()


def test_a_sweep_of_hydra_leaves_nothing_behind(tmp_path, monkeypatch):
    from seqbench import cli

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["seqbench"])
    assert len(cli.compose(["-m", "model=rnn,gru", "task=mqar"])) == 2
    assert list(tmp_path.iterdir()) == []
