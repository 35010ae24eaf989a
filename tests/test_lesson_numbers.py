"""What the lesson computes: did the gates pay, how far, how wide, how quick; other records, other words."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
from made import Work, changed, tables, timing, training
from test_hops import table as hops
from test_lesson import biased, fading, told, words
from test_report_attention import by_hand

from seqbench.records import Run

Scored = dict[str, tuple[float, float]]


def against(scores: Scored, seeds: int = 3, after: dict[str, float] | None = None, **lr: float) -> list[Work]:
    """Models by their score and how their gradient falls before training, and ``after`` it."""
    work: list[Work] = []
    for model, (score, decay) in scores.items():
        for seed in range(seeds):
            run, columns = training(model, 32, seed, min(1.0, score + 0.001 * seed)), tables(score, decay)
            flow = columns["gradient_flow"]
            flow["median"][24:] = [(after or {}).get(model, decay) ** d for d in range(24)]
            train = {**run.config["train"], "lr": lr.get(model, 0.01)}
            work.append((dataclasses.replace(run, config={**run.config, "train": train}), columns))
    return work


def paid(folder: Path, work: list[Work]) -> str:
    """What is said about whether the gates paid."""
    seen = words(told(folder, work))
    return seen[seen.index("Did the gates pay?") : seen.index("5. What attention changes")]


@pytest.mark.parametrize(
    ("rnn", "lstm", "said", "not_said"),
    [
        (0.2, 0.9, "Yes, on every task here.", "cannot tell"),
        (0.9, 0.2, "Not here. Each is compared with rnn", "yes for"),
        (0.998, 0.998, "rnn and lstm both solve order, which is too easy to tell them apart", "Yes"),
        (0.3, 0.3, "Neither rnn nor lstm solves order, within the steps they were given", "Yes"),
    ],
)
def test_whether_the_gates_paid_is_what_the_records_say(tmp_path, rnn, lstm, said, not_said):
    part = paid(tmp_path / "s", against({"rnn": (rnn, 0.5), "lstm": (lstm, 0.6)}))
    assert said in part
    assert not_said not in part


def test_every_gated_model_is_judged_with_its_numbers(tmp_path):
    some = {"rnn": (0.2, 0.5), "lstm": (0.2, 0.6), "gru": (0.9, 0.6), "bilstm": (0.9, 0.6)}
    part = paid(tmp_path / "a", against(some))
    assert "In part." in part
    assert "On order, yes for gru (+0.70 [" in part
    assert "no for lstm (0.00 [" in part
    assert "bilstm is left out: more than gates sets it apart from rnn." in part
    every = {**some, "lstm": (0.9, 0.6)}
    del every["bilstm"]
    part = paid(tmp_path / "b", against(every))
    assert "Yes, on every task here." in part
    assert re.search(r"On order, yes for lstm \(\+0.70 \[[^]]+\]\) and gru \(\+0.70 \[", part)
    assert "left out" not in part


def test_learning_rates_are_named_where_they_differ_as_the_outcomes_do(tmp_path):
    scores = {"rnn": (0.2, 0.5), "lstm": (0.2, 0.6), "gru": (0.9, 0.6)}
    part = paid(tmp_path / "a", against(scores, lstm=0.00979, gru=0.0313))
    assert "Their learning rates on order differ too (lstm 0.00979 and gru 0.0313)." in part
    assert "learning rates" not in paid(tmp_path / "b", against(scores))
    alike = {**scores, "lstm": (0.9, 0.6)}
    assert "learning rates" not in paid(tmp_path / "c", against(alike, lstm=0.00979, gru=0.0313))


@pytest.mark.parametrize(
    ("after", "said"),
    [
        ({"gru": 0.98}, "Training raised it in gru (now x0.98) and did not raise it in lstm (now x0.60)."),
        (
            {"gru": 0.4, "lstm": 0.9},
            "Training raised it in lstm (now x0.90) and lowered it in gru (now x0.40).",
        ),
    ],
)
def test_what_training_did_to_the_gradient_of_gated_models_is_told(tmp_path, after, said):
    scores = {"rnn": (0.2, 0.5), "lstm": (0.2, 0.6), "gru": (0.9, 0.65)}
    part = paid(tmp_path / "s", against(scores, after=after))
    assert (
        "On order T=32, lstm (x0.60 per step) and gru (x0.65 per step) start with a vanished gradient, "
        f"as rnn does (x0.50 per step). {said}" in part
    )


def test_a_rise_that_one_seed_shows_is_not_certain(tmp_path):
    scores = {"rnn": (0.2, 0.5), "lstm": (0.2, 0.6)}
    part = paid(tmp_path / "s", against(scores, seeds=1, after={"lstm": 0.9}))
    fell = against(scores, seeds=1, after={"lstm": 0.4})
    assert "Training did not raise it in lstm (now x0.40)." in paid(tmp_path / "b", fell)
    assert "Training may have raised it (that is not certain) in lstm (now x0.90)." in part


def test_a_gradient_that_arrives_is_not_called_vanished(tmp_path):
    part = paid(tmp_path / "s", against({"rnn": (0.2, 0.5), "lstm": (0.2, 0.97)}))
    assert "lstm (x0.97 per step) starts with a gradient that arrives." in part
    assert "vanished" not in part


def test_better_at_a_floor_is_not_called_good(tmp_path):
    part = paid(tmp_path / "a", against({"rnn": (0.2, 0.5), "lstm": (0.66, 0.6)}))
    assert 'Better need not mean good (lstm: at the floor "bag of tokens").' in part
    assert "Better need not" not in paid(tmp_path / "b", against({"rnn": (0.2, 0.5), "lstm": (0.9, 0.6)}))


def test_only_gates_that_start_as_drawn_have_to_be_opened(tmp_path):
    seen = []
    for bias in (None, 3.0):
        work = [
            (biased(run, bias), columns) for run, columns in against({"rnn": (0.3, 0.5), "lstm": (0.3, 0.6)})
        ]
        seen.append(paid(tmp_path / str(bias), work))
    assert "lstm (x0.60 per step) starts with a vanished gradient" in seen[0]
    assert "training has to open it" in seen[0]
    assert "training has to open it" not in seen[1]


def test_one_seed_decides_nothing(tmp_path):
    seen = words(told(tmp_path / "s", against({"rnn": (0.2, 0.5), "lstm": (0.9, 0.6)}, seeds=1)))
    assert "That cannot be told here." in seen
    assert "1 seed cannot tell" in seen
    assert "One seed says nothing about how much results differ by chance" in seen


def test_the_same_data_is_claimed_only_where_it_was_the_same(tmp_path):
    work = against({"rnn": (0.3, 0.5), "lstm": (0.3, 0.6)})
    other = [(changed(run, first_batch_sha256=f"{run.model} {run.seed}"), columns) for run, columns in work]
    claim = "and the same data for every model of a seed"
    assert claim in words(told(tmp_path / "a", work))
    seen = words(told(tmp_path / "b", other))
    assert claim not in seen
    assert "did NOT see the same data" in seen


def test_hops_are_those_of_the_records(tmp_path):
    work = [
        (training(model, 16, 0, 1.0), {"hops": hops({"init": 0.1}, hops=count, distance=40)})
        for model, count in (("rnn", 40), ("transformer", 1))
    ]
    seen = words(told(tmp_path / "s", work))
    assert (
        "lies 40 steps back; on its way there the gradient takes 40 hops in rnn and 1 in transformer." in seen
    )


def set_to(run: Run, **settings: Any) -> Run:
    """The run with these settings of its model in its record."""
    return dataclasses.replace(run, config={**run.config, "model": {"name": run.model, **settings}})


def test_hops_to_the_nearer_end_are_said_to_be_that(tmp_path):
    work = [
        (set_to(training(model, 16, 0, 1.0), bidirectional=both), {"hops": hops({"init": 0.1}, 7, 40)})
        for model, both in (("bilstm", True), ("tcn", False))
    ]
    seen = words(told(tmp_path / "s", work))
    end = "(to the nearer end; a token in the middle is about T/2 hops from either end)"
    assert f"the gradient takes 7 hops in bilstm {end} and 7 in tcn." in seen


def attending(shares: dict[int, tuple[float, float]]) -> list[Work]:
    """A transformer by rung: what the cue, as far back as the rung, gets before and after training."""
    return [
        (
            set_to(training("transformer", rung, 0, 1.0), positions="rotary"),
            {"hops": hops({"init": before, "final": after}, 1, rung - 1), **tables(1.0, 1.0)},
        )
        for rung, (before, after) in shares.items()
    ]


def test_attention_that_is_spread_evenly_gives_each_token_its_part(tmp_path):
    seen = words(told(tmp_path / "a", attending({20: (0.05, 0.7), 100: (0.0091, 0.79)})))
    assert (
        "Before training attention is spread over all tokens, so each gets about 1/T (in transformer, that "
        "token gets 0.91 % of the gradient at the answer): less with length, but the same at every distance. "
        "After training it gets 79 %." in seen
    )
    seen = words(told(tmp_path / "b", attending({20: (0.05, 0.7), 100: (0.3, 1.4)})))
    assert "is spread over all tokens" not in seen
    assert "Before training, in transformer, that token gets 30 % of the gradient at the answer." in seen
    assert "After training it gets 140 %." in seen


def test_a_gradient_that_falls_is_not_the_same_at_every_distance(tmp_path):
    work = [
        (run, {**columns, **tables(1.0, 0.5)})
        for run, columns in attending({20: (0.05, 0.7), 100: (0.01, 0.8)})
    ]
    seen = words(told(tmp_path / "s", work))
    assert "less with length. After training" in seen


def test_the_width_of_the_state_is_told_by_task(tmp_path):
    def wide(task: str, width: int) -> list[Work]:
        return [
            (dataclasses.replace(changed(run, width=width), task=task), columns)
            for run, columns in fading(0.5, seeds=1)
        ]

    seen = words(told(tmp_path / "a", wide("order", 160) + wide("mqar", 161)))
    assert "that is a vector of 160 (order) or 161 (mqar) numbers" in seen
    seen = words(told(tmp_path / "b", wide("order", 160) + wide("mqar", 160)))
    assert "that is a vector of 160 numbers" in seen


@pytest.mark.parametrize(("common", "left"), [(20, "2·10⁻⁶"), (11, "1·10⁻³")])
def test_the_curve_ends_where_every_seed_still_has_it(tmp_path, common, left):
    work = fading(0.5)
    work[2][1]["gradient_flow"] = {
        name: [v for v, d in zip(values, [*range(24)] * 2, strict=True) if d <= common]
        for name, values in work[2][1]["gradient_flow"].items()
    }
    seen = words(told(tmp_path / "s", work))
    assert f"every probed sequence of every seed has is {common}, which is k = {common - 1} steps" in seen
    assert f"ends at {left} of its value at distance 1 (the median of 3 seeds)" in seen
    assert f"left after {common - 1} steps" in seen


def test_the_example_shows_what_the_deciding_token_gets(tmp_path):
    looked = {"attention": by_hand([0.02, 0.93, 0.03, 0.02], deciding=(1,), tokens=(7, 8, 9, 6))}
    seen = words(told(tmp_path / "s", [(training("transformer", 16, 0, 1.0), looked)]))
    assert "when it reads for the answer at position 3" in seen
    assert "7 [8: 0.93] 9 6" in seen


def test_the_cost_of_length_is_that_of_the_records(tmp_path):
    work: list[Work] = []
    for model, power in (("rnn", 1), ("transformer", 2)):
        run, columns = timing(model)
        speed = columns["speed"]
        longer = [rung / 16 for rung in speed["rung"]]
        more = {
            "flops": [1e6 * r**power for r in longer],
            "state_values": [64 * r ** (power - 1) for r in longer],
        }
        work += [(training(model, 16, 0, 0.5), tables(0.5)), (run, {"speed": {**speed, **more}})]
    seen = words(told(tmp_path / "s", work))
    assert "From T=16 to T=32 (x2), operations grow x4 in transformer and x2 in rnn." in seen
    assert "64 → 64 (x1)" in seen
    assert "64 → 128 (x2)" in seen
    assert "1 → 4 (x4)" in seen


def timed(work: dict[str, tuple[float, float]], **environment: Any) -> list[Work]:
    """Models timed at two lengths, as many times as slow as others, on some device."""
    found: list[Work] = []
    for model, slower in work.items():
        run, columns = timing(model)
        seconds = [
            step * slower[rung == 32]
            for step, rung in zip(columns["speed"]["step_s"], columns["speed"]["rung"], strict=True)
        ]
        run = dataclasses.replace(run, environment={**run.environment, "device": "cpu", **environment})
        found += [
            (training(model, 16, 0, 0.5), tables(0.5)),
            (run, {"speed": {**columns["speed"], "step_s": seconds}}),
        ]
    return found


@pytest.mark.parametrize(
    ("work", "environment", "said"),
    [
        (
            {"rnn": (2, 2), "lstm": (1, 1), "transformer": (3, 9)}, {},
            "Here, on one CPU thread, lstm is quickest and transformer slowest at every length; on a GPU "
            "steps that run at once gain more.",
        ),
        (
            {"rnn": (2, 2), "lstm": (3, 3), "transformer": (1, 9)}, {"threads": 4},
            "Here, on 4 CPU threads, transformer is quickest at T=16 and rnn is quickest at T=32; lstm is "
            "slowest at T=16 and transformer is slowest at T=32; on a GPU steps that run at once gain more.",
        ),
        (
            {"rnn": (9, 9), "transformer": (1, 1)}, {"device": "NVIDIA X"},
            "Here, on NVIDIA X, transformer is quickest and rnn slowest at every length. ",
        ),
    ],
)  # fmt: skip
def test_who_is_quickest_is_what_was_timed(tmp_path, work, environment, said):
    seen = words(told(tmp_path / "s", timed(work, **environment)))
    assert (
        f"Time need not follow the operations: it also depends on the device and the kernel. {said}" in seen
    )


def test_times_that_may_not_be_compared_rank_nobody(tmp_path):
    one = words(told(tmp_path / "a", timed({"rnn": (1, 1)})))
    assert "is quickest" not in one
    two = timed({"rnn": (1, 1)}, cpu="a chip") + timed({"lstm": (2, 2)}, cpu="another chip")
    assert "is quickest" not in words(told(tmp_path / "b", two))


def test_without_counts_the_cost_is_told_by_time_alone(tmp_path):
    run, columns = timing("rnn")
    work = [(training("rnn", 16, 0, 0.5), tables(0.5)), (run, columns)]
    seen = words(told(tmp_path / "s", work))
    assert "From T=16 to T=32 (x2), time and memory grow like this." in seen
    assert "operations grow" not in seen
