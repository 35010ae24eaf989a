"""Precision, CUDA graphs and waiting: what a training step does beside learning."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from conftest import HIDDEN, VARIANTS
from test_train import Repeat
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from seqbench import graphs, stepper
from seqbench.batch import TensorBatch
from seqbench.config import TrainConfig
from seqbench.errors import UsageError
from seqbench.evaluate import evaluate
from seqbench.graphs import Graphs, shape_of
from seqbench.kernel import stretched
from seqbench.metric import Goal
from seqbench.network import answer_loss
from seqbench.precision import by_cudnn, check_device, computing_in, in_float32, widened
from seqbench.registry import lookup
from seqbench.stepper import Diverged, Stepper
from seqbench.train import fit

CPU = torch.device("cpu")
BF16 = TrainConfig(precision="bfloat16", lr=1e-2)


class Waits(TorchDispatchMode):
    """Counts the operators for which a GPU would have to be waited for."""

    NAMES = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "_unique2", "equal", "bincount")

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = str(func).split(".")[1]
        masks = name in ("index", "index_put", "index_put_", "_unsafe_index_put") and any(
            one is not None and one.dtype == torch.bool for one in args[1]
        )
        if name in self.NAMES or masks:
            self.found[name] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("many", [False, True])
def test_a_step_waits_for_nothing(model, make_network, make_batch, many):
    batch = make_batch([40, 7, 21], many=many).tensors()
    one = Stepper(make_network(model), TrainConfig(log_every=2), steps=9)
    one.peeks = False  # as on a GPU
    one.step(batch)
    with Waits() as waits:
        for _ in range(3):
            one.step(batch)
    assert waits.found == {}
    with Waits() as waits:
        one.drain()
    assert waits.found == {}  # tolist() is one copy of the whole log, not a look at each number


def test_evaluation_waits_for_nothing_but_its_result(make_network, make_batch):
    network = make_network(VARIANTS["gru"])
    batches = [make_batch([9, 4], many=True, seed=seed).tensors() for seed in range(3)]
    with Waits() as waits:
        evaluate(network, batches)
    assert waits.found == {}


def test_what_would_be_waited_for_is_seen(make_network, make_batch):
    batch = make_batch([9, 4], many=True).tensors()
    unknown = TensorBatch(batch.ids_BT, batch.lengths_B, batch.mask_BT, batch.targets)
    with Waits() as waits:
        Stepper(make_network(VARIANTS["gru"]), TrainConfig(), steps=9).step(unknown)
    assert set(waits.found) >= {"_local_scalar_dense", "index"}


def test_answers_are_found_where_they_are_asked(make_network, make_batch):
    network, batch = make_network(VARIANTS["lstm"]), make_batch([9, 4, 7], many=True, extra=2).tensors()
    unknown = TensorBatch(batch.ids_BT, batch.lengths_B, batch.mask_BT, batch.targets)
    for ours, theirs in zip(network(batch), network(unknown), strict=True):
        assert torch.equal(ours, theirs)
    grown = stretched(batch, steps=6, rows=5)
    assert torch.equal(network(grown)[1], grown.targets.flatten())


def fitted(network, data, **options):
    config = TrainConfig(**{"steps": 60, "lr": 2e-2, "eval_every": 20, "stop_when_solved": False, **options})
    return fit(network, data, config, Goal(), CPU, lambda _: None)


@pytest.mark.parametrize("many", [False, True])
def test_every_model_takes_steps_in_bfloat16(model, make_network, make_batch, many):
    """Near the float32 step, with weights, gradients' norms and the log in float32."""
    batch = make_batch([40, 7, 21, 130], many=many).tensors()
    network = make_network(model)
    exact = answer_loss(*network(batch)).item()
    one = Stepper(network, BF16, steps=9)
    for _ in range(2):
        one.step(batch)
    steps, parameters, _ = one.drain()
    assert steps["loss"][0] == pytest.approx(exact, rel=0.03, abs=0.03)
    assert all(math.isfinite(value) for column in parameters.values() for value in column)
    assert {leaf.dtype for leaf in network.parameters()} == {torch.float32}
    moments = [part for state in one.optimizer.state.values() for part in state.values()]
    assert {part.dtype for part in moments} == {torch.float32}


@pytest.mark.parametrize("name", ["rnn", "gru", "lstm", "bilstm", "transformer", "mamba2", "mingru"])
def test_training_in_bfloat16_learns(make_network, make_batch, name):
    data = Repeat(make_batch([5, 3, 8, 2, 6, 4]))
    network = make_network(lookup("model", name)())
    outcome = fitted(network, data, precision="bfloat16")
    assert outcome.steps["loss"][-1] < 0.2
    assert outcome.steps["loss"][0] > 1.0
    assert outcome.evaluations["accuracy"][-1] == 1.0
    assert outcome.skipped_steps == outcome.graph_shapes == outcome.eager_steps == 0


