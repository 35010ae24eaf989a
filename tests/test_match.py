"""Fair by construction: every model that has a width meets the parameter budget within 2 %."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from seqbench.match import UNMATCHED_WIDTH, closest, matched_parameters, solve_width
from seqbench.network import Network
from seqbench.registry import plugins

TASKS = {"temporal_order": (11, 9), "mqar": (25, 8)}  # vocabulary and classes of the built-in default
WIDTHLESS = {"bag", "constant"}


def parameters_at(job, task: str, width: int) -> int:
    return matched_parameters(Network(job.model, job.network, *TASKS[task], width))


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", sorted(set(plugins("model")) - WIDTHLESS))
def test_parameters_are_within_two_percent_of_the_default_target(make_job, name, task):
    job = make_job(name, task)
    width = solve_width(job, *TASKS[task])
    assert parameters_at(job, task, width) == pytest.approx(job.match.target, rel=0.02)


@pytest.mark.parametrize("target", [35_000, 200_000])
def test_no_neighbouring_width_is_closer_to_the_target(make_job, model, target):
    job = dataclasses.replace(make_job(match={"target": target}), model=model)
    width, step = solve_width(job, *TASKS["mqar"]), model.width_multiple
    if model.name in WIDTHLESS:
        assert width == 1
        return
    assert width % step == 0
    gaps = [abs(parameters_at(job, "mqar", width + move) - target) for move in (-step, 0, step)]
    assert gaps[1] == min(gaps)


def test_the_shared_embedding_is_not_counted(make_job):
    job = make_job("gru")
    widths = {solve_width(job, vocabulary, 9) for vocabulary in (11, 20_000)}
    assert len(widths) == 1


def test_a_chosen_width_wins_and_matching_can_be_switched_off(make_job):
    assert solve_width(make_job("gru", model_options={"hidden": 17}), 11, 9) == 17
    unmatched = make_job("transformer", match={"by": "none"}, model_options={"heads": 3})
    assert solve_width(unmatched, 11, 9) == UNMATCHED_WIDTH // 6 * 6


@given(
    steps=st.lists(st.integers(1, 50), min_size=2, max_size=60),
    target=st.integers(-10, 3_000),
    start=st.integers(0, 99),
)
def test_closest_is_as_close_as_trying_every_width(steps, target, start):
    counts = [start + sum(steps[: n + 1]) for n in range(len(steps))]  # increasing
    found = closest(lambda n: counts[n - 1], target, len(counts))
    assert abs(counts[found - 1] - target) == min(abs(count - target) for count in counts)


def test_solving_a_width_makes_no_real_weights(make_job):
    before = torch.random.get_rng_state()
    assert solve_width(make_job("lstm", match={"target": 100_000_000}), 11, 9) > 4_000
    assert torch.equal(torch.random.get_rng_state(), before)
