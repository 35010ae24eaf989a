"""``python -m seqbench.compare RUNS_A RUNS_B``: what became better or worse from one sweep to another.

Runs are paired by task variant, rung, model and seed; differences are B - A. The exit code is 0 when
something could be told and nothing is worse, 1 when something is worse or a run that was done has failed, 2
for what cannot be used, and 3 when nothing can be told.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from pathlib import Path

from seqbench import locks, store
from seqbench.errors import UsageError

_PLAIN_WIDTH = 200  # of lines that are not for a terminal


def main(argv: list[str] | None = None) -> int:
    """Compare two sweeps and say what was found; see the module for the exit code."""
    parser = argparse.ArgumentParser(prog="python -m seqbench.compare", description=__doc__)
    parser.add_argument("a", type=Path, metavar="RUNS_A", help="a sweep's folder, like runs/NAME")
    parser.add_argument("b", type=Path, metavar="RUNS_B", help="the sweep that is compared with it")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the comparison as Markdown too")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every number as JSON too")
    arguments = parser.parse_args(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that knows no minus sign still gets its table
    try:
        with locks.busy():  # so that reading never disturbs a speed measurement
            return _compare(arguments)
    except UsageError as error:
        words = "".join(c if c.isprintable() else "?" for c in str(error))
        print(f"seqbench.compare: {words}", file=sys.stderr)  # noqa: T201
        return 2


def _compare(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from seqbench.compare import show
    from seqbench.compare.judge import compare
    from seqbench.report.frame import read_sweep

    found = compare(read_sweep(arguments.a), read_sweep(arguments.b))
    console = Console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _PLAIN_WIDTH
    show.to_terminal(found, console)
    if arguments.markdown is not None:
        _write(arguments.markdown, show.to_document(found), "--markdown")
    if arguments.json is not None:
        _write(arguments.json, show.to_json(found), "--json")
    return show.exit_code(found)


def _write(path: Path, content: str, option: str) -> None:
    try:
        store.make_folder(path.parent)
        store.write_file(path, content.encode())
    except OSError as error:
        raise UsageError(
            f"{path}: {error.strerror or error}; choose another file with {option} FILE"
        ) from None


if __name__ == "__main__":
    sys.exit(main())
