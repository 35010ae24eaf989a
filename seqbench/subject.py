"""An encoder under test: a copy, its inputs, and what a property found on it.

Shape letters: B batch, T time, D width in, H width out.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from seqbench.layers.base import Encoder

BATCH, TIME, LONG = 3, 12, 1024
_EXACT, _SINGLE = 1e-8, 1e-3  # float64, float32 (or TF32); correct encoders measure 1e-13, wrong ones 1e-2


class Inapplicable(Exception):
    """The property says nothing about this encoder; the message says why."""


@dataclass(frozen=True)
class Finding:
    """What one property came to.

    Attributes:
        passed: None where the property does not apply.
        expected, found: in words with numbers; ``found`` alone may be a remark on a property that passed.
        cause: what usually causes a failure, and what mends it.
    """

    name: str
    passed: bool | None
    expected: str = ""
    found: str = ""
    cause: str = ""

    @property
    def sentence(self) -> str:
        """The finding in one sentence."""
        parts = [f"expected {self.expected}"] if self.expected else []
        parts += [f"found {self.found}" if self.expected else self.found] if self.found else []
        return ", ".join(parts) + (f"; usual cause: {self.cause}" if self.cause else "")


@dataclass(frozen=True)
class Subject:
    """An encoder under test, a copy in evaluation mode.

    Attributes:
        x_BTD: the input of most properties.
        long: T of the long runs.
        refusal: why it does not run in float64; empty where it does.
    """

    encoder: Encoder
    x_BTD: Tensor
    long: int
    refusal: str

    @property
    def tolerance(self) -> float:
        """Largest relative difference between results that should be equal."""
        return _EXACT if self.x_BTD.dtype == torch.float64 else _SINGLE

    @property
    def lengths(self) -> list[int]:
        """Lengths of the padded rows: full, about half, one."""
        time = self.x_BTD.shape[1]
        return [time, time // 2 + 1, 1]

    def noise(self, seed: int, batch: int = BATCH, time: int = TIME) -> Tensor:
        """Another input."""
        return noise((batch, time, self.x_BTD.shape[2]), seed, self.x_BTD)

    def padded(self) -> tuple[Tensor, Tensor]:
        """The input with padding after each row's length, zero as the network gives it, and its mask."""
        lengths_B1 = torch.tensor(self.lengths, device=self.x_BTD.device).unsqueeze(1)
        mask_BT = torch.arange(self.x_BTD.shape[1], device=self.x_BTD.device) < lengths_B1
        return self.x_BTD.masked_fill(~mask_BT.unsqueeze(2), 0.0), mask_BT


def subject_of(encoder: Encoder, width_in: int, long: int = LONG) -> Subject:
    """A copy to test: in float64, or as it is where it does not run in float64."""
    like = next((leaf for leaf in encoder.parameters() if leaf.is_floating_point()), torch.empty(0))
    x_BTD = noise((BATCH, TIME, width_in), 0, like.float())
    try:
        double = _doubled(twin(encoder))
        run(double, x_BTD.double())
    except Exception as error:
        return Subject(twin(encoder), x_BTD, long, in_words(error))
    return Subject(double, x_BTD.double(), long, "")


def _doubled(encoder: Encoder) -> Encoder:
    """An encoder in float64, its complex numbers too."""
    encoder.double()
    for leaf in (*encoder.parameters(), *encoder.buffers()):
        if leaf.is_complex():
            leaf.data = leaf.data.to(torch.complex128)
    return encoder


def twin(encoder: Encoder, *, training: bool = False) -> Encoder:
    """A copy, so that modes, buffers and weights of the original stay as they are.

    Raises:
        Inapplicable: it holds what cannot be copied.
    """
    try:
        return copy.deepcopy(encoder).train(training)
    except (TypeError, RuntimeError) as error:
        raise Inapplicable(f"it cannot be copied ({in_words(error)})") from error


def noise(shape: tuple[int, ...], seed: int, like: Tensor) -> Tensor:
    """Standard normal numbers that float32 can hold, of the device and type of ``like``."""
    dtype = torch.complex64 if like.is_complex() else torch.float32
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype).to(like)


def run(
    encoder: Encoder, x_BTD: Tensor, mask_BT: Tensor | None = None, state: Any = None
) -> tuple[Tensor, Any]:
    """Outputs and state without a gradient; without a mask, all inputs are valid.

    Raises:
        TypeError: forward gave something else.
    """
    if mask_BT is None:
        mask_BT = torch.ones(x_BTD.shape[:2], dtype=torch.bool, device=x_BTD.device)
    with torch.no_grad():
        given: Any = encoder(x_BTD, mask_BT=mask_BT, state=state)
    if not (isinstance(given, tuple | list) and len(given) == 2):
        raise TypeError(f"forward gave {_kind(given)}, expected the pair (outputs, state)")
    if not isinstance(given[0], Tensor):
        raise TypeError(f"forward gave {_kind(given[0])} as outputs, expected a tensor")
    if not given[0].is_floating_point():
        raise TypeError(f"forward gave outputs of {given[0].dtype}, expected real numbers")
    return given[0], given[1]


def _kind(given: object) -> str:
    parts = f" of {len(given)}" if isinstance(given, tuple | list) else ""
    return f"a {type(given).__name__}{parts}" if given is not None else "None"


def relative(first: Tensor, second: Tensor) -> float:
    """Largest difference relative to the largest value of the first; infinite where one is no number."""
    if first.numel() == 0:
        return 0.0
    if not (first.isfinite().all() and second.isfinite().all()):
        return math.inf
    return float((first - second).abs().max() / first.abs().max().clamp_min(1e-3))


@contextlib.contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Torch's random numbers from a seed; afterwards they go on as if nothing had been drawn."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def in_words(error: BaseException) -> str:
    """An exception in one short line."""
    told = " ".join(str(error).split())[:200]
    return f"{type(error).__name__}: {told}" if told else type(error).__name__
