"""Several networks of one kind trained as one: what a small network leaves idle of a GPU, others use.

Every weight becomes a tensor with one more axis in front, and so does every batch; ``torch.func.vmap`` runs
the usual network over that axis. Each network keeps its own data, initial weights, gradients, clipping,
evaluation, stopping and record: all that it does not have is a launch of its own for each operator.

Shape letters: S networks, P parameters, B batch, T time, N answers.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from seqbench.batch import PADDING, UNSCORED, Batch, TensorBatch, widen
from seqbench.layers.stacking import stacked
from seqbench.network import Network, answer_loss
from seqbench.precision import computing_in, widened
from seqbench.stepper import Diverged, Stepper
from seqbench.subject import in_words
from seqbench.train import Training

_TOLERANCE = 1e-2  # relative, of losses and gradient norms in float32 (or TF32); what is wrong is off by more
_TOLERANCE_HALF = 0.1  # in half precision, where not every product is of the same numbers
_SMALLEST = 1e-12
_TRIED_ROWS = 8

Array = npt.NDArray[Any]


def together(trainings: Sequence[Training]) -> Iterator[Training]:
    """Train several as one, and yield each as soon as it has ended: ``to_end`` gives its outcome.

    Those that are behind (an earlier process was stopped between two checkpoints) first catch up. What cannot
    be trained as one, or has nobody to be trained with, is yielded as it is: ``to_end`` trains it alone.
    """
    alive = list(trainings)
    reason = refusal(alive) if len(alive) > 1 else ""
    if reason or len(alive) < 2:
        for training in alive:
            training.not_stacked = reason
        yield from alive
        return
    for training in alive:
        training.stacked = len(alive)
    alive[0].take_random()
    while alive:
        step = min(training.stepper.done for training in alive)
        abreast = [training for training in alive if training.stepper.done == step]
        pauses = {training.stepper.done for training in alive} - {step}
        for training in _until_one_ends(abreast, pauses):
            alive.remove(training)
            yield training


def refusal(trainings: Sequence[Training]) -> str:
    """Why these cannot be trained as one, in words; empty where they can.

    They are tried on a few held-out rows: losses and gradients must be those of each network alone.
    """
    first = trainings[0]
    if first.config.precision == "float16":
        return "train.precision=float16: one scale of the loss does not fit several networks"
    if len({training.total for training in trainings}) > 1:
        return "their numbers of steps differ"
    try:
        with torch.random.fork_rng([first.device] if first.device.type == "cuda" else []):
            return _disagreement(trainings)
    except Exception as error:  # whatever a layer does that vmap does not know
        return in_words(error)


def _disagreement(trainings: Sequence[Training]) -> str:
    """Compare losses and gradient norms of networks alone and together, without dropout."""
    networks = [copy.deepcopy(training.network).eval() for training in trainings]
    samples = [training.sample.rows(0, _TRIED_ROWS) for training in trainings]
    device, precision, apart = trainings[0].device, trainings[0].config.precision, []
    for network, sample in zip(networks, samples, strict=True):
        with computing_in(precision, device):
            outputs_NC, targets_N = network(sample.tensors(device))
        loss = answer_loss(widened(outputs_NC), targets_N)
        loss.backward()
        apart.append([loss.detach(), _norm([p.grad for p in network.parameters() if p.grad is not None])])
    whole = joined(networks)
    with computing_in(precision, device):
        loss_S = losses(whole, stack_batches(samples, device))
    loss_S.sum().backward()
    grads = [p.grad for p in whole.parameters() if p.grad is not None]
    found = [[loss_S[s].detach(), _norm([grad[s] for grad in grads])] for s in range(len(networks))]
    apart_S2, found_S2 = torch.tensor(apart), torch.tensor(found)
    gap = float(((found_S2 - apart_S2).abs() / apart_S2.abs().clamp_min(1e-3)).max())
    if gap <= (_TOLERANCE if precision == "float32" else _TOLERANCE_HALF):
        return ""
    return f"as one they compute something else (relative difference {gap:.2g})"


def _norm(tensors: Sequence[Tensor]) -> Tensor:
    return torch.stack([torch.linalg.vector_norm(x) for x in tensors]).norm() if tensors else torch.zeros(())


def _until_one_ends(trainings: Sequence[Training], pauses: set[int]) -> list[Training]:
    """Train as one until one of them ends or one of these steps is reached; returns what has ended."""
    stack = Stack([training.stepper for training in trainings])
    try:
        while True:
            _to_next_pause(stack, trainings)
            _each(trainings, Training.pause)
            ended = [one for one in trainings if one.error is not None or one.ended]
            going = [one for one in trainings if one not in ended]
            if any(one.due for one in going):
                _each(going, Training.save)  # all at the same step, so that all go on from it together
            if ended or stack.done in pauses:
                return ended
    except Exception as error:  # what meets all of them: out of memory, say
        for training in trainings:
            training.error = training.error or error
        return list(trainings)
    finally:
        stack.part()


def _to_next_pause(stack: Stack, trainings: Sequence[Training]) -> None:
    """Train and fetch the logs; this is the timed region, of which each gets its share."""
    cpu, wall = time.process_time(), time.perf_counter()
    until = min(training.next_pause for training in trainings)
    while stack.done < until:
        stack.step(stack_batches([training.draw() for training in trainings], stack.device))
    stack.hand_out()
    cpu_s, wall_s = time.process_time() - cpu, time.perf_counter() - wall
    counts, share = stack.counts(), 1 / len(trainings)
    _each(trainings, lambda one: one.note(one.stepper.drain(), counts, share * cpu_s, share * wall_s))


def _each(trainings: Sequence[Training], act: Callable[[Training], None]) -> None:
    """Do something with each; what goes wrong with one is no concern of the others."""
    for training in trainings:
        if training.error is not None:
            continue
        try:
            act(training)
        except Exception as error:
            if isinstance(error, Diverged):
                error.outcome = training.outcome
            training.error = error


class Stack(Stepper):
    """The optimiser step of several networks as one.

    While it lasts, their weights and the state of their optimisers are views of its own: :meth:`part` gives
    them back as tensors of their own.

    Args:
        members: steppers that have done the same number of steps, of networks that differ in numbers alone.
    """

    def __init__(self, members: Sequence[Stepper]) -> None:
        first = members[0]
        super().__init__(joined([member.network for member in members]), first.config, first.total)
        self.members, self.done = list(members), first.done
        for leaf, parts in zip(self.parameters, self._parts(), strict=True):
            states = [m.optimizer.state[part] for m, part in zip(members, parts, strict=True)]
            if all(states):
                self.optimizer.state[leaf] = {
                    name: _stacked_state([state[name] for state in states]) for name in states[0]
                }
        self._lend(lambda view: view)

    def gradients(self, batch: TensorBatch) -> Tensor:
        """Leave the gradients of every network's loss; returns the losses ``(S,)``."""
        with computing_in(self.config.precision, self.device):
            loss_S = losses(self.network, batch)
        loss_S.sum().backward()
        return loss_S.detach()

    def _clip(self) -> tuple[Tensor, Tensor]:
        """Norms ``(P, S)`` of each gradient and ``(S,)`` of all together; then clip each network's."""
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
        norms_PS = _norms(grads)
        total_S = torch.linalg.vector_norm(norms_PS, dim=0)
        if self.config.clip > 0:
            factor_S = (self.config.clip / (total_S + 1e-6)).clamp(max=1.0)
            torch._foreach_mul_(grads, [factor_S.view(-1, *[1] * (grad.ndim - 1)) for grad in grads])
        return norms_PS, total_S

    def _ratio(self, before: list[Tensor]) -> Tensor:
        change = [now.detach() - then for now, then in zip(self.parameters, before, strict=True)]
        return _norms(change) / _norms(before).clamp_min(_SMALLEST)

    def hand_out(self) -> None:
        """Give every member its share of the log and its optimiser's state; the device is waited for once."""
        rates, loss, total, norms = zip(*self._pending, strict=True)
        table_LS = torch.cat([torch.stack(loss)[:, None], torch.stack(total)[:, None], torch.stack(norms)], 1)
        updates = [ratio_PS for _, ratio_PS in self._updates]
        flat_S = torch.cat([table_LS.flatten(0, 1), *updates]).cpu().unbind(1)
        rows, size = len(rates) * (len(self.names) + 2), len(self.names)
        for member, one in zip(self.members, flat_S, strict=True):
            log, ratios = one[:rows].view(len(rates), -1), one[rows:].view(-1, size)
            member._pending = [(lr, row[0], row[1], row[2:]) for lr, row in zip(rates, log, strict=True)]
            member._updates = [(n, ratio) for (n, _), ratio in zip(self._updates, ratios, strict=True)]
            member.done = self.done
        self._pending, self._updates = [], []
        self._lend(lambda view: view)

    def part(self) -> None:
        """Let each network have its weights, and its optimiser its state, in memory of its own."""
        self._lend(torch.clone)
        self.graphs = None  # whose memory would outlive the stack else

    def _lend(self, own: Callable[[Tensor], Tensor]) -> None:
        """Make every member's tensors what ``own`` makes of a view of the stack's."""
        for leaf, parts in zip(self.parameters, self._parts(), strict=True):
            state = self.optimizer.state.get(leaf, {})
            for s, (member, part) in enumerate(zip(self.members, parts, strict=True)):
                part.data = own(leaf.detach()[s])
                if state:
                    member.optimizer.state[part] = {
                        name: own(value[s] if value.ndim else value) for name, value in state.items()
                    }
        buffers = dict(self.network.named_buffers())
        for s, member in enumerate(self.members):
            for name, buffer in member.network.named_buffers():
                buffer.data = own(buffers[name][s])

    def _parts(self) -> list[tuple[nn.Parameter, ...]]:
        """Of each parameter, the members' own."""
        return list(zip(*(member.parameters for member in self.members), strict=True))


