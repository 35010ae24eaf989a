"""Seeds that are trained as one in a sweep: planned, run, recorded, stopped and taken up again."""

from __future__ import annotations

import dataclasses
import multiprocessing

import pytest
from test_isolate import Ended, runs_below

from seqbench import environment as environment_
from seqbench import isolate
from seqbench.errors import UsageError
from seqbench.plan import bundled, plan, stack_size
from seqbench.records import read_table

STACKED = """
import os, signal, time
from dataclasses import dataclass

from seqbench.cli import main
from seqbench.models.base import ModelConfig
from seqbench.registry import register
from seqbench.schema import setting


@register("model")
@dataclass
class Odd(ModelConfig):
    '''A model that vmap does not know, or that ends its process once.'''

    name: str = "odd"
    how: str = setting("opaque", "what it does")

    def build(self, width_in, hidden):
        import torch

        from seqbench.layers.base import Encoder

        class Layer(Encoder):
            steps = 0

            def __init__(self, how):
                super().__init__()
                self.how, self.width_out = how, hidden
                self.inner = torch.nn.LSTM(width_in, hidden, batch_first=True) if how == "opaque" else None
                self.enter = torch.nn.Linear(width_in, hidden)

            def forward(self, x_BTD, *, mask_BT=None, state=None):
                if self.inner is not None:
                    return self.inner(x_BTD)[0] + self.enter(x_BTD), None
                Layer.steps += self.training and len(x_BTD) == 32
                if Layer.steps == 9:
                    match os.environ.get("ODD"):
                        case "kill": os.kill(os.getpid(), signal.SIGKILL)
                        case "hang": time.sleep(600)
                return self.enter(x_BTD).cumsum(1), None

        return Layer(self.how)


if __name__ == "__main__":
    main()
"""
SMALL = [
    "task=temporal_order", "task.lengths=[8]", "train.steps=12", "train.eval_every=4", "train.log_every=2",
    "train.eval_examples=16", "train.test_examples=16", "canaries=false", "model.hidden=6",
    "speed.enabled=false",
]  # fmt: skip


def test_seeds_of_a_job_and_a_rung_share_a_process(make_job, tmp_path):
    job = make_job("gru", seeds=[0, 1, 2, 3, 4], task_options={"lengths": [8, 32]}, stack=2)
    bundles = bundled(plan([job], tmp_path))
    assert [[(u.rung, u.seed) for u in bundle] for bundle in bundles] == [
        [(32, 0), (32, 1)], [(32, 2), (32, 3)], [(32, 4)], [(8, 0), (8, 1)], [(8, 2), (8, 3)], [(8, 4)],
        [(None, 0)],
    ]  # fmt: skip


@pytest.mark.parametrize(("asked", "size"), [({}, 1), ({"stack": 3}, 3), ({"stack": 8}, 3)])
def test_seeds_are_stacked_where_that_is_asked_for(make_job, tmp_path, asked, size):
    job = make_job("gru", seeds=3, speed={"enabled": False}, task_options={"lengths": [8]}, **asked)
    assert stack_size(job) == size
    assert len(bundled(plan([job], tmp_path))) == 3 / size


def identities(make_job, tmp_path, **options) -> list[str]:
    job = make_job("gru", task_options={"lengths": [8]}, **options)
    return [unit.identity for unit in plan([job], tmp_path)]


def test_a_stack_is_part_of_the_identity_of_what_it_trains_and_of_nothing_else(make_job, tmp_path):
    plain = identities(make_job, tmp_path, seeds=2, device="cpu")
    assert identities(make_job, tmp_path, seeds=2, device="cpu", stack=1) == plain
    as_one = identities(make_job, tmp_path, seeds=2, device="cpu", stack=2)
    assert not {*plain[:2]} & {*as_one[:2]}
    assert plain[2] == as_one[2]  # the timing


