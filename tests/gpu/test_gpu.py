"""What must hold on a GPU: equality with the CPU, no waiting, precisions, graphs. Skipped without one."""

from __future__ import annotations

import contextlib
import copy
import itertools
import math
from collections.abc import Iterator

import pytest
import torch

from gpu.work import Size, batches, network, ready, settings
from seqbench.batch import TensorBatch
from seqbench.config import TrainConfig
from seqbench.evaluate import evaluate
from seqbench.graphs import Graphs
from seqbench.layers.linrec import linrec
from seqbench.memory import PeakMeter
from seqbench.network import Network, answer_loss
from seqbench.precision import computing_in
from seqbench.registry import plugins
from seqbench.stepper import Stepper
from seqbench.timing import StepTimer, peak_flops_per_s

# What torch warns of here is no fault of a test: weights that cuDNN copies together, say.
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device here"),
    pytest.mark.filterwarnings("default"),
]
CPU, CUDA = torch.device("cpu"), torch.device("cuda")
NAMES = sorted(plugins("model"))
SMALL = Size(batch=4, steps=40, hidden=16, vocabulary=13, embedding=6, classes=5)
PRECISIONS = ["float32", "bfloat16", "float16"]


@pytest.fixture(params=NAMES)
def name(request) -> str:
    """Every registered model."""
    return request.param


@pytest.fixture(autouse=True)
def exact() -> Iterator[None]:
    """Float32 products as they are on a CPU, without TF32."""
    before = torch.get_float32_matmul_precision()
    conv, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, False
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)
    torch.backends.cudnn.allow_tf32 = conv


@contextlib.contextmanager
def no_waiting() -> Iterator[None]:
    """Whatever would wait for the device meanwhile is an error."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def near(one: torch.Tensor, other: torch.Tensor, tolerance: float) -> bool:
    """Whether two tensors differ by little of the larger one's norm."""
    one, other = one.detach().double().cpu(), other.detach().double().cpu()
    return float((one - other).norm()) <= tolerance * (float(one.norm()) + 1e-6)