def _stacked_state(values: Sequence[Tensor]) -> Tensor:
    """The state of one parameter in several optimisers; the number of steps is the same for all."""
    return torch.stack(list(values)) if values[0].ndim else values[0].clone()


def _norms(tensors: Sequence[Tensor]) -> Tensor:
    """Norms ``(P, S)`` of what belongs to each network in some tensors ``(S, ...)``."""
    return torch.stack([torch.linalg.vector_norm(x.flatten(1), dim=1) for x in tensors])


def joined(networks: Sequence[Network]) -> Network:
    """A copy of the first network in which every parameter and buffer is that of all of them, ``(S, ...)``.

    It cannot be called as it is: see :func:`losses`.
    """
    whole = copy.deepcopy(networks[0])
    for name, parameter in list(whole.named_parameters()):
        every = torch.stack([network.get_parameter(name).detach() for network in networks])
        parameter.data = every
    for name, buffer in list(whole.named_buffers()):
        buffer.data = torch.stack([network.get_buffer(name) for network in networks])
    return whole


def losses(whole: Network, batch: TensorBatch) -> Tensor:
    """The loss ``(S,)`` of every network on its own batch."""
    given = {name: value for name, value in vars(batch).items() if value is not None}

    def loss(parameters: dict[str, Tensor], buffers: dict[str, Tensor], one: dict[str, Tensor]) -> Tensor:
        outputs_NC, targets_N = functional_call(whole, (parameters, buffers), (TensorBatch(**one),))
        return _asked_loss(widened(outputs_NC), targets_N)

    with stacked():
        return vmap(loss, randomness="different")(
            dict(whole.named_parameters()), dict(whole.named_buffers()), given
        )


