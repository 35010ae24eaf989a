"""Fair by construction: every model that has a width meets the parameter budget within 2 %."""

from __future__ import annotations

import dataclasses
import multiprocessing
import time

import pytest
import torch
from faults.observe import runs_below
from hypothesis import given
from hypothesis import strategies as st

from seqbench import isolate, match
from seqbench.batch import pad
from seqbench.config import Job, at_matched_rung, checked, name_reference
from seqbench.cost import forward_flops
from seqbench.errors import UsageError
from seqbench.match import (
    UNMATCHED_WIDTH,
    WIDTHS_FILE,
    Place,
    closest,
    matched_parameters,
    solve_width,
    width_of,
)
from seqbench.network import parameter_count
from seqbench.plan import plan

TASKS = {"temporal_order": Place(11, 9), "mqar": Place(25, 8)}  # sizes of the built-in default
WIDTHLESS = {"bag", "constant"}


def parameters_at(job, task: str, width: int) -> int:
    return matched_parameters(TASKS[task].network(job, width))


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", ["rnn", "lstm", "gru", "bilstm", "transformer"])
def test_parameters_are_within_two_percent_of_the_default_target(make_job, name, task):
    job = make_job(name, task)
    width = solve_width(job, TASKS[task])
    assert parameters_at(job, task, width) == pytest.approx(job.match.target, rel=0.02)


@pytest.mark.parametrize("target", [35_000, 200_000])
def test_no_neighbouring_width_is_closer_to_the_target(make_job, model, target):
    job = dataclasses.replace(make_job(match={"target": target}), model=model)
    width, step = solve_width(job, TASKS["mqar"]), model.width_multiple
    if model.name in WIDTHLESS:
        assert width == 1
        return
    assert width % step == 0
    gaps = [abs(parameters_at(job, "mqar", width + move) - target) for move in (-step, 0, step)]
    assert gaps[1] == min(gaps)


def test_the_shared_embedding_is_not_counted(make_job):
    job = make_job("gru")
    widths = {solve_width(job, Place(vocabulary, 9)) for vocabulary in (11, 20_000)}
    assert len(widths) == 1


def test_a_chosen_width_wins_and_matching_can_be_switched_off(make_job):
    assert solve_width(make_job("gru", model_options={"hidden": 17}), Place(11, 9)) == 17
    unmatched = make_job("transformer", match={"by": "none"}, model_options={"heads": 3})
    assert solve_width(unmatched, Place(11, 9)) == UNMATCHED_WIDTH // 6 * 6


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
    assert solve_width(make_job("lstm", match={"target": 100_000_000}), Place(11, 9)) > 4_000
    assert torch.equal(torch.random.get_rng_state(), before)


# Other costs than parameters

LENGTH = 24


def place(folder=None) -> Place:
    return Place(11, 9, probe=pad([[1] * LENGTH] * 4, [0, 1, 2, 3]), folder=folder)


def matched(make_job, name: str, by: str, reference: str = "rnn", **options) -> Job:
    """A job that is matched to another model, as composition makes it."""
    first, job = (make_job(one, match={"by": by}) for one in (reference, name))
    job.model = dataclasses.replace(job.model, **options)
    name_reference(job, [first, job])
    return checked(job)


def flops(job: Job, width: int) -> int:
    with torch.device("meta"):
        network = place().network(job, width)
    return forward_flops(network, place().batch("meta", 1))


@pytest.mark.parametrize("name", ["rnn", "lstm", "gru", "transformer"])
def test_operations_are_matched_to_the_first_model(make_job, name):
    reference = make_job("rnn")
    target = flops(reference, solve_width(reference, place()))
    job = matched(make_job, name, "flops")
    width, step = solve_width(job, place()), job.model.width_multiple
    gaps = [abs(flops(job, width + move) - target) for move in (-step, 0, step)]
    assert gaps[1] == min(gaps)
    assert flops(job, width) == pytest.approx(target, rel=0.05 if step == 1 else 0.2)
    if name == "rnn":
        assert width == solve_width(reference, place())


