"""Methods that a layer may have beside ``forward``, checked where it has them; and the second direction.

Shape letters: B batch, T time, H width, K heads.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from seqbench.subject import Finding, Inapplicable, Subject, relative, run

_SMALL = 1e-6  # attention may be computed in float32


@dataclass(frozen=True)
class Call:
    """One call of a layer inside an encoder: what it read and gave."""

    layer: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Tensor

    @property
    def read(self) -> Tensor:
        """What the layer read."""
        found: Tensor = self.args[0] if self.args else self.kwargs["x_BTD"]
        return found


def calls(subject: Subject, method: str, x_BTD: Tensor, mask_BT: Tensor | None) -> list[Call]:
    """Every call, in one forward pass of the encoder, of a layer that has the method.

    Raises:
        Inapplicable: no layer has it.
    """
    found: list[Call] = []

    def keep(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        found.append(Call(layer, args, kwargs, output[0] if isinstance(output, tuple) else output))

    with _hooked(subject.encoder, method, keep):
        run(subject.encoder, x_BTD, mask_BT)
    if not found:
        raise Inapplicable(f"no layer has a method {method}")
    return found


@contextlib.contextmanager
def _hooked(encoder: nn.Module, method: str, keep: Callable[..., None]) -> Iterator[None]:
    with contextlib.ExitStack() as hooks:
        for layer in encoder.modules():
            if callable(getattr(layer, method, None)):
                hooks.enter_context(layer.register_forward_hook(keep, with_kwargs=True))
        yield


def reference(subject: Subject) -> Finding:
    """``forward`` equals the layer's own slow form, ``reference(x_BTD) -> y_BTH``."""
    errors = []
    for call in calls(subject, "reference", subject.x_BTD, None):
        with torch.no_grad():
            slow = call.layer.reference(call.read)
        errors.append(relative(slow[0] if isinstance(slow, tuple) else slow, call.output))
    return Finding(
        "reference", max(errors) <= subject.tolerance,
        "forward to equal reference(x_BTD)", f"a difference of {max(errors):.2g}",
        "the quick and the slow form differ in a step, a sign or a bias",
    )  # fmt: skip


def weights(subject: Subject) -> Finding:
    """``weights`` gives ``(B, K, T, T)`` whose rows sum to 1, with nothing on keys that cannot be seen."""
    x_BTD, mask_BT = subject.padded()
    wrong = [
        words
        for call in calls(subject, "weights", x_BTD, mask_BT)
        if (words := _wrong_weights(call, mask_BT, subject))
    ]
    return Finding(
        "weights", not wrong,
        "weights (B, K, T, T) whose rows sum to 1, and 0 on padding (and on later keys if causal)",
        next(iter(wrong), ""), "no mask before the softmax, or a softmax over another axis",
    )  # fmt: skip


def _wrong_weights(call: Call, mask_BT: Tensor, subject: Subject) -> str:
    """What is wrong with the weights of one call, in words."""
    with torch.no_grad():
        found: Tensor = call.layer.weights(*call.args, **call.kwargs)
    batch, time = mask_BT.shape
    if found.ndim != 4 or (found.shape[0], *found.shape[2:]) != (batch, time, time):
        return f"the shape {tuple(found.shape)}"
    rows_NKT = found.transpose(1, 2)[mask_BT]  # of the N valid queries
    if (error := float((rows_NKT.sum(2) - 1).abs().max())) > _SMALL:
        return f"a row whose sum is off by {error:.2g}"
    unseen_BTT = ~mask_BT[:, None, :].expand(-1, time, -1)
    if getattr(call.layer, "causal", subject.encoder.causal):
        unseen_BTT = unseen_BTT | torch.ones(time, time, dtype=torch.bool, device=found.device).triu(1)
    unseen = float((rows_NKT * unseen_BTT[mask_BT].unsqueeze(1)).abs().max())
    return f"{unseen:.2g} on a key that cannot be seen" if unseen > _SMALL else ""


def activations(subject: Subject) -> Finding:
    """``activations`` gives finite tensors ``(B, T, any)`` by name."""
    x_BTD, mask_BT = subject.padded()
    wrong = []
    for call in calls(subject, "activations", x_BTD, mask_BT):
        for name, values in call.layer.activations(call.read, mask_BT=mask_BT).items():
            if values.ndim != 3 or values.shape[:2] != mask_BT.shape:
                wrong.append(f"'{name}' of shape {tuple(values.shape)}")
            elif not values[mask_BT].isfinite().all():
                wrong.append(f"'{name}' with numbers that are not finite")
    return Finding(
        "activations", not wrong, f"finite tensors (B, T, any) with (B, T) = {tuple(mask_BT.shape)} by name",
        ", ".join(wrong), "time-major tensors, or those of the last step only",
    )  # fmt: skip
