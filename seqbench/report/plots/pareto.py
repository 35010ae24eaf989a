"""Score against speed: one point for each model, and the front of those that none beats in both."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from seqbench.metric import Metric
from seqbench.report import theme
from seqbench.report.frame import Sweep
from seqbench.report.main_table import Whole
from seqbench.report.plots.base import Plot
from seqbench.report.summary import same
from seqbench.report.task import Task
from seqbench.report.verdict import words_list

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_NAMES = 24  # more points have a legend instead of names
_FONT = 8.0
_ROOM = 3.0  # points between a marker and its name
_SHORTEST_LEADER = 10.0
_MOST_TOLD = 12
_ANGLES = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1))


@dataclass(frozen=True)
class Point:
    """A model's score and speed, each with an interval.

    Attributes:
        score, low, high: mean test score over seeds with its t interval; the ends are NaN for one seed.
        speed: valid tokens per second of training steps.
        slow, fast: quartiles of single steps.
    """

    label: str
    score: float
    low: float
    high: float
    speed: float
    slow: float
    fast: float


def plot(sweep: Sweep, task: Task, wholes: list[Whole], number: int) -> Plot | None:
    """The front of one task; None where fewer than two models have a score and a speed."""
    found = points(sweep, task, wholes)
    if len(found) < 2:
        return None
    rung = task.rungs[-1]
    place = f" at {task.symbol}={rung}" if rung is not None else ""
    over = f"of the test {task.metric.name}" + (" over all rungs" if len(task.rungs) > 1 else "")
    better = "up" if task.metric.higher else "down"
    return Plot(
        key=f"pareto{number}",
        title=f"Score against speed: {task.key}",
        draw=lambda: draw(found, task, sweep.labels),
        how=(
            f"one point for each model: the mean {over} with its 95 % interval over seeds, and valid tokens "
            f"per second of training steps{place} with the quartiles of single steps; right is faster, "
            f"{better} is better; the line joins the models that no other beats in both (the Pareto front), "
            "by their means, without regard to the intervals"
        ),
        shows=shows(found, task.metric),
    )


def points(sweep: Sweep, task: Task, wholes: list[Whole]) -> list[Point]:
    """The models of a task that have both."""
    speed = sweep.table("speed")
    here = speed[
        (speed["task"] == task.key) & (speed["mode"] == "train") & same(speed["rung"], task.rungs[-1])
    ]
    found = []
    for one in wholes:
        steps = here[(here["label"] == one.label) & here["step_s"].gt(0) & here["valid_tokens"].gt(0)]
        known = math.isfinite(one.score.mean) and math.isfinite(one.tokens_per_s) and one.tokens_per_s > 0
        if one.task is task and known and len(steps):
            rates = steps["valid_tokens"] / steps["step_s"]
            slow, fast = (float(rates.quantile(share)) for share in (0.25, 0.75))
            score = one.score
            found.append(Point(one.label, score.mean, score.low, score.high, one.tokens_per_s, slow, fast))
    return found


def front(found: Iterable[Point], metric: Metric) -> list[Point]:
    """The points that no other equals or beats in both and beats in one; the fastest first."""
    every = list(found)
    kept = [one for one in every if not any(dominates(other, one, metric) for other in every)]
    return sorted(kept, key=lambda one: (-one.speed, one.label))


def dominates(other: Point, one: Point, metric: Metric) -> bool:
    """Whether a model is at least as good and as fast as another, and more in one of the two."""
    as_good = metric.reaches(other.score, one.score) and other.speed >= one.speed
    return as_good and (other.score != one.score or other.speed != one.speed)


def shows(found: list[Point], metric: Metric) -> str:
    """Who is on the front, and by whom each of the others is dominated."""
    best = front(found, metric)
    names = [
        f"{one.label} ({metric.shown(one.score, fewer=1)}, {theme.plain(one.speed)} tokens/s)" for one in best
    ]
    sentences = [f"On the front: {_some(names)}."]
    groups: dict[str, list[str]] = {}
    for one in found:
        if one not in best:
            over = [other.label for other in best if dominates(other, one, metric)]
            groups.setdefault(words_list(over[:_MOST_TOLD]), []).append(one.label)
    for above, below in groups.items():
        verb = "is" if len(below) == 1 else "are"
        sentences.append(f"{_some(below)} {verb} dominated by {above}: no better and no faster.")
    return " ".join(sentences)


def _some(names: list[str]) -> str:
    more = len(names) - _MOST_TOLD
    return words_list([*names[:_MOST_TOLD], *([f"{more} more"] if more > 0 else [])])


def draw(found: list[Point], task: Task, labels: list[str]) -> Figure:
    """Draw ``score, low, high`` against ``speed, slow, fast``, with a name at each of a few points."""
    styles = theme.styles(labels)
    named = len(found) <= _MOST_NAMES
    shown = {} if named else {one.label: styles[one.label] for one in found}
    figure, (panel,) = theme.panels(1, 3.6, shown)
    panel.set_xscale("log")
    ends = [value for one in found for value in (one.score, one.low, one.high) if math.isfinite(value)]
    inside = [min(max(value, 0.0), task.metric.most) for value in ends]
    theme.score_axis(panel, task.metric, inside, whole=False)
    _front(panel, front(found, task.metric))
    for one in found:
        _point(panel, one, styles[one.label], task.metric)
    _limits(panel, [value for one in found for value in (one.speed, one.slow, one.fast)])
    panel.set_xlabel("valid tokens per second, training step")
    panel.set_ylabel(f"mean test {task.metric.name}")
    if named:
        figure.draw_without_rendering()  # now the places of the points are known
        name(panel, found)
    else:
        theme.legend(figure, shown)
    return figure


def _front(panel: Axes, best: list[Point]) -> None:
    """The border of what is reached: horizontal, then vertical, from the fastest to the best."""
    panel.plot(
        [one.speed for one in best], [one.score for one in best],
        color=theme.INK, linewidth=0.9, linestyle=(0, (4, 2)), drawstyle="steps-post", zorder=1.5,
    )  # fmt: skip


def _point(panel: Axes, one: Point, style: theme.Style, metric: Metric) -> None:
    thin: dict[str, Any] = {"color": style.colour, "linewidth": 0.9, "alpha": 0.7, "zorder": 2}
    panel.plot([one.slow, one.fast], [one.score] * 2, **thin)
    if math.isfinite(one.low):
        panel.plot([one.speed] * 2, [max(0.0, one.low), min(metric.most, one.high)], **thin)
    panel.plot([one.speed], [one.score], color=style.colour, marker=style.marker, markersize=6, zorder=3)


def _limits(panel: Axes, speeds: Sequence[float]) -> None:
    """A logarithmic axis with ticks at 1, 2 and 5, and room for names."""
    low, high = min(speeds), max(speeds)
    room = max((high / low) ** 0.12, 1.15)
    panel.set_xlim(low / room, high * room)
    theme.one_two_five(panel.xaxis)


Box = tuple[float, float, float, float]  # left, bottom, right, top, in points


def name(panel: Axes, found: list[Point]) -> None:
    """Write each model's name where it covers no other name and no marker; a far one gets a line."""
    scale = 72 / panel.figure.dpi
    spots = [panel.transData.transform((one.speed, one.score)) * scale for one in found]
    frame = panel.get_window_extent()
    edges = (frame.x0 * scale, frame.y0 * scale, frame.x1 * scale, frame.y1 * scale)
    taken = [(x - 4, y - 4, x + 4, y + 4) for x, y in spots]
    for one, (x, y) in sorted(zip(found, spots, strict=True), key=lambda pair: (-pair[1][1], pair[1][0])):
        box = place(x, y, width(one.label), taken, edges)
        taken.append(box)
        across, up = (box[0] + box[2]) / 2 - x, (box[1] + box[3]) / 2 - y
        far = max(abs(across) - (box[2] - box[0]) / 2, abs(up) - (box[3] - box[1]) / 2) > _SHORTEST_LEADER
        panel.annotate(
            one.label, (one.speed, one.score), xytext=(across, up), textcoords="offset points",
            ha="center", va="center", fontsize=_FONT, gid="halo", zorder=4,
            arrowprops={"arrowstyle": "-", "color": theme.INK, "linewidth": 0.4} if far else None,
        )  # fmt: skip


def width(label: str) -> float:
    """About how wide a name is, in points; a letter of a wide script counts twice."""
    return _FONT * sum(1.05 if ord(letter) > 0x2E80 else 0.62 for letter in label)


def place(x: float, y: float, wide: float, taken: list[Box], edges: Box) -> Box:
    """The nearest free box for a name beside a point; the least covered one where none is free."""
    tall = 1.15 * _FONT
    tried = []
    for ring in range(6):
        away = _ROOM + 5 + ring * 0.9 * tall
        for right, up in _ANGLES:
            middle = x + right * (wide / 2 + (away if not up else away / 2)), y + up * (tall / 2 + away - 2)
            box = (middle[0] - wide / 2, middle[1] - tall / 2, middle[0] + wide / 2, middle[1] + tall / 2)
            covered = sum(_overlap(box, other) for other in taken) + _outside(box, edges)
            if covered == 0:
                return box
            tried.append((covered, box))
    return min(tried)[1]


def _overlap(a: Box, b: Box) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def _outside(box: Box, edges: Box) -> float:
    """How much of a box lies outside, in square points."""
    left, bottom, right, top = edges
    return (box[2] - box[0]) * (box[3] - box[1]) - _overlap(box, (left, bottom, right, top))
