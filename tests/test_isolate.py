"""Whatever a run does to itself becomes a record with the right status; the other runs go on.

A user's own file plays the model: it registers a layer and ends in ``main()``, as the README shows.
"""

from __future__ import annotations

import dataclasses
import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import environment

from seqbench import environment as environment_
from seqbench import isolate, locks, records
from seqbench import sweep as sweep_
from seqbench.plan import plan
from seqbench.records import Run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

FAULTY = '''
import ctypes, os, signal, sys, time
from dataclasses import dataclass

from seqbench.cli import main
from seqbench.models.base import ModelConfig
from seqbench.registry import register
from seqbench.schema import setting


@register("model")
@dataclass
class Faulty(ModelConfig):
    """A model that fails in the way it is told."""

    name: str = "faulty"
    how: str = setting("fine", "the way to fail")

    def build(self, width_in, hidden):
        import torch

        from seqbench.layers.recurrent import GRULayer

        class Nan(GRULayer):
            def forward(self, x_BTD, *, mask_BT=None, state=None):
                y_BTH, state = super().forward(x_BTD, mask_BT=mask_BT, state=state)
                return y_BTH * float("nan"), state

        print("building", self.how, flush=True)
        match self.how:
            case "raise": raise ValueError("wrong by design")
            case "sys-exit": sys.exit(5)
            case "os-exit": os._exit(3)
            case "kill": os.kill(os.getpid(), signal.SIGKILL)
            case "segfault": ctypes.string_at(0)
            case "hang": time.sleep(600)
            case "oom": torch.empty(1 << 50)
            case "no-encoder": return torch.nn.Linear(width_in, hidden)
            case "nan": return Nan(width_in, hidden, None)
        return GRULayer(width_in, hidden, None)


if __name__ == "__main__":
    main()
'''

TINY = [
    "task=temporal_order", "task.lengths=[8]", "train.steps=4", "train.eval_every=2", "train.eval_examples=8",
    "train.test_examples=8", "train.log_every=1", "canaries=false", "model.hidden=4",
]  # fmt: skip

OUTCOMES = {
    "raise": ("failed", "ValueError", "wrong by design"),
    "sys-exit": ("failed", "ProcessEnded", "exit code 5"),
    "os-exit": ("failed", "ProcessEnded", "exit code 3"),
    "kill": ("killed", "ProcessEnded", "signal 9"),
    "segfault": ("killed", "ProcessEnded", "signal 11"),
    "hang": ("timeout", "TimeLimit", "longer than limit.time_s=10"),
    "oom": ("oom", "RuntimeError", "can't allocate memory"),
    "no-encoder": ("failed", "TypeError", "build() returned Linear"),
    "nan": ("diverged", "Diverged", "step 1: loss nan"),
    "fine": ("done", None, None),
}


def runs_below(folder: Path) -> list[Run]:
    return [records.read_run(path.parent) for path in sorted(folder.glob("runs/*/*/run.json"))]


@pytest.fixture(scope="module")
def sweep(python_in, tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess]:
    folder = tmp_path_factory.mktemp("faulty")
    (folder / "faulty.py").write_text(FAULTY)
    result = python_in(
        folder, "faulty.py", "-m", "model=faulty", f"model.how={','.join(OUTCOMES)}", *TINY, "seeds=1",
        "speed.enabled=false", "limit.time_s=10", "workers=2", timeout=150,
    )  # fmt: skip
    return folder, result


@pytest.mark.parametrize("how", OUTCOMES)
def test_every_way_to_end_becomes_a_record(sweep, how):
    folder, result = sweep
    [run] = [run for run in runs_below(folder) if run.config["model"]["how"] == how]
    status, kind, message = OUTCOMES[how]
    assert run.status == status, result.stdout + result.stderr
    if kind is None:
        assert run.error is None
        assert run.metrics["steps"] == 4
    else:
        assert run.error["type"] == kind
        assert message in run.error["message"]


def test_every_planned_run_is_accounted_for(sweep):
    folder, result = sweep
    [written] = folder.glob("runs/*/plan.json")
    planned = {run["identity"] for run in records.read_plan(written.parent)["runs"]}
    assert planned == {run.identity for run in runs_below(folder)}
    assert len(planned) == len(OUTCOMES)
    shown = [line.split("] ")[1].split()[0] for line in result.stdout.splitlines() if line.startswith("[")]
    assert sorted(shown) == sorted(status for status, _, _ in OUTCOMES.values())


