"""``python -m seqbench.report runs/<sweep>``: write the page of a sweep again, or of half a sweep."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from seqbench import locks
from seqbench.errors import UsageError
from seqbench.report import build


def main(argv: list[str] | None = None) -> int:
    """Write the page and print its path; 0 when done, 2 for a folder that cannot be used."""
    parser = argparse.ArgumentParser(prog="python -m seqbench.report", description=__doc__)
    parser.add_argument("folder", type=Path, help="a sweep's folder, like runs/NAME")
    parser.add_argument("--out", type=Path, help="the page to write (default: reports/NAME.html)")
    arguments = parser.parse_args(argv)
    try:
        with locks.busy():  # so that drawing never disturbs a speed measurement
            print(_printable(build(arguments.folder, arguments.out)))  # noqa: T201
    except UsageError as error:
        print(f"seqbench.report: {_printable(error)}", file=sys.stderr)  # noqa: T201
        return 2
    return 0


def _printable(words: object) -> str:
    """What a terminal may show: a folder's name can hold anything."""
    return "".join(c if c.isprintable() else "?" for c in str(words))


if __name__ == "__main__":
    sys.exit(main())
