"""Gates in numbers: where they stand before and after training, and what an initial bias would leave."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd

from seqbench.report.frame import Sweep
from seqbench.report.lesson_parts import cast
from seqbench.report.lesson_parts.amounts import HALF, amount, half_life, power, sigmoid
from seqbench.report.lesson_parts.amounts import steps as in_steps
from seqbench.report.plots import gates
from seqbench.report.summary import Cell
from seqbench.report.tables import Entry, Table, model, number, text
from seqbench.report.verdict import solving

KEEPING = ("forget gate", "update gate")
BIASES = (0.0, 1.0, 3.0)  # those of experiment=forget_bias; zero stands for torch's small random ones
_MOVED = 0.05
_MOST = 12


@dataclass(frozen=True)
class Gate:
    """A gate that keeps a model's state, before and after training; medians over seeds.

    Attributes:
        start, end: its mean over units, steps and layers; NaN where it was not looked at.
        memory_start, memory_end: for how many steps the slowest tenth of its units keeps 1/e.
        outcome: what the model made of the task there, in words.
    """

    label: str
    name: str
    start: float
    end: float
    memory_start: float
    memory_end: float
    outcome: str

    @property
    def moved(self) -> str:
        """What training did to its mean."""
        change = self.end - self.start
        if math.isnan(change):
            return ""
        return "rose" if change > _MOVED else "fell" if change < -_MOVED else "hardly moved"


def found(sweep: Sweep, grid: list[Cell]) -> tuple[str, list[Gate]]:
    """Where the gates were looked at, in words, and every gate that keeps a state there."""
    chosen = gates.rung_of(sweep)
    if chosen is None:
        return "", []
    task, rung, table = chosen
    rows = {(row.label, row.activation, row.moment): row.steps for row in gates.rows(table, sweep.labels)}
    told = []
    for label in sweep.labels:
        outcome = solving([c for c in grid if c.task is task and c.rung == rung and c.label == label], task)
        for name in KEEPING:
            here = table[(table["label"] == label) & (table["activation"] == name) & table["gate"].eq(1)]
            if len(here):
                ends = [_middle(here[here["moment"] == moment]) for moment in ("init", "final")]
                keeps = [rows.get((label, name, moment), math.nan) for moment in ("init", "final")]
                told.append(Gate(label, name, ends[0], ends[1], keeps[0], keeps[1], outcome))
    return task.at(rung), told


def _middle(rows: pd.DataFrame) -> float:
    """The gate's mean over layers, then the median over seeds."""
    usable = rows[rows["mean"].between(0, 1)]
    return float(usable.groupby("seed")["mean"].mean().median())


def table(told: list[Gate], place: str) -> Table:
    """Every gate before and after training, with what became of the task."""
    heads = [
        ("model", False), ("gate", False), ("mean before", True), ("after training", True),
        ("slowest tenth keeps, before", True), ("after", True), ("and the task", False),
    ]  # fmt: skip
    rows = [
        [
            model(gate.label), text(gate.name), number(gate.start, "{:.2f}"), number(gate.end, "{:.2f}"),
            _keeps(gate.memory_start), _keeps(gate.memory_end), text(gate.outcome, "note"),
        ]
        for gate in told[:_MOST]
    ]  # fmt: skip
    return Table(f"Gates that keep the state, {place}", heads, rows)


def _keeps(count: float) -> Entry:
    return number(None) if math.isnan(count) else Entry(_endless(count), count)


def _endless(count: float) -> str:
    return in_steps(count) if count <= 1e6 else "over a million steps"


def bias_table(steps: int) -> Table:
    """What a forget gate that stays at its initial bias leaves of the cell after so many steps."""
    heads = [
        ("bias", True), ("gate = \N{GREEK SMALL LETTER SIGMA}(bias)", True),
        (f"half gone after ({HALF} gate)", True), (f"left after {steps} steps", True),
    ]  # fmt: skip
    rows = []
    for bias in BIASES:
        gate = sigmoid(bias)
        left, half = power(gate, steps), half_life(gate)
        rows.append(
            [
                number(bias, "{:g}"), number(gate, "{:.3f}"), Entry(in_steps(half), half),
                Entry(f"{gate:.3f}^{steps} = {amount(left)}", left),
            ]
        )  # fmt: skip
    return Table("A forget gate that stands still at its initial bias", heads, rows)


def varied(sweep: Sweep) -> list[str]:
    """Labels whose forget gate starts from a bias that somebody chose."""
    return [label for label in cast.kinds(sweep) if _chosen(cast.setting(sweep, label, "forget_bias"))]


def _chosen(bias: object) -> bool:
    return isinstance(bias, int | float) and not isinstance(bias, bool)
