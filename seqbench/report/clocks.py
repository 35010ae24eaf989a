"""Whose clock counts: a page shows the times of one machine, and says whose times it leaves out.

Times of several machines in one table would be read as a ranking, whatever stood beside them. So those of one
machine stand there: of the one on which most models were timed. The times of others are missing, like those
of a model that was not timed; their scores, sizes and operations, which no machine decides, are shown. Hosts
with the same processor, cores, platform and device count as one machine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from seqbench.records import ENDED, Run
from seqbench.report.label import clean
from seqbench.report.task import mapping

if TYPE_CHECKING:
    import pyarrow as pa

Machine = tuple[tuple[str, str], ...]

WITH_TIMES = ("speed", "evaluations")  # tables that hold times beside what no machine decides
WHOLLY_TIMES = ("grid", "left_out")
_FACTS = ("cpu", "cores", "device", "threads", "platform")
_WORDS = {
    "cpu": "{}", "cores": "{} cores", "device": "device {}", "threads": "threads: {}", "platform": "{}",
    "torch version": "torch {}",
}  # fmt: skip
_MOST_NAMES = 8
_OF_KIND = {"speed": "Speed and peak memory", "train": "times of training"}


def is_time(column: str) -> bool:
    """Whether a column holds times or rates: its name says so."""
    return column.endswith("_s")


@dataclass(frozen=True)
class Clock:
    """The machine whose times of one kind are shown.

    Attributes:
        kind: "speed" for what was timed alone, "train" for the times of training and of solving.
        machine: what it is.
        others: the machines whose times are not.
        shown, missing: models and their tasks that have such times, and that were timed elsewhere alone.
        partly: models and tasks of which some runs were timed elsewhere too.
        folders: the runs whose times are not shown.
    """

    kind: str
    machine: Machine
    others: tuple[Machine, ...] = ()
    shown: tuple[tuple[str, str], ...] = ()
    missing: tuple[tuple[str, str], ...] = ()
    partly: tuple[tuple[str, str], ...] = ()
    folders: frozenset[str] = frozenset()

    def words(self) -> str:
        """What is shown and what is not, in sentences."""
        differing = _differing([self.machine, *self.others])
        others = " and of ".join(_told(one, differing) for one in self.others[:_MOST_NAMES])
        told = [f"Shown: those of {_told(self.machine, differing)}; not shown: those of {others}."]
        told += [f"So no times stand beside {_named(self.missing)}."] if self.missing else []
        told += [f"Those of {_named(self.partly)} are of a part of the runs."] if self.partly else []
        return " ".join(told)


@dataclass(frozen=True)
class Clocks:
    """The machines whose times are shown, of each kind of run."""

    of: Mapping[str, Clock] = field(default_factory=dict)

    def elsewhere(self, row: Mapping[Any, Any]) -> bool:
        """Whether the times of a run are not shown."""
        clock = self.of.get(str(row["kind"]))
        return clock is not None and row["folder"] in clock.folders

    def shown(self, row: dict[str, Any]) -> dict[str, Any]:
        """A row of the runs without times of another machine."""
        if not self.elsewhere(row):
            return {**row, "elsewhere": False}
        return {key: None if is_time(key) else value for key, value in row.items()} | {"elsewhere": True}

    def words(self) -> list[str]:
        """Whose times are shown and whose are not, in a paragraph each; none for one machine."""
        told: dict[tuple[int, str], list[str]] = {}
        for kind, clock in self.of.items():
            if clock.others:
                told.setdefault((1 + len(clock.others), clock.words()), []).append(_OF_KIND[kind])
        return [
            f"{_sentence(' and '.join(kinds))} were measured on {count} machines and are not comparable "
            f"between them. {words}"
            for (count, words), kinds in told.items()
        ]

    def caption(self, kind: str = "speed") -> str:
        """Whose times a table has, as the end of its caption; empty for one machine."""
        clock = self.of.get(kind)
        if clock is None or not clock.others:
            return ""
        return f" (times of one machine: {_told(clock.machine, _differing([clock.machine, *clock.others]))})"


def read_clocks(rows: Iterable[Mapping[str, Any]], found: Mapping[str, Run]) -> Clocks:
    """Choose the machines.

    For what was timed alone it is the one with most models (over all tasks), then with most runs. Training
    takes the same one where any run trained there.
    """
    chosen: dict[str, Clock] = {}
    every = list(rows)
    for kind in ("speed", "train"):
        mine = [row for row in every if row["kind"] == kind and row["status"] in ENDED]
        placed = [(row, machine_of(run)) for row in mine if (run := found.get(row["folder"])) is not None]
        if placed:
            earlier = chosen.get("speed")
            chosen[kind] = _clock(kind, placed, earlier.machine if earlier else None)
    return Clocks(chosen)


def _clock(kind: str, placed: list[tuple[Mapping[str, Any], Machine]], wanted: Machine | None) -> Clock:
    contests: dict[Machine, Counter[tuple[str, str]]] = {}
    for row, machine in placed:
        counts = contests.setdefault(machine, Counter())
        if row["companion"] is not True:
            counts[str(row["label"]), str(row["task"])] += 1

    def order(machine: Machine) -> tuple[Any, ...]:
        counts = contests[machine]
        return machine != wanted or not counts, -len(counts), -counts.total(), machine

    machine, *others = sorted(contests, key=order)
    elsewhere = dict.fromkeys(pair for other in others for pair in contests[other])
    return Clock(
        kind=kind,
        machine=machine,
        others=tuple(others),
        shown=tuple(contests[machine]),
        missing=tuple(pair for pair in elsewhere if pair not in contests[machine]),
        partly=tuple(pair for pair in elsewhere if pair in contests[machine]),
        folders=frozenset(str(row["folder"]) for row, place in placed if place != machine),
    )


def machine_of(run: Run) -> Machine:
    """What a run's record says of the machine, as far as it decides times."""
    environment = mapping(run.environment)
    facts = [(name, environment.get(name)) for name in _FACTS]
    facts.append(("torch version", mapping(environment.get("versions")).get("torch")))
    return tuple((name, clean(value, 80)) for name, value in facts if value is not None)


def _differing(machines: list[Machine]) -> list[str]:
    """Facts that are not the same for all machines, or that not all of them state."""
    known = [dict(machine) for machine in machines]
    return [name for name in _WORDS if len({one.get(name) for one in known}) > 1]


def _told(machine: Machine, facts: list[str]) -> str:
    known = dict(machine)
    return ", ".join(_WORDS[name].format(known.get(name, "not known")) for name in facts)


def _sentence(words: str) -> str:
    return words[:1].upper() + words[1:]


def _named(pairs: tuple[tuple[str, str], ...]) -> str:
    """Models, each once, without the tasks where there is only one."""
    several = len({task for _, task in pairs}) > 1
    names = list(dict.fromkeys(f"{label} on {task}" if several else label for label, task in pairs))
    rest = len(names) - _MOST_NAMES
    return ", ".join(names[:_MOST_NAMES]) + (f" and {rest} more" if rest > 0 else "")


def without_times(table: pa.Table) -> pa.Table:
    """A table whose times are missing."""
    import pyarrow as pa

    for place, column in enumerate(table.schema):
        if is_time(column.name):
            table = table.set_column(place, column, pa.nulls(table.num_rows, column.type))
    return table
