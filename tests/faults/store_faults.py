"""Faults of a process and of single calls: kills, disk calls that fail, bits that flip.

The disk here is the real one. Its faults come in through :class:`DiskCalls`, which stands in for module
:mod:`os` inside ``seqbench.store``: every call there that touches the disk passes it.

What counts as intact: a record is *shown as done* when ``records.read_run`` and ``records.files_intact``
accept it. Then metrics, tables and log must be bit for bit what was written; ``observe_run`` says what a
reader sees.

Not simulated: EINTR (Python repeats interrupted calls itself, PEP 475), and calls that fail while somebody
reads. Power cuts are in ``powercut``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import itertools
import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from faults.campaign import Campaign, Figure
from seqbench import records, store
from seqbench.records import Run
from seqbench.store import DamagedFile

ABSENT, DAMAGED = "absent", "damaged"
ROOT = Path(__file__).resolve().parents[2]

# What is written and what a reader sees


@dataclass(frozen=True)
class RunContent:
    """A run to commit. ``text`` says all of its content, every float exactly."""

    run: Run
    tables: Mapping[str, Mapping[str, Sequence[Any]]]
    log: str

    @functools.cached_property
    def text(self) -> str:
        return _in_words(self.run, self.tables, self.log)

    @property
    def good(self) -> set[str]:
        """What a commit under a fault may leave: a log that cannot be read back must not cost the result."""
        return {self.text, _in_words(self.run, self.tables, "")}

    def clear(self, folder: Path) -> None:
        """Take back an older record, as the worker does before it starts."""
        store.remove(folder / records.RUN_FILE)

    def write(self, folder: Path) -> None:
        """Print to the log as a worker does, in place and never flushed; then commit."""
        store.make_folder(folder)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        log = store.os.open(folder / records.LOG_FILE, flags, 0o644)  # a part of what is recorded and fails
        try:
            store._write_fully(log, self.log.encode())
        finally:
            store.os.close(log)
        records.write_run(folder, self.run, self.tables)

    def observe(self, folder: Path) -> str:
        return observe_run(folder)


@dataclass(frozen=True)
class PlanContent:
    """A plan to write over the one before."""

    plan: Mapping[str, Any]

    @functools.cached_property
    def text(self) -> str:
        return json.dumps({**self.plan, "schema": records.PLAN_SCHEMA}, sort_keys=True)

    @property
    def good(self) -> set[str]:
        """What a write under a fault may leave when it raises nothing."""
        return {self.text}

    def clear(self, folder: Path) -> None:
        """Nothing: readers see the old plan until the new one is there."""

    def write(self, folder: Path) -> None:
        store.make_folder(folder)
        records.write_plan(folder, self.plan)

    def observe(self, folder: Path) -> str:
        """What a reader of the plan sees."""
        try:
            return json.dumps(records.read_plan(folder), sort_keys=True)
        except FileNotFoundError:
            return ABSENT
        except DamagedFile:
            return DAMAGED
        except Exception as error:
            return f"reading raised {error!r:.200}"


Content = RunContent | PlanContent


def observe_run(folder: Path) -> str:
    """What a reader of a run's folder sees: absent, damaged, or the content in words."""
    try:
        run = records.read_run(folder)
        if not records.files_intact(folder, run):
            return DAMAGED
        names = [name.removesuffix(".parquet") for name in run.files if name.endswith(".parquet")]
        tables = {name: records.read_table(folder, run, name).to_pydict() for name in names}
        log = (folder / records.LOG_FILE).read_text(encoding="utf-8") if records.LOG_FILE in run.files else ""
        return _in_words(run, tables, log)
    except FileNotFoundError:
        return ABSENT
    except DamagedFile:
        return DAMAGED
    except Exception as error:
        return f"reading raised {error!r:.200}"


def _in_words(run: Run, tables: Mapping[str, Any], log: str) -> str:
    """Every value exactly; hashes are left out because ``files_intact`` compares them with the files."""
    plain = dataclasses.asdict(dataclasses.replace(run, files={}))
    return json.dumps([plain, tables, log], sort_keys=True)


def some_run(rng: random.Random, status: str = "done", seed: int = 0) -> RunContent:
    """A run with random content of random size: from a fraction of a disk sector to several."""
    rows = rng.choice((1, 20, 400))
    losses = [rng.choice((rng.random(), math.nan, math.inf, 1e300)) for _ in range(rows)]
    tables = {"steps": {"step": list(range(rows)), "loss": losses}, "tokens": {"text": ["é", "<b>"]}}
    metrics = {"accuracy": rng.random(), "loss_last": rng.random() * 1e304, "norm": 1e301, "none": None}
    run = Run(
        kind="train", identity=rng.randbytes(32).hex(), status=status, task="mqar", rung=8, model="lstm",
        seed=seed, config={"train": {"lr": rng.random()}}, label=f"LSTM seed {seed}", metrics=metrics,
        error=None if status == "done" else {"type": "ValueError", "message": "<é\u2028>"},
    )  # fmt: skip
    log = "step é\n" * rng.choice((0, 3, 300))
    return RunContent(run, tables if status == "done" else {}, log)