def test_the_state_of_an_lstm_has_two_parts_and_a_cache_has_a_pair_per_step(make_job):
    reference = make_job("rnn", model_options={"hidden": 8 * 2 * 2 * LENGTH})
    widths = {}
    for name in ("lstm", "gru", "transformer"):
        job = make_job(name, match={"by": "state"})
        name_reference(job, [reference, job])
        widths[name] = solve_width(job, place())
    cache = 2 * 2 * LENGTH  # keys and values of two layers
    assert widths == {"lstm": 8 * cache // 2, "gru": 8 * cache, "transformer": 8}


def test_a_target_may_be_named(make_job):
    assert solve_width(make_job("gru", match={"by": "state", "target": 77}), place()) == 77


def test_time_is_matched_against_the_reference_in_alternation(make_job, monkeypatch):
    clock = {"rnn": 2.0, "gru": 6.0}

    def step_s(network, _batch):
        kind = "gru" if type(network.encoder).__name__ == "GRULayer" else "rnn"
        return clock[kind] * network.encoder.width_out

    monkeypatch.setattr(match, "train_step_s", step_s)
    width = solve_width(make_job("rnn"), place())
    assert solve_width(matched(make_job, "gru", "time"), place()) == round(width / 3)


def test_the_highest_rung_counts_for_the_whole_ladder(make_job):
    jobs = [
        make_job(name, match={"by": "flops"}, task_options={"lengths": [16, 64, 32]})
        for name in ("rnn", "lstm")
    ]
    name_reference(jobs[1], jobs)
    assert jobs[1].match.rung == 64
    assert jobs[1].match.reference["name"] == "rnn"
    one = dataclasses.replace(jobs[1], task=dataclasses.replace(jobs[1].task, lengths=[16]))
    assert at_matched_rung(one).task.lengths == [64]
    assert at_matched_rung(make_job("rnn")).task.lengths != [64]


def test_time_is_solved_once_for_all_seeds(make_job, monkeypatch, tmp_path):
    monkeypatch.setattr(match, "train_step_s", lambda network, _: float(network.encoder.width_out))
    job = matched(make_job, "gru", "time")
    first = solve_width(job, place(tmp_path))
    monkeypatch.setattr(match, "train_step_s", lambda *_: pytest.fail("measured again"))
    job.seeds = [7]
    assert solve_width(job, place(tmp_path)) == first
    (tmp_path / WIDTHS_FILE).write_text('{"a": -3}')  # what makes no sense is no answer
    with pytest.raises(pytest.fail.Exception, match="measured again"):
        solve_width(job, place(tmp_path))


def test_a_model_without_a_width_keeps_it(make_job):
    assert solve_width(matched(make_job, "constant", "flops"), place()) == 1


@pytest.mark.parametrize(
    ("name", "match_options", "message"),
    [
        ("bilstm", {"by": "state"}, "reads ahead keeps its whole input"),
        ("gru", {"by": "time", "target": 5}, "leave match.target out"),
        ("gru", {"by": "width"}, "choices"),
    ],
)
def test_what_cannot_be_matched_is_refused_at_composition(make_job, name, match_options, message):
    with pytest.raises(UsageError, match=message):
        checked(make_job(name, match=match_options))


# Costs against closed forms, for one sequence of T steps with an embedding of D and C classes

D, C = 48, 9


def test_operations_of_a_recurrence_are_those_of_its_products(make_job):
    width = 10
    for name, gates in (("rnn", 1), ("gru", 3), ("lstm", 4)):
        products = gates * width * (D + width)
        assert flops(make_job(name), width) == 2 * (LENGTH * products + width * C)


def test_operations_of_attention_grow_with_the_square_of_the_length(make_job):
    width, layers = 8, 2
    job = make_job("transformer")
    each = 3 * width * width + width * width + 2 * (2 * width) * width  # projections, output, feed-forward
    pairs = 2 * LENGTH * width  # scores and weighted sums of one step
    expected = LENGTH * (D * width + layers * (each + pairs)) + width * C
    assert flops(job, width) == 2 * expected


def test_a_triangular_solve_is_counted(make_job):
    with_solve, without = (flops(make_job(name), 8) for name in ("deltanet", "linear_attention"))
    assert with_solve > without


def test_counting_needs_no_weights(make_job, model):
    job = dataclasses.replace(make_job(), model=model)
    width = 4 * model.width_multiple
    found = [
        forward_flops(place().network(job, width).to(device), place().batch(device, 1))
        for device in ("cpu", "meta")
    ]
    assert found[0] == found[1]


def test_a_canary_is_a_reference_only_where_there_is_nothing_else(make_job):
    jobs = [make_job(name, match={"by": "flops"}) for name in ("constant", "bag", "rnn", "gru")]
    for job in jobs:
        name_reference(job, jobs)
    assert [job.match.reference["name"] for job in jobs] == ["rnn"] * 4
    alone = make_job("bag", match={"by": "flops"})
    name_reference(alone, [alone])
    assert alone.match.reference["name"] == "bag"


@pytest.mark.parametrize(
    ("name", "match_options", "told"),
    [
        (
            "lstm",
            {"target": 10**15},
            "match.target=1000000000000000: out of reach: the closest that 'lstm' comes",
        ),
        (
            "gru",
            {"by": "flops", "target": 10**15},
            "comes to 1,000,000,000,000,000 operations .* at width 65536",
        ),
        (
            "lstm",
            {"by": "state", "target": 10**9},
            "numbers kept of a sequence is 131,072, at width 65536: choose",
        ),
        (
            "transformer",
            {"target": 10},
            "10 parameters is 593, at width 4: choose a match.target near 593, or ",
        ),
        ("lstm", {"by": "flops", "target": 10}, "10 operations of a forward pass is .*, at width 1: choose"),
        ("transformer", {"by": "state", "target": 191}, "191 numbers kept of a sequence is 384, at width 4"),
    ],
)
def test_a_target_out_of_reach_is_told_before_memory_is_taken(make_job, name, match_options, told):
    with pytest.raises(UsageError, match=told) as refused:
        solve_width(make_job(name, match=match_options), place())
    assert "\n" not in str(refused.value)


def test_the_closest_within_a_factor_of_two_is_taken(make_job):
    job = make_job("transformer", match={"by": "state", "target": 192})
    assert solve_width(job, place()) == 4  # keeps 384


def test_a_first_model_out_of_reach_is_named_with_the_ways_out(make_job):
    job = matched(make_job, "transformer", "state")
    width = solve_width(make_job("rnn"), place())
    told = (
        f"match.by=state: out of reach: the closest that 'transformer' comes to {width} numbers .* of 'rnn'"
    )
    with pytest.raises(
        UsageError, match=told + ".*: name another model first, choose a match.target near 384"
    ):
        solve_width(job, place())


def test_a_network_that_no_memory_holds_is_refused(make_job, monkeypatch):
    job = make_job("transformer", match={"target": 10_000_000})
    width = solve_width(job, place())
    needed = 16 * parameter_count(place().network(job, width))
    monkeypatch.setattr(match, "_memory_bytes", lambda _: needed)
    assert solve_width(job, place()) == width
    monkeypatch.setattr(match, "_memory_bytes", lambda _: needed - 1)
    with pytest.raises(
        UsageError, match=f"10000000: out of reach: 'transformer' at width {width} takes 0 GiB"
    ):
        solve_width(job, place())


def test_a_time_is_refused_only_where_noise_could_not_be_the_reason(make_job, monkeypatch):
    for times, refused in ((3.0, False), (5.0, True)):
        step_s = lambda network, _, t=times: t if type(network.encoder).__name__ == "GRULayer" else 1.0  # noqa: E731
        monkeypatch.setattr(match, "train_step_s", step_s)
        if not refused:
            assert solve_width(matched(make_job, "gru", "time"), place()) >= 1
            continue
        with pytest.raises(
            UsageError, match="comes to 1 times a training step of 'rnn', the first model, is 5,"
        ):
            solve_width(matched(make_job, "gru", "time"), place())


def test_what_computes_as_the_first_model_does_has_its_width_whatever_a_clock_says(make_job, monkeypatch):
    monkeypatch.setattr(match, "train_step_s", lambda *_: pytest.fail("measured"))
    width = solve_width(make_job("lstm"), place())
    for bias in (None, 1.0, 3.0):
        assert solve_width(matched(make_job, "lstm", "time", "lstm", forget_bias=bias), place()) == width


def test_settings_that_only_change_the_start_are_timed_once_and_others_again(make_job, monkeypatch, tmp_path):
    measured = []

    def step_s(network, _batch):
        measured.append(network)
        return float(network.encoder.width_out)

    monkeypatch.setattr(match, "train_step_s", step_s)
    first = solve_width(matched(make_job, "gru", "time", update_bias=1.0), place(tmp_path))
    assert measured
    measured.clear()
    assert solve_width(matched(make_job, "gru", "time", update_bias=3.0), place(tmp_path)) == first
    assert not measured
    solve_width(matched(make_job, "gru", "time", layers=2), place(tmp_path))
    assert measured


@pytest.mark.parametrize("by", ["flops", "state"])
def test_the_width_of_a_run_does_not_depend_on_its_seed(make_job, by, tmp_path):
    jobs = [make_job(n, match={"by": by}, task_options={"lengths": [8, 64]}) for n in ("gru", "transformer")]
    name_reference(jobs[1], jobs)
    job, cpu = jobs[1], torch.device("cpu")
    if by == "state":
        job.match.target, job.match.reference = 2_000, None
    rungs = [dataclasses.replace(job, task=task) for task in job.task.rungs()]
    widths = {
        width_of(one, one.task.open(seed, tmp_path), tmp_path, cpu) for one in rungs for seed in range(3)
    }
    assert len(widths) == 1


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"by": "flops", "rung": 7}, r"match.rung=7: not one of task.lengths=\[8, 16\]"),
        ({"by": "none", "target": 5}, "match.target=5: match.by=none makes nothing equal"),
        ({"by": "flops", "reference": {"name": "gru"}}, "match.reference: cannot be given"),
        (
            {"by": "params", "rung": 8},
            "match.rung=8: match.by=params looks at no sequences: leave match.rung out",
        ),
        ({"by": "none", "rung": 8}, "match.rung=8: match.by=none looks at no sequences"),
    ],
)
def test_what_could_only_be_ignored_or_break_later_is_refused(make_job, options, told):
    def composed():
        job = make_job("rnn", match=options, task_options={"lengths": [8, 16]})
        name_reference(job, [job])
        return checked(job)

    with pytest.raises(UsageError, match=told):
        composed()


