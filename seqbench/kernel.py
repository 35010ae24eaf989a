"""Which kernels really ran: what an encoder called, seen from below, not what it says of itself."""

from __future__ import annotations

from collections import Counter
from types import MappingProxyType
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from seqbench.batch import TensorBatch
from seqbench.cost import leaves
from seqbench.layers import compiled
from seqbench.network import Network, answer_loss

_STEPS = 64  # the shorter of two runs; chunks and blocks of scans are smaller
_FUSED = MappingProxyType(
    {  # operators that do many steps in one call, and how a reader knows them
        "mkldnn_rnn_layer": "fused (oneDNN)",
        "_cudnn_rnn": "fused (cuDNN)",
        "miopen_rnn": "fused (MIOpen)",
        "_thnn_fused_lstm_cell": "fused cells",
        "_thnn_fused_gru_cell": "fused cells",
        "_scaled_dot_product_flash_attention_for_cpu": "flash attention (CPU)",
        "_scaled_dot_product_flash_attention": "flash attention",
        "_scaled_dot_product_efficient_attention": "memory-efficient attention",
        "_scaled_dot_product_cudnn_attention": "cuDNN attention",
        "convolution": "convolution",
        "_fft_r2c": "FFT",
    }
)
LOOP = 1.5  # operator calls per step and layer from which it is a loop; a scan in blocks makes fewer than one


def _writes(result: Any) -> bool:
    """Whether an operator's result is an argument that it wrote to, not a view of one."""
    return result.alias_info is not None and bool(result.alias_info.is_write)


class _Seen(TorchDispatchMode):
    """Counts the operators that reach the dispatcher, inside C++ and autograd functions too; no views."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not any(result.alias_info for result in func._schema.returns if not _writes(result)):
            self.calls[str(func).split(".")[1]] += 1
        return func(*args, **(kwargs or {}))


def found(network: Network, batch: TensorBatch) -> dict[str, Any]:
    """What ran in a training step on sequences as long as it takes to tell.

    Returns:
        ``kernel_found``: kernels by name, or what torch had to do instead; ``calls_per_step``: operator
        calls, forward and backward, that one more step of the sequence costs each layer.
    """
    ours = compiled.calls.total()  # compiled loops do not reach the dispatcher
    short, long = (_calls(network, stretched(batch, steps)) for steps in (_STEPS, 2 * _STEPS))
    layers = sum(1 for _ in leaves(network.encoder))
    per_step = (long.total() - short.total()) / _STEPS / max(1, layers)
    names = [name for operator, name in _FUSED.items() if operator in long]
    names += ["scan compiled in C"] if compiled.calls.total() > ours else []
    if per_step >= LOOP:
        names.append(f"a loop of {per_step:.0f} calls a step")
    elif per_step > 0:
        names.append("in blocks of steps")
    return {"kernel_found": ", ".join(names) or "all steps at once", "calls_per_step": per_step}


def _calls(network: Network, batch: TensorBatch) -> Counter[str]:
    seen = _Seen()
    with seen:
        answer_loss(*network.train()(batch)).backward()
    network.zero_grad(set_to_none=True)
    return seen.calls


def stretched(batch: TensorBatch, steps: int, rows: int = 1) -> TensorBatch:
    """The first sequences, over and over, to a number of steps and of rows, without padding."""
    row_B1 = torch.arange(rows, device=batch.ids_BT.device).unsqueeze(1) % len(batch.ids_BT)
    place_BT = torch.arange(steps, device=row_B1.device) % batch.lengths_B[row_B1]
    targets, scored_2N = batch.targets[row_B1[:, 0]], None
    if targets.ndim == 2:
        targets = batch.targets[row_B1, place_BT].clamp_min(0)
        scored_2N = torch.cartesian_prod(torch.arange(rows), torch.arange(steps)).T.to(targets.device)
    ids_BT = batch.ids_BT[row_B1, place_BT]
    values_BTF = None if batch.values_BTF is None else batch.values_BTF[row_B1, place_BT]
    lengths_B = torch.full_like(row_B1[:, 0], steps)
    valid_BT = torch.ones_like(ids_BT, dtype=torch.bool)
    return TensorBatch(ids_BT, lengths_B, valid_BT, targets, values_BTF, scored_2N)
