"""``python -m seqbench.perf BASE..HEAD``: has a change made training slower, larger or worse?

BASE and HEAD are git revisions; ``BASE..`` compares the working tree. Of every model first exact counters
(parameters, FLOPs, operators, saved bytes: any growth fails), then training steps of both sides in turns on
one core. The exit code is 0 when nothing is slower, 1 when something is slower, grew or failed, 2 for what
cannot be used, and 3 when it cannot be told.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import seqbench
from seqbench import store
from seqbench.errors import UsageError, nearest
from seqbench.perf import counting, gate, quality, record, revisions, show, trials
from seqbench.perf.client import Refused
from seqbench.perf.gate import (
    EXIT_FINE,
    EXIT_SLOWER,
    EXIT_USAGE,
    Check,
    Options,
    Row,
    Source,
)
from seqbench.perf.judge import MARGIN, Verdict
from seqbench.perf.timing import SECONDS

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGHUP)
_INSTALLED = Path(seqbench.__file__).resolve().parent.parent


def main(argv: list[str] | None = None) -> int:
    """Check, keep a record, write what was asked for; see the module for the exit code."""
    arguments = _parser().parse_args(argv)
    for name in _STOP_SIGNALS:
        signal.signal(name, _interrupt)
    try:
        with tempfile.TemporaryDirectory(prefix="seqbench-perf-") as scratch:
            return _chosen(arguments, Path(scratch))
    except UsageError as error:
        words = "".join(c if c.isprintable() else "?" for c in str(error))
        print(f"seqbench.perf: {words}", file=sys.stderr)  # noqa: T201
        return EXIT_USAGE
    except Refused as refused:
        print(f"seqbench.perf: this package cannot be measured: {refused}", file=sys.stderr)  # noqa: T201
        return EXIT_SLOWER
    except KeyboardInterrupt:
        print("\nseqbench.perf: interrupted; nothing was recorded", file=sys.stderr)  # noqa: T201
        return EXIT_SLOWER


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m seqbench.perf", description=__doc__)
    add = parser.add_argument
    add("range", nargs="?", metavar="BASE..HEAD", help="two git revisions; BASE..: the working tree as head")
    add("--models", default=",".join(gate.MODELS), metavar="LIST", help="default: %(default)s")
    add("--lengths", default="128", metavar="LIST", help="sequence lengths (default: %(default)s)")
    add("--seconds", type=float, default=SECONDS, help="of training a model on both sides (%(default)s)")
    add("--margin", type=float, default=MARGIN, help="a slowdown that counts as none (%(default)s)")
    add("--device", default="cpu", choices=["cpu", "cuda", "auto"], help="default: %(default)s")
    add("--allow", default="", metavar="LIST", help=f"counters that may grow: {','.join(counting.COUNTERS)}")
    add("--keep-going", action="store_true", help="time a model although its counters grew")
    add("--counters-only", action="store_true", help="no times")
    help_ = "train every model on both sides as well and compare test scores (%(const)s seeds)"
    add("--quality", nargs="?", type=int, const=quality.SEEDS, default=0, metavar="SEEDS", help=help_)
    add("--build", action="store_true", help="an environment for each revision, from its own pins")
    _add_alone(parser)
    _add_outputs(parser)
    return parser


def _add_alone(parser: argparse.ArgumentParser) -> None:
    """What is done instead of comparing two revisions."""
    add = parser.add_argument_group("instead of BASE..HEAD").add_argument
    add("--store", type=Path, metavar="FILE", help="write the counters of the package in use as a baseline")
    add("--baseline", type=Path, metavar="FILE", help="compare the counters of the package in use with it")
    help_ = "compare head with itself N (%(const)s) times: the false alarms of this machine"
    add("--aa", nargs="?", type=int, const=trials.AA_TRIES, metavar="N", help=help_)
    help_ = "compare head with itself slowed down by so much: how often it is caught"
    add("--planted", type=float, metavar="PERCENT", help=help_)
    add("--tries", type=int, default=trials.PLANTED_TRIES, help="of --planted (default: %(default)s)")


def _add_outputs(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("what is written").add_argument
    add("--json", type=Path, metavar="FILE", help="every number as JSON")
    add("--junit", type=Path, metavar="FILE", help="JUnit XML, a test case per model and check")
    add("--markdown", type=Path, metavar="FILE", help="a table in Markdown")
    add("--runs", type=Path, default=Path("runs"), help="where the record goes, as perf/*.json (runs)")
    add("--reports", type=Path, default=Path("reports"), help="where perf.html goes (reports)")
    add("--no-record", action="store_true", help="keep no record and make no page")


def _options(arguments: argparse.Namespace) -> Options:
    """The options, checked.

    Raises:
        UsageError: one that makes no sense.
    """
    allowed = _words(arguments.allow)
    for name in allowed:
        if name not in counting.COUNTERS:
            raise UsageError(f"--allow {name}: no such counter; {nearest(name, counting.COUNTERS)}")
    lengths = _words(arguments.lengths)
    if not lengths or not all(word.isdecimal() and int(word) > 0 for word in lengths):
        raise UsageError(f"--lengths {arguments.lengths}: expected sequence lengths, like 32,128")
    models = _words(arguments.models)
    if not models:
        raise UsageError("--models: expected names, like rnn,lstm")
    bounds = {"seconds": (0.1, 3600.0), "margin": (0.0, 1.0), "tries": (1, 10_000), "quality": (0, 100)}
    for name, (low, high) in bounds.items():
        if not low <= getattr(arguments, name) <= high:
            raise UsageError(f"--{name} {getattr(arguments, name)}: must be between {low} and {high}")
    if arguments.aa is not None and arguments.aa < 1:
        raise UsageError(f"--aa {arguments.aa}: must be at least 1")
    if arguments.planted is not None and not 0 < arguments.planted <= 1000:
        raise UsageError(f"--planted {arguments.planted}: must be a percentage above 0, like 20")
    return Options(
        models=models,
        lengths=tuple(int(word) for word in lengths),
        seconds=arguments.seconds,
        margin=arguments.margin,
        device=arguments.device,
        allowed=allowed,
        keep_going=arguments.keep_going,
        timed=not arguments.counters_only,
        seeds=arguments.quality,
        planted=(arguments.planted or 0.0) / 100,
    )


def _words(listed: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(word.strip() for word in listed.split(",") if word.strip()))


def _chosen(arguments: argparse.Namespace, scratch: Path) -> int:
    """Do the one thing that the command line asks for.

    Raises:
        UsageError: it asks for several, or for none.
    """
    options = _options(arguments)
    own = {"--store": arguments.store, "--baseline": arguments.baseline, "--aa": arguments.aa}
    own["--planted"] = arguments.planted
    given = [name for name, value in own.items() if value is not None]
    if len(given) > 1:
        raise UsageError(f"{given[0]} and {given[1]}: one at a time")
    if arguments.range is not None and given and given[0] in ("--store", "--baseline"):
        raise UsageError(f"{given[0]} speaks of the package in use: leave {arguments.range} out")
    if arguments.store is not None:
        return _store(arguments.store, options, scratch)
    if arguments.baseline is not None:
        return _baseline(arguments, options, scratch)
    if given:
        return _trials(arguments, options, scratch)
    if arguments.range is None:
        raise UsageError("expected BASE..HEAD, two git revisions, like main.. (or --baseline, --store, --aa)")
    return _revisions(arguments, options, scratch)


def _revisions(arguments: argparse.Namespace, options: Options, scratch: Path) -> int:
    """Compare two revisions."""
    root = revisions.repository(Path.cwd())
    names = revisions.split(arguments.range)
    base, head = (
        revisions.lay_out(root, name, scratch / side)
        for name, side in zip(names, ("base", "head"), strict=True)
    )
    differing = revisions.differing_pins(base, head)
    theirs, ours = (
        Source(tree.folder, revisions.build(tree) if arguments.build else sys.executable)
        for tree in (base, head)
    )
    with gate.pair(theirs, ours, scratch, options) as both:
        if differing and not arguments.build:
            both.note(
                f"{', '.join(differing)} differ: both sides ran with the packages of this environment "
                f"(--build makes one for each)"
            )
        rows = gate.check(both, _say)
        plain = record.of_check(
            "check", _side(base), _side(head), both.head.facts, options, rows, list(both.notes)
        )
    return _finish(arguments, plain)


def _side(tree: revisions.Tree) -> dict[str, str]:
    return {"name": tree.name, "commit": tree.commit}


def _say(row: Row, name: str) -> None:
    """Tell how it goes while it goes."""
    found = row.checks[name]
    words = f"{gate.row_name(row.model, row.length)}: {name}: {found.verdict.value}: {found.words}"
    print(words, file=sys.stderr, flush=True)  # noqa: T201


def _finish(arguments: argparse.Namespace, plain: dict[str, Any]) -> int:
    """Say what was found, write it where it was asked for, keep the record and renew the page."""
    for line in show.lines(plain):
        print(line)  # noqa: T201
    written = {"json": show.to_json, "junit": show.to_junit, "markdown": show.to_markdown}
    for option, form in written.items():
        path = getattr(arguments, option)
        if path is not None:
            _write(path, form(plain), f"--{option}")
    if not arguments.no_record:
        from seqbench.report.perf_page import write_perf_page

        record.keep(plain, arguments.runs)
        print(write_perf_page(arguments.runs, arguments.reports / "perf.html"))  # noqa: T201
    return int(plain["exit_code"])


def _write(path: Path, content: str, option: str) -> None:
    try:
        store.make_folder(path.absolute().parent)
        store.write_file(path, content.encode())
    except OSError as error:
        raise UsageError(
            f"{path}: {error.strerror or error}; choose another file with {option} FILE"
        ) from None


def _store(path: Path, options: Options, scratch: Path) -> int:
    """Write a baseline of counters."""
    counters = gate.count(Source(_INSTALLED), scratch, options, {})
    import torch

    counting.write_baseline(path, counters, {"torch": torch.__version__, "seqbench": seqbench.__version__})
    print(f"{path}: counters of {', '.join(counters)}")  # noqa: T201
    return EXIT_FINE


def _baseline(arguments: argparse.Namespace, options: Options, scratch: Path) -> int:
    """Compare the package in use with stored counters."""
    import torch

    stored = counting.read_baseline(arguments.baseline)
    theirs: dict[str, dict[str, Any]] = stored["counters"]
    widths = {name: entry["width"] for name, entry in theirs.items()}
    ours = gate.count(Source(_INSTALLED), scratch, options, widths)
    same = stored.get("torch") == torch.__version__
    reason = "" if same else f"counted with torch {stored.get('torch')}, here is {torch.__version__}"
    rows = []
    for length in options.lengths:
        for model in options.models:
            row, name = Row(model, length), gate.row_name(model, length)
            if name in theirs:
                found = counting.compare(theirs[name], ours[name], options.allowed, reason)
                detail = {"base": theirs[name], "head": ours[name]}
                row.checks["counters"] = Check(found.verdict, found.words, detail)
            else:
                row.checks["counters"] = Check(
                    Verdict.CANNOT_TELL, f"the baseline has no {name}: write it anew with --store"
                )
            rows.append(row)
    facts = {"torch": torch.__version__, "device": options.device}
    base = {"name": arguments.baseline.name, "commit": ""}
    return _finish(
        arguments,
        record.of_check("baseline", base, {"name": "package in use", "commit": ""}, facts, options, rows),
    )


def _trials(arguments: argparse.Namespace, options: Options, scratch: Path) -> int:
    """Compare head with itself, again and again."""
    count = arguments.aa if arguments.aa is not None else arguments.tries
    with _head(arguments, scratch) as source:
        tried = trials.tries(source, scratch, options, count, _say)
    machine = record.machine(tried.facts)
    print(tried.words)  # noqa: T201
    print(f"on {machine['cpu']}, {machine['cores']} cores, {machine['device']}")  # noqa: T201
    if arguments.json is not None:
        rows = record.of_check(
            "aa" if arguments.aa is not None else "planted",
            {"name": "head"}, {"name": "head"}, tried.facts, options, tried.rows, [tried.words],
        )  # fmt: skip
        _write(arguments.json, show.to_json(rows), "--json")
    return EXIT_FINE if tried.good else EXIT_SLOWER


@contextlib.contextmanager
def _head(arguments: argparse.Namespace, scratch: Path) -> Iterator[Source]:
    """The package to compare with itself: HEAD of a range, else what is in use."""
    if arguments.range is None:
        yield Source(_INSTALLED)
        return
    root = revisions.repository(Path.cwd())
    _, name = revisions.split(arguments.range)
    yield Source(revisions.lay_out(root, name, scratch / "head").folder)


if __name__ == "__main__":
    sys.exit(main())
