"""The page made from records alone: it reads a sweep's folder and imports neither torch nor the settings."""

from __future__ import annotations

from pathlib import Path


def build(folder: Path, out: Path | None = None) -> Path:
    """Write the page of a sweep, whole or half, and return its path.

    Args:
        folder: ``runs/<sweep>``.
        out: the page; by default ``reports/<sweep>.html``.

    Raises:
        UsageError: ``folder`` is not a sweep, or the page cannot be written.
    """
    from seqbench.report.frame import read_sweep
    from seqbench.report.page import write_page

    sweep = read_sweep(folder)
    return write_page(sweep, out or Path("reports") / f"{folder.resolve().name}.html")