class Seen(nn.Module):
    """Notes in which precision its products come out."""

    def __init__(self, inner: nn.Linear) -> None:
        super().__init__()
        self.inner, self.types = inner, []

    def forward(self, x):
        y = self.inner(x)
        self.types.append(y.dtype)
        return y


@pytest.mark.parametrize(("precision", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_products_run_in_the_precision_in_training_and_evaluation(make_network, make_batch, precision, dtype):
    network, batch = make_network(VARIANTS["gru"]), make_batch([5, 3]).tensors()
    network.head = Seen(network.head)
    Stepper(network, TrainConfig(precision=precision), steps=9).step(batch)
    evaluate(network, [batch], precision)
    assert network.head.types == [dtype, dtype]


def test_the_state_of_a_recurrence_stays_exact_in_bfloat16():
    """A gate that keeps 0.999 of the state would keep all of it in eight bits."""
    encoder = lookup("model", "mingru")(forget_bias=7.0).build(6, HIDDEN)
    x_BTD = torch.randn(2, 40, 6)
    with computing_in("bfloat16", CPU):
        keep_BTH = next(m for m in encoder.modules() if hasattr(m, "prepare")).prepare(
            torch.zeros(2, 40, HIDDEN)
        )[0]
        y_BTH, _ = encoder(x_BTD)
    assert keep_BTH.dtype == torch.float32
    assert keep_BTH.max() < 1.0
    assert y_BTH.isfinite().all()


def test_nothing_is_cast_inside_a_function_that_asks_for_float32():
    @in_float32
    def product(a, pair, *, scale):
        return a @ pair[0] * scale

    a, half = torch.randn(3, 3), torch.randn(3, 3).bfloat16()
    with computing_in("bfloat16", CPU):
        assert (a @ a).dtype == torch.bfloat16
        assert product(a, (half, None), scale=2).dtype == torch.float32
        assert (a @ a).dtype == torch.bfloat16
    assert product(a.double(), (a.double(), None), scale=1).dtype == torch.float64
    assert widened(half).dtype == torch.float32
    assert widened(a.double()).dtype == torch.float64


def test_cudnn_gets_no_float16_for_bfloat16(monkeypatch):
    """Under autocast cuDNN always runs in float16, which without a scaler would lose gradients."""
    seen = []
    kernel = by_cudnn(lambda x: seen.append(torch.is_autocast_enabled("cpu")))
    with computing_in("bfloat16", CPU):
        kernel(torch.ones(1))
    assert seen == [True]  # oneDNN's LSTM knows bfloat16
    monkeypatch.setattr("seqbench.precision._casting_for", lambda _: "cuda")
    opened = []
    monkeypatch.setattr("seqbench.precision._wide", lambda device, *_: opened.append(device))
    for dtype, wide in ((torch.bfloat16, ["cuda"]), (torch.float16, [])):
        opened.clear()
        monkeypatch.setattr(torch, "get_autocast_dtype", lambda _, dtype=dtype: dtype)
        kernel(torch.ones(1))
        assert opened == wide


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"precision": "float16"}, "train.precision=float16: needs a GPU"),
        ({"cuda_graph": True}, "train.cuda_graph=true: needs a GPU"),
    ],
)
def test_what_needs_a_gpu_is_refused_without_one(make_network, settings, words):
    with pytest.raises(UsageError, match=words) as caught:
        Stepper(make_network(VARIANTS["gru"]), TrainConfig(**settings), steps=9)
    assert "\n" not in str(caught.value)
    check_device("float16", True, torch.device("cuda"))  # a GPU has both


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device, on which it would run")
@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_the_command_line_refuses_float16_before_anything_is_trained(seqbench, device):
    done = seqbench("model=gru", "train.precision=float16", f"device={device}", "seeds=1")
    assert done.returncode == 2
    assert [line for line in done.stderr.splitlines() if "train.precision=float16: needs a GPU" in line]
    assert "Traceback" not in done.stderr


@pytest.fixture
def half(monkeypatch, make_network):
    """A stepper in float16, which torch can also do on a CPU, if slowly."""
    monkeypatch.setattr(stepper, "check_device", lambda *_: None)

    def make(**settings):
        torch.manual_seed(0)
        network = make_network(VARIANTS["gru"])
        return Stepper(network, TrainConfig(**{"precision": "float16", "lr": 1e-2, **settings}), steps=50)

    return make


def test_norms_and_clipping_see_unscaled_gradients(half, make_network, make_batch):
    batch = make_batch([5, 3, 8]).tensors()
    network = make_network(VARIANTS["gru"])
    answer_loss(*network(batch)).backward()
    exact = math.sqrt(sum(leaf.grad.square().sum().item() for leaf in network.parameters()))
    one = half(clip=0.01)
    before = [leaf.detach().clone() for leaf in one.parameters]
    one.scaler.scale(torch.ones(()))  # so that the scale is known
    assert one.scaler.get_scale() == 2**16
    one.step(batch)
    steps, _, _ = one.drain()
    assert steps["gradient_norm"] == pytest.approx([exact], rel=0.01)
    plain = Stepper(network, TrainConfig(lr=1e-2, clip=0.01), steps=50)
    network.zero_grad()
    plain.step(batch)
    for ours, theirs, then in zip(one.parameters, plain.parameters, before, strict=True):
        assert (ours - theirs).norm() <= 0.1 * (theirs - then).norm() + 1e-7


