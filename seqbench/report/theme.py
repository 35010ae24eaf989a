"""How things look: colour, dash and marker of a model, and the settings of every figure.

A model's style depends on its name, never on the order of the runs: the core models have fixed ones, every
other label takes the first free one after a place given by its hash. Colours keep a contrast of at least
3:1 on the light and on the dark page, and none is the only sign of a model.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from seqbench.metric import Metric

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

BLUE, GREEN, ORANGE, PINK, GREY = "#0173b2", "#029e73", "#d55e00", "#cc78bc", "#949494"
GOLD, VIOLET = "#a6761d", "#7d74e0"
COLOURS = (BLUE, GREEN, ORANGE, PINK, GREY, GOLD, VIOLET)
LIGHT_PAGE, DARK_PAGE = "#ffffff", "#14171a"
INK, GRID = "#000000", "#cccccc"
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
Dash = tuple[float, ...]
_DASHES: tuple[Dash, ...] = ((), (5, 1.5), (1.2, 1.2), (5, 1.5, 1.2, 1.5), (2.5, 1))

WIDTH = 7.0
RC: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "seqbench",
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.labelsize": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "grid.color": GRID,
    "grid.linewidth": 0.5,
    "legend.frameon": False,
    "legend.fontsize": 9.0,
    "legend.handlelength": 2.6,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.0,
    "text.parse_math": False,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
}
_WIDE = 3e3  # of a logarithmic axis: the ratio of its ends from which 1, 2 and 5 are too many
_MOST_TICKS = 8


@dataclass(frozen=True)
class Style:
    """How one model is drawn: a colour, a dash pattern (empty: solid) and a marker."""

    colour: str
    dash: Dash
    marker: str

    def line(self) -> dict[str, Any]:
        """Arguments for a matplotlib line."""
        style: Any = (0, self.dash) if self.dash else "-"
        return {"color": self.colour, "linestyle": style}

    def marked(self) -> dict[str, Any]:
        """Arguments for a matplotlib line with markers."""
        return {**self.line(), "marker": self.marker}


CORE: Mapping[str, Style] = {
    "rnn": Style(GREY, _DASHES[0], "o"),
    "lstm": Style(BLUE, _DASHES[1], "s"),
    "gru": Style(GREEN, _DASHES[3], "^"),
    "bilstm": Style(PINK, _DASHES[2], "D"),
    "transformer": Style(ORANGE, _DASHES[0], "v"),
}


def styles(labels: Iterable[str]) -> dict[str, Style]:
    """A style for every label; two labels never share one (up to 245 of them).

    >>> styles(["gru", "lstm"]) == styles(["lstm", "gru"])
    True
    """
    return dict(_styles(tuple(labels)))


@functools.lru_cache(maxsize=64)
def _styles(labels: tuple[str, ...]) -> Mapping[str, Style]:
    chosen = {label: CORE[label] for label in labels if label in CORE}
    every = [Style(c, d, m) for d, m in _pairs() for c in COLOURS]
    for label in sorted(set(labels) - set(chosen)):
        start = int.from_bytes(hashlib.sha256(label.encode()).digest()[:4], "big") % len(COLOURS)
        order = sorted(range(len(every)), key=lambda i: (i // len(COLOURS), (i - start) % len(COLOURS)))
        taken = set(chosen.values())
        free = [every[i] for i in order if every[i] not in taken] or every
        chosen[label] = min(free, key=lambda style: _likeness(style, taken))
    return chosen


def _likeness(style: Style, taken: Collection[Style]) -> tuple[int, int]:
    """How often the colour is taken, then how often the marker and the dash are."""
    marks = sum((style.marker == other.marker) + (style.dash == other.dash) for other in taken)
    return sum(style.colour == other.colour for other in taken), marks


def _pairs() -> Iterator[tuple[Dash, str]]:
    """Every pair of dash and marker; neighbours differ in both."""
    for shift in range(len(_MARKERS)):
        for number, dash in enumerate(_DASHES):
            yield dash, _MARKERS[(number + shift) % len(_MARKERS)]


@contextmanager
def drawing() -> Iterator[None]:
    """The settings of every figure; a name in an unknown script is drawn without a warning.

    A matplotlibrc in the current folder has no say: it would change figures, and could run LaTeX.
    """
    import warnings

    import matplotlib as mpl

    settings: Any = RC
    with mpl.rc_context(), warnings.catch_warnings():
        mpl.rcdefaults()
        mpl.rcParams.update(settings)
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def panels(
    count: int, height: float, labels: Iterable[str] = (), columns: int = 2, **options: Any
) -> tuple[Figure, list[Axes]]:
    """A figure with ``count`` panels, each ``height`` inches high, and room for a legend of ``labels``."""
    from matplotlib.figure import Figure

    columns = min(columns, count)
    rows = math.ceil(count / columns)
    lines = math.ceil(len(list(labels)) / _legend_columns(labels))
    figure = Figure(figsize=(WIDTH, rows * height + 0.15 + 0.2 * lines), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, **options)
    axes = list(grid.ravel())
    for number, empty in enumerate(axes[count:], start=count):
        empty.remove()
        axes[number - columns].tick_params(labelbottom=True)  # now the lowest of its column
    return figure, axes[:count]


def legend(figure: Figure, chosen: Mapping[str, Style]) -> None:
    """One legend for all panels, above them."""
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], **style.marked()) for style in chosen.values()]
    columns = _legend_columns(chosen)
    names = [f" {label}" if label.startswith("_") else label for label in chosen]
    figure.legend(handles, names, loc="outside upper left", ncols=columns, columnspacing=1.4)


def _legend_columns(labels: Iterable[str]) -> int:
    """How many names stand side by side."""
    lengths = [len(label) + 9 for label in labels]
    if sum(lengths) <= 100:
        return max(1, len(lengths))
    return max(1, int(100 / max(lengths)))


def level(axes: Axes, value: float, name: str, dash: Dash = (1, 2)) -> None:
    """A named horizontal line: a floor, or a published score."""
    axes.axhline(value, color=INK, linewidth=0.9, linestyle=(0, dash), zorder=1.5)
    axes.annotate(
        name, (1, value), xycoords=("axes fraction", "data"), xytext=(0, 2), textcoords="offset points",
        ha="right", va="bottom", fontsize=7.5, zorder=5, gid="halo",
    )  # fmt: skip


def levels(axes: Axes, floors: Mapping[str, float], points: Mapping[str, float] | None = None) -> None:
    """The lines of a task."""
    for name, value in floors.items():
        level(axes, value, f"{name} {value:.3g}")
    if points:
        low, high = min(points.values()), max(points.values())
        axes.axhspan(low, high, color=INK, alpha=0.1, linewidth=0, zorder=1)
        level(
            axes,
            high,
            f"published {low:.3g} to {high:.3g}" if low < high else f"published {high:.3g}",
            (6, 2),
        )


def score_axis(panel: Axes, metric: Metric, scores: Iterable[float], *, whole: bool) -> None:
    """Limits and scale of an axis of scores.

    Args:
        scores: what will be drawn.
        whole: from nothing to a perfect score, where both are known; else from the worst that is drawn.
    """
    known = [score for score in scores if math.isfinite(score)]
    if metric.most == 1:
        panel.set_ylim(-0.04 if whole else max(0.0, min(known, default=0.0) - 0.02) - 0.03, 1.06)
    elif metric.log and any(score > 0 for score in known):
        panel.set_yscale("log")
        panel.yaxis.set_major_formatter(power_of_ten)
        panel.set_ylim(min(score for score in known if score > 0) / 1.6, max(known) * 1.8)
    elif known:
        room = 0.08 * (max(known) - min(known)) or 0.1
        panel.set_ylim(min(known) - room, max(known) + 1.6 * room)


def power_of_ten(value: float, _: object = None) -> str:
    """A tick label like 10 to the -5 in plain characters.

    >>> power_of_ten(1e-5), power_of_ten(1.0), power_of_ten(200.0)
    ('10⁻⁵', '1', '200')
    """
    if value <= 0 or not math.isfinite(value):
        return ""
    exponent = round(math.log10(value))
    if -3 < exponent < 4 or not math.isclose(value, 10.0**exponent, rel_tol=1e-6):
        return f"{value:g}"
    return "10" + str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def plain(value: float, _: object = None) -> str:
    """A number in three digits with k, M, G or T: a tick label, or a cell of a table.

    >>> plain(200_000.0), plain(0.5), plain(8_683_770.0), plain(2.7e11)
    ('200k', '0.5', '8.68M', '270G')
    """
    for size, sign in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{sign}"
    return f"{value:.3g}"


def one_two_five(axis: Axis) -> None:
    """Ticks at 1, 2 and 5 of every power of ten on a logarithmic axis, and nothing between them.

    At powers of ten alone, where that would be too many. To call when all is drawn.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    low, high = axis.get_view_interval()
    wide = high > _WIDE * low
    axis.set_major_locator(LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0), numticks=_MOST_TICKS))
    axis.set_major_formatter(FuncFormatter(plain))
    axis.set_minor_locator(NullLocator())


def contrast(colour: str, background: str) -> float:
    """WCAG contrast of two colours like ``#0173b2``, from 1 to 21.

    >>> round(contrast("#000000", "#ffffff"))
    21
    """
    bright, dark = sorted((_luminance(colour), _luminance(background)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def _luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
