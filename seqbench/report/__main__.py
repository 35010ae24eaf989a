"""``python -m seqbench.report runs/<sweep>``: write the page of a sweep again, or of half a sweep.

With ``--export`` its tables and figures become files of their own.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from seqbench import locks
from seqbench.errors import UsageError
from seqbench.report import build, build_index, load

EXIT_FINE, EXIT_PARTLY, EXIT_USAGE = 0, 1, 2


def main(argv: list[str] | None = None) -> int:
    """Write the page, or its parts, and print the path of every file.

    Returns:
        0 when done, 1 when a figure could not be exported as it should be, 2 for what cannot be used.
    """
    arguments = _parser().parse_args(argv)
    try:
        if arguments.folder is None:
            return _index(arguments)
        if arguments.formats is not None and arguments.export is None:
            raise UsageError(f"--formats {arguments.formats}: only with --export FOLDER")
        with locks.busy():  # so that drawing never disturbs a speed measurement
            load.libraries()
            if arguments.out is not None or arguments.export is None:
                _say(build(arguments.folder, arguments.out, lesson=arguments.lesson))
            if arguments.export is not None:
                return _export(arguments.folder, arguments.export, arguments.formats)
    except UsageError as error:
        _complain(error)
        return EXIT_USAGE
    return EXIT_FINE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m seqbench.report", description=__doc__)
    parser.add_argument(
        "folder",
        type=Path,
        nargs="?",
        help="a sweep's folder, like runs/NAME; none: the index of runs/, as reports/index.html",
    )
    parser.add_argument("--out", type=Path, help="the page to write (default: reports/NAME.html)")
    parser.add_argument(
        "--lesson", action="store_true", help="a lesson for students (NAME.lesson.html) instead"
    )
    parser.add_argument(
        "--export",
        type=Path,
        metavar="FOLDER",
        help="write every table (CSV, Markdown, LaTeX) and figure (SVG, PDF, PNG) into this folder, not "
        "the page; with --out the page too",
    )
    parser.add_argument("--formats", metavar="LIST", help="of --export, like csv,pdf (default: all six)")
    return parser


def _index(arguments: argparse.Namespace) -> int:
    """Write the page over all sweeps of ``runs``."""
    given = {"--export": arguments.export, "--formats": arguments.formats, "--lesson": arguments.lesson}
    if idle := [flag for flag, value in given.items() if value]:
        raise UsageError(f"{idle[0]}: needs the folder of a sweep, like runs/NAME")
    with locks.busy():
        _say(build_index(out=arguments.out))
    return EXIT_FINE


def _export(folder: Path, place: Path, words: str | None) -> int:
    """Write a sweep's tables and figures, say which, and say what could not be made."""
    from seqbench.report import export
    from seqbench.report.frame import read_sweep

    wanted = export.FORMATS if words is None else export.chosen(words)
    exported = export.export(read_sweep(folder), place, wanted)
    for path in exported.files:
        _say(path)
    for problem in exported.problems:
        _complain(problem)
    return EXIT_PARTLY if exported.problems else EXIT_FINE


def _say(path: Path) -> None:
    print(_printable(path))  # noqa: T201


def _complain(words: object) -> None:
    print(f"seqbench.report: {_printable(words)}", file=sys.stderr)  # noqa: T201


def _printable(words: object) -> str:
    """What a terminal may show: a folder's name can hold anything."""
    return "".join(c if c.isprintable() else "?" for c in str(words))


if __name__ == "__main__":
    sys.exit(main())
