"""Numbers as they stand in a sentence, however small or large."""

from __future__ import annotations

import math

from seqbench.report.plots.gradient import scientific
from seqbench.report.tables import NONE
from seqbench.report.theme import power_of_ten

_SMALLEST, _LARGEST = 1e-300, 1e300
HALF = "ln \N{VULGAR FRACTION ONE HALF} / ln"  # before a factor: its half-life


def power(factor: float, steps: float) -> float:
    """What is left after so many steps of one factor; endless rather than an error.

    >>> power(0.5, 2), power(10.0, 400)
    (0.25, inf)
    """
    if not 0 < factor < math.inf:
        return math.nan
    exponent = steps * math.log(factor)
    return math.exp(exponent) if exponent < math.log(_LARGEST) else math.inf


def half_life(factor: float) -> float:
    """Steps until half is left; endless where nothing is lost.

    >>> half_life(0.5), half_life(1.0)
    (1.0, inf)
    """
    return math.log(0.5) / math.log(factor) if 0 < factor < 1 else math.inf


def sigmoid(value: float) -> float:
    """What a gate is when this enters it.

    >>> sigmoid(0.0)
    0.5
    """
    return 1 / (1 + math.exp(-value))


def amount(value: float) -> str:
    """A positive number in plain characters.

    >>> amount(0.25), amount(3.4e-27), amount(1234.0), amount(2.5e7), amount(0.0)
    ('0.25', '3·10⁻²⁷', '1,234', '2·10⁷', 'less than 10⁻³⁰⁰')
    """
    if math.isnan(value) or value < 0:
        return NONE
    if value < _SMALLEST:
        return f"less than {power_of_ten(_SMALLEST)}"
    if value > _LARGEST:
        return f"more than {power_of_ten(_LARGEST)}"
    if value < 100:
        return scientific(value)
    if value < 1e5:
        return f"{value:,.0f}"
    mantissa, exponent = f"{value:.0e}".split("e")
    return f"{mantissa}·{power_of_ten(10.0 ** int(exponent))}"


def steps(count: float) -> str:
    """A time in steps.

    >>> steps(1.13), steps(23.4), steps(math.inf)
    ('1.1 steps', '23 steps', 'no number of steps')
    """
    if not math.isfinite(count):
        return "no number of steps"
    return f"{count:,.1f} steps" if count < 9.95 else f"{count:,.0f} steps"


def times(ratio: float) -> str:
    r"""How many times as much.

    >>> [times(ratio).removeprefix("\N{MULTIPLICATION SIGN}") for ratio in (8.0, 22.4, 1.07)]
    ['8', '22', '1.1']
    """
    shown = f"{ratio:.1f}".removesuffix(".0") if ratio < 9.95 else f"{ratio:,.0f}"
    return f"\N{MULTIPLICATION SIGN}{shown}"
