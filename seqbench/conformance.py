"""What a layer must do to be compared fairly: each property a small function that returns a finding.

``python -m seqbench.check`` runs all of them, ``contract.py`` the ones without which training is pointless,
before every run: on a copy of the encoder, with a few short sequences of noise, in float64 where it runs in
float64. Shape letters: B batch, T time, D width in, H width out.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from seqbench.layers.base import Encoder
from seqbench.replay import batch_axes, tensors
from seqbench.subject import BATCH, TIME, Finding, Inapplicable, Subject, noise, relative, run, seeded, twin

_MIDDLE = 256
# Steps of the finite difference, each with the error of a slope that it allows; the second is for layers that
# compute a part in float32, where a small step drowns in rounding.
_STEPS = ((1e-6, 1e-4), (1e-3, 1e-2))
_LOUD = 100.0  # a leak that is weak at ordinary inputs shows at loud ones

Property = Callable[[Subject], Finding]


def shape(subject: Subject) -> Finding:
    """One output of width ``width_out`` for every input."""
    y_BTH, _ = run(subject.encoder, subject.x_BTD)
    wanted = (*subject.x_BTD.shape[:2], subject.encoder.width_out)
    return Finding(
        "shape", tuple(y_BTH.shape) == wanted, f"outputs (B, T, width_out) = {wanted}",
        f"{tuple(y_BTH.shape)}", "width_out is not what the last layer gives, or batch and time are swapped",
    )  # fmt: skip


def mask_optional(subject: Subject) -> Finding:
    """``mask_BT=None`` means that all inputs are valid."""
    with torch.no_grad():
        without, _ = subject.encoder(subject.x_BTD)
    error = relative(run(subject.encoder, subject.x_BTD)[0], without)
    return Finding(
        "mask optional", error <= subject.tolerance,
        "the same outputs without a mask as with one that is all True", f"a difference of {error:.2g}",
        "a branch for mask_BT=None that does something else",
    )  # fmt: skip


def finite(subject: Subject) -> Finding:
    """Numbers at T = 1, at an ordinary and at a great length."""
    bad = {}
    for time in (1, TIME, subject.long):
        y_BTH, _ = run(subject.encoder, subject.noise(1, 2, time))
        if count := int((~y_BTH.isfinite()).sum()):
            bad[time] = f"{count} of {y_BTH.numel()} not finite at T = {time}"
    return Finding(
        "finite", not bad, f"finite outputs at T = 1, {TIME} and {subject.long}",
        next(iter(bad.values()), ""),
        "a state that grows without bound, a logarithm of 0, or a product over all steps",
    )  # fmt: skip


def determinism(subject: Subject) -> Finding:
    """The same input twice gives the same output, in training mode too as far as there is no dropout."""
    name, cause = "determinism", "random numbers, or a state kept in the module from one call to the next"
    error = relative(run(subject.encoder, subject.x_BTD)[0], run(subject.encoder, subject.x_BTD)[0])
    if error > 0:
        told = "a difference of 0 when the same input is read twice (evaluation mode)"
        return Finding(name, False, told, f"{error:.2g}", cause)
    first, other, again = (_trained_run(subject, subject.x_BTD, seed) for seed in (0, 1, 0))
    if (error := relative(first, again)) > 0:
        told = "a difference of 0 between two runs in training mode from the same random state"
        return Finding(name, False, told, f"{error:.2g}", cause)
    remark = "random numbers are drawn in training mode" if relative(first, other) > 0 else ""
    return Finding(name, True, found=remark)


def _trained_run(subject: Subject, x_BTD: Tensor, seed: int = 0) -> Tensor:
    """Outputs of a fresh copy in training mode, its dropout switched off where that can be seen."""
    encoder = twin(subject.encoder, training=True)
    for module in encoder.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
        elif isinstance(getattr(module, "dropout", None), float):
            module.dropout = 0.0  # type: ignore[assignment]
    with seeded(seed, x_BTD.device):
        return run(encoder, x_BTD)[0]


def rows(subject: Subject) -> Finding:
    """No row of a batch sees another, in training mode either."""
    worst, place = 0.0, "evaluation"
    others_BTD = _LOUD * subject.noise(2)
    modes: dict[str, Callable[[Tensor], Tensor]] = {
        "evaluation": lambda x_BTD: run(subject.encoder, x_BTD)[0],
        "training": lambda x_BTD: _trained_run(subject, x_BTD),
    }
    for mode, outputs in modes.items():
        plain = outputs(subject.x_BTD)
        for row in range(BATCH):
            changed_BTD = others_BTD.clone()
            changed_BTD[row] = subject.x_BTD[row]
            if (error := relative(plain[row], outputs(changed_BTD)[row])) > worst:
                worst, place = error, mode
    return Finding(
        "rows", worst <= subject.tolerance, "a row's outputs to change by 0 when only other rows change",
        f"{worst:.2g} in {place} mode",
        "batch normalisation, or a module that takes the first axis for time (batch_first=False)",
    )  # fmt: skip


def causality(subject: Subject) -> Finding:
    """Outputs before a cut do not depend on inputs from it on, where the encoder says so."""
    time = subject.x_BTD.shape[1]
    errors = {}
    for cut in (1, time // 3, 2 * time // 3, time - 1):
        changed_BTD = subject.x_BTD.clone()
        changed_BTD[:, cut:] = _LOUD * subject.noise(3)[:, cut:]
        plain, other = (run(subject.encoder, x_BTD)[0] for x_BTD in (subject.x_BTD, changed_BTD))
        errors[cut] = relative(plain[:, :cut], other[:, :cut])
    cut = max(errors, key=lambda one: errors[one])
    if not subject.encoder.causal:
        looks = errors[cut] > subject.tolerance
        return Finding(
            "causality", True, found="" if looks else "it declares causal = False and never looks ahead"
        )
    return Finding(
        "causality", errors[cut] <= subject.tolerance,
        "earlier outputs to change by 0 when only later inputs change",
        f"{errors[cut]:.2g} at step {cut} of {time}",
        "a mean, norm, convolution or attention over the whole sequence; mend it, or declare causal = False",
    )  # fmt: skip


def padding_content(subject: Subject) -> Finding:
    """Whatever stands at padding, valid outputs stay."""
    zeros_BTD, mask_BT = subject.padded()
    filled_BTD = torch.where(mask_BT.unsqueeze(2), zeros_BTD, _LOUD * subject.noise(4))
    plain, other = (run(subject.encoder, x_BTD, mask_BT)[0][mask_BT] for x_BTD in (zeros_BTD, filled_BTD))
    error = relative(plain, other)
    return Finding(
        "padding content", error <= subject.tolerance,
        "valid outputs to change by 0 when only padding changes", f"{error:.2g}",
        "a sum or an attention over all steps without mask_BT",
    )  # fmt: skip


def padding(subject: Subject) -> Finding:
    """A row of a padded batch, and what the read-out takes from it, equal the row by itself."""
    zeros_BTD, mask_BT = subject.padded()
    y_BTH, _ = run(subject.encoder, zeros_BTD, mask_BT)
    last_BH = subject.encoder.last(y_BTH, mask_BT.sum(1))
    errors = []
    for row, length in enumerate(subject.lengths):
        alone, _ = run(subject.encoder, subject.x_BTD[row : row + 1, :length])
        last = subject.encoder.last(alone, mask_BT.sum(1)[row : row + 1])
        errors.append(max(relative(alone[0], y_BTH[row, :length]), relative(last[0], last_BH[row])))
    worst = max(range(len(errors)), key=errors.__getitem__)
    columns, length = subject.x_BTD.shape[1], subject.lengths[worst]
    return Finding(
        "padding", errors[worst] <= subject.tolerance, "a padded row to equal the same row alone",
        f"a difference of {errors[worst]:.2g} (length {length}, {columns - length} columns of padding)",
        "a mean, a norm or a reversal over all steps instead of the valid ones; use mask_BT",
    )  # fmt: skip


def state(subject: Subject) -> Finding:
    """Two halves joined by the state, and single steps, equal the whole sequence."""
    encoder, x_BTD = subject.encoder, subject.x_BTD
    whole, handed = run(encoder, x_BTD)
    if not encoder.causal or handed is None:
        raise Inapplicable("no state is handed on")
    errors = {}
    for pieces, sizes in (("two halves", x_BTD.shape[1] // 2), ("single steps", 1)):
        outputs, after = [], None
        for part_BTD in x_BTD.split(sizes, dim=1):
            y_BTH, after = run(encoder, part_BTD, state=after)
            outputs.append(y_BTH)
        errors[pieces] = relative(whole, torch.cat(outputs, dim=1))
    pieces = max(errors, key=lambda one: errors[one])
    return Finding(
        "state", errors[pieces] <= subject.tolerance,
        f"{pieces} joined by the state to equal the whole sequence", f"a difference of {errors[pieces]:.2g}",
        "a state of another step than the last, one that lacks a part, or one that forward ignores",
    )  # fmt: skip


def state_axes(subject: Subject) -> Finding:
    """The batch axis of every state tensor can be told by its size."""
    _, handed = run(subject.encoder, subject.x_BTD)
    if not (subject.encoder.causal and tensors(handed)):
        raise Inapplicable("no state is handed on")
    try:
        passed = bool(batch_axes(subject.encoder, subject.x_BTD))
    except StopIteration:
        passed = False
    shapes = ", ".join(str(tuple(leaf.shape)) for leaf in tensors(handed))
    return Finding(
        "state axes", passed, f"an axis of size B = {BATCH} in every tensor of the state", shapes,
        "a state that all rows share; return it as a buffer or a number",
    )  # fmt: skip


def gradient(subject: Subject) -> Finding:
    """Autograd's derivative along a random direction in every tensor equals a finite difference."""
    if subject.refusal:
        raise Inapplicable("finite differences need float64")
    x_BTD = subject.x_BTD.clone().requires_grad_()
    named = {"the input": x_BTD, **_trainable(subject.encoder)}
    y_BTH, _ = _whole(subject.encoder, x_BTD)
    if not y_BTH.requires_grad:
        raise Inapplicable("nothing is read")
    weigh_BTH = noise(tuple(y_BTH.shape), 5, y_BTH)
    found = torch.autograd.grad((y_BTH * weigh_BTH).sum(), list(named.values()), allow_unused=True)
    size = math.sqrt(sum(float(grad.abs().square().sum()) for grad in found if grad is not None))
    worst, words = 0.0, ("", "")
    for number, ((name, leaf), grad) in enumerate(zip(named.items(), found, strict=True)):
        direction = noise(tuple(leaf.shape), 6 + number, leaf)
        claimed = 0.0 if grad is None else float((grad.conj() * direction).sum().real)
        for step, allowed in _STEPS:
            slope = _slope(subject.encoder, x_BTD, leaf, step * direction, weigh_BTH) / step
            error = abs(claimed - slope) / max(abs(claimed), abs(slope), 1e-3 * size, 1e-9) / allowed
            if error <= 1:
                break
        if error > worst:
            worst, words = error, (f"{slope:.4g} (finite difference) in {name}", f"{claimed:.4g} (autograd)")
    return Finding(
        "gradient", worst <= 1, f"a slope of {words[0]}", words[1],
        "a hand-written backward pass, detach(), or a step that has no derivative",
    )  # fmt: skip


