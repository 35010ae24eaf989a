"""Where attention looks: how far back, how widely, and from the answers of two examples at which tokens.

Shape letters: T time (of one sequence), K heads, S heads behind a reference: equal attention is number 0.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from seqbench.batch import Batch, trim
from seqbench.layers.base import Bidirectional
from seqbench.network import Network
from seqbench.probes.base import NotApplicable, last_answer
from seqbench.registry import register

Doubles = npt.NDArray[np.float64]
Row = dict[str, Any]

_EXAMPLES = 2  # sequences of which maps are kept
_MOST_ROWS = 4096  # of each kind
_EVERYWHERE = -1  # the "query" of an answer that is read at all positions
_EMPTY: Row = {
    "kind": "", "layer": 0, "head": 0, "sequence": 0, "query": 0, "key": 0, "value": 0.0, "token": 0,
    "relevant": float("nan"),
}  # fmt: skip


@register("probe")
class Attention:
    """Attention weights of every layer that offers them, summed up so that their table stays small.

    A layer is any module inside the encoder with a method ``weights``, which takes what its ``forward`` takes
    and returns ``(B, K, T, T)``. Layers count from 1 in the order in which they ran, heads from 1. Each
    sequence is encoded by itself at its own length, so there is no padding to count. Rows by ``kind``:

    - ``distance``: share of the weight that lies ``key`` steps from the query (on either side), over all
      queries of all sequences; a head's shares sum to 1. Where a row for every distance would be too many,
      the far ones are summed from each power of two to the next.
    - ``entropy``: mean over the same queries, in nats.
    - ``map``: what the query at which the last answer is read (at position ``query``) puts on each ``key``
      that it sees, in the first two sequences (``sequence`` 0 and 1). Where the answer is read at all
      positions, ``query`` is -1 and the value their mean. ``token`` is the key's id; ``relevant`` is 1 or 0
      where the task says whether the token decides the answer, else NaN. Where these would be too many
      rows, each head's largest are kept.
    - ``uniform distance``, ``uniform entropy``, ``uniform map``: the same of equal attention to every key
      that is visible, as head 0 of each layer.
    """

    name: ClassVar[str] = "attention"

    def measure(self, network: Network, batch: Batch) -> dict[str, list[Any]]:
        rows = [_EMPTY | row for row in rows_of(network, batch)]
        return {column: [row[column] for row in rows] for column in _EMPTY}


def rows_of(network: Network, batch: Batch) -> Iterator[Row]:
    """The rows of the table, each without the columns that say nothing about it.

    Raises:
        NotApplicable: no layer attends, or not to the positions of the sequence.
    """
    sums: list[Sums] = []
    examples: list[list[Doubles]] = []
    for index, layers in enumerate(attention_of(network, batch)):
        sums = sums or [Sums(len(weights_STT), batch.ids_BT.shape[1]) for weights_STT in layers]
        for total, weights_STT in zip(sums, layers, strict=True):
            total.add(weights_STT)
        if index < _EXAMPLES:
            examples.append(layers)
    most = _MOST_ROWS // sum(len(total.entropy_S) for total in sums)
    for layer, total in enumerate(sums, start=1):
        yield from (row | {"layer": layer} for row in total.rows(most))
    for index, (query, layers) in enumerate(zip(queries(network, batch), examples, strict=False)):
        for layer, weights_STT in enumerate(layers, start=1):
            place = {"layer": layer, "sequence": index, "query": query}
            yield from (row | place for row in map_rows(weights_STT, batch, place, most // len(examples)))


def attention_of(network: Network, batch: Batch) -> Iterator[list[Doubles]]:
    """For each sequence: the weights ``(S, T, T)`` of every layer, equal attention before its heads."""
    encoder = copy.deepcopy(network).eval()  # so that hooks and mode are nobody else's
    found: list[Doubles] = []
    for module in layers_of(encoder.encoder):
        module.register_forward_hook(recorder(found, encoder.encoder.causal), with_kwargs=True)
    device = next(encoder.parameters()).device
    for index in range(len(batch.ids_BT)):
        found.clear()
        alone = trim(batch.rows(index, index + 1)).tensors(device)
        with torch.no_grad():
            encoder.encoder(encoder.embed(alone), mask_BT=alone.mask_BT)
        yield list(found)


def layers_of(encoder: nn.Module) -> list[nn.Module]:
    """Modules that can say how they attend.

    Raises:
        NotApplicable: with the reason.
    """
    found = [module for module in encoder.modules() if callable(getattr(module, "weights", None))]
    if not found:
        raise NotApplicable("no part of the model attends")
    for module in encoder.modules():
        if isinstance(module, Bidirectional) and set(found) & set(module.modules()):
            raise NotApplicable("it attends in a copy of the sequence that is reversed")
    return found


def recorder(found: list[Doubles], causal: bool) -> Callable[..., None]:
    """A forward hook that appends the weights of each call; a layer's own ``causal`` goes before this one."""

    def hook(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], _output: object) -> None:
        weights: Tensor = module.weights(*args, **kwargs)
        time = args[0].shape[1]
        if weights.ndim != 4 or weights.shape[2:] != (time, time):
            raise NotApplicable(f"weights have the shape {tuple(weights.shape)}, expected (B, K, T, T)")
        uniform_TT = equal_attention(time, getattr(module, "causal", causal))
        found.append(np.concatenate([uniform_TT[None], weights[0].double().cpu().numpy()]))

    return hook


