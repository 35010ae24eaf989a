"""The page made from records alone: it reads a sweep's folder and imports neither torch nor the settings."""

from __future__ import annotations

from pathlib import Path

INDEX, PERF = "index", "perf"


def build(folder: Path, out: Path | None = None, *, lesson: bool = False) -> Path:
    """Write the page of a sweep, whole or half, and return its path.

    Args:
        folder: ``runs/<sweep>``.
        out: the page; by default ``reports/<sweep>.html``, or ``reports/<sweep>.lesson.html``.
        lesson: tell the records as a lesson for students instead of reporting them.

    Raises:
        UsageError: ``folder`` is not a sweep, or the page cannot be written.
    """
    from seqbench.report import load
    from seqbench.report.frame import read_sweep
    from seqbench.report.lesson import write_lesson
    from seqbench.report.page import write_page

    name = stem(folder)
    with load.uncollected():
        sweep = read_sweep(folder)
        if lesson:
            return write_lesson(sweep, out or Path("reports") / f"{name}.lesson.html")
        return write_page(sweep, out or Path("reports") / f"{name}.html")


def stem(sweep: Path) -> str:
    """The name of a sweep's pages without their ending; those of the index and of the gate are taken.

    >>> stem(Path("runs/a")), stem(Path("runs/index"))
    ('a', 'index.sweep')
    """
    name = sweep.resolve().name
    return f"{name}.sweep" if name in (INDEX, PERF) else name


def build_index(runs: Path = Path("runs"), out: Path | None = None) -> Path:
    """Write the page over all sweeps and return its path.

    Args:
        runs: the folder of all sweeps.
        out: the page, in the folder of the sweeps' pages; by default ``reports/index.html``.

    Raises:
        UsageError: there is no such folder, or the page cannot be written.
    """
    from seqbench.report.index import write_index

    return write_index(runs, out or Path("reports") / f"{INDEX}.html")
