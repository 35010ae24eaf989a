"""Correctness before speed: a layer of seqbench against torch's own module on copied weights.

The reference reads every sequence by itself, without padding, so that it needs no mask, no packing and no
reversal. Compared are outputs at valid tokens, the summary that is read out, and all gradients.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from peers.torch_nets import encoder_layers
from peers.work import EMBEDDING, HIDDEN, Cell
from seqbench.layers.base import Encoder
from seqbench.subject import relative

TOLERANCE = 5e-5  # float32; correct layers are at 1e-6 (T=32) to 6e-6 (T=512)
ROWS = 32

Shared = list[tuple[str, Tensor, Tensor]]  # the name of a weight, seqbench's tensor, torch's
_LSTM_WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


class Unequal(Exception):
    """A layer does not compute what torch's own module does; no speed of it is worth a figure."""


def check(cell: Cell, encoder: Encoder) -> None:
    """Compare an encoder with its reference on padded sequences of the cell's lengths.

    Raises:
        Unequal: with what differs most.
    """
    lengths = [int(n) for n in cell.lengths[:ROWS]]
    generator = torch.Generator().manual_seed(0)
    mask_BT = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    x_BTD = torch.randn(*mask_BT.shape, EMBEDDING, generator=generator).masked_fill(
        ~mask_BT.unsqueeze(2), 0.0
    )
    read, shared = REFERENCES[cell.model](encoder)
    ours = _run_padded(encoder, x_BTD.requires_grad_(), mask_BT, [mine for _, mine, _ in shared])
    theirs = _run_alone(read, x_BTD.detach(), lengths, [reference for _, _, reference in shared], cell)
    names = ["outputs", "summary", "input gradients", *(f"gradient of {name}" for name, _, _ in shared)]
    for name, mine, reference in zip(names, ours, theirs, strict=True):
        gap = relative(reference, mine) if mine.shape == reference.shape else math.inf
        if not gap <= TOLERANCE:
            where = f"{name} of {cell.model} differ from torch's by {gap:.2g} at T={cell.length}"
            raise Unequal(f"equality test failed: {where}")


def _weights(shape: torch.Size) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def _run_padded(encoder: Encoder, x_BTD: Tensor, mask_BT: Tensor, weights: list[Tensor]) -> list[Tensor]:
    """What seqbench computes for the padded batch."""
    y_BTH, _ = encoder(x_BTD, mask_BT=mask_BT)
    y_NH, last_BH = y_BTH[mask_BT], encoder.last(y_BTH, mask_BT.sum(1))
    scalar = (y_NH * _weights(y_NH.shape)).sum() + (last_BH * _weights(last_BH.shape)).sum()
    into_x, *into_weights = torch.autograd.grad(scalar, [x_BTD, *weights])
    return [y_NH.detach(), last_BH.detach(), into_x[mask_BT], *into_weights]


def _run_alone(
    read: Callable[[Tensor], Tensor], x_BTD: Tensor, lengths: list[int], weights: list[Tensor], cell: Cell
) -> list[Tensor]:
    """The same from every sequence by itself."""
    rows = [x_TD[:n].clone().requires_grad_() for x_TD, n in zip(x_BTD, lengths, strict=True)]
    outputs = [read(row.unsqueeze(0))[0] for row in rows]
    y_NH = torch.cat(outputs)
    ahead = HIDDEN if cell.model == "bilstm" else y_NH.shape[1]
    last_BH = torch.stack([torch.cat([y_TH[-1, :ahead], y_TH[0, ahead:]]) for y_TH in outputs])
    scalar = (y_NH * _weights(y_NH.shape)).sum() + (last_BH * _weights(last_BH.shape)).sum()
    grads = torch.autograd.grad(scalar, [*rows, *weights])
    return [y_NH.detach(), last_BH.detach(), torch.cat(grads[: len(rows)]), *grads[len(rows) :]]


