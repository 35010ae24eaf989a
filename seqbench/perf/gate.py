"""The gate itself: of every model the counters, then time side by side, then quality; and a verdict."""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from seqbench import locks
from seqbench.errors import UsageError
from seqbench.perf import counting, quality
from seqbench.perf.client import Refused, Worker, quiet_core
from seqbench.perf.judge import MARGIN, Verdict
from seqbench.perf.timing import SECONDS, Timing, contest, plain

MODELS = ("rnn", "lstm", "gru", "bilstm", "transformer")
LENGTHS = (128,)
EXIT_FINE, EXIT_SLOWER, EXIT_USAGE, EXIT_CANNOT_TELL = 0, 1, 2, 3
SLOWER, WORSE, NOT_SLOWER, CANNOT_TELL = "slower", "worse", "not slower", "cannot tell"


@dataclass(frozen=True)
class Options:
    """What is measured, and how surely.

    Attributes:
        seconds: of training on both sides, at most, per model and length.
        allowed: counters that may grow.
        keep_going: time a model although its counters grew.
        seeds: of the trainings that check quality; 0: none.
        planted: share of CPU time that head wastes on purpose, to see whether it is caught.
    """

    models: tuple[str, ...] = MODELS
    lengths: tuple[int, ...] = LENGTHS
    seconds: float = SECONDS
    margin: float = MARGIN
    device: str = "cpu"
    allowed: tuple[str, ...] = ()
    keep_going: bool = False
    timed: bool = True
    seeds: int = 0
    planted: float = 0.0


@dataclass(frozen=True)
class Check:
    """One check of a model: what it says, and the numbers behind it."""

    verdict: Verdict
    words: str
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Row:
    """One model at one length, with its checks by name (counters, time, quality)."""

    model: str
    length: int
    checks: dict[str, Check] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """The verdict on the model in a word or two."""
        failed = [name for name, check in self.checks.items() if check.verdict is Verdict.FAIL]
        if failed:
            return WORSE if failed == ["quality"] else SLOWER
        open_ = any(check.verdict is Verdict.CANNOT_TELL for check in self.checks.values())
        return CANNOT_TELL if open_ or not self.checks else NOT_SLOWER


def exit_code(rows: list[Row]) -> int:
    """1 where anything failed, 3 where anything cannot be told (or nothing was checked), else 0."""
    verdicts = {row.verdict for row in rows}
    if verdicts & {SLOWER, WORSE}:
        return EXIT_SLOWER
    return EXIT_FINE if verdicts == {NOT_SLOWER} else EXIT_CANNOT_TELL


@dataclass(frozen=True)
class Source:
    """Where a side's package lies, and the interpreter that runs it."""

    folder: Path
    python: str = sys.executable


class Pair:
    """Both sides at work."""

    def __init__(self, base: Worker, head: Worker, scratch: Path, options: Options) -> None:
        self.base, self.head, self.scratch, self.options = base, head, scratch, options
        self.notes: dict[str, None] = {}

    def start(self) -> Check | None:
        """Start both; what stands in the way."""
        for side, worker in (("base", self.base), ("head", self.head)):
            try:
                worker.start()
            except Refused as refused:
                return blamed(side, refused)
        return None

    def batches(self, length: int) -> str:
        """The file of the batches that both sides are measured on: base's."""
        path = str(self.scratch / f"batches-{length}.npz")
        self.base.ask("draw", length=length, path=path)
        return path

    def open(self, row: Row, batches: str) -> Check | None:
        """Open a model on both sides at base's width; what stands in the way.

        Raises:
            UsageError: neither side knows the model or the length.
        """
        asked = {"model": row.model, "length": row.length, "path": batches}
        answers: dict[str, dict[str, Any]] = {}
        refusals: dict[str, Refused] = {}
        for side, worker in (("base", self.base), ("head", self.head)):
            width = answers["base"]["width"] if "base" in answers else None
            try:
                answers[side] = worker.ask("open", width=width, **asked)
            except Refused as refused:
                refusals[side] = refused
        if len(refusals) == 2 and all(refused.usage for refused in refusals.values()):
            raise UsageError(str(refusals["head"]))
        if refusals:
            return blamed(*next(iter(refusals.items())))
        theirs, ours = answers["base"], answers["head"]
        if ours["width"] != theirs["width"]:
            self.note(
                f"{row.model}: head would solve width {ours['width']}, base {theirs['width']}; "
                "both are measured at base's"
            )
        if ours["kernel"] != theirs["kernel"]:
            self.note(f"{row.model}: kernel was {theirs['kernel']!r}, is {ours['kernel']!r}")
        return None

    def note(self, line: str) -> None:
        """Keep a line for the reader, once."""
        self.notes[line] = None

    def counted(self) -> Check:
        """Compare the exact counters."""
        both = {}
        for side, worker in (("base", self.base), ("head", self.head)):
            try:
                both[side] = worker.ask("count")
            except Refused as refused:
                return blamed(side, refused)
        versions = [worker.facts["torch"] for worker in (self.base, self.head)]
        reason = f"base runs torch {versions[0]}, head {versions[1]}" if versions[0] != versions[1] else ""
        found = counting.compare(both["base"], both["head"], self.options.allowed, reason)
        return Check(found.verdict, found.words, both)

    def timed(self) -> Check:
        """Time both sides."""
        options, seed = self.options, random.SystemRandom().getrandbits(32)
        try:
            found = contest(
                self.base, self.head, seed, seconds=options.seconds, margin=options.margin, quiet=locks.alone
            )
        except Refused as refused:
            return blamed("a side", refused)
        return Check(found.decision.verdict, time_in_words(found), plain(found) | {"seed": seed})


