"""Gates and states: how much of them is saturated and how long a gate keeps a memory, before and after."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from seqbench.report import theme
from seqbench.report.frame import Sweep
from seqbench.report.plots.base import Plot
from seqbench.report.summary import flow_table, same
from seqbench.report.task import Task
from seqbench.report.verdict import words_list

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOMENTS = {"init": "before training", "final": "after training"}
_BOUNDED = ("candidate", "state")  # drawn beside the gates where they stay within -1..1; a cell does not
_MOST = 8  # activations of one model
_CHANGED = 1.5  # a memory that became this many times longer or shorter has changed
_SATURATED = 0.1  # a share worth a sentence
_INCH = 0.19  # height of one row
_ENDLESS = 1e6
_HOW = (
    "every row is a gate of a model, or what it writes into its state; the solid bar from the left is the "
    "share of units and steps at which a gate lies below 0.05, the pale bar from the right the share above "
    "0.95; of a candidate or state the absolute value counts, because the slope of tanh is below 0.1 there "
    "and passes little gradient. The number beside a forget or update gate is the memory of the slowest "
    "tenth of its units: after so many steps 1/e is left of what was kept, by each unit's mean gate. Shares "
    "are over all layers and directions, numbers of the one that keeps longest; both are medians over seeds"
)


@dataclass(frozen=True)
class Row:
    """One activation of one model at one moment.

    Attributes:
        low, high: shares below 0.05 and above 0.95, over layers and directions; medians over seeds.
        memory: steps that the slowest tenth of the units keeps a memory, by seed; empty where it keeps none.
        layers: how many layers, or directions, stand behind it.
    """

    label: str
    activation: str
    gate: bool
    moment: str
    low: float
    high: float
    memory: dict[int, float]
    layers: int

    @property
    def steps(self) -> float:
        """Median of the memory over seeds."""
        return float(pd.Series(self.memory, dtype=float).median())


def plot(sweep: Sweep) -> Plot | None:
    """Saturation and time scales on the rung of the gradient figure; None without the probe's table."""
    chosen = rung_of(sweep)
    if chosen is None:
        return None
    task, rung, table = chosen
    found = rows(table, sweep.labels)
    return Plot(
        key="gates",
        title=f"Gates and saturation: {task.at(rung)}",
        draw=lambda: draw(found, sweep.labels),
        how=_HOW,
        shows=shows(found),
    )


def rung_of(sweep: Sweep) -> tuple[Task, int | None, pd.DataFrame] | None:
    """The gradient figure's task and rung with what can be drawn; else the highest rung that has any."""
    table = sweep.table("gates")
    table = table[drawable(table) & ~(table["activation"].eq("state") & table["label"].isin(_relu(sweep)))]
    flow = flow_table(sweep)
    places = [(flow[0], flow[1])] if flow else []
    places += [(task, rung) for task in sweep.tasks for rung in reversed(task.rungs)]
    for task, rung in places:
        here = table[(table["task"] == task.key) & same(table["rung"], rung)]
        if len(here):
            return task, rung, here
    return None


def _relu(sweep: Sweep) -> set[str]:
    """Models whose state has no upper end to be saturated at."""
    training = sweep.training
    folders = zip(training["label"], training["folder"], strict=True)
    return {label for label, name in folders if sweep.config(name, "model").get("nonlinearity") == "relu"}


def drawable(table: pd.DataFrame) -> pd.Series:
    """Gates, and what stays in -1..1, with shares that can be ones."""
    low, high = table["low_share"], table["high_share"]
    shares = low.ge(0) & high.ge(0) & (low + high).le(1 + 1e-9)
    bounded = table["activation"].isin(_BOUNDED) & table["largest"].le(1)
    return shares & table["moment"].isin(list(MOMENTS)) & (table["gate"].eq(1) | bounded)