def _recurrent(module: Any, names: dict[str, Tensor]) -> tuple[Callable[[Tensor], Tensor], Shared]:
    """A recurrent module of torch with the given weights; those that are not given are zero."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
        for name, mine in names.items():
            module.get_parameter(name).copy_(mine)
    shared = [(name, mine, module.get_parameter(name)) for name, mine in names.items()]
    return lambda x_1TD: module(x_1TD)[0], shared


def _rnn(encoder: Any) -> tuple[Callable[[Tensor], Tensor], Shared]:
    project = encoder.project
    names = {"weight_ih_l0": project.weight, "bias_ih_l0": project.bias, "weight_hh_l0": encoder.recurrent}
    return _recurrent(nn.RNN(EMBEDDING, HIDDEN, batch_first=True), names)


def _gru(encoder: Any) -> tuple[Callable[[Tensor], Tensor], Shared]:
    project = encoder.project
    names = {
        "weight_ih_l0": project.weight, "bias_ih_l0": project.bias,
        "weight_hh_l0": encoder.recurrent, "bias_hh_l0": encoder.recurrent_bias,
    }  # fmt: skip
    return _recurrent(nn.GRU(EMBEDDING, HIDDEN, batch_first=True), names)


def _lstm_weights(layer: Any, suffix: str) -> dict[str, Tensor]:
    return {f"{name}_{suffix}": layer.lstm.get_parameter(f"{name}_l0") for name in _LSTM_WEIGHTS}


def _lstm(encoder: Any) -> tuple[Callable[[Tensor], Tensor], Shared]:
    return _recurrent(nn.LSTM(EMBEDDING, HIDDEN, batch_first=True), _lstm_weights(encoder, "l0"))


def _bilstm(encoder: Any) -> tuple[Callable[[Tensor], Tensor], Shared]:
    names = _lstm_weights(encoder.forwards, "l0") | _lstm_weights(encoder.backwards, "l0_reverse")
    return _recurrent(nn.LSTM(EMBEDDING, HIDDEN, batch_first=True, bidirectional=True), names)


def _transformer(encoder: Any) -> tuple[Callable[[Tensor], Tensor], Shared]:
    """``nn.TransformerEncoder`` behind an input projection and sinusoidal positions."""
    enter, layers = nn.Linear(EMBEDDING, HIDDEN), encoder_layers()
    pairs: list[tuple[str, Any, Any]] = [
        ("enter", encoder.enter, enter),
        ("norm", encoder.leave, layers.norm),
    ]
    shared: Shared = []
    for number, (block, layer) in enumerate(zip(encoder.blocks, layers.layers, strict=True)):
        attention: Any = layer.self_attn
        shared += [
            (f"block {number} qkv.weight", block.mixer.qkv.weight, attention.in_proj_weight),
            (f"block {number} qkv.bias", block.mixer.qkv.bias, attention.in_proj_bias),
        ]
        mine = [block.mixer.out, block.feedforward[0], block.feedforward[2], *block.norms]
        theirs = [attention.out_proj, layer.linear1, layer.linear2, layer.norm1, layer.norm2]
        names = ("out", "linear1", "linear2", "norm1", "norm2")
        pairs += [(f"block {number} {n}", a, b) for n, a, b in zip(names, mine, theirs, strict=True)]
    shared += [
        (f"{n}.{kind}", getattr(a, kind), getattr(b, kind))
        for n, a, b in pairs
        for kind in ("weight", "bias")
    ]
    with torch.no_grad():
        for _, mine_weight, reference in shared:
            reference.copy_(mine_weight)
    return lambda x_1TD: layers(enter(x_1TD) + _positions(x_1TD.shape[1])), shared


def _positions(steps: int) -> Tensor:
    """Sines in the first half of the channels, cosines in the second (a permutation of the paper's)."""
    frequency = torch.exp(torch.arange(0, HIDDEN, 2) * (-math.log(1e4) / HIDDEN))
    turn = torch.arange(steps)[:, None] * frequency
    return torch.cat([turn.sin(), turn.cos()], dim=1)


REFERENCES: dict[str, Callable[[Any], tuple[Callable[[Tensor], Tensor], Shared]]] = {
    "rnn": _rnn, "gru": _gru, "lstm": _lstm, "bilstm": _bilstm, "transformer": _transformer,
}  # fmt: skip