def equal_attention(time: int, causal: bool) -> Doubles:
    """Weights ``(T, T)`` that are equal for all visible keys."""
    visible_TT = np.tri(time) if causal else np.ones((time, time))
    equal_TT: Doubles = visible_TT / visible_TT.sum(1, keepdims=True)
    return equal_TT


class Sums:
    """One layer's weight by distance and its entropy, summed over the queries of all sequences."""

    def __init__(self, heads: int, time: int) -> None:
        self.queries = 0
        self.entropy_S = np.zeros(heads)
        self.distance_ST = np.zeros((heads, time))

    def add(self, weights_STT: Doubles) -> None:
        """Count in one sequence."""
        steps_T = np.arange(weights_STT.shape[1])
        distance_N = np.abs(steps_T[:, None] - steps_T).ravel()
        self.queries += len(steps_T)
        self.entropy_S += torch.special.entr(torch.from_numpy(weights_STT)).sum((1, 2)).numpy()
        for head, weights_TT in enumerate(weights_STT):
            self.distance_ST[head, : len(steps_T)] += np.bincount(distance_N, weights_TT.ravel())

    def rows(self, most: int) -> Iterator[Row]:
        """Means over queries, with at most about ``most`` distances per head."""
        for head, entropy in enumerate(self.entropy_S / self.queries):
            yield {"kind": kind("entropy", head), "head": head, "value": float(entropy)}
        firsts, place_T = np.unique(first_distance(self.distance_ST.shape[1], most), return_inverse=True)
        for head, share_T in enumerate(self.distance_ST / self.queries):
            shares = np.bincount(place_T, share_T).tolist()
            for first, share in zip(firsts.tolist(), shares, strict=True):
                yield {"kind": kind("distance", head), "head": head, "key": first, "value": share}


def kind(name: str, head: int) -> str:
    """What a row is about."""
    return name if head else f"uniform {name}"


def first_distance(time: int, most: int) -> npt.NDArray[np.int64]:
    """The smallest distance that shares a row with each distance ``(T,)``.

    >>> first_distance(4, 4).tolist(), first_distance(10, 8).tolist()
    ([0, 1, 2, 3], [0, 1, 2, 3, 4, 4, 4, 4, 8, 8])
    """
    steps_T = np.arange(time)
    exact = time if time <= most else 1 << max(1, most.bit_length() - 2)
    powers_T = 1 << (np.frexp(steps_T)[1].astype(np.int64) - 1).clip(0)
    return np.where(steps_T < exact, steps_T, powers_T)


def queries(network: Network, batch: Batch) -> list[int]:
    """The position at which each sequence's last answer is read, or -1 where all are."""
    if batch.targets.ndim == 1 and network.readout != "last":
        return [_EVERYWHERE] * len(batch.ids_BT)
    anchors_B: list[int] = np.minimum(last_answer(batch)[1], batch.lengths_B - 1).tolist()
    return anchors_B


def map_rows(weights_STT: Doubles, batch: Batch, place: Row, most: int) -> Iterator[Row]:
    """What one query puts on each key that it sees: of each head at most the ``most`` largest."""
    query, sequence = place["query"], place["sequence"]
    row_ST = weights_STT.mean(1) if query == _EVERYWHERE else weights_STT[:, query]
    ids_T = batch.ids_BT[sequence]
    relevant_BT = getattr(batch, "relevant_BT", None)
    relevant_T = np.full(len(ids_T), np.nan) if relevant_BT is None else relevant_BT[sequence].astype(float)
    seen = np.flatnonzero(row_ST[0])
    for head, row_T in enumerate(row_ST):
        largest = seen[np.argsort(-row_T[seen], kind="stable")[: max(1, most)]]
        for key in np.sort(largest).tolist():
            told = {"token": int(ids_T[key]), "relevant": float(relevant_T[key])}
            yield {"kind": kind("map", head), "head": head, "key": key, "value": float(row_T[key]), **told}
