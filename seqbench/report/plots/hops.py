"""One hop or T hops: what is left of the gradient at the cue, by the hops between it and the answer."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pandas as pd

from seqbench.report import theme
from seqbench.report.frame import Sweep
from seqbench.report.plots.base import Plot
from seqbench.report.plots.gradient import MOMENTS, scientific
from seqbench.report.task import Task
from seqbench.report.verdict import words_list

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_HOPS = float(1 << 24)
_SMALLEST_DRAWN, _LARGEST_DRAWN = 1e-60, 1e30
_COLUMNS = ["label", "rung", "moment", "hops", "distance", "share"]


def plot(sweep: Sweep) -> Plot | None:
    """The first task whose cues are known; None without any."""
    table = sweep.table("hops")
    for task in sweep.tasks:
        points = medians(table[table["task"] == task.key], sweep.labels)
        if len(points):
            return described(points, task, sweep.labels, both_ways(sweep))
    return None


def both_ways(sweep: Sweep) -> set[str]:
    """Models that read in both directions."""
    return set(sweep.training[sweep.training["causal"].eq(False)]["label"])


def described(points: pd.DataFrame, task: Task, labels: list[str], sideways: set[str]) -> Plot:
    """The figure of one task, with its words.

    Args:
        sideways: models that read in both directions.
    """
    return Plot(
        key="hops",
        title=f"One hop or many: from the answer back to the cue, {task.key}",
        draw=lambda: draw(points, labels),
        how=(
            "each point is a model at one size: to the right, how many hops the gradient takes from the "
            "answer back to the farthest token that decides it (a recurrence one for every step, attention a "
            "single one); upwards, |dL/dx| at that token as a share of |dL/dx| where the answer is read; "
            "medians over sequences and seeds; the line joins the sizes of a model"
        ),
        shows=shows(points, task, labels, sideways),
    )


def medians(table: pd.DataFrame, labels: list[str]) -> pd.DataFrame:
    """One point for each model, rung and moment; files are not trusted.

    Returns:
        ``label, rung, moment, hops, distance, share``.
    """
    usable = table["hops"].between(1, _MOST_HOPS) & table["at_answer"].gt(0) & table["at_cue"].ge(0)
    kept = table[usable & table["moment"].isin(list(MOMENTS)) & table["label"].isin(labels)]
    kept = kept.assign(share=kept["at_cue"] / kept["at_answer"])
    groups = kept.groupby(["label", "rung", "moment"], sort=False, dropna=False)
    found: pd.DataFrame = groups[["hops", "distance", "share"]].median().reset_index()[_COLUMNS]
    return found[found["share"].between(0, _LARGEST_DRAWN)].sort_values("hops", kind="stable")


def draw(points: pd.DataFrame, labels: list[str]) -> Figure:
    """Draw ``label, moment, hops, share``, a panel for each moment."""
    styles = {k: v for k, v in theme.styles(labels).items() if k in set(points["label"])}
    chosen = {label: styles[label] for label in labels if label in styles}
    moments = [moment for moment in MOMENTS if (points["moment"] == moment).any()]
    figure, axes = theme.panels(len(moments), 3.0, chosen, sharex=True, sharey=True)
    for panel, moment in zip(axes, moments, strict=True):
        _panel(panel, points[points["moment"] == moment], chosen)
        panel.set_title(MOMENTS[moment])
    figure.supxlabel("hops between answer and cue", fontsize=9)
    figure.supylabel("|dL/dx| at the cue / at the answer", fontsize=9)
    theme.legend(figure, chosen)
    return figure


def _panel(panel: Axes, points: pd.DataFrame, chosen: dict[str, theme.Style]) -> None:
    for label, style in chosen.items():
        line = points[(points["label"] == label) & (points["share"] > _SMALLEST_DRAWN)]
        panel.plot(line["hops"], line["share"], **style.marked())
    panel.set_xscale("log", base=2)
    panel.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    panel.set_yscale("log")
    panel.yaxis.set_major_formatter(theme.power_of_ten)
    panel.minorticks_off()
    panel.set_xlim(0.7, max(2.0, 1.4 * float(points["hops"].max())))
    theme.level(panel, 1.0, "as much as at the answer")


def shows(points: pd.DataFrame, task: Task, labels: list[str], sideways: set[str]) -> str:
    """Hops and what is left, of the longest way, before and after training."""
    farthest = points[points["distance"] == points["distance"].max()]
    rung = farthest["rung"].iloc[0]
    here = points[points["rung"].isna() if pd.isna(rung) else points["rung"] == rung]
    place = task.at(None if pd.isna(rung) else int(rung))
    sentences = [f"On {place} the cue lies {farthest['distance'].iloc[0]:.0f} steps back."]
    for moment, words in MOMENTS.items():
        now = here[here["moment"] == moment].set_index("label")
        told = [
            f"{label} {scientific(float(now['share'][label]))} ({_hops(float(now['hops'][label]))})"
            for label in labels
            if label in now.index and math.isfinite(float(now["share"][label]))
        ]
        if told:
            sentences.append(
                f"{words.capitalize()}, of the gradient at the answer the cue gets: {words_list(told)}."
            )
    return " ".join([*sentences, *_nearer_end(here, [label for label in labels if label in sideways])])


def _nearer_end(here: pd.DataFrame, labels: list[str]) -> list[str]:
    """A short way that a recurrence in both directions owes to a cue near an end, not to its kind."""
    short = here[here["hops"].gt(1) & here["hops"].lt(here["distance"])]
    found = [label for label in labels if label in set(short["label"])]
    if not found:
        return []
    sentence = (
        f"In {words_list(found)} the hops are those to the nearer end of the sequence; a token in the middle "
        "is about half the sequence's length from either end."
    )
    return [sentence]


def _hops(count: float) -> str:
    """A number of hops in words.

    >>> _hops(1.0), _hops(57.5)
    ('1 hop', '57.5 hops')
    """
    return f"{count:g} hop{'' if count == 1 else 's'}"