def _slope(encoder: Encoder, x_BTD: Tensor, leaf: Tensor, step: Tensor, weigh_BTH: Tensor) -> float:
    """Half the difference of the weighed sum of outputs between both ends of a step in a leaf tensor."""
    values, kept = [], leaf.detach().clone()
    with torch.no_grad():
        for sign in (1, -1):
            leaf.copy_(kept + sign * step)
            values.append(float((run(encoder, x_BTD)[0] * weigh_BTH).sum()))
        leaf.copy_(kept)
    return (values[0] - values[1]) / 2


def parameters(subject: Subject) -> Finding:
    """Every parameter tensor receives a gradient: at its start, or after a nudge on a longer sequence.

    Weights behind a gate that starts at zero, and those that act only after many steps, are no dead ones.
    """
    named = _trainable(subject.encoder)
    if not named:
        raise Inapplicable("no parameters")
    cuda = subject.x_BTD.is_cuda  # where a fused kernel has a backward pass in training mode only
    idle = _idle(twin(subject.encoder, training=cuda), subject.x_BTD)
    for training in (cuda, True):
        if idle:
            nudged = twin(subject.encoder, training=training)
            with torch.no_grad():
                for number, leaf in enumerate(_trainable(nudged).values()):
                    leaf.add_(noise(tuple(leaf.shape), 7 + number, leaf), alpha=0.1)
            idle &= _idle(nudged, subject.noise(6, 2, max(_MIDDLE, subject.long)))
    names = ", ".join(f"'{name}' {tuple(named[name].shape)}" for name in named if name in idle)
    return Finding(
        "parameters", not idle, f"a gradient for each of {len(named)} parameter tensors",
        f"none for {len(idle)}: {names}",
        "it is not used in forward, or cut off by detach() or no_grad(), yet counts for the budget",
    )  # fmt: skip