def test_a_failed_run_makes_the_exit_code_1(sweep):
    _, result = sweep
    assert result.returncode == 1, result.stdout + result.stderr
    assert "Traceback" not in result.stdout + result.stderr


def test_the_error_names_its_place_and_keeps_the_log(sweep):
    folder, _ = sweep
    runs = {run.config["model"]["how"]: run for run in runs_below(folder)}
    assert runs["raise"].error["place"].startswith("faulty.py:")
    assert "building os-exit" in runs["os-exit"].error["place"]  # the last lines of its log
    [log] = folder.glob("runs/*/*how-raise*/log.txt")
    assert "Traceback" in log.read_text()


def test_fail_fast_stops_at_the_first_run_that_does_not_end_well(python_in, tmp_path):
    (tmp_path / "faulty.py").write_text(FAULTY)
    command = ["faulty.py", "-m", "model=faulty", "model.how=fine,raise,hang", *TINY, "seeds=1", "workers=1"]
    result = python_in(tmp_path, *command, "speed.enabled=false", "fail_fast=true")
    statuses = {run.config["model"]["how"]: run.status for run in runs_below(tmp_path)}
    assert statuses == {"fine": "done", "raise": "failed"}, result.stdout + result.stderr
    assert "fail_fast=true" in result.stdout
    assert "3 runs planned = 1 done + 1 failed + 1 pending" in result.stdout
    assert result.returncode == 1


class Ended:
    """A child process that is gone, as :mod:`multiprocessing` shows it."""

    pid = None

    def __init__(self, exitcode: int) -> None:
        self.exitcode = exitcode


@pytest.fixture
def child(make_job, tmp_path):
    """A child of a unit whose last attempt failed: how it ends, and what it tells its parent before."""
    [unit] = plan([make_job(seeds=[0], task_options={"lengths": [8]}, speed={"enabled": False})], tmp_path)
    isolate.write_failure(unit, isolate.Death("failed", "ValueError", "the first time"))

    def make(exitcode: int, *told: object) -> isolate.Child:
        inbox, outbox = multiprocessing.Pipe(duplex=False)
        for one in told:
            outbox.send(one)
        outbox.close()
        return isolate.Child(unit, Ended(exitcode), inbox, environment_.oom_kills())

    return make


def test_the_record_of_an_earlier_attempt_is_not_taken_for_this_one(child):
    one = child(-9)
    assert isolate._outcome(one).error["message"] == "signal 9"
    assert records.read_run(one.unit.folder).status == "killed"


def test_what_the_child_committed_counts_whatever_another_sweep_did_to_the_folder_since(child):
    one = child(0)
    run = dataclasses.replace(records.read_run(one.unit.folder), error={"message": "the real reason"})
    two = child(0, "working", run)
    records.write_run(two.unit.folder, dataclasses.replace(run, status="interrupted"), {})
    assert isolate._outcome(two).error["message"] == "the real reason"
    assert two.working_since is not None


def test_a_failure_is_not_written_over_what_another_sweep_finished(child):
    one = child(1)
    done = dataclasses.replace(records.read_run(one.unit.folder), status="done", error=None)
    records.write_run(one.unit.folder, done, {})
    assert isolate._outcome(one).status == "done"
    assert records.read_run(one.unit.folder).status == "done"


def test_a_failure_is_not_written_while_another_sweep_is_at_work_on_the_run(child):
    one = child(1)
    with locks.file_lock(one.unit.folder / records.LOCK_FILE):
        assert isolate._outcome(one).status == "failed"
    assert records.read_run(one.unit.folder).error["message"] == "the first time"


def test_the_kernels_out_of_memory_killer_is_told_from_other_kills(child, monkeypatch):
    one = child(-9)
    monkeypatch.setattr(environment_, "oom_kills", lambda: one.oom_kills + 1)
    assert isolate._outcome(one).status == "oom"


def test_a_failure_that_cannot_be_recorded_is_told_all_the_same(child, monkeypatch):
    def full(*_args: object, **_options: object) -> None:
        raise OSError(28, "No space left on device")

    one = child(-9)
    monkeypatch.setattr(records, "write_run", full)
    run = isolate._outcome(one)
    assert (run.status, run.error["message"]) == ("killed", "signal 9; not recorded: No space left on device")


