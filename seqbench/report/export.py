"""The page's tables and figures as files of their own, for papers, slides and other programs."""

from __future__ import annotations

import io
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from seqbench import store
from seqbench.errors import UsageError, nearest
from seqbench.report import facts, formats, theme
from seqbench.report.frame import Sweep
from seqbench.report.page import Drawn, context
from seqbench.report.plots.base import Plot
from seqbench.report.tables import Table, text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TABLES = ("csv", "md", "tex")
FIGURES = ("svg", "pdf", "png")
FORMATS = (*TABLES, *FIGURES)
_DPI = 300
_PRINT: Any = MappingProxyType({"svg.fonttype": "path", "pdf.fonttype": 42})  # glyphs travel with the file
_NO_DATE: Mapping[str, dict[str, None]] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {}}
_ABOUT: Mapping[str, str] = {"svg": "Description", "pdf": "Subject", "png": "Description"}
_MOST_MISSING = 20


@dataclass(frozen=True)
class Exported:
    """What became of an export: the files that were written, and what could not be made, in words."""

    files: list[Path]
    problems: list[str]


def chosen(words: str) -> list[str]:
    """The formats that a command names, separated by commas.

    Raises:
        UsageError: names one that does not exist, or none.

    >>> chosen("csv, pdf")
    ['csv', 'pdf']
    """
    found = [word.strip().lower().lstrip(".") for word in words.split(",") if word.strip()]
    for word in found:
        if word not in FORMATS:
            raise UsageError(f"--formats {words}: no format {word!r}; {nearest(word, FORMATS)}")
    if not found:
        raise UsageError(f"--formats {words!r}: names no format; choices: {', '.join(FORMATS)}")
    return list(dict.fromkeys(found))


def export(sweep: Sweep, folder: Path, wanted: Collection[str] = FORMATS) -> Exported:
    """Write every table and figure of a sweep's page into a folder; the same records give the same bytes.

    Each file is replaced in one step; a link of the same name is replaced, never followed.

    Raises:
        UsageError: the folder cannot be written.
    """
    files: list[Path] = []
    problems: list[str] = []
    try:
        store.make_folder(folder)
        for name, content in _contents(sweep, wanted, problems):
            store.write_file(folder / name, content)
            files.append(folder / name)
    except OSError as error:
        reason = error.strerror or error
        raise UsageError(f"{folder}: {reason}; choose another folder with --export FOLDER") from None
    return Exported(files, problems)


def _contents(sweep: Sweep, wanted: Collection[str], problems: list[str]) -> Iterator[tuple[str, bytes]]:
    """Every file with its name; what cannot be drawn is added to ``problems``."""
    shown = context(sweep)
    for key, table in tables(sweep, shown).items():
        for kind in TABLES:
            if kind in wanted:
                yield f"{key}.{kind}", _told(table, key, kind).encode()
    if "csv" in wanted:
        yield "runs.csv", facts.csv_text(sweep.runs.drop(columns="log")).encode()
    kinds = [kind for kind in FIGURES if kind in wanted]
    if kinds and (missing := _missing_letters(sweep)):
        problems.append(f"figures show boxes instead of these letters, which their font lacks: {missing}")
    for key, plot in figures(shown).items() if kinds else ():
        try:
            pictures = _pictures(plot, kinds)
        except Exception as error:  # numbers that nobody vouches for may be impossible to draw
            problems.append(f"{key}: this figure cannot be drawn ({type(error).__name__})")
            continue
        yield from ((f"{key}.{kind}", content) for kind, content in pictures.items())


def _told(table: Table, key: str, kind: str) -> str:
    if kind == "csv":
        return formats.to_csv(table)
    return formats.to_markdown(table) if kind == "md" else formats.to_latex(table, key)


def tables(sweep: Sweep, shown: Mapping[str, Any]) -> dict[str, Table]:
    """The page's tables that have rows, by the name of their file.

    Args:
        shown: what the page shows, from :func:`seqbench.report.page.context`.
    """
    found = {key: thing for key, thing in _walk("", shown) if isinstance(thing, Table) and thing.rows}
    heads = [("data", False), ("first batch", False), ("first ten batches", False)]
    rows = [[text(part) for part in row] for row in facts.hashes(sweep)]
    return found | (
        {"hashes": Table("Hashes of the data (SHA-256, first 16 digits)", heads, rows)} if rows else {}
    )


def figures(shown: Mapping[str, Any]) -> dict[str, Plot]:
    """The page's figures, by the name of their file."""
    return {key: thing.plot for key, thing in _walk("", shown) if isinstance(thing, Drawn)}


def _walk(name: str, thing: object) -> Iterator[tuple[str, Table | Drawn]]:
    """Tables and figures wherever the page has them; several in a list are numbered from 1."""
    if isinstance(thing, Table):
        yield safe(name), thing
    elif isinstance(thing, Drawn):
        yield safe(thing.key), thing
    elif isinstance(thing, Mapping):
        for key, item in thing.items():
            yield from _walk(str(key), item)
    elif isinstance(thing, list | tuple):
        for number, item in enumerate(thing, 1):
            yield from _walk(f"{name}-{number}" if len(thing) > 1 else name, item)


def safe(key: str) -> str:
    """A key as the name of a file on any system.

    >>> safe("rung_differences"), safe("../../etc"), safe("")
    ('rung-differences', 'etc', 'unnamed')
    """
    return re.sub(r"[^a-z0-9]+", "-", key.lower()).strip("-")[:100] or "unnamed"


def _pictures(plot: Plot, kinds: list[str]) -> dict[str, bytes]:
    """A figure for print: on white, its letters inside the file, without the date."""
    import matplotlib as mpl

    found = {}
    with theme.drawing():
        mpl.rcParams.update(_PRINT)
        figure = plot.draw()
        _halo(figure)
        for kind in kinds:
            buffer = io.BytesIO()
            about = {"Title": plot.title, _ABOUT[kind]: f"{plot.how}. {plot.shows}", **_NO_DATE[kind]}
            figure.savefig(buffer, format=kind, facecolor="white", dpi=_DPI, metadata=about)
            found[kind] = buffer.getvalue()
    return found


def _halo(figure: Figure) -> None:
    """Keep words legible where they stand on lines; on the page a style does it."""
    from matplotlib.patheffects import withStroke

    for artist in figure.findobj(lambda one: one.get_gid() == "halo"):
        artist.set_path_effects([withStroke(linewidth=2.5, foreground="white")])


def _missing_letters(sweep: Sweep) -> str:
    """Letters of models and tasks that the figures' font does not have; a browser would borrow them."""
    from matplotlib.font_manager import findfont, get_font

    known = get_font(findfont(theme.RC["font.family"])).get_charmap()
    words = "".join([*sweep.labels, *(task.key for task in sweep.tasks)])
    missing = sorted({letter for letter in words if ord(letter) not in known})
    more = f" and {len(missing) - _MOST_MISSING} more" if len(missing) > _MOST_MISSING else ""
    return " ".join(missing[:_MOST_MISSING]) + more