def loss_and_gradients(net: Network, batch: TensorBatch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Loss of a batch, and the gradient of every parameter that has one."""
    net.zero_grad()
    loss = answer_loss(*net(batch))
    loss.backward()
    return loss, {key: leaf.grad for key, leaf in net.named_parameters() if leaf.grad is not None}


@pytest.mark.parametrize("many", [False, True])
def test_loss_and_gradients_are_those_of_the_cpu(name, many):
    ours = network(settings(name), SMALL, CPU)
    theirs = copy.deepcopy(ours).to(CUDA)
    [here], [there] = (ready(SMALL, device, 1, many=many) for device in (CPU, CUDA))
    (loss, gradients), (on_gpu, others) = loss_and_gradients(ours, here), loss_and_gradients(theirs, there)
    assert near(loss, on_gpu, 1e-4)
    assert gradients.keys() == others.keys()
    largest = max(float(gradient.norm()) for gradient in gradients.values())
    for key, gradient in gradients.items():
        apart = float((gradient - others[key].cpu()).norm())
        assert apart <= 2e-3 * float(gradient.norm()) + 1e-5 * largest, key


@pytest.mark.parametrize("many", [False, True])
def test_training_waits_once_per_logging_interval(name, many):
    """Copying each batch to the GPU included."""
    drawn = batches(SMALL, 3, many=many)
    one = Stepper(network(settings(name), SMALL, CUDA), TrainConfig(log_every=3), steps=20)
    for batch in drawn:
        one.step(batch.tensors(CUDA))
    one.drain()
    with no_waiting():
        for batch in drawn:
            one.step(batch.tensors(CUDA))
    with pytest.raises(RuntimeError, match=r"(?i)synchroni"), no_waiting():
        one.drain()


def test_evaluation_waits_only_for_its_result(name):
    net, some = network(settings(name), SMALL, CUDA), ready(SMALL, CUDA, 3, many=True)
    evaluate(net, some)
    fetched = []
    real = torch.Tensor.tolist

    def tolist(tensor):
        torch.cuda.set_sync_debug_mode("default")
        fetched.append(tensor.numel())
        return real(tensor)

    with pytest.MonkeyPatch.context() as patch, no_waiting():
        patch.setattr(torch.Tensor, "tolist", tolist)
        evaluate(net, some)
    assert fetched == [2]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("graph", [False, True])
def test_every_model_takes_steps_in_every_precision(name, precision, graph):
    """Close to the float32 loss, weights in float32, and no step lost for good."""
    net, some = network(settings(name), SMALL, CUDA), ready(SMALL, CUDA, 2)
    with torch.no_grad():
        exactly = answer_loss(*net(some[0])).item()
    config = TrainConfig(precision=precision, cuda_graph=graph, lr=1e-3)
    one = Stepper(net, config, steps=40)
    for batch in itertools.islice(itertools.cycle(some), 12):
        one.step(batch)
    steps, parameters, _ = one.drain()
    assert steps["loss"][0] == pytest.approx(exactly, rel=0.05, abs=0.05)
    assert {leaf.dtype for leaf in net.parameters()} == {torch.float32}
    assert one.counts()["skipped_steps"] <= (6 if precision == "float16" else 0)
    assert all(math.isfinite(column[-1]) for column in parameters.values())
    assert one.counts()["graph_shapes"] == int(graph)
    assert one.counts()["eager_steps"] == 0


@pytest.mark.parametrize("precision", PRECISIONS)
def test_training_learns(precision):
    net, [batch] = network(settings("gru"), SMALL, CUDA), ready(SMALL, CUDA, 1)
    one = Stepper(net, TrainConfig(precision=precision, lr=2e-2), steps=80)
    for _ in range(80):
        one.step(batch)
    losses = one.drain()[0]["loss"]
    assert losses[-1] < 0.2 < losses[0]
    assert evaluate(net, [batch], precision).accuracy == 1.0


@pytest.mark.parametrize("many", [False, True])
def test_replayed_steps_are_the_eager_ones(name, many):
    some = ready(SMALL, CUDA, 3, many=many)
    steppers = []
    for graph in (False, True):
        net = network(settings(name), SMALL, CUDA)
        steppers.append(Stepper(net, TrainConfig(cuda_graph=graph, lr=1e-2, log_every=5), steps=40))
    for batch in itertools.islice(itertools.cycle(some), 10):
        for one in steppers:
            one.step(batch)
    (eager, *_), (replayed, *_) = (one.drain() for one in steppers)
    assert replayed["loss"][:3] == pytest.approx(eager["loss"][:3], rel=1e-3)
    assert replayed["gradient_norm"][0] == pytest.approx(eager["gradient_norm"][0], rel=1e-3)
    assert len(set(replayed["loss"][:3])) == 3  # each replay read its own batch
    assert steppers[1].counts()["eager_steps"] == 0


def test_replays_wait_for_nothing():
    some = ready(SMALL, CUDA, 2)
    one = Stepper(network(settings("lstm"), SMALL, CUDA), TrainConfig(cuda_graph=True), steps=40)
    for batch in some:
        one.step(batch)
    with no_waiting():
        for batch in some:
            one.step(batch)


def test_a_capture_leaves_random_numbers_as_they_were():
    """Dropout goes on as if nothing had been tried out before."""
    drawn = []
    for warm in (False, True):
        net = network(settings("gru"), SMALL, CUDA, dropout=0.5)
        torch.manual_seed(3)
        [batch] = ready(SMALL, CUDA, 1)
        if warm:
            capture = Graphs(lambda one, net=net: _step(net, one), list(net.parameters()))
            capture._captured(batch)
        drawn.append(torch.rand(4, device=CUDA))
    assert torch.equal(*drawn)


def _step(net: Network, batch: TensorBatch) -> torch.Tensor:
    loss = answer_loss(*net(batch))
    loss.backward()
    return loss.detach()


def test_more_shapes_than_graphs_run_eagerly():
    net = network(settings("gru"), SMALL, CUDA)
    one = Stepper(net, TrainConfig(cuda_graph=True), steps=40)
    one.graphs.most = 2
    for steps in (10, 20, 30, 20, 30):
        [batch] = ready(Size(4, steps, 16, 13, 6, 5), CUDA, 1)
        one.step(batch)
    assert one.counts() == {"skipped_steps": 0, "graph_shapes": 2, "eager_steps": 2}


@pytest.mark.parametrize("kind", ["lstm", "gru", "rnn"])
def test_recurrent_kernels_run_in_float16_but_not_in_bfloat16(kind):
    """Autocast would give cuDNN float16 for bfloat16; see seqbench.precision.by_cudnn."""
    net, [batch] = network(settings(kind), SMALL, CUDA), ready(SMALL, CUDA, 1)
    found = {}
    for precision in ("bfloat16", "float16"):
        with torch.no_grad(), computing_in(precision, CUDA):
            found[precision] = net.encoder(net.embed(batch), mask_BT=batch.mask_BT)[0].dtype
    assert found == {"bfloat16": torch.float32, "float16": torch.float16}


def test_the_linear_recurrence_is_exact():
    a, b = torch.rand(3, 300, 5, dtype=torch.float64), torch.randn(3, 300, 5, dtype=torch.float64)
    assert near(linrec(a, b), linrec(a.to(CUDA), b.to(CUDA)), 1e-12)


def test_events_agree_with_the_wall_clock_and_memory_counts_from_what_stood():
    timer, a = StepTimer(CUDA), torch.rand(2048, 2048, device=CUDA)
    for _ in range(10):
        timer.time(lambda: a @ a)
    assert all(0 < step_s < 0.1 for step_s, _ in timer.read())
    meter = PeakMeter(CUDA)
    held = torch.empty(1 << 24, device=CUDA, dtype=torch.uint8)
    assert 1 << 24 <= meter.bytes() < 1 << 25
    assert len(held) == 1 << 24


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_has_a_higher_peak(precision):
    assert peak_flops_per_s(CUDA, precision) > peak_flops_per_s(CUDA, "float32")
