"""Time of a training step, head over base, check by check on one machine."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from seqbench.report import theme
from seqbench.report.perf_records import Record
from seqbench.report.plots.base import Plot

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_CHECKS = 24
_MOST_MODELS = 12
_WIDEST = 4.0  # a ratio beyond it, or below its inverse, is drawn at the edge
_ROOM = 0.6  # of a check's place, shared by its models


def plot(records: list[Record], number: int) -> Plot | None:
    """The last checks of one machine; None where none of them was timed."""
    timed = [record for record in records if any(result.timed for result in record.results)][-_MOST_CHECKS:]
    if not timed:
        return None
    return Plot(
        key=f"perf{number}",
        title="Time of a training step, head over base",
        draw=lambda: draw(timed),
        how=(
            "each place on the horizontal axis is a check, the newest on the right; the height is the median "
            "ratio of head's to base's time, with its interval; above the dotted line (the margin) by its "
            "whole interval a model counts as slower; checks compare different pairs of revisions, so the "
            "line does not add up"
        ),
        shows=shows(timed),
    )


def draw(records: list[Record]) -> Figure:
    """Draw the ratios with their intervals, a panel for each length."""
    lengths = sorted({result.length for record in records for result in record.results if result.timed})
    names = {result.model: None for record in records for result in record.results if result.timed}
    labels = list(names)[:_MOST_MODELS]
    styles = theme.styles(labels)
    chosen = {label: styles[label] for label in labels}
    figure, axes = theme.panels(len(lengths), 2.6, chosen, columns=1, sharex=True)
    for panel, length in zip(axes, lengths, strict=True):
        _panel(panel, records, length, chosen)
    theme.legend(figure, chosen)
    return figure


def _panel(panel: Axes, records: list[Record], length: int, chosen: dict[str, theme.Style]) -> None:
    step = _ROOM / max(1, len(chosen))
    for place, (label, style) in enumerate(chosen.items()):
        points = [
            (number + (place - (len(chosen) - 1) / 2) * step, result)
            for number, record in enumerate(records)
            for result in record.results
            if result.timed and result.model == label and result.length == length
        ]
        x = [at for at, _ in points]
        panel.vlines(
            x, [_inside(r.low) for _, r in points], [_inside(r.high) for _, r in points], style.colour
        )
        panel.plot(x, [_inside(r.ratio) for _, r in points], color=style.colour, marker=style.marker, ls="")
    theme.level(panel, 1.0, "equal", ())
    margin = records[-1].margin
    if 0 < margin < 1:
        theme.level(panel, 1 + margin, f"margin {margin:.0%}")
    bottom, top = panel.get_ylim()
    panel.set_ylim(min(bottom, 0.9), max(top, 1.15))
    panel.set_title(f"T={length}")
    panel.set_xlim(-0.6, len(records) - 0.2)  # room for the words of the lines
    every = math.ceil(len(records) / 8)
    shown = range(len(records) - 1, -1, -every)
    panel.set_xticks(list(shown), [_tick(records[number]) for number in shown])


def _inside(ratio: float) -> float:
    return min(max(ratio, 1 / _WIDEST), _WIDEST)


def _tick(record: Record) -> str:
    return f"{record.day[5:10]}\n{record.day[11:]}"


def shows(records: list[Record]) -> str:
    """The newest check in words."""
    newest = records[-1]
    timed = [result for result in newest.results if result.timed]
    told = [f"{r.label} x{r.ratio:.3f} [{r.low:.3f}, {r.high:.3f}]" for r in timed[:_MOST_MODELS]]
    checks = f"{len(records)} check{'s' * (len(records) != 1)}"
    return f"{checks}; the newest, {newest.base} to {newest.head}: {'; '.join(told)}."
