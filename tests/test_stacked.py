"""Networks trained as one are trained as if each were alone."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch
from conftest import CLASSES, HIDDEN, VOCABULARY
from test_stepper import Waits
from torch import nn

from seqbench.batch import Batch, TokenRows, ValueRows, pad
from seqbench.checkpoint import Checkpoint
from seqbench.config import NetworkConfig, TrainConfig
from seqbench.layers.base import Encoder
from seqbench.layers.scan import ElmanScan, GRUScan, LSTMScan
from seqbench.layers.stacking import stacked
from seqbench.metric import Goal
from seqbench.models.base import ModelConfig
from seqbench.network import Network
from seqbench.registry import lookup
from seqbench.seeds import stream
from seqbench.stacked import Stack, refusal, stack_batches, together
from seqbench.stepper import Diverged, Stepper
from seqbench.tasks.base import FixedData
from seqbench.train import Outcome, Training

CPU = torch.device("cpu")
CLOCKS = {"train_cpu_s", "train_wall_s", "solved_cpu_s", "resumed_step"}
CONFIG = TrainConfig(
    steps=30, eval_every=6, log_every=4, batch_size=4, lr=1e-2, clip=0.5, weight_decay=0.1, keep_best=True
)


@pytest.fixture
def double():
    """Everything in float64, so that what is equal is equal to many digits."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def batch_of(seed: int, many: bool = False) -> Batch:
    """A batch whose lengths, width and number of rows differ from seed to seed."""
    rng = stream(seed, "train")
    lengths = [3, *rng.integers(1, 6 + seed, 3 + seed)]
    rows = [rng.integers(1, VOCABULARY, n) for n in lengths]
    if not many:
        return pad(rows, rng.integers(0, CLASSES, len(rows)))
    answers = [rng.integers(-1, CLASSES, n) for n in lengths]
    answers[0][:] = 1
    return pad(rows, answers)


def assert_steps_equal(make_network, model, batches, **options) -> None:
    """Three steps as one, and of each network alone: losses, norms, updates, weights and optimisers."""
    config = TrainConfig(lr=1e-2, clip=0.05, weight_decay=0.1, log_every=2)
    seeds = range(len(batches))
    alone = [Stepper(make_network(model, seed=seed, **options), config, 20) for seed in seeds]
    members = [Stepper(make_network(model, seed=seed, **options), config, 20) for seed in seeds]
    stack = Stack(members)
    for _ in range(3):
        for stepper, batch in zip(alone, batches, strict=True):
            stepper.step(batch.tensors())
        stack.step(stack_batches(batches, CPU))
    stack.hand_out()
    stack.part()
    for single, member in zip(alone, members, strict=True):
        assert member.done == 3
        for ours, theirs in zip(member.drain(), single.drain(), strict=True):
            assert ours.keys() == theirs.keys()
            assert all(ours[name] == pytest.approx(theirs[name], rel=1e-7, abs=1e-11) for name in ours)
        for ours, theirs in zip(member.parameters, single.parameters, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8)
            for name, value in single.optimizer.state[theirs].items():
                torch.testing.assert_close(member.optimizer.state[ours][name], value, rtol=1e-7, atol=1e-9)


def test_every_model_steps_as_one_as_it_does_alone(make_network, model, double):
    assert_steps_equal(make_network, model, [batch_of(seed) for seed in range(3)])


@pytest.mark.parametrize("readout", ["last", "mean", "max"])
def test_every_readout_is_the_same(make_network, double, readout):
    batches = [batch_of(seed) for seed in range(3)]
    assert_steps_equal(make_network, lookup("model", "bilstm")(), batches, readout=readout)


@pytest.mark.parametrize("name", ["lstm", "transformer"])
def test_many_answers_are_the_same(make_network, double, name):
    batches = [batch_of(seed, many=True) for seed in range(3)]
    assert len({batch.tensors().scored_2N.shape[1] for batch in batches}) == 3
    assert_steps_equal(make_network, lookup("model", name)(), batches)


def test_onehot_inputs_are_the_same(make_network, double):
    batches = [batch_of(seed) for seed in range(2)]
    assert_steps_equal(make_network, lookup("model", "gru")(), batches, embedding="onehot")


