"""What goes to a worker: a batch of runs, as bytes that hold all a process of another machine needs."""

from __future__ import annotations

import os
import pickle
import runpy
import sys
import types
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from seqbench import store
from seqbench.config import settings
from seqbench.plan import Unit, bundled
from seqbench.sealed import Sealed

_PREFIX = "SEQBENCH_"  # variables that a worker shares with the process that sent the order


@dataclass(frozen=True)
class Order:
    """A batch on its way to a worker.

    Attributes:
        folder: the current folder of the sender; the units' own may be relative to it.
        main: the file that was run, if that is a user's own, since its classes are ``__main__``'s.
        slots: units side by side.
        units: a tuple of :class:`~seqbench.plan.Unit`, closed until user's files have been loaded.
    """

    folder: str
    main: str | None
    slots: int
    units: Sealed
    variables: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, units: Sequence[Unit], slots: int) -> Order:
        """An order to do some units, from this process."""
        variables = {name: value for name, value in os.environ.items() if name.startswith(_PREFIX)}
        return cls(str(Path.cwd()), _own_main(), slots, Sealed.of(tuple(units)), variables)

    def packed(self) -> bytes:
        """The order for a pipe; nothing else is ever unpacked."""
        return pickle.dumps(self)

    def opened(self) -> tuple[Unit, ...]:
        """Take the sender's place, load its files, and give the units."""
        os.chdir(self.folder)
        os.environ.update(self.variables)
        if self.main is not None:
            _become(self.main)
        units: tuple[Unit, ...] = self.units.opened()
        return units


def _own_main() -> str | None:
    """The user's file that runs, if one does: ``python my_layer.py``."""
    main = sys.modules["__main__"]
    file, spec = getattr(main, "__file__", None), getattr(main, "__spec__", None)
    return str(Path(file).absolute()) if file and spec is None and Path(file).suffix == ".py" else None


def _become(file: str) -> None:
    """Run a file as multiprocessing does in its children: what it defines is found as ``__main__``'s."""
    sys.path.insert(0, str(Path(file).parent))
    module = types.ModuleType("__mp_main__")
    module.__dict__.update(runpy.run_path(file, run_name="__mp_main__"))
    sys.modules["__main__"] = sys.modules["__mp_main__"] = module


def batches(units: Sequence[Unit], *, by_seed: bool = True) -> list[tuple[Unit, ...]]:
    """Units that go to a worker together: a job's rungs, and what is trained as one.

    All speed measurements are one batch, so that they are taken on one machine; so are the canaries
    beside a comparison, which cost little. The order is that of the first of each.

    Args:
        by_seed: a batch for each seed of a job, or one for all of them.
    """
    found: dict[str, list[Unit]] = {}
    for bundle in bundled(units):
        found.setdefault(_key(bundle[0], by_seed=by_seed), []).extend(bundle)
    return [tuple(batch) for batch in found.values()]


def _key(unit: Unit, *, by_seed: bool) -> str:
    if unit.kind == "speed":
        return unit.kind
    if unit.companion:
        return "companions"
    if unit.stack and by_seed:
        return unit.stack
    plain = settings(unit.job)
    ladder = unit.job.task.ladder
    plain["task"] = {name: value for name, value in plain["task"].items() if name != ladder}
    return store.digest({"kind": unit.kind, "seed": unit.seed if by_seed else None, "job": plain})