def blamed(side: str, refused: Refused) -> Check:
    """What a side that could not be measured means: only head's own failure is held against it."""
    failed = side != "base" and not refused.missing
    what = "fails" if failed else "cannot be measured"
    return Check(Verdict.FAIL if failed else Verdict.CANNOT_TELL, f"{side} {what}: {refused}")


def time_in_words(found: Timing) -> str:
    """The ratio with its interval, and what so noisy pairs could have shown."""
    one = found.decision
    span = f"x{one.ratio:.3f} [{one.low:.3f}, {one.high:.3f}]"
    return f"{span}, {one.pairs} pairs; a slowdown of {one.detectable:.0%} would have been seen"


@contextlib.contextmanager
def pair(base: Source, head: Source, scratch: Path, options: Options) -> Iterator[Pair]:
    """A worker for each side, on one core."""
    core = quiet_core() if options.device == "cpu" else None
    with (
        Worker(
            base.folder, scratch / "base.log", python=base.python, device=options.device, core=core
        ) as one,
        Worker(
            head.folder,
            scratch / "head.log",
            python=head.python,
            device=options.device,
            planted=options.planted,
            core=core,
        ) as other,
    ):
        yield Pair(one, other, scratch, options)


Say = Callable[[Row, str], None]


def check(both: Pair, say: Say = lambda *_: None) -> list[Row]:
    """Check every model at every length.

    Args:
        say: called after each check of a row.

    Raises:
        UsageError: neither side knows a model or a length.
    """
    options = both.options
    rows = [Row(model, length) for length in options.lengths for model in options.models]
    if (trouble := both.start()) is not None:
        for row in rows:
            _add(row, "counters", trouble, say)
        return rows
    files: dict[int, str] = {}
    for row in rows:
        try:
            files[row.length] = files.get(row.length) or both.batches(row.length)
        except Refused as refused:
            if refused.usage:
                raise UsageError(str(refused)) from None
            _add(row, "counters", blamed("base", refused), say)
            continue
        _measure(both, row, files[row.length], say)
    if options.seeds:
        _qualities(both, rows, say)
    return rows


def _measure(both: Pair, row: Row, batches: str, say: Say) -> None:
    if (trouble := both.open(row, batches)) is not None:
        _add(row, "counters", trouble, say)
        return
    _add(row, "counters", both.counted(), say)
    grown = row.checks["counters"].verdict is Verdict.FAIL
    if both.options.timed and (both.options.keep_going or not grown):
        _add(row, "time", both.timed(), say)


def _qualities(both: Pair, rows: list[Row], say: Say) -> None:
    """Train every model on both sides and judge all of them together; kept with its first row."""
    first = {row.model: row for row in reversed(rows)}
    pairs: dict[str, tuple[quality.Trained, quality.Trained]] = {}
    for model in both.options.models:
        found = []
        for side, worker in (("base", both.base), ("head", both.head)):
            try:
                found.append(quality.train(worker, model, both.options.seeds))
            except Refused as refused:
                _add(first[model], "quality", blamed(side, refused), say)
                break
        else:
            pairs[model] = found[0], found[1]
    for (model, (base, head)), judged in zip(pairs.items(), quality.judge(list(pairs.values())), strict=True):
        scores = {"base": list(base.scores), "head": list(head.scores)}
        detail = {"scores": scores, "solved": {"base": base.solved, "head": head.solved}}
        _add(first[model], "quality", Check(judged.verdict, judged.words, detail), say)


def _add(row: Row, name: str, found: Check, say: Say) -> None:
    row.checks[name] = found
    say(row, name)


def count(
    source: Source, scratch: Path, options: Options, widths: Mapping[str, int]
) -> dict[str, dict[str, Any]]:
    """The counters of one side alone, by model and length.

    Args:
        widths: at which to count, by the same names; otherwise the side's own.

    Returns:
        Of each the counters with ``width``; under ``error`` why there are none.

    Raises:
        UsageError: the side does not know a model or a length.
    """
    found: dict[str, dict[str, Any]] = {}
    with Worker(source.folder, scratch / "head.log", python=source.python, device=options.device) as worker:
        try:
            worker.start()
            for length in options.lengths:
                path = str(scratch / f"batches-{length}.npz")
                worker.ask("draw", length=length, path=path)
                for model in options.models:
                    name = row_name(model, length)
                    opened = worker.ask("open", model=model, length=length, path=path, width=widths.get(name))
                    found[name] = {"width": widths.get(name, opened["width"]), **worker.ask("count")}
        except Refused as refused:
            if refused.usage:
                raise UsageError(str(refused)) from None
            raise
    return found


def row_name(model: str, length: int) -> str:
    """How a model at a length is called.

    >>> row_name("lstm", 128)
    'lstm T=128'
    """
    return f"{model} T={length}"
