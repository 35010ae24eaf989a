"""Fair by construction: solve the width at which a network costs what it is meant to cost."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

import torch

from seqbench import locks, store
from seqbench.batch import Batch, TensorBatch
from seqbench.config import PARAMETERS, Job, MatchConfig, at_matched_rung, settings
from seqbench.cost import computation, forward_flops, state_values, train_step_s
from seqbench.errors import UsageError
from seqbench.models.base import ModelConfig
from seqbench.network import Network, parameter_count
from seqbench.registry import lookup
from seqbench.store import DamagedFile
from seqbench.tasks.base import Data

UNMATCHED_WIDTH = 128
WIDTHS_FILE = "widths.json"
_WIDE = 256
_LARGEST_WIDTH = 1 << 16
_LARGEST_TIMED_WIDTH = 1 << 11
_TIMED_PAIRS = 5
_PROBE_SEED, _PROBE_EXAMPLES = 0, 16  # one width for all seeds
_FARTHEST = 2.0  # what misses its target by more was not made equal
_FARTHEST_TIME = 4.0  # noise must not decide whether a command runs
_TRAINED_BYTES = 16  # of a parameter: itself, its gradient and AdamW's two moments
_MOST_BYTES = 1 << 20
_COSTS = MappingProxyType(
    {
        "params": "parameters",
        "flops": "operations of a forward pass",
        "state": "numbers kept of a sequence",
        "time": "times a training step",
    }
)

Found = TypeVar("Found")


@dataclass(frozen=True)
class Place:
    """Where a network stands, and so what a width costs there.

    Attributes:
        probe: a batch of the task: its length counts for operations and state, all of it for time.
        folder: the sweep's, where widths that take long to solve are kept for all its seeds.
    """

    vocabulary: int
    classes: int
    features: int = 0
    probe: Batch | None = None
    device: torch.device | str = "cpu"
    folder: Path | None = None

    @classmethod
    def of(
        cls,
        data: Data,
        probe: Batch | None = None,
        device: torch.device | str = "cpu",
        folder: Path | None = None,
    ) -> Place:
        """The place of a task's data."""
        return cls(data.vocabulary_size, data.classes, data.features, probe, device, folder)

    def network(self, job: Job, width: int) -> Network:
        """The job's network at a width."""
        return Network(job.model, job.network, self.vocabulary, self.classes, width, self.features)

    def batch(self, device: torch.device | str, rows: int | None = None) -> TensorBatch:
        """The probe, or its first rows, on a device."""
        assert self.probe is not None
        return self.probe.rows(0, rows or len(self.probe.ids_BT)).tensors(device)


def width_of(job: Job, data: Data, cache: Path, device: torch.device, sweep: Path | None = None) -> int:
    """The width of a run: the same for all seeds, and for the whole ladder where the task's sequences count.

    Args:
        data: of the run, for the sizes of its network.
        cache: where prepared data sets are kept.
        sweep: the sweep's folder, where widths that take long to solve are kept.

    Raises:
        UsageError: what was to be made equal is out of the model's reach.
    """
    place = Place.of(data, None, device, sweep)
    if not job.match.measured or job.model.hidden is not None:
        return solve_width(job, place)
    whole = at_matched_rung(job)
    probe = whole.task.open(_PROBE_SEED, cache).probe(_PROBE_EXAMPLES)
    return solve_width(whole, dataclasses.replace(place, probe=probe))