def test_code_that_is_edited_while_the_sweep_runs_is_not_recorded_as_what_was_planned(run_python, tmp_path):
    edit = MINE.replace(
        "        import torch\n",
        "        import torch, pathlib\n"
        "        if torch.empty(0).device.type == 'cpu':\n"
        "            with pathlib.Path(__file__).open('a') as file: file.write('# edited\\n')\n",
    )
    (tmp_path / "mine.py").write_text(edit)
    command = ["mine.py", "-m", "model=mine", *TINY, "seeds=2", "speed.enabled=false", "workers=1"]
    run_python(*command)
    statuses = {run.status for run in runs_below(tmp_path)}
    assert statuses == {"failed"}
    assert {run.error["type"] for run in runs_below(tmp_path)} == {"Moved"}


def test_what_a_run_left_behind_is_ended_and_holds_no_lock(run_python, tmp_path):
    orphan = MINE.replace(
        "        import torch\n",
        "        import os, signal, time, torch\n"
        "        if os.fork() == 0: time.sleep(100); os._exit(0)\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n",
    )
    (tmp_path / "mine.py").write_text(orphan)
    command = ["mine.py", "-m", "model=mine", *TINY, "seeds=1", "speed.enabled=false"]
    run_python(*command, SEQBENCH_LOCKS=str(tmp_path))
    [run] = runs_below(tmp_path)
    assert (run.status, run.error["message"]) == ("killed", "signal 9")
    [lock] = tmp_path.glob("runs/*/*/.lock")
    for path in (lock, tmp_path / "seqbench-room.lock"):
        with locks.file_lock(path, patience_s=0):
            pass


