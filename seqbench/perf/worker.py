"""What measures one revision: a program of its own that obeys one JSON line at a time.

It runs with the revision's package on ``PYTHONPATH`` and imports nothing else of seqbench, so that old
revisions are measured by today's rules. Of the package it needs what has stayed the same for long:
``cli.compose``, ``Task.open``, ``match.Place`` and ``solve_width``, ``train.Stepper`` and ``train.fit``.

Shape letters: B batch, T time, F features.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import hashlib
import importlib
import itertools
import json
import os
import platform
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

_TASK, _BATCHES, _LOG_EVERY = "temporal_order", 8, 10
_WARM_UP, _TEST_EXAMPLES = 3, 512
_NEVER = 1_000_000  # steps of a schedule that no measurement comes to the end of
_PARTS = ("ids_BT", "lengths_B", "targets")


def _step_class() -> Any:
    """What takes training steps; older revisions have it where training is."""
    with _needed():
        try:
            return importlib.import_module("seqbench.stepper").Stepper
        except ModuleNotFoundError:
            return vars(importlib.import_module("seqbench.train"))["Stepper"]


class NotThere(Exception):
    """The revision lacks something that the measurement needs."""


class Session:
    """One revision at work; every public method answers a request of the same name."""

    def __init__(self, device: str, planted: float) -> None:
        self.place = device
        self.planted = planted
        self.job: Any = None
        self.make: Callable[[], Any] = lambda: None
        self.ready: list[Any] = []
        self.stepper: Any = None

    def hello(self) -> dict[str, Any]:
        """Set the process up like a run, and say what it runs."""
        with _needed():
            import torch

            import seqbench
            from seqbench import environment, isolate
            from seqbench.cli import compose  # noqa: F401
            from seqbench.match import Place, solve_width  # noqa: F401

            _step_class()
        torch.set_num_threads(1)
        keep: Any = getattr(environment, "keep_freed_memory", None)
        isolate.warm_server = lambda: None  # type: ignore[assignment,return-value] # composing starts no process
        if self.place == "auto":
            self.place = "cuda" if torch.cuda.is_available() else "cpu"
        if self.place == "cuda" and not torch.cuda.is_available():
            raise ValueError("device=cuda: torch sees no GPU here: use --device cpu")
        return {
            "torch": torch.__version__, "python": platform.python_version(), "device": self.place,
            "gpu": torch.cuda.get_device_name() if self.place == "cuda" else None,
            "package": str(Path(seqbench.__file__).parent), "allocator": bool(keep and keep()),
        }  # fmt: skip

    def draw(self, length: int, path: str) -> dict[str, Any]:
        """Draw the batches that both revisions are measured on, and keep them in a file."""
        import numpy as np

        job = self._job("lstm", length)
        batches = list(itertools.islice(job.task.open(0, Path()).train(job.train.batch_size), _BATCHES))
        arrays = {f"{part}_{i}": getattr(b, part) for i, b in enumerate(batches) for part in _PARTS}
        np.savez(path, allow_pickle=False, **arrays)
        digest = hashlib.sha256(b"".join(array.tobytes() for array in arrays.values())).hexdigest()
        return {"batches_sha256": digest, "batch_size": len(batches[0].lengths_B)}

    def open(self, model: str, length: int, path: str, width: int | None) -> dict[str, Any]:
        """Compose a model's job and take the batches; the width is the revision's own where none is given."""
        import numpy as np
        import torch

        from seqbench.batch import Batch
        from seqbench.match import Place, solve_width

        self.job = job = self._job(model, length)
        place = Place.of(job.task.open(0, Path()))
        own = solve_width(job, place)
        with np.load(path, allow_pickle=False) as kept:
            drawn = [Batch(*(kept[f"{part}_{i}"] for part in _PARTS)) for i in range(_BATCHES)]
        self.ready = [batch.tensors(torch.device(self.place)) for batch in drawn]
        self.make = lambda: place.network(job, own if width is None else width)
        network = self.make()
        return {"width": own, "kernel": str(getattr(network.encoder, "kernel", ""))}

    def count(self) -> dict[str, Any]:
        """The exact counters of one training step, and of a logging interval."""
        return {
            **_flops(self.make, self.ready[0]),
            **_saved(self._stepper(), self.ready[0]),
            **self._operators(),
        }

    def prepare(self) -> dict[str, Any]:
        """A network and an optimiser made anew, and warm; says how long a step takes."""
        self.stepper = self._stepper()
        gc.collect()
        for _ in range(_WARM_UP):
            self._steps(1)
        return {"step_s": self._timed(_WARM_UP) / _WARM_UP}

    def block(self, steps: int) -> dict[str, Any]:
        """Seconds of some training steps with their logging: CPU time, or the GPU's own clock."""
        return {"seconds": self._timed(steps)}

    def train(self, model: str, length: int, steps: int, seed: int) -> dict[str, Any]:
        """Train for good, and score on the test set."""
        import torch

        with _needed():
            from seqbench.evaluate import evaluate
            from seqbench.match import Place, solve_width
            from seqbench.train import fit
        job = self._job(model, length, f"train.steps={steps}")
        data, device = job.task.open(seed, Path()), torch.device(self.place)
        place = Place.of(data)
        torch.manual_seed(seed)
        network = place.network(job, solve_width(job, place)).to(device)
        with _needed():
            outcome = fit(network, data, job.train, job.task.goal(), device, lambda _: None)
        test = (batch.tensors(device) for batch in data.held_out("test", _TEST_EXAMPLES))
        return {"score": evaluate(network, test).accuracy, "solved": outcome.solved_step is not None}

    def _job(self, model: str, length: int, *more: str) -> Any:
        from seqbench.cli import compose

        words = [
            f"model={model}",
            f"task={_TASK}",
            f"task.lengths=[{length}]",
            f"train.log_every={_LOG_EVERY}",
        ]
        [job] = compose([*words, *more])
        return job

    def _stepper(self) -> Any:
        """The same start for every side and every time."""
        import torch

        torch.manual_seed(0)
        return _step_class()(self.make().to(self.place), self.job.train, steps=_NEVER)

    def _steps(self, count: int, planted: float = 0.0) -> None:
        """Training steps; ``planted``: the share of their CPU time that is wasted after each."""
        for _ in range(count):
            start = time.process_time()
            self.stepper.step(self.ready[self.stepper.done % _BATCHES])
            if self.stepper.done % _LOG_EVERY == 0:
                self.stepper.drain()
            if planted:
                _waste(start + (time.process_time() - start) * (1 + planted))

    def _timed(self, steps: int) -> float:
        if self.place != "cuda":
            start = time.process_time()
            self._steps(steps, self.planted)
            return time.process_time() - start
        import torch

        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        first.record()
        self._steps(steps, self.planted)
        last.record()
        torch.cuda.synchronize()
        return float(first.elapsed_time(last)) / 1e3

    def _operators(self) -> dict[str, Any]:
        """Operators that reach the dispatcher in a logging interval, update and log included; no views."""
        import torch
        from torch.utils._python_dispatch import TorchDispatchMode

        calls: Counter[str] = Counter()

        class Seen(TorchDispatchMode):
            def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
                views = [r for r in func._schema.returns if r.alias_info and not r.alias_info.is_write]
                if not views:
                    calls[str(func).removeprefix("aten.")] += 1
                return func(*args, **(kwargs or {}))

        self.stepper = self._stepper()
        with Seen(), torch.enable_grad():  # type: ignore[no-untyped-call]
            self._steps(_LOG_EVERY)
        return {"operators": calls.total(), "by_operator": dict(sorted(calls.items()))}


