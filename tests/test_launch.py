"""Batches, the crew that has them done, and joblib's engine; Slurm and Ray have tests of their own."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pickle
import re
import signal
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from test_isolate import MINE, TINY, runs_below, start, wait_until

from seqbench import environment, records, userfile
from seqbench.errors import UsageError
from seqbench.isolate import Death, write_failure
from seqbench.launch import on_worker, parallel
from seqbench.launch.base import Ended
from seqbench.launch.batches import Order, batches
from seqbench.launch.choice import Choice, check_words, choice, placed
from seqbench.launch.crew import Crew
from seqbench.plan import Unit, plan

QUICK = {"steps": 2, "eval_examples": 4, "test_examples": 4, "log_every": 1}


@pytest.fixture
def units(make_job, tmp_path) -> list[Unit]:
    job = make_job("rnn", seeds=[0, 1], task_options={"lengths": [8, 16]}, train=QUICK)
    return plan([job], tmp_path / "sweep")


def names(batch: tuple[Unit, ...]) -> set[tuple[str, int | None, int]]:
    return {(unit.kind, unit.rung, unit.seed) for unit in batch}


def test_a_batch_is_a_jobs_rungs_at_one_seed_and_speed_is_a_batch_of_its_own(units):
    assert [names(batch) for batch in batches(units)] == [
        {("train", 8, 0), ("train", 16, 0)}, {("train", 8, 1), ("train", 16, 1)}, {("speed", None, 0)},
    ]  # fmt: skip
    assert [len(batch) for batch in batches(units, by_seed=False)] == [4, 1]


def test_models_settings_and_kinds_never_share_a_batch_but_canaries_do(make_job, tmp_path):
    jobs = [make_job(model, seeds=[0], canaries=True, train=QUICK) for model in ("rnn", "lstm")]
    other = dataclasses.replace(jobs[0], train=dataclasses.replace(jobs[0].train, lr=0.5))
    found = batches(plan([*jobs, other], tmp_path))
    alone = [batch for batch in found if batch[0].kind == "train" and not batch[0].companion]
    assert all(len({(unit.job.model.name, unit.job.train.lr) for unit in batch}) == 1 for batch in alone)
    assert len(alone) == 3
    [canaries] = [batch for batch in found if batch[0].companion]
    assert {unit.job.model.name for unit in canaries} == {"bag", "constant"}
    [speed] = [batch for batch in found if batch[0].kind == "speed"]
    assert len(speed) == 3


def test_seeds_that_are_trained_as_one_stay_together(make_job, tmp_path):
    job = make_job("rnn", seeds=[0, 1, 2], stack=3, task_options={"lengths": [8, 16]}, train=QUICK)
    trained = [batch for batch in batches(plan([job], tmp_path)) if batch[0].kind == "train"]
    assert [{unit.seed for unit in batch} for batch in trained] == [{0, 1, 2}] * 2


def test_an_order_takes_its_senders_place_and_variables(units, tmp_path, monkeypatch):
    monkeypatch.setenv("SEQBENCH_PROBE", "sent")
    monkeypatch.chdir(tmp_path)
    packed = Order.of(units, 3).packed()
    monkeypatch.setenv("SEQBENCH_PROBE", "own")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    order = pickle.loads(packed)
    assert order.opened() == tuple(units)
    assert (order.slots, os.environ["SEQBENCH_PROBE"], os.getcwd()) == (3, "sent", str(tmp_path))


class Fake:
    """An engine that does nothing but what ``script`` says of each submitted batch, in turn."""

    name, remote, slots, by_seed = "fake", False, 1, True

    def __init__(self, *script) -> None:
        self.script, self.waiting, self.closed = list(script), [], False
        self.submitted: list[set[str]] = []

    def submit(self, orders: Mapping[int, bytes]) -> None:
        for number, order in orders.items():
            sent = pickle.loads(order).units.opened()
            self.submitted.append({unit.label for unit in sent})
            self.waiting.append((number, sent))

    def poll(self, patience_s: float) -> list[Ended]:
        number, sent = self.waiting.pop(0)
        return [self.script.pop(0)(number, sent)]

    def close(self) -> None:
        self.closed = True


def recorded(unit: Unit, status: str = "done") -> None:
    """Leave the record of a unit that ended so."""
    write_failure(unit, Death(status, "Planted", "by a test"))


def whole(number: int, sent: tuple[Unit, ...]) -> Ended:
    for unit in sent:
        recorded(unit)
    return Ended(number, json.dumps({u.identity: {"status": "done", "recorded": True} for u in sent}))


def half(number: int, sent: tuple[Unit, ...]) -> Ended:
    recorded(sent[0])
    return Ended(number, lost="node down")


def nothing(number: int, sent: tuple[Unit, ...]) -> Ended:
    return Ended(number, lost="node down")


def stopped(number: int, sent: tuple[Unit, ...]) -> Ended:
    for unit in sent:
        recorded(unit, "interrupted")
    return Ended(number, lost="preempted")


def ended(engine: Fake, units: list[Unit]) -> tuple[dict[str, str], list[tuple[int, str]]]:
    said: list[tuple[int, str]] = []
    crew = Crew(engine, lambda some, why: said.append((len(some), why)))
    return {unit.label: run.status for unit, run in crew.run(units, lambda _: None)}, said


def trained(units: list[Unit], seed: int) -> list[Unit]:
    return [unit for unit in units if unit.kind == "train" and unit.seed == seed]


def test_what_a_lost_worker_left_undone_is_sent_again(units):
    engine = Fake(half, stopped, whole)
    statuses, said = ended(engine, trained(units, 0))
    assert set(statuses.values()) == {"done"}
    assert said == [(1, "node down"), (1, "preempted")]
    assert [len(labels) for labels in engine.submitted] == [2, 1, 1]
    assert not engine.closed  # it may be needed again


def test_what_is_lost_too_often_is_recorded_as_killed(units):
    mine = trained(units, 0)
    statuses, said = ended(Fake(nothing, nothing, nothing), mine)
    assert set(statuses.values()) == {"killed"}
    assert len(said) == mine[0].job.retries == 2
    run = records.read_run(mine[0].folder)
    assert (run.status, run.error["type"], run.error["message"]) == ("killed", "WorkerLost", "node down")


def test_a_batch_that_nobody_began_is_sent_again_without_counting(units):
    def queued(number, sent):
        return dataclasses.replace(nothing(number, sent), started=False)

    statuses, said = ended(Fake(*[queued] * 5, whole), trained(units, 0))
    assert set(statuses.values()) == {"done"}
    assert len(said) == 5


def test_a_record_from_before_is_no_answer(units):
    mine = trained(units, 0)
    for unit in mine:
        recorded(unit, "failed")
    assert set(ended(Fake(nothing, whole), mine)[0].values()) == {"done"}


def test_speed_is_measured_one_by_one(units):
    slots = {}

    class Wide(Fake):
        slots = 4

        def submit(self, orders):
            for order in orders.values():
                sent = pickle.loads(order)
                slots[sent.units.opened()[0].kind] = sent.slots
            super().submit(orders)

    ended(Wide(whole, whole, whole), units)
    assert slots == {"train": 4, "speed": 1}


def test_a_failed_run_is_not_sent_again(units):
    def failing(number, sent):
        for unit in sent:
            recorded(unit, "failed")
        return Ended(number, json.dumps({u.identity: {"status": "failed", "recorded": True} for u in sent}))

    engine = Fake(failing)
    assert set(ended(engine, trained(units, 0))[0].values()) == {"failed"}
    assert len(engine.submitted) == 1


def test_a_record_that_could_not_be_written_is_told_without_waiting_for_it(units):
    def full(number, sent):
        told = {unit.identity: {"status": "failed", "recorded": False} for unit in sent}
        return Ended(number, json.dumps(told))

    mine = [
        dataclasses.replace(unit, jobs=(dataclasses.replace(unit.job, retries=0),))
        for unit in trained(units, 0)
    ]
    before = time.monotonic()
    assert set(ended(Fake(full), mine)[0].values()) == {"failed"}
    assert time.monotonic() - before < 30


def test_runs_are_seen_as_they_end_and_closing_cancels_the_rest(units):
    class Slow(Fake):
        def poll(self, patience_s):
            recorded(self.waiting[0][1][0])
            time.sleep(0.3)
            return []

    engine = Slow()
    running = Crew(engine).run(trained(units, 0), lambda _: None)
    unit, run = next(running)
    assert (unit.seed, run.status) == (0, "done")
    running.close()
    assert engine.closed


# A worker


def test_a_workers_process_does_the_batch_and_says_what_became_of_it(units, monkeypatch, tmp_path):
    monkeypatch.setenv("SEQBENCH_LOCKS", str(tmp_path))
    monkeypatch.setattr(userfile, "_modules", {})  # files of other tests
    mine = trained(units, 0)
    told = json.loads(on_worker.do(Order.of(mine, 1).packed()))
    assert told == {u.identity: {"status": "done", "recorded": True, "again": []} for u in mine}
    assert records.read_run(mine[0].folder).metrics["steps"] == 2


def test_a_worker_that_cannot_read_its_order_says_why():
    with pytest.raises(on_worker.WorkerFailed, match=r"exit code 1: .*UnpicklingError"):
        on_worker.do(b"no order")


# Which engine


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["hydra.launcher.n_jobs=2"], "only beside a launcher: hydra/launcher=par|slurm|ray"),
        (["hydra/launcher=par", "hydra/launcher=ray"], "a command has one launcher"),
        (["hydra/launcher=par,ray"], "a command has one launcher"),
        (["hydra/launcher=slrum"], "did you mean 'slurm'? choices: basic, par, ray, slurm"),
    ],
)
def test_launcher_words_that_make_no_sense_are_refused(words, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        check_words(words)


def test_a_launcher_that_is_not_installed_says_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        UsageError, match=r"hydra/launcher=slurm: .* is not installed: pip install 'seqbench\[slurm\]'"
    ):
        check_words(["hydra/launcher=slurm"])


def test_a_launcher_of_another_kind_is_refused():
    with pytest.raises(UsageError, match="no engine for somebody.Launcher: take basic, par, slurm, ray"):
        choice({"_target_": "somebody.Launcher"})
    assert choice({"_target_": "hydra._internal.core_plugins.basic_launcher.BasicLauncher"}) is None


@pytest.mark.parametrize(
    ("n_jobs", "cores", "expected"),
    [(-1, 8, (8, 1)), (1, 8, (1, 8)), (3, 8, (3, 2)), (-2, 8, (7, 1)), (-1, 1, (1, 1))],
)
def test_batches_side_by_side_share_the_cores_and_no_more(monkeypatch, n_jobs, cores, expected):
    monkeypatch.setattr(environment, "cores", lambda: cores)
    made = parallel.engine({"n_jobs": n_jobs})
    assert (made.jobs, made.slots) == expected
    assert made.jobs * made.slots <= cores


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"n_jobs": 9}, "may use 8 cores"), ({"n_jobs": 0}, "expected a number of jobs"),
        ({"n_jobs": 2, "backend": "threading"}, "n_jobs alone counts"),
        ({"n_jobs": 2, "require": "sharedmem"}, "n_jobs alone counts"),
    ],
)  # fmt: skip
def test_what_joblib_cannot_do_here_is_refused(monkeypatch, node, message):
    monkeypatch.setattr(environment, "cores", lambda: 8)
    with pytest.raises(UsageError, match=message):
        parallel.engine(node)


def test_workers_counts_only_without_a_launcher(make_job):
    with pytest.raises(UsageError, match=r"workers=2: .* hydra.launcher.n_jobs does"):
        placed(make_job(workers=2), Choice("par", {}))


def test_the_machine_is_part_of_a_runs_identity_unless_it_may_run_anywhere(make_job, tmp_path, monkeypatch):
    here, anywhere = make_job(), make_job(anywhere=True)
    before = [plan([job], tmp_path)[0].identity for job in (here, anywhere)]
    assert plan([here], tmp_path)[0].asked == plan([anywhere], tmp_path)[0].asked
    monkeypatch.setattr(environment, "cpu_model", lambda: "another")
    after = [plan([job], tmp_path)[0].identity for job in (here, anywhere)]
    assert before[0] != after[0]
    assert before[1] == after[1]


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "max 100000\n"}, float("inf")), ({"cpu.max": "150000 100000\n"}, 1.5),
        ({}, float("inf")),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, float("inf")),
        ({"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4.0),
    ],
)  # fmt: skip
def test_a_containers_quota_counts_as_cores(tmp_path, files, cores):
    (tmp_path / "cpu").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert environment._quota(tmp_path) == cores


# Whole sweeps

KILLS_ONCE = MINE.replace(
    "        import torch\n",
    "        import os, signal, torch\n"
    "        try: os.close(os.open('killed', os.O_CREAT | os.O_EXCL))\n"
    "        except FileExistsError: pass\n"
    "        else: os.kill(os.getpid(), signal.SIGKILL)\n",
)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [[], ["hydra/launcher=par", "hydra.launcher.n_jobs=1"]])
def test_a_run_that_is_killed_once_starts_again_and_the_sweep_ends_complete(run_python, tmp_path, launcher):
    (tmp_path / "mine.py").write_text(KILLS_ONCE)
    result = run_python(
        "mine.py", "-m", *launcher, "model=mine,rnn", *TINY, "seeds=2", "speed.enabled=false", "match.by=none"
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert {run.status for run in runs_below(tmp_path)} == {"done"}
    assert len(runs_below(tmp_path)) == 4
    [line] = [line for line in result.stdout.splitlines() if line.startswith("  again")]
    assert line.endswith("by its worker: signal 9" if launcher else ": signal 9")


def pool_processes(driver: int) -> list[int]:
    """Children of a command that have a batch at work."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if b"seqbench.launch.work" in (folder / "cmdline").read_bytes():
                found.append(parent(int(folder.name)))
    return [process for process in found if parent(process) == driver]


def parent(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


@pytest.mark.slow
def test_a_killed_process_of_joblibs_pool_costs_nothing(tmp_path):
    command = ["-m", "hydra/launcher=par", "hydra.launcher.n_jobs=2", "model=rnn,gru", *TINY, "seeds=1"]
    process = start(
        tmp_path,
        *command,
        "speed.enabled=false",
        "train.steps=3000",
        "train.eval_every=3000",
        "task.solved_at=null",
    )
    wait_until(lambda: any(path.stat().st_size for path in tmp_path.glob("runs/*/*/events.jsonl")))
    pool = pool_processes(process.pid)[0]
    os.kill(pool, signal.SIGKILL)
    out = process.communicate(timeout=100)[0]
    assert process.returncode == 0, out
    assert "a process of joblib's pool was killed" in out
    assert {run.status for run in runs_below(tmp_path)} == {"done"}
