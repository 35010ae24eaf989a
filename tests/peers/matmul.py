"""What a core's peak is taken to be: large matrix products in float32, one per step.

Torch multiplies by way of a BLAS library, but its fused LSTM by oneDNN, and on some processors one of the two
is twice as fast. The floor stands on whichever is faster here.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from peers.gate import Gate
from peers.work import PRODUCT_FLOPS, Cell
from peers.work import PRODUCT_SIZE as SIZE

_TRIES = 5


def train(cell: Cell, gate: Gate) -> None:
    """Multiply for ever."""
    torch.set_num_threads(1)
    products = ways()
    rates = {name: PRODUCT_FLOPS / _step_s(product) / 1e9 for name, product in products.items()}
    best = max(rates, key=lambda name: rates[name])
    gate.kernel = ", ".join(f"{name} {rate:.0f} GFLOP/s" for name, rate in rates.items())
    while True:
        products[best]()
        gate.tick(lambda: 0.0)


def ways() -> dict[str, Callable[[], torch.Tensor]]:
    """The ways in which torch multiplies two matrices here."""
    left, right = torch.randn(2, SIZE, SIZE)
    product = torch.empty(SIZE, SIZE)
    found = {"torch.mm": lambda: torch.mm(left, right, out=product)}
    if torch.backends.mkldnn.is_available():
        fast_left, fast_right = left.to_mkldnn(), right.t().contiguous().to_mkldnn()
        found["oneDNN"] = lambda: torch._C._nn.mkldnn_linear(fast_left, fast_right)
    return found


def _step_s(product: Callable[[], torch.Tensor]) -> float:
    """CPU seconds of a product, the fastest of some."""
    times = []
    for _ in range(_TRIES):
        began = time.process_time()
        product()
        times.append(time.process_time() - began)
    return min(times)