def _asked_loss(outputs_NC: Tensor, targets_N: Tensor) -> Tensor:
    """The mean loss over the answers that are asked; others only fill up a batch (see :func:`_filled`)."""
    if not targets_N.is_floating_point():
        return answer_loss(outputs_NC, targets_N)
    asked_N = targets_N.isfinite()
    losses_N = answer_loss(outputs_NC, targets_N.masked_fill(~asked_N, 0), reduction="none")
    return (losses_N * asked_N).sum() / asked_N.sum()


def stack_batches(batches: Sequence[Batch], device: torch.device) -> TensorBatch:
    """One batch of each network as tensors ``(S, B, ...)``, filled up to the same shape."""
    rows, width = (max(batch.ids_BT.shape[axis] for batch in batches) for axis in (0, 1))
    even = [_filled(batch, rows, width) for batch in batches]

    def sent(arrays: Sequence[Array]) -> Tensor:
        return torch.from_numpy(np.stack(arrays)).to(device, non_blocking=True)

    ids_SBT = sent([batch.ids_BT for batch in even])
    values = [batch.values_BTF for batch in even if batch.values_BTF is not None]
    return TensorBatch(
        ids_SBT,
        sent([batch.lengths_B for batch in even]),
        ids_SBT != PADDING,
        sent([batch.targets for batch in even]),
        sent(values) if values else None,
        sent(_places([batch.targets for batch in even])) if even[0].targets.ndim == 2 else None,
    )


def _filled(batch: Batch, rows: int, width: int) -> Batch:
    """The batch with more padding, and with copies of its first row of which nothing is asked."""
    batch = widen(batch, width - batch.ids_BT.shape[1])
    own = len(batch.lengths_B)
    index_B = np.where(np.arange(rows) < own, np.arange(rows), 0)
    targets = batch.targets[index_B]
    targets[own:] = np.nan if batch.asks_numbers else UNSCORED
    values_BTF = None if batch.values_BTF is None else batch.values_BTF[index_B]
    return Batch(batch.ids_BT[index_B], batch.lengths_B[index_B], targets, values_BTF)


def _places(targets: Sequence[Array]) -> list[Array]:
    """Row and step ``(2, N)`` of every answer, filled up to one N with a place where nothing is asked."""
    found = [np.stack(np.nonzero(one != UNSCORED)) for one in targets]
    most = max(places.shape[1] for places in found)
    filled = []
    for one, places in zip(targets, found, strict=True):
        missing = most - places.shape[1]
        idle = np.argwhere(one == UNSCORED)[:1].T if missing else places[:, :0]
        filled.append(np.concatenate([places, np.repeat(idle, missing, axis=1)], axis=1))
    return filled
