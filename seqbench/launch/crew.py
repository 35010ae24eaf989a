"""A sweep's runs on an engine's workers: hand over, watch the records appear, send again what was lost."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from seqbench import records
from seqbench.isolate import Again, Death, write_failure
from seqbench.launch.base import Ended, Engine
from seqbench.launch.batches import Order, batches
from seqbench.plan import Unit, finished
from seqbench.records import Run
from seqbench.store import DamagedFile

_POLL_S = 0.5
_LOOK_S = 1.0  # between looks at the folders of what is at work
_VISIBLE_S = 90.0  # a shared folder may show a new file this much later (NFS keeps a folder's list for 60 s)

Sign = tuple[int, int] | None  # of a record's file: when it was written, and which file it is


@dataclass
class Batch:
    """Units at a worker.

    Attributes:
        units: all of them.
        left: by identity, the units that have not been seen to end, with the signs of older records.
        lost: how often its worker was.
    """

    units: Sequence[Unit]
    left: dict[str, tuple[Unit, Sign]]
    lost: int = 0


@dataclass
class Crew:
    """Runs units through an engine, as :class:`seqbench.isolate.Pool` does on this machine.

    Args:
        again: told of units that are sent again, as their worker was lost, and how it was.
    """

    engine: Engine
    again: Again = lambda _units, _why: None
    _open: dict[int, Batch] = field(default_factory=dict)
    _next: int = 0

    def run(
        self, units: Sequence[Unit], tick: Callable[[list[Unit]], None]
    ) -> Generator[tuple[Unit, Run], None, None]:
        """Run all units, yielding each with its record as it ends; ``tick`` is told what runs.

        Closing the iterator cancels what is at work.

        Raises:
            UsageError: the engine does not take them.
        """
        self._send([_batch(some) for some in batches(units, by_seed=self.engine.by_seed)])
        looked = time.monotonic()
        try:
            while self._open:
                for ended in self.engine.poll(_POLL_S):
                    yield from self._settle(ended)
                if time.monotonic() - looked >= _LOOK_S:
                    yield from self._seen()
                    tick(self._at_work())
                    looked = time.monotonic()
        finally:
            if self._open:
                self.engine.close()
                self._open = {}

    def _send(self, some: Sequence[Batch]) -> None:
        orders = {}
        for batch in some:
            left = [unit for unit, _ in batch.left.values()]
            alone = any(unit.kind == "speed" for unit in left)
            orders[self._next] = Order.of(left, 1 if alone else self.engine.slots).packed()
            self._open[self._next] = batch
            self._next += 1
        if orders:
            self.engine.submit(orders)

    def _seen(self) -> Iterator[tuple[Unit, Run]]:
        """Runs that have ended for good while the rest of their batch is still at work."""
        for batch in self._open.values():
            for identity, (unit, before) in list(batch.left.items()):
                if _sign(unit) != before and (run := finished(unit)) is not None:
                    del batch.left[identity]
                    yield unit, run

    def _at_work(self) -> list[Unit]:
        """Units that report progress now."""
        units = (unit for batch in self._open.values() for unit, _ in batch.left.values())
        return [unit for unit in units if (unit.folder / records.EVENTS_FILE).exists()]

    def _settle(self, ended: Ended) -> Iterator[tuple[Unit, Run]]:
        """Take in what a batch has left: records, or units to send again."""
        batch = self._open.pop(ended.number)
        told: dict[str, dict[str, Any]] = json.loads(ended.told) if ended.told else {}
        for unit in batch.units:
            for why in told.get(unit.identity, {}).get("again", []):
                self.again([unit], f"by its worker: {why}")
        cut_off = []
        for unit, before in batch.left.values():
            run = _record(unit, before, said=told.get(unit.identity, {}).get("recorded") is True)
            if run is None or run.status == "interrupted":
                cut_off.append((unit, run))
            else:
                yield unit, run
        why = ended.lost or "its worker gave no answer"
        if cut_off and batch.lost < cut_off[0][0].job.retries:
            units = [unit for unit, _ in cut_off]
            self.again(units, why)
            self._send([_batch(units, batch.lost + ended.started)])
            return
        for unit, run in cut_off:
            status = told.get(unit.identity, {}).get("status", "killed")
            yield unit, run or write_failure(unit, Death(status, "WorkerLost", why))


def _batch(units: Sequence[Unit], lost: int = 0) -> Batch:
    return Batch(units, {unit.identity: (unit, _sign(unit)) for unit in units}, lost)


def _sign(unit: Unit) -> Sign:
    """What tells a new record of a unit from the one before."""
    try:
        about = (unit.folder / records.RUN_FILE).stat()
    except OSError:
        return None
    return about.st_mtime_ns, about.st_ino


def _record(unit: Unit, before: Sign, *, said: bool) -> Run | None:
    """The record that a worker has left, None where there is no new one of this unit.

    Args:
        said: there is one, by the word of the worker: give the shared folder time to show it.
    """
    deadline = time.monotonic() + _VISIBLE_S
    while True:
        new = said or _sign(unit) != before
        with contextlib.suppress(OSError, DamagedFile):
            run = records.read_run(unit.folder)
            if run.identity == unit.identity and (new or run.status in records.ENDED):
                return run
        if not said or time.monotonic() >= deadline:
            return None
        time.sleep(_POLL_S)