def test_numbers_as_inputs_and_answers_are_the_same(double):
    def make(model: ModelConfig, seed: int) -> Network:
        torch.manual_seed(seed)
        return Network(model, NetworkConfig(embedding_width=6), 2, 1, HIDDEN, features=2)

    batches = []
    for seed in range(3):
        rng = stream(seed, "train")
        values = rng.random((4 + seed, 5 + seed, 2)).astype("float32")
        rows = ValueRows(values, rng.random(4 + seed))
        batches.append(rows.take(rng.permutation(4 + seed)))
    assert_steps_equal(make, lookup("model", "lstm")(), batches)


def test_padding_never_learns(make_network, double):
    members = [Stepper(make_network(lookup("model", "bilstm")(), seed=s), CONFIG, 9) for s in range(3)]
    stack = Stack(members)
    for _ in range(3):
        stack.step(stack_batches([batch_of(seed) for seed in range(3)], CPU))
    stack.part()
    for member in members:
        weight = member.network.get_parameter("embedding.weight")
        assert not weight[0].any()
        assert weight[1:].any(1).all()


def test_dropout_is_drawn_for_each_network(make_network):
    """Equal networks on equal batches: what differs is what was dropped."""
    model, batch = lookup("model", "gru")(), batch_of(0)
    stack = Stack([Stepper(make_network(model, dropout=0.5), CONFIG, 9) for _ in range(3)])
    stack.step(stack_batches([batch] * 3, CPU))
    assert len(set(stack._pending[0][1].tolist())) == 3


@pytest.mark.parametrize("many", [False, True])
def test_a_step_as_one_waits_for_nothing(make_network, model, many):
    """Nothing here would hold up a GPU, as far as operators tell."""
    stack = Stack([Stepper(make_network(model, seed=seed), CONFIG, 9) for seed in range(2)])
    batch = stack_batches([batch_of(seed, many) for seed in range(2)], CPU)
    stack.step(batch)
    with Waits() as waits:
        for _ in range(4):
            stack.step(batch)
    assert waits.found == {}


def test_half_precision_is_near_the_networks_own(make_network, model):
    """No bit for bit: convolutions run in half precision alone, in float32 as one."""
    config = TrainConfig(precision="bfloat16")
    alone, member = (Stepper(make_network(model, seed=3), config, 9) for _ in range(2))
    stack = Stack([Stepper(make_network(model), config, 9), member])
    for _ in range(2):
        stack.step(stack_batches([batch_of(0), batch_of(1)], CPU))
        alone.step(batch_of(1).tensors())
    stack.hand_out()
    ours, theirs = (one.drain()[0] for one in (member, alone))
    assert ours["loss"] == pytest.approx(theirs["loss"], rel=5e-2)
    assert ours["gradient_norm"] == pytest.approx(theirs["gradient_norm"], rel=0.1)
    assert all(parameter.dtype == torch.float32 for parameter in member.parameters)


# The scans that know the axis of networks


@pytest.mark.parametrize("networks", [(), (1,), (3,)])
@pytest.mark.parametrize("given", [True, False])
def test_lstm_scan_satisfies_gradcheck(double, networks, given):
    torch.manual_seed(0)
    shapes = [(3, *networks, 2, 8), (*networks, 2, 2), (*networks, 2, 2), (*networks, 8, 2)]
    inputs = [torch.randn(shape, requires_grad=True) for shape in shapes]
    if not given:
        inputs[1:3] = [torch.zeros(shape) for shape in shapes[1:3]]
    assert torch.autograd.gradcheck(LSTMScan.apply, inputs)


