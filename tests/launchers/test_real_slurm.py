"""The Slurm engine on a real Slurm: arrays, lost workers, preemption, time-outs, refusals, and the end."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from launchers import trivial
from launchers.watch import SCRIPT, processes, queue
from seqbench.errors import UsageError
from seqbench.launch import slurm as engines
from seqbench.launch.base import Ended

NODE = {"cpus_per_task": 1, "mem_gb": 1, "timeout_min": 60, "max_num_timeout": 10, "signal_delay_s": 90}
CPUS = 4  # of the node
Make = Callable[..., engines.Slurm]


@pytest.fixture
def make(slurm: dict[str, str]) -> Iterator[Make]:
    """An engine for orders that the tests understand; closed at the end."""
    made = []

    def engine(**node: Any) -> engines.Slurm:
        made.append(engines.engine({**NODE, **node}))
        made[-1].do = trivial.do
        return made[-1]

    yield engine
    for one in made:
        one.close()


def outcome(engine: engines.Slurm, *orders: str, within_s: float = 60) -> list[Ended]:
    """What becomes of orders, in their order."""
    engine.submit({number: order.encode() for number, order in enumerate(orders)})
    return sorted(awaited(engine, len(orders), within_s), key=lambda one: one.number)


def awaited(engine: engines.Slurm, count: int, within_s: float = 60) -> list[Ended]:
    found: list[Ended] = []
    deadline = time.monotonic() + within_s
    while len(found) < count:
        assert time.monotonic() < deadline, f"{count - len(found)} of {count} have not ended: {found}"
        found += engine.poll(0.5)
    return found


def until(true: Callable[[], object], within_s: float = 30) -> None:
    deadline = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.1)


def kept(slurm: dict[str, str]) -> list[Path]:
    """What lies in the cache."""
    return list(Path(slurm["XDG_CACHE_HOME"], "seqbench", "submitit").iterdir())


def test_a_batch_answers_or_the_engine_says_why_it_did_not(make, slurm):
    engine = make()
    said, failed, killed = outcome(engine, "say", "fail", "kill", within_s=20)
    assert said == Ended(0, told="say 0")
    assert failed.lost.endswith("ValueError: no such thing")
    assert "its process ended before it could answer" in killed.lost
    assert not failed.told
    assert not killed.told
    [place] = kept(slurm)
    assert place.stat().st_mode & 0o777 == 0o700
    assert list(place.glob("*/*_log.err")), "the logs of what was lost are kept"


def test_what_was_lost_can_be_handed_over_again_and_nothing_stays_in_the_cache(make, slurm):
    engine = make()
    assert [one.told for one in outcome(engine, "say", "say")] == ["say 0", "say 0"]
    engine.submit({7: b"say"})
    assert awaited(engine, 1) == [Ended(7, told="say 0")]
    engine.close()
    assert kept(slurm) == []


def test_a_preempted_batch_is_queued_again_by_slurm_and_answers_once(make):
    """Both ways of Slurm's: ended at once, and after a time of grace that begins with SIGTERM."""
    engines_of = {name: make(cpus_per_task=CPUS // 2, partition=name) for name in ("low", "soft")}
    for engine in engines_of.values():
        engine.submit({0: b"sleep 4"})
    until(lambda: len(processes("sleep 4.0")) == len(engines_of))
    urgent = ["srun", "--partition=high", "--ntasks=1", f"--cpus-per-task={CPUS}", "true"]
    subprocess.run(urgent, check=True, timeout=60, capture_output=True)
    for engine in engines_of.values():
        assert awaited(engine, 1) == [Ended(0, told="sleep 1")], "it ran to its end at its first restart"
        assert engine.poll(1.0) == []


def test_a_batch_out_of_time_goes_on_when_it_is_queued_again_but_not_for_ever(make, tmp_path):
    patient, impatient = (
        make(timeout_min=1, signal_delay_s=58),
        make(timeout_min=1, signal_delay_s=58, max_num_timeout=0),
    )
    patient.submit({0: f"once {tmp_path / 'mark'} sleep 300".encode()})
    impatient.submit({0: b"sleep 300"})
    assert awaited(patient, 1, within_s=90) == [Ended(0, told="again")]
    [ended] = awaited(impatient, 1)
    assert ended.lost.endswith("Job not requeued because: timed-out too many times.")
    assert not processes("sleep 300.0")


def test_a_job_that_a_person_cancels_is_lost_and_not_queued_again(make):
    engine = make()
    engine.submit({0: b"sleep 300"})
    until(lambda: processes("sleep 300.0"))
    subprocess.run(["scancel", *queue()], check=True)
    [ended] = awaited(engine, 1, within_s=30)
    assert "it was cancelled" in ended.lost


@pytest.mark.parametrize(
    ("node", "words"),
    [
        ({"partition": "none"}, "invalid partition specified: none; Batch job submission failed"),
        ({"mem_gb": 999}, "Memory specification can not be satisfied"),
        ({"additional_parameters": {"no-such-option": 1}}, "unrecognized option"),
        ({"mem_gb": "much"}, "mem_gb"),
    ],
)
def test_what_sbatch_refuses_is_said_in_one_line_and_leaves_nothing(make, slurm, capfd, node, words):
    engine = make(**node)
    with pytest.raises(UsageError, match=r"^hydra/launcher=slurm: ") as refused:
        engine.submit({0: b"say", 1: b"say"})
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)
    assert capfd.readouterr() == ("", ""), "the sweep prints the error"
    assert kept(slurm) == []
    assert queue() == []


def test_close_ends_what_runs_and_what_waits(make, slurm):
    engine = make()
    engine.submit(dict.fromkeys(range(CPUS + 2), b"sleep 300"))
    until(lambda: len(processes("sleep 300.0")) >= CPUS)
    engine.close()
    assert queue() == []
    assert not processes("sleep 300.0")
    assert kept(slurm) == []
    engine.close()


def test_the_script_leaves_no_process_and_nothing_outside_its_folder(tmp_path):
    folder = tmp_path / "another"
    started = subprocess.run([SCRIPT, "start", folder], capture_output=True, text=True, check=False)
    if started.returncode != 0:
        pytest.skip(f"no Slurm here: {started.stderr.strip()}")
    numbers = [int(path.read_text()) for path in (folder / "run").glob("*.pid")]
    assert len(numbers) == 3
    subprocess.run([SCRIPT, "stop", folder], check=True)
    assert not set(numbers) & set(processes(str(folder)))
    assert not processes(str(folder))