def _trainable(encoder: Encoder) -> dict[str, Tensor]:
    return {name: leaf for name, leaf in encoder.named_parameters() if leaf.requires_grad}


def _whole(encoder: Encoder, x_BTD: Tensor) -> tuple[Tensor, Any]:
    """Outputs and state with a gradient; all inputs are valid."""
    mask_BT = torch.ones(x_BTD.shape[:2], dtype=torch.bool, device=x_BTD.device)
    return encoder(x_BTD, mask_BT=mask_BT)  # type: ignore[no-any-return]


def _idle(encoder: Encoder, x_BTD: Tensor) -> set[str]:
    """Names of the parameters that receive no gradient at all."""
    named = _trainable(encoder)
    with seeded(0, x_BTD.device), torch.enable_grad():
        y_BTH, _ = _whole(encoder, x_BTD)
        if not y_BTH.requires_grad:
            return set(named)
        asked = (y_BTH * noise(tuple(y_BTH.shape), 5, y_BTH)).sum()
        found = torch.autograd.grad(asked, list(named.values()), allow_unused=True)
    pairs = [(name, grad) for (name, leaf), grad in zip(named.items(), found, strict=True) if leaf.numel()]
    return {name for name, grad in pairs if grad is None or not grad.any()}


def precision(subject: Subject) -> Finding:
    """Float32 is close to float64, and still gives numbers on a long sequence."""
    name, cause = "float32", "logarithms summed up over all steps, or a difference of large numbers"
    if subject.refusal:
        told = "a run in float64, as the gradient probes need it"
        return Finding(name, False, told, subject.refusal, "a tensor made with dtype=torch.float32")
    single, x_BTD = twin(subject.encoder).float(), subject.noise(8, 2, _MIDDLE)
    error = relative(run(subject.encoder, x_BTD)[0], run(single, x_BTD.float())[0].double())
    if error > 1e-3:
        told = f"float32 within 0.001 of float64 at T = {_MIDDLE}"
        return Finding(name, False, told, f"a difference of {error:.2g}", cause)
    y_BTH, _ = run(single, subject.noise(1, 2, subject.long).float())
    count = int((~y_BTH.isfinite()).sum())
    told = f"finite float32 outputs at T = {subject.long}"
    return Finding(name, not count, told, f"{count} of {y_BTH.numel()} not finite" if count else "", cause)