@pytest.mark.parametrize(("scan", "gates", "more"), [(ElmanScan, 1, ()), (GRUScan, 3, ()), (LSTMScan, 4, ())])
def test_scans_of_several_networks_are_those_of_each(double, scan, gates, more):
    torch.manual_seed(0)
    hidden = 4
    pre = torch.randn(5, 3, 2, gates * hidden, requires_grad=True)
    states = [torch.randn(3, 2, hidden, requires_grad=True) for _ in range(2 if scan is LSTMScan else 1)]
    weights = [torch.randn(3, gates * hidden, hidden, requires_grad=True)]
    weights += [torch.randn(3, 12, requires_grad=True)] if scan is GRUScan else []
    more = [False] if scan is ElmanScan else []

    def outputs(*inputs):
        found = scan.apply(*inputs, *more)
        return found if isinstance(found, tuple) else (found,)

    whole = outputs(pre, *states, *weights)
    for s in range(3):
        apart = outputs(pre[:, s], *(x[s] for x in (*states, *weights)))
        for one, every in zip(apart, whole, strict=True):
            torch.testing.assert_close(every[:, s], one)
    leaves = [pre, *states, *weights]
    joint = torch.autograd.grad(sum(x.sin().sum() for x in whole), leaves)
    apart = [outputs(pre[:, s], *(x[s] for x in (*states, *weights))) for s in range(3)]
    each = torch.autograd.grad(sum(x.sin().sum() for parts in apart for x in parts), leaves)
    for one, other in zip(joint, each, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("name", ["lstm", "gru", "rnn", "jordan", "slstm"])
def test_a_stacked_layer_goes_on_from_a_state(double, name):
    torch.manual_seed(0)
    encoders = [lookup("model", name)().build(6, HIDDEN) for _ in range(2)]
    weights, _ = torch.func.stack_module_state(encoders)
    x_SBTD = torch.randn(2, 3, 7, 6)

    def halves(own, x_BTD):
        _, state = torch.func.functional_call(encoders[0], own, (x_BTD[:, :4],))
        return torch.func.functional_call(encoders[0], own, (x_BTD[:, 4:],), {"state": state})

    with stacked():
        rest, last = torch.func.vmap(halves)(weights, x_SBTD)
    for s, encoder in enumerate(encoders):
        y_BTH, state = encoder(x_SBTD[s])
        torch.testing.assert_close(rest[s], y_BTH[:, 4:])
        for one, other in zip(_flat(last), _flat(state), strict=True):
            torch.testing.assert_close(one[s], other)


def _flat(state) -> list:
    return [state] if isinstance(state, torch.Tensor) else [x for part in state for x in _flat(part)]


def test_outside_of_vmap_a_kernel_says_what_it_is():
    encoder = lookup("model", "lstm")().build(6, HIDDEN)
    assert encoder.kernel == "nn.LSTM (fused)"
    with stacked():
        assert encoder.kernel == "time-major scan (torch)"


# Whole trainings


def data_of(seed: int) -> FixedData:
    """A small data set: epochs end with a batch of its own size, at another step for every seed."""
    rng = stream(seed, "train")
    lengths = rng.integers(2, 9, 30)
    tokens = rng.integers(1, VOCABULARY, int(lengths.sum()))
    offsets = torch.tensor([0, *lengths]).cumsum(0).numpy()
    rows = TokenRows(tokens, offsets, tokens[offsets[:-1]] % CLASSES)
    return FixedData({"train": rows, "valid": rows, "test": rows}, VOCABULARY, CLASSES, seed=seed)


def training_of(make_network, model, seed, config=CONFIG, goal=None, dropout=0.0, **more) -> Training:
    network = make_network(model, seed=seed, dropout=dropout)
    return Training(network, data_of(seed), config, goal or Goal(), CPU, lambda _: None, **more)


def bits(outcome: Outcome) -> dict:
    plain = dataclasses.asdict(outcome)
    columns = plain.pop("evaluations")
    plain["evaluations"] = {name: values for name, values in columns.items() if name not in CLOCKS}
    return {name: value for name, value in plain.items() if name not in CLOCKS}


def assert_alike(one: Outcome, other: Outcome) -> None:
    """Equal up to rounding in float64, and in what both are made of."""
    ours, theirs = bits(one), bits(other)
    tables = [(ours[name], theirs[name]) for name in ("steps", "parameters", "updates", "evaluations")]
    tables += [(ours["snapshots"][name], theirs["snapshots"][name]) for name in theirs["snapshots"]]
    for ours, theirs in tables:
        assert ours.keys() == theirs.keys()
        for name in ours:
            assert ours[name] == pytest.approx(theirs[name], rel=1e-5, abs=1e-7), name
    for name in ("steps_done", "valid_tokens", "solved_step", "data_sha256", "first_batch_sha256"):
        assert getattr(one, name) == getattr(other, name), name


def looked(network) -> dict:
    """A snapshot that depends on the weights."""
    return {"flow": {"total": [sum(p.double().sum().item() for p in network.parameters())]}}


@pytest.mark.parametrize("name", ["lstm", "gru", "transformer", "mamba2"])
def test_trainings_as_one_come_to_what_each_comes_to_alone(make_network, double, name):
    model = lookup("model", name)()
    apart = [training_of(make_network, model, seed, snapshot=looked) for seed in range(3)]
    as_one = [training_of(make_network, model, seed, snapshot=looked) for seed in range(3)]
    ended = list(together(as_one))
    assert {id(one) for one in ended} == {id(one) for one in as_one}
    for one, other in zip(as_one, apart, strict=True):
        assert (one.stacked, one.not_stacked, other.stacked) == (3, "", 1)
        assert_alike(one.to_end(), other.to_end())
        for ours, theirs in zip(one.network.parameters(), other.network.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)
            assert ours.untyped_storage().nbytes() == ours.nbytes  # no view of what all shared


def test_a_solved_network_leaves_the_others(make_network, double):
    """Goals of their own, so that one ends early: at its step, with what it was then."""
    goals = [Goal(), Goal(solved_at=0.0), Goal()]
    model = lookup("model", "gru")()
    as_one = [training_of(make_network, model, seed, goal=goals[seed]) for seed in range(3)]
    order = [as_one.index(training) for training in together(as_one)]
    assert order[0] == 1
    steps = [training.to_end().steps_done for training in as_one]
    assert steps == [30, 12, 30]
    for seed, training in enumerate(as_one):
        assert_alike(training.to_end(), training_of(make_network, model, seed, goal=goals[seed]).to_end())


def test_what_diverges_leaves_the_others(make_network, double):
    model = lookup("model", "gru")()
    as_one = [training_of(make_network, model, seed) for seed in range(3)]

    def break_it(progress: dict) -> None:
        if progress["step"] == 12:
            with torch.no_grad():
                as_one[1].network.head.bias.fill_(torch.nan)

    as_one[1].report = break_it
    order = [as_one.index(training) for training in together(as_one)]
    assert order[0] == 1
    with pytest.raises(Diverged, match="step 13: loss nan") as caught:
        as_one[1].to_end()
    assert caught.value.outcome.steps_done == 12
    for seed in (0, 2):
        assert_alike(as_one[seed].to_end(), training_of(make_network, model, seed).to_end())


def test_what_meets_all_is_the_end_of_all(make_network, monkeypatch):
    as_one = [training_of(make_network, lookup("model", "gru")(), seed) for seed in range(2)]

    def full(self, batch):
        raise torch.cuda.OutOfMemoryError("out of memory")

    monkeypatch.setattr(Stack, "gradients", full)
    assert len(list(together(as_one))) == 2
    for training in as_one:
        with pytest.raises(torch.cuda.OutOfMemoryError):
            training.to_end()


def test_times_are_shares(make_network, monkeypatch):
    model = lookup("model", "gru")()
    clock = itertools.count()
    monkeypatch.setattr("seqbench.stacked.time.process_time", lambda: float(next(clock)))
    as_one = [training_of(make_network, model, seed, CONFIG) for seed in range(4)]
    pauses = len(list(together(as_one))) and len(set(as_one[0].outcome.steps["step"]) & {30})
    assert pauses == 1
    stops = {4, 6, 8, 10, 12, 16, 18, 20, 24, 28, 30}
    assert [training.outcome.train_cpu_s for training in as_one] == [pytest.approx(len(stops) / 4)] * 4


# What cannot be trained as one


class Opaque(Encoder):
    """A layer around ``nn.LSTM``, for which vmap has no rule."""

    def __init__(self, width_in: int, hidden: int) -> None:
        super().__init__()
        self.width_out = hidden
        self.inner = nn.LSTM(width_in, hidden, batch_first=True)

    def forward(self, x_BTD, *, mask_BT=None, state=None):
        return self.inner(x_BTD, state)


class Hidden(Encoder):
    """A layer with random numbers that are no buffer: as one, all networks would have the first one's."""

    def __init__(self, width_in: int, hidden: int) -> None:
        super().__init__()
        self.width_out = hidden
        self.enter = nn.Linear(width_in, hidden)
        self.mixing = torch.randn(hidden, hidden)

    def forward(self, x_BTD, *, mask_BT=None, state=None):
        return (self.enter(x_BTD) @ self.mixing).cumsum(1), None


@dataclasses.dataclass
class Own(ModelConfig):
    name: str = "own"
    kind: type = Opaque

    def build(self, width_in: int, hidden: int) -> Encoder:
        return self.kind(width_in, hidden)


@pytest.mark.parametrize(("kind", "words"), [(Opaque, "lstm"), (Hidden, "compute something else")])
def test_what_cannot_be_trained_as_one_is_trained_alone(make_network, kind, words):
    """With the same bits, what is dropped included."""
    as_one = [training_of(make_network, Own(kind=kind), seed, dropout=0.3) for seed in range(2)]
    torch.manual_seed(7)
    assert list(together(as_one)) == as_one
    for seed, training in enumerate(as_one):
        assert words in training.not_stacked
        assert training.stacked == 1
        alone = training_of(make_network, Own(kind=kind), seed, dropout=0.3).to_end()
        assert bits(training.to_end()) == bits(alone)


def test_one_alone_is_trained_alone(make_network):
    gru = lookup("model", "gru")()
    one = training_of(make_network, gru, 0)
    assert list(together([one])) == [one]
    assert (one.stacked, one.not_stacked, one.stepper.done) == (1, "", 0)
    assert bits(one.to_end()) == bits(training_of(make_network, gru, 0).to_end())


def test_different_numbers_of_steps_are_not_trained_as_one(make_network):
    model = lookup("model", "gru")()
    longer = dataclasses.replace(CONFIG, steps=31)
    pair = [training_of(make_network, model, 0), training_of(make_network, model, 1, longer)]
    assert "numbers of steps" in refusal(pair)


# Checkpoints


class PowerCut(BaseException):
    """The end of a process."""


class Always(Checkpoint):
    """Writes at every pause; with ``left``, the process ends after as many writes of whoever shares it."""

    def __init__(self, folder, left=None) -> None:
        folder.mkdir(exist_ok=True)
        super().__init__(folder, "ab", every_s=0.0)
        self.left = left

    def save(self, state) -> None:
        super().save(state)
        if self.left is not None and not next(self.left, False):
            raise PowerCut


def trained(make_network, folder, left=None) -> list[Training]:
    torch.manual_seed(5)
    gru = lookup("model", "gru")()
    as_one = [
        training_of(make_network, gru, seed, dropout=0.3, checkpoint=Always(folder / str(seed), left))
        for seed in range(3)
    ]
    list(together(as_one))
    return as_one


@pytest.mark.parametrize("rounds", [1, 4, 9])
def test_trainings_that_were_cut_off_go_on_bit_for_bit(make_network, tmp_path, rounds):
    (tmp_path / "whole").mkdir()
    (tmp_path / "cut").mkdir()
    whole = trained(make_network, tmp_path / "whole")
    with pytest.raises(PowerCut):
        trained(make_network, tmp_path / "cut", iter([True] * (3 * rounds - 1)))
    again = trained(make_network, tmp_path / "cut")
    for one, other in zip(again, whole, strict=True):
        assert one.outcome.resumed_step > 0
        assert bits(one.to_end()) == bits(other.to_end())
        for ours, theirs in zip(one.network.parameters(), other.network.parameters(), strict=True):
            assert torch.equal(ours, theirs)


def test_those_behind_catch_up(make_network, tmp_path):
    """The power goes between two of the checkpoints of one pause."""
    with pytest.raises(PowerCut):
        trained(make_network, tmp_path, iter([True] * 4))
    again = trained(make_network, tmp_path)
    assert len({training.outcome.resumed_step for training in again}) == 2
    assert all(training.to_end().steps["step"] == list(range(1, 31)) for training in again)


def test_a_checkpoint_holds_one_network(make_network, tmp_path):
    whole = trained(make_network, tmp_path)
    alone = training_of(make_network, lookup("model", "gru")(), 0, checkpoint=Always(tmp_path / "alone"))
    alone.to_end()
    sizes = [(tmp_path / name / "checkpoint.pt").stat().st_size for name in ("0", "alone")]
    assert len(whole) == 3
    assert sizes[0] == pytest.approx(sizes[1], rel=0.02)
