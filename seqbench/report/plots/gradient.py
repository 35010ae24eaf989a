"""Gradient flow through time: |dL/dx_t| against the distance from the loss, before and after training."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from seqbench.report import theme
from seqbench.report.curves import curve_by_curve
from seqbench.report.frame import Sweep
from seqbench.report.plots.base import Plot
from seqbench.report.summary import Flow, default_gates, same
from seqbench.report.task import Task
from seqbench.report.verdict import words_list

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOMENTS = {"init": "before training", "final": "after training"}
_SMALLEST_FLOAT32 = float(np.finfo(np.float32).tiny)
_SHOW_LIMIT_BELOW = 1e-15
_HEALTHY = 1e-3
_VANISHES = 0.8  # what remains per step, at most, of a gradient of which little arrives
_RAISED = 0.1  # a smaller rise of what remains per step is not worth a word
WHICH = (
    "A model can only learn to use an early token if the loss depends on it measurably. The curves show "
    "|dL/dxₜ|: the derivative of one answer's loss with respect to the vector that enters the layer at step "
    "t, through every path, in double precision. The norm of a weight's gradient, |dL/dW|, would hide "
    "vanishing: it sums over all steps, and the nearest ones, where nothing has vanished yet, dominate."
)


def plot(
    sweep: Sweep, chosen: tuple[Task, int | None, pd.DataFrame] | None, found: list[Flow]
) -> Plot | None:
    """The gradient-flow figure of the rung that reaches back farthest, or None without the probe.

    Args:
        chosen: that task and rung with its table.
    """
    if chosen is None or not found:
        return None
    task, rung, table = chosen
    ends = [flow.label for flow in found if flow.two_ended and flow.moment == "init"]
    near = (
        f"; {words_list(ends)} reads in both directions, so its curve has two ends, and the number is the "
        "decay of the end near the loss"
        if ends
        else ""
    )
    return Plot(
        key="gradient",
        title=f"Gradient flow through time: {task.at(rung)}",
        draw=lambda: draw(table, found, sweep.labels),
        how=(
            "the scale is logarithmic, so a straight line that falls is exponential vanishing, and a flat "
            "line keeps the gradient; the number beside a name is what remains after one more step; lines "
            f"are medians over seeds, bands reach from the lowest to the highest seed{near}"
        ),
        shows=shows(sweep, task, rung, found),
    )


def draw(table: pd.DataFrame, found: list[Flow], labels: list[str]) -> Figure:
    """Draw ``moment, distance, median, label, seed``, one panel per moment."""
    chosen = theme.styles(labels)
    curves = curve_by_curve(table[table["moment"].isin(list(MOMENTS))], ["label", "moment"])
    moments = [moment for moment in MOMENTS if any(name[1] == moment for name in curves)]
    figure, axes = theme.panels(len(moments), max(2.9, 0.19 * len(labels) + 0.6), columns=1, sharex=True)
    for panel, moment in zip(axes, moments, strict=True):
        for flow in [flow for flow in found if flow.moment == moment]:
            _band(panel, curves[flow.label, moment], chosen[flow.label], _named(flow))
        _finish(panel, MOMENTS[moment])
    axes[-1].set_xlabel("distance from the loss (steps back in time)")
    return figure


def _band(panel: Axes, common: pd.DataFrame, style: theme.Style, name: str) -> None:
    """Median over seeds with the range of the seeds, at the distances that every sequence has."""
    seeds = common[common["median"] > 0].groupby("distance")["median"]
    middle, low, high = seeds.median(), seeds.min(), seeds.max()
    if middle.empty:
        panel.plot([], [], **style.marked(), label=f"{name}: none")
        return
    every = max(1, len(middle) // 10)
    panel.plot(middle.index, middle, **style.marked(), markevery=every, label=name)
    panel.fill_between(middle.index, low, high, color=style.colour, alpha=0.16, linewidth=0)


def _named(flow: Flow) -> str:
    decay = f" \N{MULTIPLICATION SIGN}{flow.decay.factor:.2f}" if math.isfinite(flow.decay.factor) else ""
    return f"\N{THIN SPACE}{flow.label}{decay}" + (" (near end)" if flow.two_ended else "")


def _finish(panel: Axes, title: str) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter

    panel.set_yscale("log")
    low, high = panel.get_ylim()
    if low < _SHOW_LIMIT_BELOW:
        panel.set_ylim(min(low, _SMALLEST_FLOAT32 / 1e3), high)
        theme.level(panel, _SMALLEST_FLOAT32, "smallest normal float32")
    panel.yaxis.set_major_locator(FixedLocator(decades(*panel.get_ylim())))
    panel.yaxis.set_major_formatter(FuncFormatter(theme.power_of_ten))
    panel.minorticks_off()
    panel.set_title(title)
    panel.set_ylabel("|dL/dxₜ|")
    panel.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), title="remains per step")


def decades(low: float, high: float) -> list[float]:
    """Ticks at round powers of ten; where that would be less than two, also at 2 and 5 times them.

    >>> decades(1e-21, 2.0)
    [1e-20, 1e-15, 1e-10, 1e-05, 1.0]
    >>> [f"{tick:g}" for tick in decades(3e-4, 6e-3)]
    ['0.0005', '0.001', '0.002', '0.005']
    """
    first, last = math.ceil(math.log10(low)), math.floor(math.log10(high))
    every = next((step for step in (1, 2, 5, 10, 20) if (last - first) / step <= 6), 50)
    ticks = [10.0**power for power in range(first, last + 1) if power % every == 0]
    if len(ticks) > 1:
        return ticks
    between = [part * 10.0**power for power in range(first - 1, last + 1) for part in (1, 2, 5)]
    return [tick for tick in between if low <= tick <= high]


def shows(sweep: Sweep, task: Task, rung: int | None, found: list[Flow]) -> str:
    """How fast each gradient falls, what training changed, and what a weight's gradient would have said."""
    start = {f.label: f for f in found if f.moment == "init" and math.isfinite(f.decay.factor)}
    end = {f.label: f for f in found if f.moment == "final" and math.isfinite(f.decay.factor)}
    sentences = []
    falling = sorted((f for f in start.values() if f.decay.factor < 0.99), key=lambda f: f.decay.factor)
    keeping = [f.label for f in start.values() if f.decay.factor >= 0.99]
    if falling:
        worst = falling[0]
        named = words_list([f"{f.label} (half gone every {f.decay.half_life:.1f} steps)" for f in falling])
        sentences.append(
            f"Before training the gradient vanishes in {named}; for {worst.label}, a token "
            f"{worst.far_distance} steps back gets {scientific(worst.far)} of what one at distance 1 gets."
        )
    if keeping:
        sentences.append(f"It does not vanish with distance in {words_list(keeping)}.")
    sentences += _gates(sweep, start) + _direct(sweep)
    sentences += _raised(start, end)
    hidden = _weight(sweep, task, rung, start)
    return (
        " ".join([*sentences, *([hidden] if hidden else [])]) or "No gradient arrives that could be fitted."
    )


