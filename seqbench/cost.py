"""What a network costs at a width: floating-point operations, the state it carries, time per step.

Shape letters: B batch, T time, D embedding width.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from seqbench.batch import TensorBatch
from seqbench.layers.base import Encoder
from seqbench.layers.linear import plainly
from seqbench.network import Network, answer_loss
from seqbench.replay import tensors

COUNTED = 64  # steps; see at_length


def forward_flops(network: Network, batch: TensorBatch) -> int:
    """Floating-point operations of one forward pass from embedded tokens to outputs.

    Matrix products, convolutions and attention, a multiplication and an addition counted as two; what works
    element by element is not counted. Shapes are enough: network and batch may be on the meta device.
    """
    with torch.no_grad(), _counting() as counter:
        x_BTD = network.embed(batch).detach()
        network.eval().answer(x_BTD, batch)
    return int(counter.get_total_flops())


def train_flops(network: Network, batch: TensorBatch) -> int:
    """The same of a whole training step: forward and backward pass, recomputation included.

    Three times a forward pass, but for the gradient of a constant initial state and for layers that compute
    things anew on the way back.
    """
    with _counting() as counter:
        answer_loss(*network.train()(batch)).backward()
    network.zero_grad(set_to_none=True)
    return int(counter.get_total_flops())


def at_length(count: Callable[[int], int], steps: int) -> int:
    """What ``count(steps)`` gives, for long sequences by the quadratic through three short ones.

    Counting a recurrence takes time with every step. The operations of every layer are a polynomial of the
    length of degree two at most, for whole multiples of :data:`COUNTED` (chunks of scans are smaller);
    lengths between them are off by a part of a chunk at most.

    >>> at_length(lambda steps: 5 + 3 * steps + 2 * steps**2, 4096) == 5 + 3 * 4096 + 2 * 4096**2
    True
    """
    if steps <= 2 * COUNTED:
        return count(steps)
    one, two, three = (count(units * COUNTED) for units in (1, 2, 3))
    more = steps / COUNTED - 1
    return round(one + more * (two - one) + more * (more - 1) / 2 * (three - 2 * two + one))


@contextmanager
def _counting() -> Iterator[FlopCounterMode]:
    """Count what torch's usual operators do; nothing else runs meanwhile."""
    with plainly(), FlopCounterMode(display=False, custom_mapping=dict(_UNKNOWN_TO_TORCH)) as counter:
        yield counter


def _addmm_flops(_self: Any, a_shape: Any, b_shape: Any, *_: Any, **__: Any) -> int:
    return 2 * int(a_shape[0]) * int(a_shape[1]) * int(b_shape[1])


def _attention_flops(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query, key, value))


def _lstm_flops(x_TBD: Any, enter_GD: Any, recurrent_GH: Any, *_: Any, **__: Any) -> int:
    gates = int(enter_GD[0])
    return 2 * int(x_TBD[0]) * int(x_TBD[1]) * gates * (int(enter_GD[1]) + int(recurrent_GH[1]))


def _triangular_flops(a_NN: Any, b_NK: Any, *_: Any, **__: Any) -> int:
    return int(a_NN[-1]) * math.prod(int(size) for size in b_NK)


_UNKNOWN_TO_TORCH = MappingProxyType(
    {  # what runs and the counter of torch does not know
        torch.ops.aten.linalg_solve_triangular: _triangular_flops,
        torch.ops.aten.addmm_: _addmm_flops,
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
        torch.ops.aten.mkldnn_rnn_layer: _lstm_flops,
    }
)


def state_values(network: Network, batch: TensorBatch) -> int | None:
    """Numbers that an encoder keeps of one sequence after its last step, to go on without reading it again.

    The state of every recurrence in it, and of attention what ``cache_values(T)`` says: keys and values of
    every step. None where a part has neither, or reads ahead, so that it must keep its whole input.

    Args:
        batch: a single sequence.
    """
    encoder, steps = network.encoder, batch.ids_BT.shape[1]
    if not encoder.causal:
        return None
    found: list[int | None] = []
    hooks = [
        leaf.register_forward_hook(lambda module, _, output: found.append(_kept(module, output, steps)))
        for leaf in leaves(encoder)
    ]
    try:
        with torch.no_grad():
            encoder(network.embed(batch))
    finally:
        for hook in hooks:
            hook.remove()
    kept = [count for count in found if count is not None]
    return sum(kept) if len(kept) == len(found) else None


def leaves(encoder: Encoder) -> Iterator[Encoder]:
    """The encoders within an encoder that hold no other."""
    for module in encoder.modules():
        inside = (part for part in module.modules() if part is not module)
        if isinstance(module, Encoder) and not any(isinstance(part, Encoder) for part in inside):
            yield module


def _kept(leaf: nn.Module, output: tuple[Tensor, Any], steps: int) -> int | None:
    """Numbers that one encoder keeps."""
    cache = getattr(leaf, "cache_values", None)
    if callable(cache):
        return int(cache(steps))
    state = tensors(output[1])
    return sum(leaf.numel() for leaf in state) if state else None


class _Operators(TorchDispatchMode):
    """Notes every operator that reaches the dispatcher, in order, with what decides how long it takes."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls.append(f"{func}{_shapes([*args, *(kwargs or {}).items()])}")
        return func(*args, **(kwargs or {}))


def _shapes(value: Any) -> Any:
    """Arguments as far as they decide the cost: shapes and types of tensors, whole numbers, words."""
    if isinstance(value, Tensor):
        return (str(value.dtype), *value.shape)
    if isinstance(value, list | tuple):
        return [_shapes(part) for part in value]
    return value if isinstance(value, int | str | None) else type(value).__name__


def computation(network: Network, batch: TensorBatch) -> list[str]:
    """What a forward pass in training computes, whatever its weights are: two that are equal cost the same.

    Shapes are enough: network and batch may be on the meta device.
    """
    seen = _Operators()
    with torch.no_grad(), seen:
        network.train()(batch)
    return seen.calls


def train_step_s(network: Network, batch: TensorBatch) -> float:
    """CPU seconds (wall seconds on a GPU) of one forward and backward pass."""
    on_cuda = batch.ids_BT.is_cuda
    clock = time.perf_counter if on_cuda else time.process_time
    network.train().zero_grad(set_to_none=True)
    start = clock()
    answer_loss(*network(batch)).backward()
    if on_cuda:
        torch.cuda.synchronize()
    return clock() - start