def some_plan(rng: random.Random, number: int = 0) -> PlanContent:
    """A plan of a few or of many runs."""
    runs = [{"folder": f"run-{i}", "lr": rng.random()} for i in range(rng.choice((1, 40)))]
    return PlanContent({"runs": runs, "commands": [["seqbench", "-m"]], "number": number})


# Stand-ins for os


class DiskCalls:
    """Stands in for module ``os`` inside ``seqbench.store``; subclasses decide what becomes of a call."""

    NAMES = frozenset(
        {"open", "write", "fsync", "close", "replace", "unlink", "mkdir", "read", "lseek", "fstat"}
    )

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        return functools.partial(self.call, name, real) if name in self.NAMES else real

    def call(self, name: str, real: Callable[..., Any], *arguments: Any) -> Any:
        """One call of ``os.<name>``."""
        return real(*arguments)


def standing_in(calls: DiskCalls) -> contextlib.AbstractContextManager[Any]:
    """Let ``calls`` serve ``seqbench.store`` for a while."""
    return mock.patch.object(store, "os", calls)


# Kills


class _KilledInside(DiskCalls):
    """The process dies before, after, or in the middle of its call number ``at``."""

    def __init__(self, at: int, rng: random.Random) -> None:
        self.left, self.rng = at, rng

    def call(self, name: str, real: Callable[..., Any], *arguments: Any) -> Any:
        self.left -= 1
        if self.left == 0:
            try:
                if name == "write":
                    os.write(arguments[0], arguments[1][: len(arguments[1]) // 2])
                elif self.rng.random() < 0.5:
                    real(*arguments)
            finally:  # the call may fail: a file to remove that is not there
                os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments)


def kills(size: int, folder: Path, rng: random.Random) -> Figure:
    """Kill -9 a process that commits runs, half the time at a random moment and half inside a call.

    Every fifth kill starts a new sweep; the others go on in what the kill before left behind.
    """
    violations: list[str] = []
    done = total = 0
    with _forker() as ask:
        for number in range(size):
            if number % 5 == 0:
                sweep, seed, done = folder / f"sweep-{number}", rng.randrange(1 << 30), 0
            when = {"at": rng.randrange(1, 250)} if number % 2 else {"delay_s": rng.uniform(0, 0.05)}
            answer = ask({"folder": str(sweep), "seed": seed, "first": done, **when})
            done, total = done + answer["acknowledged"], total + answer["acknowledged"]
            found = [] if answer["signal"] == signal.SIGKILL else [f"the process ended by {answer}"]
            found += _broken_after_kill(sweep, seed, done)
            violations += [f"kill {number} ({when}): {one}" for one in found]
    return Figure(
        size, violations, f"{total} runs were acknowledged; every second kill was inside a disk call"
    )


def _broken_after_kill(sweep: Path, seed: int, done: int) -> list[str]:
    """Promises broken in a sweep of which ``done`` runs were acknowledged; one more may be there, whole."""
    found: list[str] = []
    for number in range(done + 2):
        seen, good = observe_run(sweep / f"run-{number}"), _step(seed, number)[1].text
        if seen != good and not (number >= done and seen == ABSENT):
            found.append(f"run {number} of {done} acknowledged ones: {seen:.80}")
    plan = some_plan(random.Random(0)).observe(sweep)
    plans = [_step(seed, number)[0].text for number in range(max(0, done - 1), done + 2)]
    if plan not in plans and not (done == 0 and plan == ABSENT):
        found.append(f"plan: {plan:.80}")
    return found


def _step(seed: int, number: int) -> tuple[PlanContent, RunContent]:
    """What the process writes at its step ``number``; the same here and there."""
    rng = random.Random(seed * 1000 + number)
    return some_plan(rng, number), some_run(rng, seed=number)


@contextlib.contextmanager
def _forker() -> Iterator[Callable[[dict[str, Any]], dict[str, Any]]]:
    """A process that has imported all it needs and forks one to be killed per request: 250 ms saved each."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests")))}
    process = subprocess.Popen(
        [sys.executable, "-m", "faults.store_faults"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip

    def ask(request: dict[str, Any]) -> dict[str, Any]:
        process.stdin.write(json.dumps(request) + "\n")
        process.stdin.flush()
        return json.loads(process.stdout.readline())

    with process:
        yield ask


def _serve() -> None:
    """The loop of the forker."""
    import pyarrow.parquet

    pyarrow.table({"warm": [1]})  # imports pandas at first use: once here instead of in every child

    for line in sys.stdin:
        request = json.loads(line)
        reader, writer = os.pipe()
        if (child := os.fork()) == 0:
            _commit_until_killed(request, writer)
        os.close(writer)
        if "delay_s" in request:
            time.sleep(request["delay_s"])
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        with os.fdopen(reader, "rb") as lines:
            answer = {"acknowledged": len(lines.readlines()), "signal": status}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def _commit_until_killed(request: dict[str, Any], acknowledge: int) -> None:
    """The life of a process to be killed; an exception ends it with status 1, which the parent reports."""
    try:
        sweep, seed = Path(request["folder"]), request["seed"]
        calls = _KilledInside(request["at"], random.Random(seed)) if "at" in request else DiskCalls()
        with standing_in(calls):
            for number in itertools.count(request["first"]):
                plan, run = _step(seed, number)
                plan.write(sweep)
                run.clear(sweep / f"run-{number}")
                run.write(sweep / f"run-{number}")
                os.write(acknowledge, b".\n")
    finally:
        os._exit(1)


# Calls that fail


@dataclass(frozen=True)
class Fault:
    """Call number ``at`` of those that ``kind`` can befall fails; if ``lasting``, so do all later ones."""

    kind: str
    at: int
    lasting: bool


_CHANGES = frozenset({"open", "write", "fsync", "replace", "unlink", "mkdir"})
_BEFALLS: Mapping[str, frozenset[str]] = {
    "EIO": DiskCalls.NAMES,
    "ENOSPC": _CHANGES - {"unlink"} | {"close"},
    "EROFS": _CHANGES - {"fsync"},
    "takes 1 byte": frozenset({"write"}),
    "takes half": frozenset({"write"}),
    "takes nothing": frozenset({"write"}),
}


class _Failing(DiskCalls):
    """Lets one call fail, or all from one on; remembers whether it did and which files are still open."""

    def __init__(self, fault: Fault) -> None:
        self.fault, self.seen, self.hit = fault, 0, False
        self.left_open: set[int] = set()

    def call(self, name: str, real: Callable[..., Any], *arguments: Any) -> Any:
        if self._befalls(name, arguments):
            self.seen += 1
            if self.seen == self.fault.at or (self.fault.lasting and self.seen > self.fault.at):
                self.hit = True
                return self._fail(name, real, *arguments)
        return self._pass(name, real, *arguments)

    def _befalls(self, name: str, arguments: Sequence[Any]) -> bool:
        """Only EIO befalls a file that is opened to be read."""
        reads = name == "open" and not arguments[1] & os.O_CREAT
        return name in _BEFALLS[self.fault.kind] and not (reads and self.fault.kind != "EIO")

    def _fail(self, name: str, real: Callable[..., Any], *arguments: Any) -> Any:
        if self.fault.kind.startswith("takes"):
            descriptor, content = arguments
            taken = {"takes 1 byte": 1, "takes half": len(content) // 2, "takes nothing": 0}[self.fault.kind]
            return real(descriptor, content[:taken])
        if name == "close":
            self._pass(name, real, *arguments)  # Linux frees the descriptor whatever close returns
        code = getattr(errno, self.fault.kind)
        raise OSError(code, os.strerror(code))

    def _pass(self, name: str, real: Callable[..., Any], *arguments: Any) -> Any:
        result = real(*arguments)
        if name == "open":
            self.left_open.add(result)
        elif name == "close":
            self.left_open.discard(arguments[0])
        return result


@dataclass(frozen=True)
class _Commit:
    """A commit to disturb: ``new`` goes where ``old`` is, if there is an old one."""

    name: str
    old: Content | None
    new: Content


def _commits(rng: random.Random) -> list[_Commit]:
    return [
        _Commit("new run", None, some_run(rng)),
        _Commit("run over a failed one", some_run(rng, "failed"), some_run(rng)),
        _Commit("new plan", None, some_plan(rng, 1)),
        _Commit("plan over an older one", some_plan(rng, 1), some_plan(rng, 2)),
    ]


def failing_calls(size: int, folder: Path, rng: random.Random) -> Figure:
    """Every k-th disk call of a commit fails in every way, once or from then on.

    The whole grid goes round, in random order and each time with other contents, until ``size`` are tried.
    """
    violations: list[str] = []
    grid = [(number, fault) for number in range(4) for fault in _faults(number, folder, random.Random(0))]
    tried = 0
    while tried < size:
        for number, fault in rng.sample(grid, len(grid))[: size - tried]:
            commit, place = _commits(rng)[number], folder / str(tried) / "sweep" / "run"
            violations += [f"{commit.name}, {fault}: {one}" for one in _broken_by(fault, commit, place)]
            tried += 1
    return Figure(tried, violations, f"{len(grid)} places and ways to fail")


def _faults(number: int, folder: Path, rng: random.Random) -> Iterator[Fault]:
    """Every fault of a commit: for each kind, every k until the commit passes untouched."""
    for kind in _BEFALLS:
        for at in itertools.count(1):
            fault = Fault(kind, at, lasting=False)
            yield from (fault, dataclasses.replace(fault, lasting=True))
            if not _disturb(fault, _commits(rng)[number], folder / f"count-{number}-{kind}-{at}")[0].hit:
                break


def _disturb(fault: Fault, commit: _Commit, place: Path) -> tuple[_Failing, Exception | None]:
    """Commit under a fault; returns the calls and what was raised."""
    if commit.old:
        commit.old.write(place)
    calls = _Failing(fault)
    with standing_in(calls):
        try:
            commit.new.clear(place)
            commit.new.write(place)
        except Exception as error:
            return calls, error
    return calls, None


def _broken_by(fault: Fault, commit: _Commit, place: Path) -> list[str]:
    """Promises that a fault breaks: what is raised, is seen, stays behind, and whether a second try helps."""
    calls, raised = _disturb(fault, commit, place)
    seen, new = commit.new.observe(place), commit.new.text
    whole = {new, commit.old.text if commit.old else ABSENT}
    if isinstance(commit.new, RunContent):
        whole.add(ABSENT)  # the old record was taken back first
    found = [f"raised {raised!r:.200}"] if not isinstance(raised, OSError | None) else []
    found += [f"afterwards {seen:.80}"] if seen not in (whole if raised else commit.new.good) else []
    found += ["raised although nothing failed"] if raised and not calls.hit else []
    found += ["files left open"] if calls.left_open else []
    found += ["a temporary file is left"] if _temporaries(place) and not fault.lasting else []
    commit.new.clear(place)
    commit.new.write(place)
    found += ["a second try does not help"] if commit.new.observe(place) != new else []
    return found + (["a temporary file is left for good"] if _temporaries(place) else [])


def _temporaries(place: Path) -> list[Path]:
    return list(place.glob(".*.tmp"))


# Bits that flip


def bit_flips(size: int, folder: Path, rng: random.Random) -> Figure:
    """Flip single bits of run.json, plan.json, tables and logs; then cut off, zero and lengthen files."""
    violations: list[str] = []
    others = size // 10
    for number in range(size + others):
        if number % 250 == 0:
            place, committed = folder / str(number), (some_run(rng), some_plan(rng))
            for content in committed:
                content.write(place)
            files = sorted(path for path in place.iterdir() if path.stat().st_size)
        path = rng.choice(files)
        good = path.read_bytes()
        damage = _flip if number < size else rng.choice((_cut_off, _zero_sector, _lengthen, _swap_exponent))
        how, bad = damage(bytearray(good), rng)
        path.write_bytes(bad)
        found = [content.observe(place) for content in committed]
        path.write_bytes(good)
        wrong = [seen for seen, one in zip(found, committed, strict=True) if seen not in (DAMAGED, one.text)]
        violations += [f"{path.name}, {how}: {seen:.160}" for seen in wrong]
    return Figure(size + others, violations, f"{size} bits; {others} files cut off, zeroed, lengthened")


def _flip(content: bytearray, rng: random.Random) -> tuple[str, bytes]:
    bit = rng.randrange(8 * len(content))
    content[bit // 8] ^= 1 << bit % 8
    return f"bit {bit}", bytes(content)


def _cut_off(content: bytearray, rng: random.Random) -> tuple[str, bytes]:
    length = rng.randrange(len(content) + 1)
    return f"cut off at {length}", bytes(content[:length])


def _zero_sector(content: bytearray, rng: random.Random) -> tuple[str, bytes]:
    start = rng.randrange(0, len(content) + 1, 512)
    content[start : start + 512] = bytes(len(content[start : start + 512]))
    return f"zeros from {start}", bytes(content)


def _lengthen(content: bytearray, rng: random.Random) -> tuple[str, bytes]:
    return "lengthened", bytes(content) + rng.randbytes(rng.choice((1, 512)))


def _swap_exponent(content: bytearray, rng: random.Random) -> tuple[str, bytes]:
    """JSON knows no infinity, but a number may grow into one."""
    if b"1e+301" not in content:
        return _cut_off(content, rng)
    return "1e301 became 1e701", bytes(content).replace(b"1e+301", b"1e+701")


CAMPAIGNS = [
    Campaign("A process that commits runs is killed (kill -9)", kills, few=25, many=1_000),
    Campaign("A disk call of a commit fails or takes too little", failing_calls, few=150, many=3_000),
    Campaign("A bit of a committed file flips", bit_flips, few=500, many=10_000),
]

if __name__ == "__main__":
    _serve()
