"""Beyond training: scores on test sets that are longer, or hold more, than what was trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from seqbench.report import slice_floors, theme
from seqbench.report.frame import Sweep
from seqbench.report.label import clean
from seqbench.report.plots.base import Plot
from seqbench.report.slice_floors import Floor
from seqbench.report.summary import same
from seqbench.report.task import Task
from seqbench.report.verdict import at, words_list

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_VALUES = 60
_KEPT = 2.5  # margins by which a score may be worse than in training's range and still count as kept


def plot(sweep: Sweep, task: Task, number: int) -> Plot | None:
    """Scores along the task's slice axis at its highest rung; None without such test sets."""
    table = sweep.table("slices")
    table = table[(table["task"] == task.key) & same(table["rung"], task.rungs[-1])]
    table = table[table["value"].between(1, 1e6) & table["score"].notna()]
    table = table[table["value"].isin(sorted(set(table["value"]))[:_MOST_VALUES])]
    axis = clean(task.card.get("slice_axis") or "value", 20)
    if table["value"].nunique() < 2:
        return None
    limit = task.card.get("trained_to")
    trained_to = float(limit) if isinstance(limit, int) and limit > 0 else None
    place = at(task, task.rungs[-1])
    where = task.key if task.rungs == [None] else f"{task.key} trained at {place}"
    floor = slice_floors.best(sweep, task)
    return Plot(
        key=f"slices{number}",
        title=f"Beyond training: {where}",
        draw=lambda: draw(table, task, axis, trained_to, sweep.labels, floor),
        how=(
            f"every point is a test set of its own whose examples all have that {axis}; the vertical line is "
            f"the largest {axis} in training, so right of it the models extrapolate; lines are means over "
            "seeds, small dots single seeds; models are moved apart a little so that none hides another"
            f"{_dotted(floor)}"
        ),
        shows=shows(table, axis, trained_to, task, floor),
    )


def _dotted(floor: Floor | None) -> str:
    """What the dotted line is, where there is one."""
    if floor is None or floor.curve.empty:
        return ""
    return f'; the dotted line is the floor "{floor.name}", as the canary {floor.canary} measured it there'


def draw(
    table: pd.DataFrame,
    task: Task,
    axis: str,
    trained_to: float | None,
    labels: list[str],
    best: Floor | None,
) -> Figure:
    """Draw ``label, value, score, seed``."""
    chosen = {k: v for k, v in theme.styles(labels).items() if k in set(table["label"])}
    chosen = {label: chosen[label] for label in labels if label in chosen}
    values = sorted(set(table["value"]))
    curve = best.curve[best.curve.index.isin(values)] if best is not None else pd.Series(dtype=float)
    dotted = {f"floor: {best.name}": theme.Style(theme.INK, (1, 2), "")} if best and len(curve) else {}
    named = {**chosen, **dotted}
    figure, axes = theme.panels(1, 2.7, named)
    panel = axes[0]
    for style in dotted.values():
        panel.plot(curve.index, curve, **style.marked(), zorder=4)  # seen where models stand at it
    for number, (label, style) in enumerate(chosen.items()):
        mine = table[table["label"] == label]
        line = mine.groupby("value")["score"].mean()
        apart = 2.0 ** (0.04 * (number - (len(chosen) - 1) / 2))
        panel.plot(line.index * apart, line, **style.marked())
        panel.plot(mine["value"] * apart, mine["score"], "o", color=style.colour, markersize=2.2, alpha=0.6)
    if trained_to is not None:
        panel.axvline(trained_to, color="0.5", linewidth=0.9, linestyle=(0, (4, 3)))
    panel.set_xscale("log", base=2)
    panel.set_xticks(values, [f"{value:g}" for value in values])
    panel.xaxis.minorticks_off()
    worst = dict(list(task.floors(task.rungs[-1]).items())[:1])  # the same at every value; others are not
    theme.score_axis(panel, task.metric, [*table["score"], *worst.values(), *curve], whole=True)
    panel.set_title(f"mean test {task.metric.short} over seeds")
    theme.levels(panel, worst)
    figure.supxlabel(axis, fontsize=9)
    theme.legend(figure, named)
    return figure


def shows(table: pd.DataFrame, axis: str, trained_to: float | None, task: Task, best: Floor | None) -> str:
    """Who keeps its score at the far end, what the others fall to, and who had learned nothing to keep."""
    far = float(table["value"].max())
    if trained_to is None or far <= trained_to:
        return ""
    kept: list[str] = []
    lost: list[str] = []
    idle: list[str] = []
    at_floor: dict[str, tuple[float, float]] = {}
    metric, floors = task.metric, task.floors(task.rungs[-1])
    near = _KEPT * task.tolerance(task.rungs[-1])
    worse = -near if metric.higher else near
    floor = next(iter(floors.values()), 0.0 if metric.higher else metric.most)
    inner = float(table["value"].where(table["value"] <= trained_to).max())
    for label, mine in table.groupby("label", sort=False):
        means = mine.groupby("value")["score"].mean()
        inside = means[means.index <= trained_to]
        if far not in means.index or not len(inside):
            continue
        reached, end = float(inside.iloc[-1]), float(means[far])
        words = f"{label} ({metric.shown(reached, fewer=1)} to {metric.shown(end, fewer=1)})"
        if metric.reaches(floor - worse, reached):
            idle.append(str(label))
        elif best is not None and not best.learned(str(label), reached, float(inside.index[-1])):
            at_floor[str(label)] = reached, end
        else:
            (kept if metric.reaches(end, reached + worse) else lost).append(words)
    told = (
        [f"{words_list(kept)} keep{_s(kept)} what {'it' if len(kept) == 1 else 'they'} reached"]
        if kept
        else []
    )
    told += [f"{words_list(lost)} fall{_s(lost)}"] if lost else []
    where = f"At {axis} {far:g}, {far / trained_to:g} times what training showed"
    sentences = [f"{where}, {', '.join(told)}."] if told else []
    if best is not None and at_floor:
        sentences.append(("" if told else f"{where}: ") + best.words(at_floor, inner, far, near))
    if idle:
        had = "has" if len(idle) == 1 else "have"
        name = next(iter(floors), "the worst floor")
        nothing = f"{words_list(idle)} {had} learned nothing that could carry over ({name} {floor:.3g})."
        sentences.append(nothing)
    return " ".join(sentences)


def _s(names: list[str]) -> str:
    return "s" if len(names) == 1 else ""