def rows(table: pd.DataFrame, labels: list[str]) -> list[Row]:
    """What is drawn, model by model; of a model with gates not the state: its candidate is the tanh."""
    place = ["label", "activation", "moment"]
    groups = table.groupby(place, sort=False)
    known = groups[["gate"]].first().join(groups["layer"].nunique())
    shares = table.groupby([*place, "seed"])[["low_share", "high_share"]].mean().groupby(place).median()
    lasting = table[table["longest_time_scale_steps"].ge(0)]
    memories: dict[tuple[str, ...], dict[int, float]] = {}
    longest = lasting.groupby([*place, "seed"])["longest_time_scale_steps"].max().reset_index()
    for label, name, moment, seed, steps in longest.itertuples(index=False, name=None):
        memories.setdefault((label, name, moment), {})[int(seed)] = float(steps)
    names: dict[str, dict[str, None]] = {}
    for label, name, _ in known.index:
        names.setdefault(label, {})[name] = None
    return [
        Row(
            label=label,
            activation=name,
            gate=bool(known["gate"][key] == 1),
            moment=moment,
            low=float(shares["low_share"][key]),
            high=float(shares["high_share"][key]),
            memory=memories.get(key, {}),
            layers=int(known["layer"][key]),
        )
        for label in labels
        for name in [n for n in names.get(label, {}) if n != "state" or len(names[label]) == 1][:_MOST]
        for moment in MOMENTS
        if (key := (label, name, moment)) in known.index
    ]


def draw(found: list[Row], labels: list[str]) -> Figure:
    """Bars of every row, one panel per moment, the models below each other."""
    places = dict(_places(found))
    styles = theme.styles(labels)
    moments = [moment for moment in MOMENTS if any(row.moment == moment for row in found)]
    height = _INCH * (max(places.values()) + 1) + 0.75
    figure, axes = theme.panels(len(moments), height, sharey=True)
    for panel, moment in zip(axes, moments, strict=True):
        for row in [row for row in found if row.moment == moment]:
            _bar(panel, places[row.label, row.activation], row, styles[row.label].colour)
        _finish(panel, MOMENTS[moment])
    _names(axes[0], places)
    _legend(figure)
    return figure


def _places(found: list[Row]) -> Iterator[tuple[tuple[str, str], float]]:
    """A height for every activation, and one for the name of each model above its own: ``(label, "")``."""
    place, before = -1.0, None
    for label, activation in dict.fromkeys((row.label, row.activation) for row in found):
        if label != before:
            place += 1.0 if before is None else 1.35
            yield (label, ""), place
            before = label
        place += 1.0
        yield (label, activation), place


def _bar(panel: Axes, place: float, row: Row, colour: str) -> None:
    panel.barh(place, 1, height=0.72, color="none", edgecolor=theme.GRID, linewidth=0.6)
    if row.gate:  # a small candidate or state is not at an end
        panel.barh(place, row.low, height=0.72, color=colour, linewidth=0)
    panel.barh(place, row.high, left=1 - row.high, height=0.72, color=colour, alpha=0.35, linewidth=0)
    if row.high > 0:
        panel.plot([1 - row.high] * 2, [place - 0.36, place + 0.36], color=colour, linewidth=1.2)
    if row.memory:
        panel.text(1.03, place, f"keeps {_steps(row.steps)}", va="center", fontsize=8, clip_on=False)


def _finish(panel: Axes, title: str) -> None:
    panel.set_title(title)
    panel.set_xlim(0, 1)
    panel.set_xticks([0, 0.5, 1], ["0", "50 %", "100 %"])
    panel.set_xlabel("share of units and steps")
    panel.grid(visible=False)
    panel.spines["left"].set_visible(False)
    panel.tick_params(axis="y", length=0)


def _names(panel: Axes, places: dict[tuple[str, str], float]) -> None:
    """Activations beside their bars, models above theirs; the first model is at the top."""
    rows = {place: name for (_, name), place in places.items() if name}
    panel.set_yticks(list(rows), list(rows.values()))
    panel.set_ylim(max(places.values()) + 0.6, -0.6)
    for (label, name), place in places.items():
        if not name:
            panel.text(0, place, label, va="center", fontsize=9)


