"""The Slurm engine without Slurm: settings, states, what counts as lost; tests/launchers has a real one."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import threading
import time
import types
from pathlib import Path
from typing import Any

import pytest

from seqbench.errors import UsageError
from seqbench.launch import on_worker, slurm, slurm_queue
from seqbench.launch.base import Ended
from seqbench.launch.slurm import Slurm, Task, _Job
from seqbench.launch.slurm_queue import QueueError, Standing
from seqbench.launch.slurm_settings import settings

NODE = {
    "_target_": "SlurmLauncher",
    "submitit_folder": "",
    "timeout_min": 60,
    "cpus_per_task": 2,
    "gpus_per_node": None,
    "tasks_per_node": 1,
    "mem_gb": 4,
    "nodes": 1,
    "name": "seqbench",
    "partition": "low",
    "signal_delay_s": 90,
    "max_num_timeout": 10,
    "additional_parameters": {},
    "array_parallelism": 256,
    "setup": None,
    "gres": None,
}


# Settings


def test_a_launcher_node_becomes_what_submitit_takes(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = settings(NODE)
    assert found.folder == str(tmp_path / "seqbench" / "submitit")
    assert (found.requeues, found.side_by_side, found.slots) == (10, 256, 2)
    same = {
        key: NODE[key]
        for key in ("timeout_min", "cpus_per_task", "tasks_per_node", "mem_gb", "nodes", "name")
    }
    assert found.parameters == {
        **same,
        "slurm_partition": "low",
        "slurm_signal_delay_s": 90,
        "slurm_additional_parameters": {"requeue": True},
        "slurm_srun_args": ["--cpus-per-task=2"],
    }


def test_a_batch_with_a_gpu_has_one_run_at_a_time():
    assert settings({**NODE, "gpus_per_node": 1}).slots == 1
    assert settings({**NODE, "gres": "gpu:1"}).slots == 1
    assert settings({**NODE, "gres": "licence:1"}).slots == 2


def test_what_the_user_adds_for_sbatch_comes_last():
    found = settings({**NODE, "additional_parameters": {"requeue": False, "reservation": "mine"}}).parameters
    assert found["slurm_additional_parameters"] == {"requeue": False, "reservation": "mine"}
    assert "slurm_srun_args" not in settings({**NODE, "cpus_per_gpu": 4}).parameters


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("timeout_min", 0), ("timeout_min", "1h"), ("cpus_per_task", 0), ("cpus_per_task", True),
        ("nodes", 2), ("tasks_per_node", 4), ("max_num_timeout", -1), ("array_parallelism", 0),
        ("signal_delay_s", -5), ("signal_delay_s", 3600), ("additional_parameters", "requeue"),
    ],
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused_by_name(key, value):
    with pytest.raises(UsageError, match=rf"^hydra\.launcher\.{key}={value}: "):
        settings({**NODE, key: value})


def test_without_submitit_or_slurm_the_engine_says_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UsageError, match=r"needs submitit: pip install 'seqbench\[slurm\]'"):
        slurm.engine(NODE)
    monkeypatch.setitem(sys.modules, "submitit", types.ModuleType("submitit"))
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UsageError, match="no command sbatch here: run it on a machine of a Slurm cluster"):
        slurm.engine(NODE)


# The queue


def answers(
    monkeypatch: pytest.MonkeyPatch, returncode: int, out: str = "", err: str = ""
) -> list[list[str]]:
    """Have Slurm's commands answer like this; gives what was asked."""
    asked: list[list[str]] = []

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        asked.append(list(command))
        return subprocess.CompletedProcess(command, returncode, out, err)

    monkeypatch.setattr(slurm_queue, "run", run)
    return asked


def test_one_question_tells_the_standing_of_a_whole_array(monkeypatch):
    lines = "12_0|RUNNING|None\n12_1|PENDING|launch failed requeued held\n12_2|OUT_OF_MEMORY|a|b\n"
    asked = answers(monkeypatch, 0, lines)
    found = slurm_queue.standings({"12"})
    assert len(asked) == 1
    assert "--jobs=12" in asked[0]
    assert found["12_0"].alive
    assert not found["12_0"].never_starts
    assert found["12_1"].in_words() == "it can never start: launch failed requeued held"
    assert found["12_2"].in_words().startswith("it took more memory than it was given")


def test_a_cluster_says_how_long_an_array_may_be(monkeypatch):
    answers(monkeypatch, 0, "MaxArraySize            = 65\nMaxBatchRequeue = 5\n")
    assert slurm_queue.longest_array() == 64
    answers(monkeypatch, 1, "")
    assert slurm_queue.longest_array() == 1000


def test_a_job_that_slurm_has_forgotten_has_no_standing(monkeypatch):
    answers(monkeypatch, 1, err="slurm_load_jobs error: Invalid job id specified\n")
    assert slurm_queue.standings({"12"}) == {}
    assert slurm_queue.still_there({"12"}) == []


