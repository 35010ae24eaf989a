"""The training loop: the optimiser step, its log, evaluation, early stopping and divergence."""

from __future__ import annotations

import copy
import itertools
import math

import pytest
import torch
from conftest import VARIANTS
from torch.nn import functional as F

from seqbench.batch import pad
from seqbench.config import TrainConfig
from seqbench.evaluate import evaluate
from seqbench.metric import Goal
from seqbench.probes.gradient_flow import GradientFlow
from seqbench.registry import lookup
from seqbench.stepper import Diverged, Stepper, rate
from seqbench.tasks.base import Data
from seqbench.train import fit, next_stop, planned_steps

CPU = torch.device("cpu")


class Repeat(Data):
    """The same small batch for ever: learned within a few steps."""

    def __init__(self, batch, vocabulary_size=13, classes=5) -> None:
        self.batch = batch
        self.vocabulary_size, self.classes = vocabulary_size, classes

    def train(self, batch_size):
        return itertools.repeat(self.batch)

    def held_out(self, split, examples):
        return [self.batch]

    def probe(self, examples):
        return self.batch


@pytest.fixture
def network(make_network):
    return make_network(lookup("model", "gru")())


@pytest.fixture
def data(make_batch):
    return Repeat(make_batch([5, 3, 8, 2, 6, 4]))