def test_a_rung_of_a_task_without_a_ladder_is_refused(make_job):
    with pytest.raises(UsageError, match="match.rung=8: 'digits' has no ladder: leave it out"):
        make_job("rnn", "digits", match={"by": "flops", "rung": 8})


# Seen from the command line

QUICK = [
    "task=temporal_order", "task.lengths=[8]", "train.steps=2", "train.eval_every=2", "train.eval_examples=8",
    "train.test_examples=8", "seeds=1", "canaries=false", "speed.enabled=false",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            "match.target=100000000000",
            "match.target=100000000000: out of reach: the closest that 'lstm' comes to",
        ),
        (
            "match.target=10 tune=3",
            "match.target=10: out of reach: the closest that 'lstm' comes to 10 parameters",
        ),
    ],
)
def test_what_no_width_reaches_is_one_line_before_anything_runs(seqbench, tmp_path, words, told):
    done = seqbench("-m", "model=lstm,transformer", *QUICK, *words.split())
    assert (done.returncode, done.stdout) == (2, "")
    assert told in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.glob("runs/*")) == []


@pytest.mark.slow
def test_a_refused_command_leaves_what_earlier_ones_did(seqbench, tmp_path):
    assert seqbench("model=rnn", *QUICK, "sweep=s").returncode == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert seqbench("model=rnn", *QUICK, "sweep=s", "match.by=flops", "match.target=10").returncode == 2
    assert {path: path.read_bytes() for path in before} == before


