"""In which precision a network computes: autocast around it, float32 where half precision would do harm.

Weights, optimiser and everything that is logged stay float32. Under ``bfloat16`` and ``float16`` the matrix
products of linear maps, convolutions and attention run in half precision; recurrences, whose rounding adds up
from step to step, do not: the layers of :mod:`seqbench.layers` mark them with :func:`in_float32`.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from types import MappingProxyType
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

from seqbench.errors import UsageError

DTYPES = MappingProxyType(
    {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16},
)
_HALF = (torch.bfloat16, torch.float16)
_Args = ParamSpec("_Args")
_Result = TypeVar("_Result")


def check_device(precision: str, cuda_graph: bool, device: torch.device) -> None:
    """Refuse what a device cannot do.

    Raises:
        UsageError: float16 or CUDA graphs are asked for, and the device is no GPU.
    """
    if precision == "float16" and device.type != "cuda":
        raise UsageError(
            "train.precision=float16: needs a GPU, and training would run on the CPU: use "
            "train.precision=bfloat16 or float32"
        )
    if cuda_graph and device.type != "cuda":
        raise UsageError(
            "train.cuda_graph=true: needs a GPU, and training would run on the CPU: leave it out"
        )


def computing_in(precision: str, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """What a forward pass in ``precision`` runs inside of; the backward pass belongs outside."""
    if precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, DTYPES[precision])


def widened(x: Tensor) -> Tensor:
    """Half precision as float32, anything else as it is."""
    return x.float() if x.dtype in _HALF else x


def in_float32(function: Callable[_Args, _Result]) -> Callable[_Args, _Result]:
    """Run a function of tensors without autocast, its half-precision arguments as float32.

    Where no autocast is on, and so in float64, the function runs as it is.
    """

    @functools.wraps(function)
    def run(*args: _Args.args, **kwargs: _Args.kwargs) -> _Result:
        device = _casting_for((*args, *kwargs.values()))
        return function(*args, **kwargs) if device is None else _wide(device, function, args, kwargs)

    return run


def by_cudnn(function: Callable[_Args, _Result]) -> Callable[_Args, _Result]:
    """The same for a recurrent kernel of torch's own, which on a GPU knows float16 but no bfloat16.

    Under autocast torch hands cuDNN float16 whatever was asked for (``aten/src/ATen/cudnn/AutocastRNN.cpp``),
    whose small range needs a gradient scaler. So under bfloat16 the kernel runs in float32 on a GPU.
    """

    @functools.wraps(function)
    def run(*args: _Args.args, **kwargs: _Args.kwargs) -> _Result:
        device = _casting_for((*args, *kwargs.values()))
        if device != "cuda" or torch.get_autocast_dtype("cuda") == torch.float16:
            return function(*args, **kwargs)
        return _wide(device, function, args, kwargs)

    return run


def _wide(device: str, function: Callable[..., _Result], args: Any, kwargs: Any) -> _Result:
    with torch.autocast(device, enabled=False):
        return function(*_widened_all(args), **{name: _widened_all(value) for name, value in kwargs.items()})


def _casting_for(arguments: Any) -> str | None:
    """The kind of device whose autocast is on for these arguments, if any."""
    if not (torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda")):
        return None
    kinds = (one.device.type for one in _tensors(arguments))
    return next((kind for kind in kinds if torch.is_autocast_enabled(kind)), None)


def _tensors(value: Any) -> Iterator[Tensor]:
    """The tensors among some arguments, nested ones too."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for part in value:
            yield from _tensors(part)


def _widened_all(value: Any) -> Any:
    """The same arguments with every half-precision tensor as float32."""
    if isinstance(value, Tensor):
        return widened(value)
    return type(value)(map(_widened_all, value)) if type(value) in (tuple, list) else value
