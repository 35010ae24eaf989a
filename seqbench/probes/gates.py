"""Gates and states: how far they are open, how much of them is saturated, how long a gate keeps a memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from seqbench.batch import Batch, TensorBatch
from seqbench.layers.base import Encoder
from seqbench.network import Network
from seqbench.probes.base import NotApplicable
from seqbench.registry import register

LOW, HIGH = 0.05, 0.95
KEEPING = ("forget gate", "update gate")  # open, they keep the state as it is
_DIRECTIONS = ("forwards", "backwards")
Floats = npt.NDArray[np.floating[Any]]


@register("probe")
class Gates:
    """Saturation of gates and of tanh, and time scales, over the valid steps and units of a held-out batch.

    Looks at every layer of the encoder that has a method ``activations(x_BTD, mask_BT=...)`` which returns
    named tensors ``(B, T, H)``; a name that ends in "gate" is one, if its values lie in 0..1. Shares of the
    other activations are of their absolute values: above 0.95 the slope of tanh is below 0.1.

    A gate f held fixed multiplies what is kept by f at every step, so that after -1/ln(f) steps 1/e of it is
    left. The time scale of a unit is that of its mean gate, over ``KEEPING`` gates alone (NaN for others);
    since gates move, it is an upper estimate (the product of gates falls with the mean of ln f). The slowest
    tenth of the units have at least ``longest_time_scale_steps``.

    Source: the forget gate as a unit's time scale: Mahto et al. 2021, 2009.12727.
    """

    name: ClassVar[str] = "gates"

    def measure(self, network: Network, batch: Batch) -> dict[str, list[Any]]:
        tensors = batch.tensors(next(network.parameters()).device)
        with torch.no_grad(), evaluating(network):
            calls = layer_inputs(network, tensors)
            rows = [
                {"layer": name, **row}
                for name, (layer, inputs) in calls.items()
                for row in _rows(layer, inputs, tensors.mask_BT)
            ]
        if not rows:
            raise NotApplicable("no layer of this model shows gates or a recurrent state")
        return {column: [row[column] for row in rows] for column in rows[0]}


def layer_inputs(network: Network, batch: TensorBatch) -> dict[str, tuple[nn.Module, list[Tensor]]]:
    """Every layer with ``activations`` by its name, and what it read in one forward pass of the network.

    A layer that is called more than once has read more than one input; one that is not called is left out.
    """
    layers = named_layers(network.encoder)
    read: dict[str, list[Tensor]] = {name: [] for name in layers}
    with ExitStack() as hooks:
        for name, layer in layers.items():
            hooks.enter_context(layer.register_forward_pre_hook(_keeper(read[name]), with_kwargs=True))
        network(batch)
    return {name: (layer, read[name]) for name, layer in layers.items() if read[name]}


def _keeper(kept: list[Tensor]) -> Any:
    """A hook that keeps what its layer reads."""

    def keep(_layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        kept.append(args[0] if args else kwargs["x_BTD"])

    return keep


def named_layers(encoder: Encoder) -> dict[str, nn.Module]:
    """Layers that have ``activations``, numbered from the input on within each direction."""
    found: dict[str, nn.Module] = {}
    count = dict.fromkeys(("", *_DIRECTIONS), 0)
    for path, layer in encoder.named_modules():
        if callable(getattr(layer, "activations", None)):
            head = path.split(".")[0]
            direction = head if head in _DIRECTIONS else ""
            count[direction] += 1
            found[f"{count[direction]} {direction}".strip()] = layer
    return found


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while; afterwards every module has its own mode back."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _rows(layer: Any, inputs: list[Tensor], mask_BT: Tensor) -> list[dict[str, Any]]:
    """One row per activation of a layer, over all of its calls."""
    calls = [layer.activations(x_BTD, mask_BT=mask_BT) for x_BTD in inputs]
    return [
        {"activation": name, **summary(name, torch.cat([call[name][mask_BT] for call in calls]))}
        for name in calls[0]
    ]


def summary(name: str, values_NH: Tensor) -> dict[str, Any]:
    """The numbers of one activation.

    Args:
        values_NH: at each of the N valid steps, for each unit.

    Raises:
        NotApplicable: a value is not finite.
    """
    values: Floats = values_NH.cpu().numpy()
    if not np.isfinite(values).all():
        raise NotApplicable(f"values of the {name} are not finite")
    size = np.abs(values)
    gate = name.endswith("gate") and bool(values.min() >= 0) and bool(values.max() <= 1)
    middle, longest = time_scales(values) if gate and name in KEEPING else (math.nan, math.nan)
    return {
        "gate": gate,
        "low_share": float((size < LOW).mean()),
        "high_share": float((size > HIGH).mean()),
        "mean": float(values.mean(dtype=np.float64)),
        "median": float(np.median(values)),
        "largest": float(size.max()),
        "time_scale_steps": middle,
        "longest_time_scale_steps": longest,
    }


def time_scales(gate_NH: Floats) -> tuple[float, float]:
    """-1/ln of each unit's mean gate, in steps: the median over units, and what the slowest tenth reaches.

    Infinite where a gate is never anything but 1.
    """
    with np.errstate(divide="ignore"):
        scale_H = 1 / np.abs(np.log(gate_NH.mean(0, dtype=np.float64)))
    return float(np.median(scale_H)), float(np.quantile(scale_H, 0.9, method="higher"))