def sleep_for_long(*_: object) -> None:
    time.sleep(600)


def test_widths_that_take_longer_than_a_run_may_are_left_to_the_runs(make_job, tmp_path, monkeypatch):
    monkeypatch.setattr(isolate, "_solve_widths", sleep_for_long)
    units = plan([make_job(seeds=1, limit={"time_s": 1.0}, speed={"enabled": False})], tmp_path)
    start = time.monotonic()
    isolate.Pool(1).solve_widths(units, tmp_path / "failure")
    assert 1.0 <= time.monotonic() - start < 100
    assert not (tmp_path / "failure").exists()
    assert not [child for child in multiprocessing.active_children() if child.is_alive()]


@pytest.mark.slow
def test_a_layer_that_dies_or_breaks_while_its_width_is_solved_is_a_record_like_any(run_python, tmp_path):
    (tmp_path / "mine.py").write_text(DYING)
    done = run_python("mine.py", "-m", "model=dies,breaks,rnn", *QUICK)
    assert done.returncode == 1, done.stdout + done.stderr
    found = {run.model: run for _, run in runs_below(tmp_path).values()}
    assert {name: run.status for name, run in found.items()} == {
        "dies": "failed",
        "breaks": "failed",
        "rnn": "done",
    }
    assert "exit code 7" in found["dies"].error["message"]
    assert "no such layer" in found["breaks"].error["message"]


DYING = """
import os
from dataclasses import dataclass

from seqbench.cli import main
from seqbench.models.recurrent import RNN
from seqbench.registry import register


@register("model")
@dataclass
class Dies(RNN):
    "It ends its process."

    name: str = "dies"

    def build(self, width_in, hidden):
        os._exit(7)


@register("model")
@dataclass
class Breaks(RNN):
    "It cannot be built."

    name: str = "breaks"

    def build(self, width_in, hidden):
        raise ValueError("no such layer")


if __name__ == "__main__":
    main()
"""
