"""Checks of an encoder's promises before a second is spent on training it."""

from __future__ import annotations

import torch

from seqbench.batch import Batch, widen
from seqbench.network import Network

_ROWS = 4
_EXTRA_COLUMNS = 3
_TOLERANCE = 1e-4  # float32; a correct encoder measures 0 to 1e-6, a wrong one 1e-2 and more


class ContractBroken(Exception):
    """The encoder does not do what it declares; the message names the property and the numbers."""


def check_contract(network: Network, batch: Batch) -> None:
    """Check padding and causality on a few sequences.

    Raises:
        ContractBroken: logits change when padding is added, or a causal encoder reads later inputs.
    """
    few = batch.rows(0, _ROWS)
    was_training = network.training
    network.eval()
    with torch.no_grad():
        padding, future = _padding_error(network, few), _future_error(network, few)
    network.train(was_training)
    if padding > _TOLERANCE:
        raise ContractBroken(
            f"the answers change by {padding:.2g} when padding is added: the encoder reads padding; "
            "use mask_BT, or make it causal"
        )
    if future > _TOLERANCE:
        raise ContractBroken(
            f"outputs change by {future:.2g} when only later inputs change: the encoder is not causal; "
            "set causal = False, or mend it"
        )


def _padding_error(network: Network, batch: Batch) -> float:
    """Largest change of a logit, relative to the largest logit, when padding is added."""
    device = next(network.parameters()).device
    plain, _ = network(batch.tensors(device))
    padded, _ = network(widen(batch, _EXTRA_COLUMNS).tensors(device))
    return _relative(plain, padded)


def _future_error(network: Network, batch: Batch) -> float:
    """Largest change of an output before the middle when inputs from the middle on change."""
    if not network.encoder.causal:
        return 0.0
    tensors = batch.tensors(next(network.parameters()).device)
    x_BTD = network.embed(tensors)
    cut = x_BTD.shape[1] // 2
    changed_BTD = x_BTD.clone()
    changed_BTD[:, cut:] = changed_BTD[:, cut:].roll(1, dims=0).neg() + 1
    plain, _ = network.encoder(x_BTD, mask_BT=tensors.mask_BT)
    other, _ = network.encoder(changed_BTD, mask_BT=tensors.mask_BT)
    return _relative(plain[:, :cut], other[:, :cut])


def _relative(first: torch.Tensor, second: torch.Tensor) -> float:
    """Largest difference relative to the largest value; 0 where there are no numbers (training will say)."""
    if first.numel() == 0 or not (first.isfinite().all() and second.isfinite().all()):
        return 0.0
    return float((first - second).abs().max() / first.abs().max().clamp_min(1e-3))
