"""Jumps of the gradient's norm in training: what harms, and what is a spike after all is learned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from made import training, write_sweep

from seqbench.report.frame import read_sweep
from seqbench.report.health import Health, health
from seqbench.report.tables import training_health

STEPS = 200


def run_of(norms: dict[int, float], losses: dict[int, float], base: float = 0.8) -> dict[str, Any]:
    """A run of 200 steps that has learned its task after 100, with some steps of its own.

    Args:
        base: its norms until it has learned; a hundredth of it after that.
    """
    steps = list(range(1, STEPS + 1))
    norm = [base if step <= 100 else base / 100 for step in steps]
    loss = [2.0 if step <= 100 else 0.001 for step in steps]
    for step, value in norms.items():
        norm[step - 1] = value
    for step, value in losses.items():
        loss[step - 1] = value
    return {"step": steps, "gradient_norm": norm, "loss": loss}


def one(folder: Path, *runs: dict[str, Any], **changes: Any) -> Health:
    work = [(training("gru", 16, s, 0.5, **changes), {"steps": steps}) for s, steps in enumerate(runs)]
    (found,) = health(read_sweep(write_sweep(folder, work)))
    return found


def test_a_spike_after_the_task_is_learned_is_no_explosion(tmp_path: Path):
    found = one(tmp_path / "s", run_of({170: 1.24}, {170: 0.015}))
    assert found.flags == (
        "one spike: 1.24 at step 170, 155 times the median of the 50 steps before (0.008; the loss was near "
        "zero)"
    )
    assert training_health([found]).rows[0][-1].text == found.flags


def test_several_spikes_are_counted_over_the_seeds(tmp_path: Path):
    flags = one(tmp_path / "s", run_of({170: 1.2}, {}), run_of({160: 1.6, 190: 1.3}, {})).flags
    assert flags.startswith("3 spikes, the largest 1.60 at step 160, 200 times the median")


def test_a_jump_among_large_gradients_explodes(tmp_path: Path):
    found = one(tmp_path / "s", run_of({60: 400.0, 170: 1.24}, {}))
    assert found.flags == "explodes: at one step 500 times what it was before"


def test_a_jump_after_which_the_loss_stays_up_explodes(tmp_path: Path):
    lasting = dict.fromkeys(range(171, STEPS + 1), 1.5)
    assert one(tmp_path / "s", run_of({170: 1.24}, lasting)).flags.startswith("explodes: at one step 155")
    passing = dict.fromkeys(range(171, 175), 1.5)
    assert one(tmp_path / "t", run_of({170: 1.24}, passing)).flags.startswith("one spike")


@pytest.mark.parametrize(("status", "word"), [("done", "one spike"), ("diverged", "explodes")])
def test_the_last_step_of_a_run_that_diverged_explodes(tmp_path: Path, status: str, word: str):
    assert one(tmp_path / "s", run_of({STEPS: 1.24}, {}), status=status).flags.startswith(word)


def test_what_is_not_clipped_is_neither(tmp_path: Path):
    assert one(tmp_path / "s", run_of({170: 0.99}, {})).flags == ""
    assert one(tmp_path / "t", run_of({}, {})).flags == ""


def test_a_loss_that_is_not_low_is_not_called_near_zero(tmp_path: Path):
    high = dict.fromkeys(range(101, STEPS + 1), 0.5)
    flags = one(tmp_path / "s", run_of({170: 1.24}, high)).flags
    assert flags.endswith("(0.008)")


def test_a_ratio_beyond_all_bounds_stays_short(tmp_path: Path):
    flags = one(tmp_path / "s", run_of({60: 1e90}, {}, base=1e-5)).flags
    assert flags == "explodes: at one step 1e+95 times what it was before"
