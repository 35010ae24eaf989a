"""``python -m seqbench.adapters TOOL runs/NAME --out FOLDER``: a sweep for another tool to show.

TOOL is tensorboard, mlflow or wandb. It gets a run for every run that has a record: settings, loss, learning
rate and gradient norm by step, validation scores, results, gradient flow; and the report as an artifact where
it has such. Nothing is sent anywhere. Repeating it replaces what changed and doubles nothing.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import tempfile
from pathlib import Path

from seqbench import locks
from seqbench.adapters.base import Adapter, read_board
from seqbench.errors import UsageError

TOOLS = ("tensorboard", "mlflow", "wandb")


def main(argv: list[str] | None = None) -> int:
    """Write a sweep for another tool; 0 when done, 2 for what cannot be used."""
    parser = argparse.ArgumentParser(prog="python -m seqbench.adapters", description=__doc__)
    parser.add_argument("tool", choices=TOOLS)
    parser.add_argument("folder", type=Path, help="a sweep's folder, like runs/NAME")
    parser.add_argument("--out", type=Path, required=True, help="where the tool will find it")
    arguments = parser.parse_args(argv)
    try:
        with locks.busy():  # so that it never disturbs a speed measurement
            told = export(arguments.tool, arguments.folder, arguments.out)
    except UsageError as error:
        print(f"seqbench.adapters: {_printable(error)}", file=sys.stderr)  # noqa: T201
        return 2
    print(_printable(told))  # noqa: T201
    return 0


def export(tool: str, folder: Path, out: Path) -> str:
    """Write a sweep for a tool and say what was written, and how to look at it.

    Raises:
        UsageError: no sweep, the tool is not installed, or the folder cannot be written.
    """
    from seqbench.report.frame import read_sweep
    from seqbench.report.page import write_page

    adapter: Adapter = importlib.import_module(f"seqbench.adapters.{tool}").ADAPTER
    adapter.check()
    sweep = read_sweep(folder)
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as place:
            board = read_board(sweep, write_page(sweep, Path(place) / "report.html"))
            written = adapter.write(board, out.resolve())
    except OSError as error:
        raise UsageError(f"{out}: {error.strerror or error}; choose another folder with --out") from None
    same = len(board.runs) - written
    return f"{written} runs written, {same} unchanged; look: {adapter.look(out)}"


def _printable(words: object) -> str:
    return "".join(c if c.isprintable() else "?" for c in str(words))


if __name__ == "__main__":
    sys.exit(main())
