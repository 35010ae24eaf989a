"""Clocks: which steps are timed, in which order, and what a device's own clock says."""

from __future__ import annotations

import itertools
import math
import time

import pytest
import torch

from seqbench import timing
from seqbench.memory import PeakMeter
from seqbench.timing import StepTimer, peak_flops_per_s, time_steps, work_s

CPU = torch.device("cpu")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


class FakeClock:
    """A clock that only steps move."""

    def __init__(self) -> None:
        self.wall = self.cpu = 0.0

    def perf_counter(self) -> float:
        return self.wall

    def process_time(self) -> float:
        return self.cpu


@pytest.fixture
def clock(monkeypatch) -> FakeClock:
    fake = FakeClock()
    monkeypatch.setattr(timing, "time", fake)
    return fake


def test_seconds_and_cpu_seconds_of_every_step_are_its_own(clock):
    timer, works = StepTimer(CPU), iter([(1.0, 0.5), (3.0, 0.25)])

    def work() -> None:
        wall, cpu = next(works)
        clock.wall, clock.cpu = clock.wall + wall, clock.cpu + cpu

    timer.time(work)
    clock.wall += 100  # between steps, and not theirs
    timer.time(work)
    assert timer.read() == [(1.0, 0.5), (3.0, 0.25)]
    assert timer.read() == []


def stepping(clock: FakeClock, seconds: list[float]) -> tuple[list[int], list]:
    """Steps that take so long each, and a list of those that were taken."""
    taken: list[int] = []

    def make(number: int):
        def step() -> None:
            taken.append(number)
            clock.wall += seconds[number]

        return step

    return taken, [make(number) for number in range(len(seconds))]


def test_the_first_steps_warm_up_and_all_are_taken_in_turn(clock):
    taken, steps = stepping(clock, [1.0, 2.0, 4.0])
    found = time_steps(steps, CPU, seconds=0.0, fewest=4)
    assert taken == [0, 1, 2, 0, 1, 2]
    assert [(number, step_s) for number, step_s, _ in found] == [(2, 4.0), (0, 1.0), (1, 2.0), (2, 4.0)]


def test_both_the_time_and_the_fewest_steps_are_reached(clock):
    _, steps = stepping(clock, [1.0])
    assert len(time_steps(steps, CPU, seconds=10.0, fewest=3)) == 10
    assert len(time_steps(steps, CPU, seconds=2.0, fewest=5)) == 5


def test_a_limit_ends_it_however_few_there_were(clock):
    _, steps = stepping(clock, [10.0])
    assert len(time_steps(steps, CPU, seconds=0.0, fewest=8, most_s=25.0)) == 1
    assert len(time_steps(steps, CPU, seconds=0.0, fewest=8, most_s=55.0)) == 4


def test_the_clocks_of_a_cpu_agree_with_sleeping():
    ((_, step_s, cpu_s),) = time_steps([lambda: time.sleep(0.02)], CPU, 0.0, 1)
    assert step_s >= 0.02 > cpu_s


def test_the_peak_is_the_rate_of_a_large_product():
    found = peak_flops_per_s(CPU)
    a = torch.rand(1024, 1024)
    quickest = math.inf
    for _ in range(5):
        start = time.perf_counter()
        a @ a
        quickest = min(quickest, time.perf_counter() - start)
    assert 1e8 < found < 8 * 2 * 1024**3 / quickest  # by BLAS; oneDNN may be more than twice as fast


def test_work_is_the_threads_own_time_on_one_thread_and_else_all(monkeypatch):
    assert work_s(CPU, 2.0, 1.0) == 1.0
    assert work_s(torch.device("cuda"), 2.0, 1.0) == 2.0
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert work_s(CPU, 2.0, 3.9) == 2.0


@needs_gpu
def test_a_gpu_is_not_waited_for_between_steps(monkeypatch):
    device = torch.device("cuda")
    a = torch.rand(4096, 4096, device=device)
    waits = itertools.count()
    real = torch.cuda.synchronize
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *args: (next(waits), real(*args))[1])
    timer = StepTimer(device)
    start = time.perf_counter()
    for _ in range(20):
        timer.time(lambda: a @ a)
    launched_s = time.perf_counter() - start
    assert next(waits) == 0
    took = timer.read()
    assert next(waits) == 2  # read() waited once
    assert len(took) == 20
    assert sum(step_s for step_s, _ in took) > launched_s


@needs_gpu
def test_events_of_a_gpu_agree_with_the_wall_clock():
    device = torch.device("cuda")
    a = torch.rand(4096, 4096, device=device)
    for _ in range(3):
        a @ a
    torch.cuda.synchronize(device)
    timer, start = StepTimer(device), time.perf_counter()
    for _ in range(50):
        timer.time(lambda: a @ a)
    took = timer.read()
    assert sum(step_s for step_s, _ in took) == pytest.approx(time.perf_counter() - start, rel=0.2)


@needs_gpu
def test_peak_memory_of_a_gpu_counts_from_what_stood_before():
    device = torch.device("cuda")
    standing = torch.empty(1 << 26, device=device, dtype=torch.uint8)
    meter = PeakMeter(device)
    del_me = torch.empty(1 << 24, device=device, dtype=torch.uint8)
    del del_me
    assert 1 << 24 <= meter.bytes() < 1 << 25
    assert len(standing) == 1 << 26


@needs_gpu
def test_the_peak_of_a_gpu_is_beyond_any_cpu():
    assert peak_flops_per_s(torch.device("cuda")) > 2e12
