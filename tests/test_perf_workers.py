"""The regression gate with its workers: commands on a repository of their own. No test judges a time."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import ROOT

from seqbench import cost, locks, store
from seqbench.network import Network, parameter_count
from seqbench.perf import worker
from seqbench.perf.gate import MODELS, Options, Source, count

pytestmark = pytest.mark.timeout(300)  # processes that import torch, on a machine that may be busy

PLANTED_PRODUCT = """
_answer = Network.answer
def _planted(self, x_BTD, batch):
    x_BTD @ x_BTD.new_ones(x_BTD.shape[2], 1)
    return _answer(self, x_BTD, batch)
Network.answer = _planted
"""
NO_STEPPER = "\ndel Stepper\n"
BROKEN_STEP = "\ndef _broken(self, batch): raise RuntimeError('planted')\nStepper.step = _broken\n"


def git(root: Path, *words: str) -> None:
    who = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", str(root), *who, *words], check=True, capture_output=True)


def append(path: Path, text: str) -> None:
    path.write_text(path.read_text(encoding="utf-8") + text, encoding="utf-8")


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Path:
    """A checkout with this package, and branches on which something is planted."""
    root = tmp_path_factory.mktemp("checkout")
    for name in ("seqbench", "conf"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    git(root, "init", "-q", "-b", "main")
    git(root, "add", ".")
    git(root, "commit", "-qm", "main")
    planted = {
        "product": ("network.py", PLANTED_PRODUCT),
        "old": ("stepper.py", NO_STEPPER),
        "broken": ("stepper.py", BROKEN_STEP),
    }
    for branch, (name, text) in planted.items():
        git(root, "checkout", "-qb", branch, "main")
        append(root / "seqbench" / name, text)
        git(root, "commit", "-qam", branch)
    git(root, "checkout", "-q", "main")
    return root


Perf = Callable[..., subprocess.CompletedProcess[str]]


def command(*words: str) -> list[str]:
    return [sys.executable, "-P", "-m", "seqbench.perf", *words]


def surroundings(folder: Path) -> dict[str, str]:
    (folder / "tmp").mkdir(exist_ok=True)
    return os.environ | {
        "PYTHONPATH": str(ROOT), "SEQBENCH_LOCKS": str(locks.folder()), "TMPDIR": str(folder / "tmp"),
    }  # fmt: skip


@pytest.fixture
def perf(repository, tmp_path) -> Perf:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        places = ["--runs", str(tmp_path / "runs"), "--reports", str(tmp_path / "reports")]
        return subprocess.run(
            command(*words, *places),
            cwd=repository, env=surroundings(tmp_path), capture_output=True, text=True, check=False,
            timeout=280,
        )  # fmt: skip

    return run


def kept(tmp_path: Path) -> dict[str, object]:
    [path] = (tmp_path / "runs" / "perf").glob("*.json")
    return store.unsealed(path, store.read_json(path))


@pytest.mark.slow
def test_a_planted_product_is_caught_by_counters_in_every_model(perf, tmp_path):
    junit, markdown = tmp_path / "out.xml", tmp_path / "out.md"
    done = perf("main..product", "--junit", str(junit), "--markdown", str(markdown))
    assert done.returncode == 1, done.stderr
    record = kept(tmp_path)
    assert [row["model"] for row in record["models"]] == list(MODELS)
    for row in record["models"]:
        found = row["checks"]["counters"]
        assert found["verdict"] == "fail"
        assert "forward FLOPs" in found["words"]
        assert "mm" in found["words"]
        assert found["head"]["operators"] > found["base"]["operators"]
        assert list(row["checks"]) == ["counters"], "what grew fails at once"
    assert ET.parse(junit).find("testsuite").get("failures") == "5"
    assert markdown.read_text().count("| slower |") == 5
    assert "5 slower" in (tmp_path / "reports" / "perf.html").read_text()
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.slow
def test_a_revision_without_what_is_needed_cannot_be_told(perf, tmp_path):
    done = perf("old..main", "--models", "rnn")
    assert done.returncode == 3, done.stderr
    assert "base cannot be measured" in done.stdout
    assert "Stepper" in done.stdout


@pytest.mark.slow
def test_a_head_that_fails_is_slower(perf, tmp_path):
    done = perf("main..broken", "--models", "rnn", "--no-record")
    assert done.returncode == 1, done.stderr
    assert "head fails: RuntimeError: planted" in done.stdout
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_a_model_that_neither_side_knows_is_a_slip(perf):
    done = perf("main..product", "--models", "lstn")
    assert done.returncode == 2
    assert done.stderr.startswith("seqbench.perf: ")
    assert "did you mean 'lstm'" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_the_working_tree_is_the_head_and_time_and_quality_are_recorded(perf, repository, tmp_path):
    """The verdict on time is the machine's; that everything is there is ours."""
    done = perf("main..", "--models", "lstm", "--lengths", "16", "--seconds", "1", "--quality", "2")
    assert done.returncode in (0, 1, 3), done.stderr
    record = kept(tmp_path)
    assert record["head"]["name"] == "working tree"
    [row] = record["models"]
    assert row["checks"]["counters"]["words"] == "equal"
    timed = row["checks"]["time"]
    assert timed["pairs"] == len(timed["log_ratios"]) >= 12
    assert timed["low"] <= timed["ratio"] <= timed["high"]
    assert row["checks"]["quality"]["scores"]["base"] == row["checks"]["quality"]["scores"]["head"]
    assert record["machine"]["id"]


