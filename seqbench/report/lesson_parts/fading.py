"""How a gradient fades with distance: the sweep's own factor per step, and what its powers leave."""

from __future__ import annotations

import math
from dataclasses import dataclass

from seqbench.report.frame import Sweep
from seqbench.report.lesson_parts import cast
from seqbench.report.lesson_parts.amounts import HALF, amount, power
from seqbench.report.lesson_parts.amounts import steps as in_steps
from seqbench.report.summary import Flow
from seqbench.report.tables import Entry, Table, model, number

_KEEPS = (0.99, 1.01)  # factors in between are called neither vanishing nor growing
_MOST = 12
_GONE = 0.01  # a gradient of which less arrives from the farthest distance has vanished
_NEVER = 1e4  # steps of half-life from which nothing is lost to speak of
_CLEAREST = ("rnn", "jordan", "lstm", "gru", "bilstm")  # whose fading is told in full: the first that is here


@dataclass(frozen=True)
class Fade:
    """The gradient of one model before training.

    Attributes:
        pooled: the readout takes all steps, which gives each of them a direct path to the loss.
    """

    flow: Flow
    pooled: bool

    @property
    def label(self) -> str:
        return self.flow.label

    @property
    def factor(self) -> float:
        """What remains after one more step."""
        return self.flow.decay.factor

    @property
    def way(self) -> str:
        """What the gradient does with distance: "vanishes", "stays" or "grows"."""
        low, high = _KEEPS
        return "vanishes" if self.factor < low else "grows" if self.factor > high else "stays"

    @property
    def vanished(self) -> bool:
        """Whether next to nothing of it arrives from the farthest distance, by its factor."""
        return power(self.factor, self.hops) < _GONE

    @property
    def hops(self) -> int:
        """Steps from the nearest distance, 1, to the farthest."""
        return self.flow.far_distance - 1

    @property
    def seeds(self) -> str:
        """Over how many seeds, with the interval where there is one."""
        decay = self.flow.decay
        one = f"{decay.n} seed{'' if decay.n == 1 else 's'}"
        known = math.isfinite(decay.low) and decay.high <= 1e3
        return f"95 % interval {decay.low:.2f} to {decay.high:.2f} over {one}" if known else one

    @property
    def half(self) -> str:
        """Steps until half is left, or "never"."""
        life = self.flow.decay.half_life
        return in_steps(life) if life <= _NEVER else "never"

    @property
    def predicted(self) -> str:
        """The factor to the power of the steps."""
        return amount(power(self.factor, self.hops))

    @property
    def measured(self) -> str:
        """The end of the curve as a share of its value at distance 1."""
        return amount(self.flow.far)


def before_training(sweep: Sweep, found: list[Flow]) -> list[Fade]:
    """Every model whose gradient before training can be fitted, in the order of the plan."""
    pooled = set(sweep.training[sweep.training["readout"].isin(["mean", "max"])]["label"])
    return [
        Fade(flow, flow.label in pooled)
        for flow in found
        if flow.moment == "init" and math.isfinite(flow.decay.factor) and flow.far_distance > 1
    ]


def clearest(sweep: Sweep, fades: list[Fade]) -> Fade | None:
    """The one to tell in full: the plainest recurrent network, or else whose gradient falls fastest."""
    label = next((one for name in _CLEAREST if (one := cast.first(sweep, name)) is not None), None)
    falling = sorted(fades, key=lambda fade: fade.factor)
    return next((fade for fade in falling if fade.label == label), falling[0] if falling else None)


def of(fades: list[Fade], label: str | None) -> Fade | None:
    """The fade of one label."""
    return next((fade for fade in fades if fade.label == label), None)


def table(fades: list[Fade], place: str) -> Table:
    """Factor, half-life, and prediction beside measurement, model by model."""
    heads = [
        ("model", False), ("remains per step, f", True), (f"half gone after ({HALF} f)", True),
        ("steps k", True), ("f to the power k", True), ("the curve itself", True),
    ]  # fmt: skip
    rows = [
        [
            model(fade.label),
            number(fade.factor, "\N{MULTIPLICATION SIGN}{:.3f}"),
            Entry(fade.half, fade.flow.decay.half_life),
            number(fade.hops, "{}"),
            Entry(fade.predicted, power(fade.factor, fade.hops)),
            Entry(fade.measured, fade.flow.far),
        ]
        for fade in fades[:_MOST]
    ]
    caption = (
        f"What is left of the gradient before training, {place} (the curve itself: |dL/dx| at distance k+1 / "
        "at distance 1, median over seeds)"
    )
    return Table(caption, heads, rows)