def plain_steps(network, batch, config, steps):
    """What a textbook loop does: an independent reference for :class:`Stepper`."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=config.lr, weight_decay=config.weight_decay)
    losses, norms = [], []
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = config.lr * rate(step, steps, config)
        optimizer.zero_grad()
        loss = F.cross_entropy(*network(batch))
        loss.backward()
        limit = config.clip or math.inf
        norms.append(torch.nn.utils.clip_grad_norm_(network.parameters(), limit).item())
        optimizer.step()
        losses.append(loss.item())
    return losses, norms


@pytest.mark.parametrize("clip", [0.0, 0.05, 100.0])
def test_a_step_equals_the_textbook_loop(network, data, clip):
    config = TrainConfig(lr=1e-2, clip=clip, weight_decay=0.1)
    reference, batch = copy.deepcopy(network), data.batch.tensors()
    stepper = Stepper(network, config, steps=20)
    for _ in range(20):
        stepper.step(batch)
    steps, _, _ = stepper.drain()
    losses, norms = plain_steps(reference, batch, config, 20)
    assert steps["step"] == list(range(1, 21))
    assert steps["loss"] == pytest.approx(losses, rel=1e-4)
    assert steps["gradient_norm"] == pytest.approx(norms, rel=1e-3)
    assert losses[-1] < 0.95 * losses[0]
    for ours, theirs in zip(network.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


def test_logged_norms_are_those_of_each_gradient_before_clipping(network, data):
    batch = data.batch.tensors()
    F.cross_entropy(*network(batch)).backward()
    expected = {name: parameter.grad.norm().item() for name, parameter in network.named_parameters()}
    network.zero_grad()
    stepper = Stepper(network, TrainConfig(clip=1e-3), steps=5)
    stepper.step(batch)
    steps, parameters, _ = stepper.drain()
    assert {name: column[0] for name, column in parameters.items() if name != "step"} == pytest.approx(
        expected
    )
    total = math.sqrt(sum(norm**2 for norm in expected.values()))
    assert steps["gradient_norm"] == pytest.approx([total])
    assert total > 1e-2


def test_draining_returns_each_step_once(network, data):
    stepper = Stepper(network, TrainConfig(), steps=9)
    numbers = []
    for count in (2, 1, 3):
        for _ in range(count):
            stepper.step(data.batch.tensors())
        numbers += stepper.drain()[0]["step"]
    assert numbers == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
@pytest.mark.parametrize("warmup", [0.0, 0.1, 1.0])
def test_the_learning_rate_rises_to_its_peak_and_never_above(schedule, warmup):
    config = TrainConfig(schedule=schedule, warmup=warmup)
    rates = [rate(step, 50, config) for step in range(50)]
    assert max(rates) == pytest.approx(1.0)
    assert min(rates) > 0
    peak = rates.index(max(rates))
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert (rates[-1] == 1.0) == (schedule == "constant" or warmup == 1.0)


def test_pauses_fall_on_every_multiple_of_both_intervals():
    config, stops, done = TrainConfig(log_every=20, eval_every=50), [], 0
    while done < 100:
        done = next_stop(done, config)
        stops.append(done)
    assert stops == [10, 20, 30, 40, 50, 60, 80, 100]  # and on the steps at which probes look


@pytest.mark.parametrize(
    ("epochs", "examples", "steps"), [(None, 1000, 70), (2.0, 1000, 63), (2.0, None, 70)]
)
def test_epochs_count_where_the_data_has_an_end(data, epochs, examples, steps):
    data.examples_per_epoch = examples
    assert planned_steps(TrainConfig(steps=70, epochs=epochs, batch_size=32), data) == steps


def run(network, data, solved_at=None, **options):
    events = []
    config = TrainConfig(**{"steps": 60, "lr": 3e-2, "eval_every": 5, "log_every": 5, **options})
    return fit(network, data, config, Goal(solved_at=solved_at), CPU, events.append), events


def test_training_learns_and_accounts_for_every_step(network, data):
    outcome, events = run(network, data)
    assert outcome.steps["step"] == outcome.parameters["step"] == list(range(1, 61))
    assert outcome.steps["loss"][-1] < 0.1 < outcome.steps["loss"][0]
    assert outcome.evaluations["step"] == list(range(5, 61, 5))
    assert outcome.valid_tokens == 60 * data.batch.valid_tokens
    assert [event["step"] for event in events] == list(range(5, 61, 5))
    assert events[-1]["loss"] == outcome.steps["loss"][-1]
    assert outcome.train_cpu_s > 0
    assert outcome.evaluations["train_cpu_s"] == sorted(outcome.evaluations["train_cpu_s"])
    assert outcome.first_batch_sha256 == data.batch.digest() != outcome.data_sha256


def test_training_stops_at_the_second_solved_evaluation_and_dates_the_first(network, data):
    outcome, _ = run(network, data, solved_at=1.0)
    accuracies = outcome.evaluations["accuracy"]
    assert accuracies[-2:] == [1.0, 1.0]
    assert 1.0 not in accuracies[:-2]
    assert outcome.steps_done == outcome.evaluations["step"][-1] < 60
    assert outcome.solved_step == outcome.evaluations["step"][-2]
    assert outcome.solved_cpu_s == outcome.evaluations["train_cpu_s"][-2]


def test_one_good_evaluation_is_not_enough(network, data):
    run(network, data)
    outcome, _ = run(network, data, solved_at=1.0, lr=1e-6)
    assert outcome.evaluations["step"] == [5, 10]
    assert outcome.solved_step == 5


def test_training_goes_on_when_asked_to(network, data):
    outcome, _ = run(network, data, solved_at=1.0, stop_when_solved=False)
    assert outcome.solved_step is not None
    assert outcome.steps_done == 60


class Scripted(Repeat):
    """Held-out batches whose answers turn wrong, so that accuracy peaks early."""

    def held_out(self, split, examples):
        wrong = (self.batch.targets + 1) % self.classes
        return [pad([row[:n] for row, n in zip(self.batch.ids_BT, self.batch.lengths_B, strict=True)], wrong)]


def test_the_best_weights_are_kept_when_asked_for(make_network, data):
    held_out = Scripted(data.batch)
    [batch] = held_out.held_out("valid", 1)
    scores = {}
    for keep in (False, True):
        network = make_network(lookup("model", "gru")())
        outcome, _ = run(network, held_out, keep_best=keep, eval_every=1, log_every=1)
        scores[keep] = evaluate(network, [batch.tensors()]).accuracy
    assert scores[False] == 0.0  # it learned the training answers, all of them wrong here
    assert scores[True] == outcome.best_score > 0.0


@pytest.mark.parametrize("how", ["nan weights", "huge rate"])
def test_a_diverging_run_says_at_which_step_and_keeps_its_log(network, data, how):
    if how == "nan weights":
        with torch.no_grad():
            network.head.weight[0, 0] = math.nan
    with pytest.raises(Diverged, match=r"step \d+: loss (nan|inf|\d)") as caught:
        run(network, data, lr=1e7 if how == "huge rate" else 1e-3, clip=0.0, log_every=1)
    outcome = caught.value.outcome
    assert outcome.steps_done == len(outcome.steps.get("step", []))


def test_evaluation_weighs_every_answer_equally_and_restores_the_mode(make_network, make_batch):
    network = make_network(lookup("model", "gru")(), dropout=0.5).train()
    batches = [make_batch([5, 2], many=True).tensors(), make_batch([9, 9, 9, 4], many=True, seed=1).tensors()]
    score = evaluate(network, batches)
    assert network.training
    network.eval()
    logits, targets = (torch.cat(parts) for parts in zip(*map(network, batches), strict=True))
    assert score.answers == len(targets)
    assert score.loss == pytest.approx(F.cross_entropy(logits, targets).item(), rel=1e-6)
    assert score.accuracy == pytest.approx((logits.argmax(1) == targets).double().mean().item())
    evaluate(network, batches)
    assert not network.training


def test_snapshots_are_taken_at_steps_spaced_on_a_logarithmic_axis(make_network, data):
    network, seen = make_network(VARIANTS["gru"]), []

    def look(network):
        seen.append(next(network.parameters()).sum().item())
        return {"flow": {"distance": [0, 1], "median": [seen[-1], 0.5]}, "states": {"state": ["cell"]}}

    config = TrainConfig(steps=40, eval_every=100, log_every=7)
    outcome = fit(network, data, config, Goal(), CPU, lambda _: None, None, look)
    flow = outcome.snapshots["flow"]
    assert flow["step"] == [10, 10, 30, 30]
    assert flow["median"] == [seen[0], 0.5, seen[1], 0.5]
    assert outcome.snapshots["states"] == {"step": [10, 30], "state": ["cell", "cell"]}
    assert len(set(seen)) == 2


@pytest.mark.parametrize("found", [{}, {"flow": {}}, {"flow": {"distance": []}}])
def test_a_snapshot_that_finds_nothing_leaves_nothing(make_network, data, found):
    config = TrainConfig(steps=20)
    outcome = fit(
        make_network(VARIANTS["gru"]), data, config, Goal(), CPU, lambda _: None, None, lambda _: found
    )
    assert outcome.snapshots == {}


def test_looking_changes_nothing_about_training(make_network, data):
    def trained(look):
        network = make_network(VARIANTS["gru"], dropout=0.2)
        torch.manual_seed(1)
        fit(network, data, TrainConfig(steps=30), Goal(), CPU, lambda _: None, None, look)
        return network.state_dict()

    batch = data.probe(4)
    one, two = trained(None), trained(lambda network: {"flow": GradientFlow().measure(network, batch)})
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_updates_are_measured_against_the_weights_they_change(make_network, make_batch):
    network, batch = make_network(VARIANTS["gru"]), make_batch([5, 3]).tensors()
    stepper = Stepper(network, TrainConfig(log_every=3, lr=1e-2), 9)
    for done in range(1, 7):
        before = {name: value.detach().clone() for name, value in network.named_parameters()}
        stepper.step(batch)
        if done % 3 == 0:
            expected = {
                name: ((value.detach() - before[name]).norm() / before[name].norm()).item()
                for name, value in network.named_parameters()
            }
    updates = stepper.drain()[2]
    assert updates["step"] == [3, 6]
    assert {name: updates[name][-1] for name in expected} == pytest.approx(expected, rel=1e-5)