def test_a_controller_that_is_away_is_no_answer(monkeypatch):
    answers(
        monkeypatch, 1, err="slurm_load_jobs error: Unable to contact slurm controller (connect failure)\n"
    )
    with pytest.raises(QueueError, match="Unable to contact"):
        slurm_queue.standings({"12"})
    with pytest.raises(QueueError):
        slurm_queue.still_there({"12"})


def test_a_command_that_hangs_has_failed(monkeypatch):
    monkeypatch.setattr(slurm_queue, "_PATIENCE_S", 0.1)
    hung = slurm_queue.run("sleep", "5")
    assert (hung.returncode, hung.stderr) == (1, "sleep: no answer in 0.1 s")


# What counts as lost


class Handle:
    """What submitit gives for a job."""

    def __init__(self, job_id: str, folder: Path, result: Any = None) -> None:
        self.job_id = job_id
        self.given = result
        self.paths = types.SimpleNamespace(
            result_pickle=folder / f"{job_id}_0_result.pkl", stderr=folder / f"{job_id}_0_log.err"
        )

    def exception(self) -> Exception | None:
        return self.given if isinstance(self.given, Exception) else None

    def result(self) -> Any:
        return self.given


@pytest.fixture
def engine(tmp_path, monkeypatch) -> Slurm:
    """An engine with one job, 12_0, that asks the queue at every look; its answer would be "told"."""
    monkeypatch.setattr(slurm, "_ASK_S", 0.0)
    monkeypatch.setattr(slurm, "_LOOK_S", 0.001)
    made = Slurm(settings(NODE))
    handle = Handle("12_0", tmp_path, "told")
    made._open = {5: _Job(handle, handle.paths.result_pickle)}
    return made


def stands(monkeypatch: pytest.MonkeyPatch, *standings: Standing | QueueError) -> None:
    """Have the queue say these of the job, one after the other, and then the last for ever."""
    left = list(standings)

    def said(_arrays: object) -> dict[str, Standing]:
        one = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(one, QueueError):
            raise one
        return {"12_0": one} if one.state else {}

    monkeypatch.setattr(slurm_queue, "standings", said)


def test_an_answer_counts_whatever_the_queue_says(engine, monkeypatch):
    stands(monkeypatch, Standing("FAILED"))
    engine._open[5].answer.touch()
    assert engine.poll(0) == [Ended(5, told="told")]
    assert engine.poll(0) == []


def test_an_error_on_the_node_is_told_by_its_last_line(engine, monkeypatch):
    stands(monkeypatch, Standing("COMPLETED"))
    trace = "Job failed with trace:\n----------\nTraceback:\n  ...\nValueError: no\n----------\nSee full logs"
    engine._open[5].handle.given = RuntimeError(trace)
    engine._open[5].answer.touch()
    assert engine.poll(0) == [Ended(5, lost="Slurm's job 12_0: ValueError: no")]


def test_a_job_is_lost_when_it_is_seen_to_have_ended_twice(engine, monkeypatch):
    stands(monkeypatch, Standing("NODE_FAIL"))
    engine._open[5].handle.paths.stderr.write_text("one\nslurmstepd: error: node failure\n\n")
    assert engine.poll(0) == []
    [ended] = engine.poll(0)
    assert (
        ended.lost == "Slurm's job 12_0: its node failed; its log ends: one | slurmstepd: error: node failure"
    )
    assert engine.poll(0) == []


def test_a_job_on_its_way_back_into_the_queue_is_not_lost(engine, monkeypatch):
    failed, waits = Standing("NODE_FAIL"), Standing("PENDING", "BeginTime")
    stands(monkeypatch, failed, waits, failed, waits, failed, waits)
    assert [engine.poll(0) for _ in range(8)] == [[]] * 8


@pytest.mark.parametrize("standing", [Standing("COMPLETED"), Standing()])
def test_a_shared_folder_has_time_to_show_the_answer_of_a_job_that_ended_well(engine, monkeypatch, standing):
    stands(monkeypatch, standing)
    assert engine.poll(0.1) == []
    engine._open[5].answer.touch()
    assert engine.poll(0) == [Ended(5, told="told")]


def test_but_not_for_ever(engine, monkeypatch, tmp_path):
    monkeypatch.setattr(slurm, "_VISIBLE_S", 0.05)
    stands(monkeypatch, Standing())
    [ended] = engine.poll(5)
    assert "Slurm knows it no more; it left no log: do all nodes see" in ended.lost


def test_a_job_that_can_never_start_is_cancelled_and_lost(engine, monkeypatch):
    stands(monkeypatch, Standing("PENDING", "PartitionTimeLimit"))
    asked = answers(monkeypatch, 0)
    assert [*engine.poll(0), *engine.poll(0)] == [
        Ended(5, lost="Slurm's job 12_0: it can never start: PartitionTimeLimit")
    ]
    assert asked == [["scancel", "--quiet", "12_0"]]