@pytest.mark.slow
def test_a_baseline_of_counters_holds_until_something_grows(perf, tmp_path):
    path = tmp_path / "counters.json"
    assert perf("--store", str(path), "--models", "rnn,lstm").returncode == 0
    assert perf("--baseline", str(path), "--models", "rnn,lstm", "--no-record").returncode == 0
    plain = json.loads(path.read_text())
    plain["counters"]["lstm T=128"]["saved_bytes"] -= 1
    path.write_text(json.dumps(plain))
    done = perf("--baseline", str(path), "--models", "rnn,lstm,gru")
    assert done.returncode == 1
    assert "saved bytes" in done.stdout
    assert "the baseline has no gru T=128" in done.stdout
    assert kept(tmp_path)["kind"] == "baseline"


@pytest.mark.slow
def test_the_gate_compares_head_with_itself_and_counts(perf, tmp_path):
    done = perf("--aa", "2", "--models", "lstm", "--lengths", "16", "--seconds", "0.5")
    assert done.returncode in (0, 1), done.stderr
    assert "identical code accused in" in done.stdout
    assert " of 2 (" in done.stdout


@pytest.mark.slow
def test_ctrl_c_leaves_no_process_and_no_folder(repository, tmp_path):
    process = subprocess.Popen(
        command("main..product", "--keep-going", "--seconds", "600"),
        cwd=repository, env=surroundings(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert "rnn T=128: counters" in process.stderr.readline()
    marker = f"{tmp_path}/tmp/"
    assert len(workers(marker)) == 2
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "interrupted" in said
    assert "Traceback" not in said
    deadline = time.monotonic() + 10
    while workers(marker) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert workers(marker) == []
    assert list((tmp_path / "tmp").iterdir()) == []


def workers(marker: str) -> list[int]:
    """Processes that run with a package below this folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            variables = path.read_bytes().split(b"\0")
        except OSError:  # it has gone, or is not ours
            continue
        if any(one.startswith(f"PYTHONPATH={marker}".encode()) for one in variables):
            found.append(int(path.parent.name))
    return found


@pytest.mark.slow
def test_counters_are_the_same_from_process_to_process(tmp_path):
    options = Options(models=("rnn", "bilstm", "transformer"), lengths=(32,))
    one, other = (count(Source(ROOT), tmp_path, options, {}) for _ in range(2))
    assert one == other
    assert all(counters["train_flops"] > 2 * counters["forward_flops"] > 0 for counters in one.values())


# Single counters, in this process


@pytest.fixture(params=MODELS)
def session(request, tmp_path) -> worker.Session:
    session = worker.Session("cpu", 0.0)
    path = str(tmp_path / "batches.npz")
    session.draw(32, path)
    session.open(request.param, 32, path, None)
    return session


def test_operations_and_parameters_are_those_of_the_rest_of_seqbench(session):
    found = worker._flops(session.make, session.ready[0])
    with torch.device("meta"):
        network = session.make()
    assert found["parameters"] == parameter_count(network)
    assert found["forward_flops"] == cost.forward_flops(network, worker._moved(session.ready[0], "meta"))


def test_saved_bytes_grow_by_exactly_what_is_kept_more(session, monkeypatch):
    before = worker._saved(session._stepper(), session.ready[0])["saved_bytes"]
    answer, kept_bytes = Network.answer, []

    def keeps_more(self, x_BTD, batch):
        more = x_BTD.exp()  # saves its result
        kept_bytes.append(more.untyped_storage().nbytes())
        outputs, targets = answer(self, x_BTD, batch)
        return outputs + 0 * more.sum(), targets

    monkeypatch.setattr(Network, "answer", keeps_more)
    after = worker._saved(session._stepper(), session.ready[0])["saved_bytes"]
    assert after - before == kept_bytes[0] > 0


def test_operators_grow_with_every_one_more(session, monkeypatch):
    before = session._operators()
    answer = Network.answer

    def doubles(self, x_BTD, batch):
        x_BTD.detach().abs().view(-1)  # a view is no operator
        return answer(self, x_BTD, batch)

    monkeypatch.setattr(Network, "answer", doubles)
    after = session._operators()
    assert after["operators"] == before["operators"] + worker._LOG_EVERY
    assert after["by_operator"]["abs.default"] == worker._LOG_EVERY


def test_a_planted_slowdown_takes_the_share_of_cpu_time_that_it_says(session, monkeypatch):
    """On a clock that only work moves: a step takes 1, so that half more is planted at 0.5."""
    clock = [0.0]

    def read() -> float:
        clock[0] += 1 / 1024  # so that the waste has an end
        return clock[0]

    class Step:
        done = 0

        def step(self, batch):
            clock[0] += 1.0
            self.done += 1

        def drain(self):
            pass

    monkeypatch.setattr(worker.time, "process_time", read)
    session.stepper, session.planted = Step(), 0.5
    assert session._timed(4) == pytest.approx(6.0, rel=0.01)