def test_the_time_limit_does_not_count_another_sweeps_work(run_python, tmp_path):
    shared = [
        "model=rnn", "task.lengths=[8]", "seeds=1", "task.solved_at=null", "speed.enabled=false",
        "canaries=false", "train.eval_every=1000000", "train.steps=4000", "sweep=s",
    ]  # fmt: skip
    first = start(tmp_path, *shared)
    wait_until(lambda: any(path.stat().st_size for path in tmp_path.glob("runs/*/*/events.jsonl")))
    second = run_python("-m", "seqbench", *shared, "limit.time_s=1", SEQBENCH_LOCKS=str(tmp_path))
    outs = [first.communicate(timeout=100)[0], second.stdout + second.stderr]
    assert [first.returncode, second.returncode] == [0, 0], outs
    assert "timeout" not in "".join(outs)


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    """Start ``python -m seqbench`` in a session of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "seqbench", *words], cwd=folder, env=environment(folder), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip


def test_two_different_commands_in_one_sweep_at_once_end_with_all_runs_in_the_table(run_python, tmp_path):
    shared = ["-m", "seqbench", "model=rnn", *TINY, "speed.enabled=false", "train.steps=300", "sweep=s"]
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda seeds: run_python(*shared, f"seeds={seeds}"), ("[0,1,2]", "[5]")))
    outs = [result.stdout + result.stderr for result in both]
    assert [result.returncode for result in both] == [0, 0], outs
    assert "left out" not in "".join(outs)
    plan = records.read_plan(tmp_path / "runs" / "s")
    assert {run["seed"] for run in plan["runs"]} == {0, 1, 2, 5}
    assert {run.status for run in runs_below(tmp_path)} == {"done"}


def test_force_redoes_and_an_interrupted_redo_goes_on_without_it(run_python, tmp_path):
    command = ["-m", "seqbench", "model=rnn", *TINY, "seeds=2", "speed.enabled=false"]
    run_python(*command)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/*/*/run.json")}
    again = run_python(*command, "force=true")
    assert "reused" not in again.stdout
    assert all(path.stat().st_mtime_ns > time_ns for path, time_ns in before.items())
    assert "2 reused" in run_python(*command).stdout


def test_ctrl_c_while_data_is_prepared_ends_it(tmp_path):
    slow = (
        "import time\nfrom dataclasses import dataclass\nfrom seqbench.cli import main\n"
        "from seqbench.registry import register\nfrom seqbench.tasks.temporal_order import TemporalOrder\n"
        "@register('task')\n@dataclass\nclass Slow(TemporalOrder):\n    name: str = 'slow'\n"
        "    def prepare(self, cache):\n"
        "        open('preparing', 'w').close(); time.sleep(600)\n"
        "if __name__ == '__main__':\n    main()\n"
    )
    (tmp_path / "slow.py").write_text(slow)
    process = subprocess.Popen(
        [sys.executable, "slow.py", "task=slow", "model=rnn"], cwd=tmp_path, env=environment(tmp_path),
        text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    wait_until((tmp_path / "preparing").exists)
    os.killpg(process.pid, signal.SIGINT)
    out = process.communicate(timeout=30)[0]  # it would wait ten minutes
    assert process.returncode == 1
    assert "go on with" in out


def test_a_child_that_hangs_in_c_ends_with_a_sweep_that_is_killed(tmp_path):
    (tmp_path / "faulty.py").write_text(FAULTY.replace("time.sleep(600)", "ctypes.PyDLL(None).sleep(600)"))
    command = ["faulty.py", "model=faulty", "model.how=hang", *TINY, "seeds=1", "speed.enabled=false"]
    process = subprocess.Popen(
        [sys.executable, *command], cwd=tmp_path, env=environment(tmp_path), stdout=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    wait_until(lambda: any("building" in path.read_text() for path in tmp_path.glob("runs/*/*/log.txt")))
    time.sleep(0.5)  # now it holds the interpreter's lock, and its own locks
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    [lock] = tmp_path.glob("runs/*/*/.lock")
    wait_until(lambda: is_free(lock) and is_free(tmp_path / "seqbench-room.lock"))


def is_free(lock: Path) -> bool:
    try:
        with locks.file_lock(lock, patience_s=0):
            return True
    except BlockingIOError:
        return False


def test_a_failure_is_settled_only_where_no_other_sweep_finished_the_run(child):
    one = child(1)
    failed = dataclasses.replace(records.read_run(one.unit.folder), status="killed")
    done = dataclasses.replace(failed, status="done", error=None)
    records.write_run(one.unit.folder, done, {})
    plan = {"runs": [], "commands": [], "models": []}
    sweep_._settle(one.unit.folder.parent, plan, [(one.unit, failed)])
    assert records.read_run(one.unit.folder).status == "done"
    records.write_run(one.unit.folder, dataclasses.replace(failed, status="interrupted"), {})
    sweep_._settle(one.unit.folder.parent, plan, [(one.unit, failed)])
    assert records.read_run(one.unit.folder).status == "killed"


def test_what_an_editor_leaves_beside_a_users_file_changes_nothing(run_python, tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    command = ["mine.py", "-m", "model=mine", *TINY, "seeds=1", "speed.enabled=false"]
    run_python(*command)
    (tmp_path / ".#mine.py").symlink_to("somebody@somewhere.1234")
    again = run_python(*command)
    assert "1 reused" in again.stdout, again.stdout + again.stderr


def test_nohup_is_respected(tmp_path):
    words = ["model=rnn", *TINY, "seeds=1", "speed.enabled=false", "train.steps=600", "train.eval_every=600"]
    process = subprocess.Popen(
        ["nohup", sys.executable, "-m", "seqbench", *words], cwd=tmp_path, env=environment(tmp_path),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    wait_until(lambda: list(tmp_path.glob("runs/*/plan.json")))
    os.kill(process.pid, signal.SIGHUP)
    assert process.wait(timeout=60) == 0


def test_a_diverged_run_keeps_what_it_logged(sweep):
    folder, _ = sweep
    [run] = [run for run in runs_below(folder) if run.status == "diverged"]
    assert run.metrics["first_batch_sha256"]
    assert run.config["model"]["how"] == "nan"


MINE = '''
from dataclasses import dataclass

from seqbench.cli import main
from seqbench.layers.base import Encoder
from seqbench.models.base import ModelConfig
from seqbench.registry import register
from seqbench.schema import setting


@register("model")
@dataclass
class Mine(ModelConfig):
    """Exponential moving average of projected inputs."""

    name: str = "mine"
    keep: float = setting(0.9, "share of the average that stays", minimum=0.0, maximum=1.0)

    def build(self, width_in, hidden):
        import torch

        class Average(Encoder):
            kernel = "python loop"

            def __init__(self, keep):
                super().__init__()
                self.width_out, self.keep = hidden, keep
                self.project = torch.nn.Linear(width_in, hidden)

            def forward(self, x_BTD, *, mask_BT=None, state=None):
                h_BH = 0 if state is None else state
                outputs = []
                for p_BH in self.project(x_BTD).unbind(1):
                    h_BH = self.keep * h_BH + (1 - self.keep) * p_BH
                    outputs.append(h_BH)
                return torch.stack(outputs, 1), h_BH

        return Average(self.keep)


if __name__ == "__main__":
    main()
'''


def test_a_users_file_is_a_model_and_a_command_line(run_python, tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    command = ["mine.py", "-m", "model=mine,rnn", "model.bidirectional=false,true", *TINY[:-1], "seeds=1"]
    result = run_python(*command, "match.target=1500", "speed.seconds=0", "speed.lengths=[]", cold=True)
    runs = runs_below(tmp_path)
    assert [run.status for run in runs] == ["done"] * 8, result.stdout + result.stderr
    trained = {(run.model, run.metrics["causal"]): run for run in runs if run.kind == "train"}
    assert set(trained) == {("mine", True), ("mine", False), ("rnn", True), ("rnn", False)}
    for run in trained.values():
        assert run.metrics["matched_parameters"] == pytest.approx(1_500, rel=0.05)
    assert len({run.metrics["data_sha256"] for run in trained.values()}) == 1
    before = {run.identity for run in runs}
    (tmp_path / "mine.py").write_text(MINE.replace("python loop", "another loop"))
    run_python(*command, "match.target=1500", "speed.seconds=0", "speed.lengths=[]", "sweep=again")
    again = {run.identity for run in runs_below(tmp_path)} - before
    assert len(again) == 4  # a change of the user's file is a new identity, for the user's model alone


def test_a_slip_in_a_users_file_is_one_line(run_python, tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    result = run_python("mine.py", "model=mien")
    assert (result.returncode, result.stdout) == (2, "")
    assert "no model 'mien'; did you mean 'mine'?" in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
def test_an_interrupted_sweep_records_it_and_says_how_to_go_on(tmp_path, how):
    command = [
        sys.executable, "-m", "seqbench", "-m", "model=rnn,gru", *TINY, "seeds=1", "speed.enabled=false",
        "train.steps=1000000", "train.eval_every=1000000", "workers=1", "task.solved_at=null",
    ]  # fmt: skip
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    for _ in range(600):
        if any(path.stat().st_size for path in tmp_path.glob("runs/*/*/events.jsonl")):
            break
        time.sleep(0.1)
    os.kill(process.pid, how)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    [run] = runs_below(tmp_path)
    assert run.status == "interrupted"
    assert "python -m seqbench -m model=rnn,gru" in out
    running = [Path(f"/proc/{pid}/cmdline") for pid in filter(str.isdigit, os.listdir("/proc"))]
    lines = itertools.chain.from_iterable(read_lines(path) for path in running)
    assert not [line for line in lines if str(tmp_path) in line]


def read_lines(path: Path) -> list[str]:
    try:
        return path.read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []


def test_children_end_when_the_parent_is_killed(tmp_path):
    command = [
        sys.executable, "-m", "seqbench", "model=rnn", "task.lengths=[64]", "seeds=1", "train.steps=1000000",
        "canaries=false", "train.eval_every=1000000", "task.solved_at=null", "speed.enabled=false",
    ]  # fmt: skip
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment(tmp_path), stdout=subprocess.DEVNULL, start_new_session=True
    )
    wait_until(lambda: any(path.stat().st_size for path in tmp_path.glob("runs/*/*/events.jsonl")))
    [events] = tmp_path.glob("runs/*/*/events.jsonl")
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    wait_until(lambda: time.time() - events.stat().st_mtime > 3)  # nobody writes progress any more
    assert not list(tmp_path.glob("runs/*/*/run.json"))


def wait_until(condition, timeout_s=60.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.1)


def test_a_long_tmpdir_is_no_obstacle(run_python, tmp_path):
    long = tmp_path / ("x" * 100)
    long.mkdir()
    words = ["-m", "seqbench", "model=rnn", *TINY, "seeds=1", "speed.enabled=false"]
    result = run_python(*words, TMPDIR=str(long))
    assert result.returncode == 0, result.stdout + result.stderr