def test_an_empty_stack_is_refused(make_job):
    with pytest.raises(UsageError, match="stack=0"):
        make_job("gru", stack=0)


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_sweep_of_stacks_gives_the_records_of_one_without(seqbench, tmp_path):
    command = ["model=gru", *SMALL, "seeds=3"]
    results = [seqbench(*command, f"stack={size}", f"sweep=by{size}") for size in (1, 3)]
    assert all(result.returncode == 0 for result in results), results
    by1, by3 = ([run for run in runs_below(tmp_path) if run.status == "done" and _in(run, n)] for n in (1, 3))
    assert len(by1) == len(by3) == 3
    assert [run.metrics.get("stacked") for run in by1 + by3] == [None] * 3 + [3] * 3
    assert {run.metrics["kernel"] for run in by3} == {"time-major scan (torch)"}
    for one, other in zip(by1, by3, strict=True):
        assert (one.seed, one.label) == (other.seed, other.label)
        assert one.metrics["data_sha256"] == other.metrics["data_sha256"]
        assert one.metrics["steps"] == other.metrics["steps"] == 12
        assert other.metrics["test_loss"] == pytest.approx(one.metrics["test_loss"], rel=1e-3)
        assert one.files.keys() == other.files.keys()
        tables = [read_table(_folder(tmp_path, run), run, "parameters").to_pydict() for run in (one, other)]
        assert all(
            tables[1][name] == pytest.approx(tables[0][name], rel=1e-2, abs=1e-4) for name in tables[0]
        )
    again = seqbench(*command, "stack=3", "sweep=by3")
    assert "3 reused" in again.stdout
    assert runs_below(tmp_path) == sorted(
        runs_below(tmp_path), key=lambda run: runs_below(tmp_path).index(run)
    )


def _in(run, size: int) -> bool:
    return (run.config.get("stack") or 1) == size


def _folder(tmp_path, run):
    [path] = [
        path.parent
        for path in tmp_path.glob("runs/*/*/run.json")
        if run.identity in path.read_text(encoding="utf-8")
    ]
    return path


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_what_vmap_does_not_know_is_trained_alone_and_says_so(run_python, tmp_path):
    (tmp_path / "odd.py").write_text(STACKED)
    command = ["odd.py", "model=odd", *SMALL, "seeds=2"]
    for size in (1, 2):
        result = run_python(*command, f"stack={size}", f"sweep=by{size}")
        assert result.returncode == 0, result.stdout + result.stderr
    by1, by2 = ([run for run in runs_below(tmp_path) if _in(run, n)] for n in (1, 2))
    for one, other in zip(by1, by2, strict=True):
        assert other.metrics["stacked"] == 1
        assert "lstm" in other.metrics["not_stacked"]
        assert "not_stacked" not in one.metrics
        assert one.metrics["test_loss"] == other.metrics["test_loss"]
        assert one.files["steps.parquet"] == other.files["steps.parquet"]


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    ("how", "status", "message"),
    [("kill", "killed", "signal 9"), ("hang", "timeout", "limit.time_s=4 x 2 runs trained as one")],
)
def test_a_process_that_ends_takes_its_unfinished_seeds_along(run_python, tmp_path, how, status, message):
    (tmp_path / "odd.py").write_text(STACKED)
    command = ["odd.py", "model=odd", "model.how=fine", *SMALL, "seeds=2", "stack=2", "checkpoint_s=0"]
    command += ["limit.time_s=4" if how == "hang" else "limit.time_s=60", "retries=0"]
    result = run_python(*command, ODD=how)
    assert result.returncode == 1, result.stdout + result.stderr
    runs = runs_below(tmp_path)
    assert [(run.seed, run.status) for run in runs] == [(0, status), (1, status)]
    assert all(message in run.error["message"] for run in runs)
    assert len(list(tmp_path.glob("runs/*/*/checkpoint.pt"))) == 2
    result = run_python(*command)
    assert result.returncode == 0, result.stdout + result.stderr
    runs = runs_below(tmp_path)
    assert [(run.seed, run.status, run.metrics["stacked"]) for run in runs] == [
        (0, "done", 2),
        (1, "done", 2),
    ]
    assert all(0 < run.metrics["resumed_step"] < 12 for run in runs)
    assert list(tmp_path.glob("runs/*/*/checkpoint.pt")) == []


def test_what_has_ended_before_its_process_died_stays_ended(make_job, tmp_path):
    """Two seeds in one process, of which one has told its record."""
    units = plan(
        [make_job("gru", seeds=2, stack=2, task_options={"lengths": [8]}, speed={"enabled": False})], tmp_path
    )
    dead = Ended(-9)
    pool = isolate.Pool(1)
    for unit in units:
        inbox, outbox = multiprocessing.Pipe(duplex=False)
        outbox.send("working")
        if unit.seed == 0:
            run = isolate.write_failure(unit, isolate.Death("failed", "Own", "what it said itself"))
            outbox.send(dataclasses.replace(run, status="done", error=None))
        outbox.close()
        pool._running.append(isolate.Child(unit, dead, inbox, environment_.oom_kills(), beside=2))
    for child in pool._running:
        child.listen()
    one, two = pool._running
    assert pool._leaves_others(one)
    assert not pool._leaves_others(two)
    assert [isolate._outcome(child).status for child in (one, two)] == ["done", "killed"]