def test_jobs_go_on_while_the_controller_is_away(engine, monkeypatch):
    stands(monkeypatch, QueueError("away"))
    assert engine.poll(0.05) == []
    assert 5 in engine._open


# Submission, and the end


class Executor:
    """Takes arrays as submitit does, until it has taken ``room`` of them."""

    def __init__(self, folder: Path, room: int = 99) -> None:
        self.folder = folder
        self.taken: list[int] = []
        self.room = room

    def map_array(self, _task: object, orders: list[bytes]) -> list[Handle]:
        if len(self.taken) == self.room:
            raise RuntimeError("sbatch: error: one\nsbatch: error: Batch job submission failed: too many\n")
        self.taken.append(len(orders))
        return [Handle(f"{len(self.taken)}_{index}", self.folder) for index in range(len(orders))]


@pytest.fixture
def fake_submitit(monkeypatch) -> None:
    module = types.ModuleType("submitit")
    module.helpers = types.SimpleNamespace(clean_env=contextlib.nullcontext)
    monkeypatch.setitem(sys.modules, "submitit", module)


@pytest.mark.usefixtures("fake_submitit")
def test_more_than_slurms_longest_array_goes_as_several_that_share_what_may_run_at_once(
    monkeypatch, tmp_path
):
    answers(monkeypatch, 1)
    engine = Slurm(settings({**NODE, "submitit_folder": str(tmp_path / "%j")}))
    executor, shares = Executor(tmp_path), []
    monkeypatch.setattr(Slurm, "_executor", lambda _self, share: shares.append(share) or executor)
    engine.submit(dict.fromkeys(range(2500), b""))
    assert executor.taken == [1000, 1000, 500]
    assert shares == [256 // 3]
    assert engine._open[2400].identifier == "3_400"
    assert engine._arrays == ["1", "2", "3"]


@pytest.mark.usefixtures("fake_submitit")
def test_what_is_refused_in_part_is_taken_back_whole(monkeypatch, tmp_path):
    engine = Slurm(settings({**NODE, "submitit_folder": str(tmp_path / "own")}))
    answers(monkeypatch, 0, "MaxArraySize            = 1001\n")
    monkeypatch.setattr(Slurm, "_executor", lambda _self, _share: Executor(tmp_path, room=1))
    seen, cancelled = [["1"], []], []
    monkeypatch.setattr(slurm_queue, "still_there", lambda _arrays: seen.pop(0))
    monkeypatch.setattr(slurm_queue, "cancel", cancelled.extend)
    with pytest.raises(
        UsageError, match="^hydra/launcher=slurm: one; Batch job submission failed: too many$"
    ):
        engine.submit(dict.fromkeys(range(1001), b""))
    assert cancelled == ["1"]
    assert engine._open == {}
    assert list((tmp_path / "own").iterdir()) == []


def test_close_gives_up_with_the_command_that_would_do_it(monkeypatch, tmp_path):
    monkeypatch.setattr(slurm, "_END_S", 0.05)
    monkeypatch.setattr(slurm, "_LOOK_S", 0.01)
    asked = answers(monkeypatch, 0, "12_0\n")
    with pytest.raises(UsageError, match=r"^Slurm still has jobs of this sweep: scancel 12$"):
        slurm._end(["12"])
    assert ["scancel", "--quiet", "12"] in asked


# On the node


@pytest.fixture
def own_sigterm():
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def told_to_end(_order: bytes) -> str:
    signal.raise_signal(signal.SIGTERM)
    raise on_worker.WorkerFailed("exit code 1")


def ends(_order: bytes) -> str:
    raise on_worker.WorkerFailed("exit code 1")


@pytest.mark.usefixtures("own_sigterm")
def test_a_task_that_slurm_is_about_to_end_gives_no_answer_unless_the_sweep_wants_none(tmp_path):
    stop = tmp_path / "stop"
    began = time.monotonic()
    threading.Timer(0.6, stop.touch).start()
    with pytest.raises(on_worker.WorkerFailed):
        Task(told_to_end, stop)(b"")
    assert time.monotonic() - began >= 0.6


@pytest.mark.usefixtures("own_sigterm")
def test_a_task_whose_process_ends_by_itself_says_so_at_once(tmp_path):
    with pytest.raises(on_worker.WorkerFailed):
        Task(ends, tmp_path / "stop")(b"")
    assert Task(bytes.decode, tmp_path / "stop")(b"fine") == "fine"


def test_a_task_that_is_queued_again_stops_what_is_at_work_and_keeps_its_order(monkeypatch, tmp_path):
    submitit = pytest.importorskip("submitit", reason="submitit is not installed: make launchers")
    stopped = []
    monkeypatch.setattr(on_worker, "stop", lambda: stopped.append(True))
    task = Task(bytes.decode, tmp_path / "stop")
    again = task.checkpoint(b"order")
    assert isinstance(again, submitit.helpers.DelayedSubmission)
    assert (again.function, again.args, stopped) == (task, (b"order",), [True])