def _raised(start: dict[str, Flow], end: dict[str, Flow]) -> list[str]:
    """In whom training raised what remains per step: certainly only where the intervals do not overlap."""
    certain: list[str] = []
    perhaps: list[str] = []
    seeds = 0
    for label, before in start.items():
        if label not in end or end[label].decay.factor - before.decay.factor <= _RAISED:
            continue
        after = end[label].decay
        words = f"{label} (\N{MULTIPLICATION SIGN}{before.decay.factor:.2f} to {after.factor:.2f})"
        (certain if after.low > before.decay.high else perhaps).append(words)
        seeds = max(seeds, after.n, before.decay.n)
    told = []
    if certain:
        told.append(f"Training raised what remains per step in {words_list(certain)}.")
    if perhaps:
        over = f"over {seeds} seeds" if seeds > 1 else "over one seed"
        what = "what remains per step" if not certain else "it"
        told.append(f"The mean of {what} rose in {words_list(perhaps)}; {over} that is not certain.")
    return told


def _gates(sweep: Sweep, start: dict[str, Flow]) -> list[str]:
    """A gated model that starts out vanishing like the plain recurrent network deserves a word."""
    if "rnn" not in start or "lstm" not in start or not default_gates(sweep, "lstm"):
        return []
    rnn, lstm = start["rnn"].decay, start["lstm"].decay
    if lstm.factor > _VANISHES or rnn.factor > _VANISHES:
        return []
    sentence = (
        "torch's initial forget bias is about 0, so the LSTM's forget gate should start about half open; its "
        f"gradient starts out vanishing too (half gone after {lstm.half_life:.1f} steps, in the RNN after "
        f"{rnn.half_life:.1f}): a gate is the means to learn to remember, not memory from the start."
    )
    return [sentence]


def _direct(sweep: Sweep) -> list[str]:
    """A readout over all steps gives every step a path to the loss that is one step long."""
    found = {value for value in sweep.training["readout"] if value in ("mean", "max")}
    if not found:
        return []
    sentence = (
        f"The readout of these runs takes the {words_list(sorted(found))} over all steps, which gives every "
        "step a direct path to the loss: a flat curve here does not mean that the layer itself carries "
        "gradients far."
    )
    return [sentence]


def scientific(value: float) -> str:
    """A number with its power of ten in plain characters.

    >>> scientific(3.4e-27), scientific(9.8e-4), scientific(0.25)
    ('3·10⁻²⁷', '1·10⁻³', '0.25')
    """
    if not math.isfinite(value) or value <= 0:
        return "nothing"
    if value >= 1e-3:
        return f"{value:.2g}"
    mantissa, exponent = f"{value:.0e}".split("e")
    return f"{mantissa}·{theme.power_of_ten(10.0 ** int(exponent))}"


def _weight(sweep: Sweep, task: Task, rung: int | None, start: dict[str, Flow]) -> str:
    """The first gradient of the fastest vanishing model's recurrent weight, when it looks healthy."""
    if not start:
        return ""
    worst = min(start.values(), key=lambda f: f.decay.factor)
    if worst.decay.factor > 0.9:
        return ""
    table = sweep.table("parameters")
    here = table[(table["label"] == worst.label) & (table["task"] == task.key) & same(table["rung"], rung)]
    names = [name for name in here.columns if "recurrent" in str(name) or "weight_hh" in str(name)]
    known = [name for name in names if "bias" not in name and here[name].notna().any()]
    if not known:
        return ""
    norm = float(here[here["step"] == here["step"].min()][known[0]].median())
    if not norm > _HEALTHY:
        return ""
    return (
        f"The gradient of {worst.label}'s recurrent weight at the first step has the norm {norm:.2g}, "
        "which looks healthy: that is how a weight's gradient hides the vanishing."
    )