def solve_width(job: Job, place: Place) -> int:
    """The width whose network comes closest to what ``match`` asks for.

    Networks are instantiated on torch's meta device where shapes are enough, so that any encoder can be
    matched, also one that seqbench has never seen, without allocating its weights.

    Raises:
        UsageError: the model, or the reference, has nothing to be matched by, or no width comes near.
    """
    multiple = job.model.width_multiple
    if job.model.hidden is not None:
        return job.model.hidden
    if job.match.by == "none":
        return max(multiple, UNMATCHED_WIDTH // multiple * multiple)
    if not job.match.measured or place.folder is None:
        return _solve(job, place)
    return _remembered(job, place, place.folder)


def _solve(job: Job, place: Place) -> int:
    multiple, timed = job.model.width_multiple, job.match.by == "time"
    most = (_LARGEST_TIMED_WIDTH if timed else _LARGEST_WIDTH) // multiple
    if _has_no_width(job, place, multiple, most):
        return multiple
    if timed and (own := _own_width(job, place)) is not None:
        return own
    cost, target = _cost_and_target(job, place)
    cost = functools.cache(cost)
    width = multiple * closest(lambda units: cost(units * multiple), target, most)
    _refuse_far(job, width, cost(width), target)
    _refuse_large(job, place, width)
    return width


def _refuse_far(job: Job, width: int, found: float, target: float) -> None:
    """Refuse the closest that a model's widths allow where it was not made equal by any measure.

    Raises:
        UsageError: with the way out.
    """
    by, name, given = job.match.by, job.model.name, job.match.target is not None
    farthest = _FARTHEST_TIME if by == "time" else _FARTHEST
    if target / farthest <= found <= target * farthest:
        return
    whose = "" if given else f" of '{(job.match.reference or {}).get('name', name)}', the first model,"
    ways = [] if given else ["name another model first"]
    ways += [] if by == "time" else [f"choose a match.target near {found:.0f}"]
    raise UsageError(
        f"{_asked(job)}: out of reach: the closest that '{name}' comes to {_shown(target)} {_COSTS[by]}"
        f"{whose} is {_shown(found)}, at width {width}: {', '.join([*ways, ''])}or leave '{name}' out"
    )


def _asked(job: Job) -> str:
    """The setting that says what a job is to cost."""
    target = job.match.target
    return f"match.by={job.match.by}" if target is None else f"match.target={target}"


def _shown(cost: float) -> str:
    return f"{cost:,.0f}" if cost >= 10 else f"{cost:.2g}"


def _refuse_large(job: Job, place: Place, width: int) -> None:
    """Refuse a network that cannot be trained in the memory there is, before any of it is taken.

    Raises:
        UsageError: with both sizes.
    """
    needed = _TRAINED_BYTES * on_meta(job, place, width, lambda network, _: parameter_count(network))
    there = _memory_bytes(torch.device(place.device))
    if needed > there:
        raise UsageError(
            f"{_asked(job)}: out of reach: '{job.model.name}' at width {width} takes {needed / 2**30:.0f} "
            f"GiB to train, gradients and AdamW's moments included, and there are {there / 2**30:.0f}: "
            "choose a smaller match.target, or another first model"
        )


def _memory_bytes(device: torch.device) -> int:
    """Memory of a device as a whole."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _has_no_width(job: Job, place: Place, multiple: int, most: int) -> bool:
    """Whether the encoder is the same at every width."""
    narrow, wide = (_parameters(job, place, units * multiple) for units in (1, min(_WIDE, most)))
    return narrow == wide


def _cost_and_target(job: Job, place: Place) -> tuple[Callable[[int], float], float]:
    """What a width costs, and what it should cost: ``match.target``, or what the reference costs."""
    if job.match.by == "time":
        ratio = _Ratio(_reference(job), place)
        return lambda width: ratio(job, width), 1.0
    cost = {"params": _parameters, "flops": _flops, "state": _state}[job.match.by]
    target = job.match.target
    if target is None:
        reference = _reference(job)
        target = cost(reference, place, solve_width(reference, place))
    return lambda width: cost(job, place, width), target


def _reference(job: Job) -> Job:
    """The job of the model that the others are matched to, at its own width or the usual parameters."""
    named = job.match.reference
    model: ModelConfig = job.model if named is None else lookup("model", named["name"])(**named)
    return dataclasses.replace(job, model=model, match=MatchConfig(target=PARAMETERS))


def _own_width(job: Job, place: Place) -> int | None:
    """The reference's width where a job computes what the reference does; None where it does not."""
    mine, theirs, width = _computations(job, place)
    return width if mine == theirs else None


def _computations(job: Job, place: Place) -> tuple[list[str], list[str], int]:
    """What a job and its reference compute, at (nearly) the width of the reference; and that width."""
    reference, multiple = _reference(job), job.model.width_multiple
    width = solve_width(reference, place)
    alike = max(multiple, width // multiple * multiple)
    mine, theirs = (
        on_meta(one, place, at, lambda network, device: computation(network, place.batch(device, 1)))
        for one, at in ((job, alike), (reference, width))
    )
    return mine, theirs, width


def _parameters(job: Job, place: Place, width: int) -> int:
    return on_meta(job, place, width, lambda network, _: matched_parameters(network))


def _flops(job: Job, place: Place, width: int) -> int:
    return on_meta(job, place, width, lambda network, device: forward_flops(network, place.batch(device, 1)))


def _state(job: Job, place: Place, width: int) -> int:
    found = on_meta(job, place, width, lambda network, device: state_values(network, place.batch(device, 1)))
    if found is None:
        raise UsageError(f"match.by=state: '{job.model.name}' keeps no state from which it could go on")
    return found


def on_meta(job: Job, place: Place, width: int, count: Callable[[Network, str], Found]) -> Found:
    """Count on a network without weights, or with them where a layer computes with them.

    Args:
        count: gets the network and the device that it is on.
    """
    try:
        with torch.device("meta"):
            return count(place.network(job, width), "meta")
    except (RuntimeError, NotImplementedError):
        return count(place.network(job, width), "cpu")


def counted_costs(job: Job, place: Place, width: int) -> dict[str, float]:
    """Operations of a forward pass and numbers kept, for one sequence; NaN where nothing is kept to go on."""
    kept = on_meta(job, place, width, lambda network, device: state_values(network, place.batch(device, 1)))
    return {
        "flops": float(_flops(job, place, width)),
        "state_values": math.nan if kept is None else float(kept),
    }


class _Ratio:
    """CPU time of a training step relative to the reference's, in alternation, so that load touches both."""

    def __init__(self, reference: Job, place: Place) -> None:
        self.place, self.batch = place, place.batch(place.device)
        self.reference = place.network(reference, solve_width(reference, place)).to(place.device)

    def __call__(self, job: Job, width: int) -> float:
        network = self.place.network(job, width).to(self.place.device)
        pair = (network, self.reference)
        for one in pair:  # the first step is slower
            train_step_s(one, self.batch)
        rounds = [[train_step_s(one, self.batch) for one in pair] for _ in range(_TIMED_PAIRS)]
        return statistics.median(mine / theirs for mine, theirs in rounds)


def _remembered(job: Job, place: Place, folder: Path) -> int:
    """The width that an earlier run of the sweep found, or a new one, which is noted for the others.

    A measured time is never the same twice: whatever computes the same (and only starts with other weights)
    gets one width, so that tuning and comparison speak of the same network.
    """
    groups = ("model", "network", "match", "task", "device")
    key = store.digest({name: settings(job)[name] for name in groups})
    path = folder / WIDTHS_FILE
    with locks.file_lock(folder / f"{WIDTHS_FILE}.lock"):
        known = _read(path)
        if key not in known:
            alike = _alike(job, place) if job.match.by == "time" else key
            known[key] = known[alike] = known.get(alike) or _solve(job, place)
            store.write_file(path, json.dumps(known, indent=1, sort_keys=True).encode())
        return known[key]


def _alike(job: Job, place: Place) -> str:
    """A hash of what is computed, and where: jobs that share it take the same time."""
    return store.digest({"computed": _computations(job, place), "device": str(place.device)})


def _read(path: Path) -> dict[str, int]:
    """Widths that were solved before; none where the file is not to be trusted."""
    try:
        found = json.loads(store.read_bytes(path, _MOST_BYTES))
    except (FileNotFoundError, DamagedFile, ValueError):
        return {}
    valid = isinstance(found, dict) and all(
        type(width) is int and 1 <= width <= _LARGEST_WIDTH for width in found.values()
    )
    return found if valid else {}


def matched_parameters(network: Network) -> int:
    """Parameters that the budget counts: everything but the shared embedding."""
    return parameter_count(network) - parameter_count(network.embedding)


def closest(count: Callable[[int], float], target: float, largest: int) -> int:
    """The argument in ``1..largest`` where a (nearly) non-decreasing ``count`` comes closest to ``target``.

    >>> closest(lambda n: n * n, 50, 1000)
    7
    """
    low, high = 1, min(2, largest)
    while high < largest and count(high) < target:
        low, high = high, min(2 * high, largest)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if count(middle) <= target else (low, middle)
    near = range(max(1, low - 1), min(high + 1, largest) + 1)  # a count may have a dent somewhere
    return min(near, key=lambda n: abs(count(n) - target))
