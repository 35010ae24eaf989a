"""The gate's decision rule on known noise: how often it accuses, catches, cannot tell. No clock."""

from __future__ import annotations

import contextlib
import math

import numpy as np
import pytest

from seqbench.perf.judge import CONFIDENCE, FEWEST_PAIRS, LOOKS, Verdict, decide
from seqbench.perf.timing import Timing, contest

TRIALS = 200
STEP_S = 0.01


class Machine:
    """A clock that both sides share: it drifts, it is slow for a while, each block has noise of its own."""

    def __init__(self, seed: int, noise: str, size: float) -> None:
        self.rng = np.random.default_rng(seed)
        self.noise, self.size = noise, size
        self.drift, self.burst = 0.0, 0

    def seconds(self, work_s: float) -> float:
        """What a block of work takes now."""
        rng = self.rng
        self.drift = 0.98 * self.drift + rng.normal(0, 0.02)
        self.burst = self.burst - 1 if self.burst else rng.poisson(0.02) * int(rng.integers(2, 12))
        own = {
            "normal": rng.normal(0, self.size),
            "heavy": self.size * float(rng.standard_t(1.5)),
            "one-sided": self.size * float(rng.pareto(1.5)),
        }[self.noise]
        return work_s * math.exp(np.clip(own + self.drift + (0.3 if self.burst else 0.0), -1, 3))


class Side:
    """A worker on this machine whose steps take so long."""

    def __init__(self, machine: Machine, factor: float) -> None:
        self.machine, self.factor = machine, factor

    def prepare(self) -> float:
        return STEP_S * self.factor

    def block(self, steps: int) -> float:
        return self.machine.seconds(steps * STEP_S * self.factor)


def run(seed: int, factor: float, noise: str = "heavy", size: float = 0.04, **options: float) -> Timing:
    machine = Machine(seed, noise, size)
    return contest(Side(machine, 1.0), Side(machine, factor), seed, **options)


def verdicts(factor: float, noise: str, size: float = 0.04) -> list[Verdict]:
    return [run(seed, factor, noise, size).decision.verdict for seed in range(TRIALS)]


NOISES = ["normal", "heavy", "one-sided"]


@pytest.mark.parametrize("noise", NOISES)
def test_identical_code_is_accused_in_less_than_one_of_fifty(noise):
    found = verdicts(1.0, noise)
    assert found.count(Verdict.FAIL) <= TRIALS / 50 / 2
    assert found.count(Verdict.PASS) >= 0.9 * TRIALS


@pytest.mark.parametrize("noise", NOISES)
def test_twenty_percent_is_caught_nearly_always(noise):
    assert verdicts(1.2, noise).count(Verdict.FAIL) >= 0.95 * TRIALS


@pytest.mark.parametrize("noise", NOISES)
def test_a_slowdown_of_exactly_the_margin_is_seldom_judged_in_either_way(noise):
    """The hardest truth: each error has half of the 2 %, over all looks together."""
    found = verdicts(1.05, noise, size=0.08)
    allowed = TRIALS * (1 - CONFIDENCE) / 2 + 3 * math.sqrt(TRIALS * 0.01)
    assert found.count(Verdict.FAIL) <= allowed
    assert found.count(Verdict.PASS) <= allowed


def test_a_gain_is_not_slower():
    assert verdicts(0.8, "heavy").count(Verdict.PASS) >= 0.99 * TRIALS


def test_the_interval_covers_the_truth():
    rng = np.random.default_rng(0)
    draws = [decide(list(rng.standard_t(1.5, 30)), looks=1) for _ in range(1_000)]
    covered = np.mean([one.low <= 1.0 <= one.high for one in draws])
    assert covered >= CONFIDENCE - 0.012


def test_what_would_have_been_seen_is_seen_about_as_often_as_promised():
    """A true slowdown of the size that the noise allows is found in about 8 of 10 looks."""
    rng = np.random.default_rng(0)
    size = np.median([decide(list(rng.normal(0, 0.1, 40))).detectable for _ in range(50)])
    caught = [decide(list(rng.normal(math.log1p(size), 0.1, 40))).verdict is Verdict.FAIL for _ in range(500)]
    assert 0.65 < np.mean(caught) < 0.95


def test_wild_noise_ends_in_cannot_tell_with_what_could_have_been_seen():
    found = run(1, 1.05, "normal", 0.5)
    assert found.decision.verdict is Verdict.CANNOT_TELL
    assert found.looks == LOOKS
    assert found.decision.detectable > 0.15


def test_more_time_makes_smaller_effects_visible():
    short, long = (run(3, 1.05, "normal", 0.2, seconds=s).decision.detectable for s in (6.0, 96.0))
    assert long < short / 2


def test_looks_share_the_error():
    assert decide([0.0] * 40).confidence == pytest.approx(1 - 0.02 / LOOKS)
    assert decide([0.0] * 40, looks=1).confidence == pytest.approx(0.98)


def test_too_few_pairs_are_refused():
    with pytest.raises(ValueError, match=f"{FEWEST_PAIRS} are needed"):
        decide([0.0] * (FEWEST_PAIRS - 1))


def test_sides_take_turns_in_random_order_and_each_look_starts_afresh():
    told: list[str] = []

    class Told(Side):
        def __init__(self, name: str) -> None:
            super().__init__(Machine(0, "normal", 0.5), 1.0)
            self.name = name

        def prepare(self) -> float:
            told.append(f"prepare {self.name}")
            return super().prepare()

        def block(self, steps: int) -> float:
            told.append(self.name)
            return super().block(steps)

    found = contest(Told("base"), Told("head"), 0, seconds=3.0, margin=0.0)
    pairs = [word for word in told if "prepare" not in word]
    orders = {tuple(pairs[i : i + 2]) for i in range(0, len(pairs), 2)}
    assert orders == {("base", "head"), ("head", "base")}
    assert told.count("prepare base") == told.count("prepare head") == found.looks


def test_the_machine_is_held_once_for_each_look():
    entered = []

    @contextlib.contextmanager
    def quiet():
        entered.append("in")
        yield
        entered.append("out")

    machine = Machine(0, "normal", 0.5)
    found = contest(Side(machine, 1.0), Side(machine, 1.05), 0, quiet=quiet)
    assert entered == ["in", "out"] * found.looks