def test_a_step_that_the_scaler_skips_is_counted_and_changes_nothing(half, make_batch):
    batch, one = make_batch([5, 3, 8]).tensors(), half(log_every=1)
    one.step(batch)
    one.scaler.update(1e38)  # float16 and float32 gradients overflow
    before = [leaf.detach().clone() for leaf in one.parameters]
    one.step(batch)
    assert all(torch.equal(now, then) for now, then in zip(one.parameters, before, strict=True))
    steps, parameters, updates = one.drain()
    assert one.counts()["skipped_steps"] == 1
    assert math.isfinite(steps["loss"][1])
    assert math.isfinite(steps["gradient_norm"][0])
    assert math.isnan(steps["gradient_norm"][1])
    assert all(math.isnan(column[1]) for name, column in parameters.items() if name != "step")
    assert all(column[1] == 0 for name, column in updates.items() if name != "step")
    assert one.scaler.get_scale() == pytest.approx(5e37)


def test_steps_skipped_for_ever_are_divergence(half, make_batch):
    one = half()
    one.parameters[-1].register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(Diverged, match=r"step 30: loss \d"):
        for _ in range(8):
            for _ in range(4):
                one.step(make_batch([5, 3]).tensors())
            one.drain()


def test_a_loss_that_is_no_number_is_divergence_with_a_scaler_too(half, make_batch):
    one = half()
    with torch.no_grad():
        one.network.head.weight[0, 0] = math.nan
    one.step(make_batch([5, 3]).tensors())
    with pytest.raises(Diverged, match="step 1: loss nan"):
        one.drain()


def test_a_scaler_goes_on_where_it_was(half, make_batch):
    batch, one = make_batch([5, 3, 8]).tensors(), half()
    one.step(batch)
    one.scaler.update(1e38)
    one.step(batch)
    one.drain()
    two = half()
    two.restore(one.state())
    assert two.counts()["skipped_steps"] == 1
    for stepper_ in (one, two):
        stepper_.step(batch)
    assert two.scaler.get_scale() == one.scaler.get_scale() < 5e37
    assert (two.done, two.counts()) == (3, one.counts())


class Recorded:
    """A graph without a GPU: computes again at every replay, into tensors of its own."""

    made = 0

    def __init__(self, compute, parameters, batch, pool) -> None:
        self.compute, self.shape = compute, shape_of(batch)
        type(self).made += 1

    def replay(self, batch):
        assert shape_of(batch) == self.shape
        return self.compute(batch)


@pytest.fixture
def recorded(monkeypatch):
    monkeypatch.setattr(graphs, "_Graph", Recorded)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 1))
    monkeypatch.setattr(stepper, "check_device", lambda *_: None)
    Recorded.made = 0


def test_each_shape_is_captured_once_and_beyond_the_cap_steps_are_eager(recorded, make_network, make_batch):
    network, plain = (make_network(VARIANTS["gru"]) for _ in range(2))
    one = Stepper(network, TrainConfig(cuda_graph=True), steps=20)
    one.graphs.most = 2
    reference = Stepper(plain, TrainConfig(), steps=20)
    for lengths in ([5, 3], [9, 3], [5, 5], [7, 7], [9, 1], [6, 1]):
        batch = make_batch(lengths, seed=len(lengths)).tensors()
        one.step(batch)
        reference.step(batch)
    assert Recorded.made == 2
    assert one.counts() == {"skipped_steps": 0, "graph_shapes": 2, "eager_steps": 2}
    assert all(torch.equal(a, b) for a, b in zip(one.parameters, reference.parameters, strict=True))


def test_batches_with_other_answers_have_another_shape(make_batch):
    one, two = (make_batch([5, 3], many=True, seed=seed).tensors() for seed in (0, 3))
    assert one.scored_2N.shape != two.scored_2N.shape
    assert shape_of(one) != shape_of(two)
    assert shape_of(one) == shape_of(make_batch([5, 3], many=True, seed=0).tensors())


def test_a_model_that_cannot_be_captured_is_refused_in_one_line(recorded, monkeypatch, make_batch):
    def broken(*_):
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    monkeypatch.setattr(graphs, "_Graph", broken)
    capture = Graphs(lambda batch: batch.ids_BT.sum(), [])
    with pytest.raises(UsageError, match="cannot be captured") as caught:
        capture(make_batch([2, 1]).tensors())
    assert "\n" not in str(caught.value)