def _legend(figure: Figure) -> None:
    from matplotlib.patches import Patch

    handles = [Patch(color=theme.INK, linewidth=0), Patch(color=theme.INK, alpha=0.35, linewidth=0)]
    names = ["gate closed (below 0.05)", "gate open, or candidate or state saturated (above 0.95)"]
    figure.legend(handles, names, loc="outside upper left", ncols=2)


def shows(found: list[Row]) -> str:
    """What training did to the memory of each model, and which activations are saturated afterwards."""
    by_name: dict[tuple[str, str], dict[str, Row]] = {}
    for row in found:
        by_name.setdefault((row.label, row.activation), {})[row.moment] = row
    pairs = [(both["init"], both["final"]) for both in by_name.values() if len(both) == 2]
    sentences = [*_memories(pairs), *_unchanged(pairs), *_saturated(pairs)]
    return " ".join(sentences)


def _memories(pairs: list[tuple[Row, Row]]) -> Iterator[str]:
    """A sentence for every gate that training opened, or closed, in some of the seeds."""
    for start, end in pairs:
        ratios = _ratios(start, end)
        for verb, moved in (
            ("opened", [seed for seed, ratio in ratios.items() if ratio >= _CHANGED]),
            ("closed", [seed for seed, ratio in ratios.items() if ratio <= 1 / _CHANGED]),
        ):
            if moved:
                units = "its units" if end.layers == 1 else "the units of a layer"
                share = "" if len(moved) == len(ratios) else f" in {len(moved)} of {len(ratios)} seeds"
                after, before = (_median(row.memory, moved) for row in (end, start))
                yield (
                    f"Training {verb} the {start.activation} of {start.label}{share}: the slowest tenth of "
                    f"{units} keeps a memory for {_steps(after)} or longer, {_number(before)} before."
                )


def _unchanged(pairs: list[tuple[Row, Row]]) -> Iterator[str]:
    """One sentence for the models whose memory training left as it was in every seed."""
    kept = []
    for start, end in pairs:
        ratios = _ratios(start, end).values()
        if ratios and all(1 / _CHANGED < ratio < _CHANGED for ratio in ratios):
            kept.append(f"{end.label} ({_steps(end.steps)}, {_number(start.steps)} before)")
    if kept:
        yield f"Training hardly changed the memory of {words_list(kept)}."


def _ratios(start: Row, end: Row) -> dict[int, float]:
    """How many times longer the memory became, for every seed that has both."""
    seeds = [seed for seed in start.memory if seed in end.memory and start.memory[seed] > 0]
    known = {seed: end.memory[seed] / start.memory[seed] for seed in seeds}
    return {seed: ratio for seed, ratio in known.items() if not math.isnan(ratio)}


def _median(memory: dict[int, float], seeds: list[int]) -> float:
    return float(pd.Series([memory[seed] for seed in seeds]).median())


def _saturated(pairs: list[tuple[Row, Row]]) -> Iterator[str]:
    """Gates that stand at either end after training, and values at which tanh passes little gradient."""
    gates = [pair for pair in pairs if pair[1].gate and pair[1].low + pair[1].high >= _SATURATED]
    others = [pair for pair in pairs if not pair[1].gate and pair[1].high >= _SATURATED]
    if gates:
        start, end = max(gates, key=lambda pair: pair[1].low + pair[1].high)
        yield (
            f"Of all gates the {end.activation} of {end.label} is the most saturated after training: "
            f"{_percent(end.low)} closed and {_percent(end.high)} open "
            f"({_percent(start.low)} and {_percent(start.high)} before)."
        )
    if others:
        named = [
            f"{e.label} ({e.activation} {_percent(e.high)}, {_percent(s.high)} before)" for s, e in others
        ]
        yield f"Training ends with values where tanh passes little gradient in {words_list(named)}."


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _steps(steps: float) -> str:
    """A time in words: ``41 steps``."""
    return f"{_number(steps)} steps"


def _number(steps: float) -> str:
    """Steps as a short number.

    >>> _number(41.3), _number(2.14), _number(math.inf)
    ('41', '2.1', 'over a million')
    """
    if steps > _ENDLESS:
        return "over a million"
    return f"{steps:,.0f}" if steps >= 9.95 else f"{steps:.1f}"