def _flops(make: Callable[[], Any], batch: Any) -> dict[str, Any]:
    """Operations of a forward pass and of a training step, on the meta device where the model allows it."""
    import torch

    try:
        with torch.device("meta"):
            network = make()
        return {"counted_on": "meta", **_counted(network, _moved(batch, "meta"))}
    except (RuntimeError, NotImplementedError):
        return {"counted_on": "cpu", **_counted(make(), _moved(batch, "cpu"))}


def _counted(network: Any, batch: Any) -> dict[str, Any]:
    """A multiplication and an addition counted as two; element by element is not counted."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from seqbench.network import answer_loss

    mapping: Any = {torch.ops.aten.addmm_: _addmm_flops, torch.ops.aten.mkldnn_rnn_layer: _lstm_flops}
    counts = []
    for backward in (False, True):
        with FlopCounterMode(display=False, custom_mapping=dict(mapping)) as counter:
            loss = answer_loss(*network.train()(batch))
            if backward:
                loss.backward()
        counts.append(int(counter.get_total_flops()))
    return {
        "forward_flops": counts[0], "train_flops": counts[1],
        "parameters": sum(p.numel() for p in network.parameters() if p.requires_grad),
    }  # fmt: skip


def _addmm_flops(_self: Any, a_shape: Any, b_shape: Any, *_: Any, **__: Any) -> int:
    return 2 * int(a_shape[0]) * int(a_shape[1]) * int(b_shape[1])


def _lstm_flops(x_TBD: Any, enter_GD: Any, recurrent_GH: Any, *_: Any, **__: Any) -> int:
    gates = int(enter_GD[0])
    return 2 * int(x_TBD[0]) * int(x_TBD[1]) * gates * (int(enter_GD[1]) + int(recurrent_GH[1]))


def _moved(batch: Any, device: str) -> Any:
    """A batch of tensors on another device."""
    parts = {f.name: getattr(batch, f.name) for f in dataclasses.fields(batch)}
    return type(batch)(**{n: v.to(device) if hasattr(v, "to") else v for n, v in parts.items()})


def _saved(stepper: Any, batch: Any) -> dict[str, Any]:
    """Bytes that a forward pass keeps for the backward pass, each storage once, parameters not counted."""
    import torch

    from seqbench.network import answer_loss

    own = {p.untyped_storage().data_ptr() for p in stepper.network.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = answer_loss(*stepper.network.train()(batch))
    assert loss.requires_grad
    return {"saved_bytes": sum(kept.values())}


def _waste(until_s: float) -> None:
    """Make products that nobody needs until this process has used so much CPU time."""
    import torch

    x = torch.ones(64, 64)
    while time.process_time() < until_s:
        x @ x


class _needed:  # noqa: N801 - reads as what it is
    """What is not there in a revision is said so, and is no failure of it."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if isinstance(error, ImportError | AttributeError | TypeError):
            words = str(error).partition(" (/")[0]  # without the temporary folder
            raise NotThere(f"{type(error).__name__}: {words}") from error


def _answer(session: Session, request: dict[str, Any]) -> dict[str, Any]:
    """Do what is asked; whatever goes wrong is told, and judged by whoever asked."""
    method = getattr(session, request.pop("do"))
    try:
        return dict(method(**request))
    except NotThere as error:
        return {"error": str(error), "kind": "not there"}
    except Exception as error:
        traceback.print_exc()
        line = " ".join(str(error).split())[:500]
        kind = type(error).__name__
        return {"error": line if kind == "UsageError" else f"{kind}: {line}", "kind": kind}


def main() -> None:
    """Answer requests until there are no more."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--planted", type=float, default=0.0, help="share of CPU time wasted, for tests")
    arguments = parser.parse_args()
    answers: TextIO = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what composing or training prints is no answer
    session = Session(arguments.device, arguments.planted)
    for line in sys.stdin:
        print(json.dumps(_answer(session, json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
