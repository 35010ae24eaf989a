"""A child process per unit: time limit, crash = a record, several side by side, nothing left behind."""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import multiprocessing.util
import os
import signal
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from seqbench import environment, locks, records, store
from seqbench.config import Job, settings
from seqbench.errors import UsageError
from seqbench.plan import WORKING, Unit, bundled, finished
from seqbench.records import Run
from seqbench.sealed import Sealed
from seqbench.secret import mask
from seqbench.store import DamagedFile

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_FROM_OUTSIDE = (signal.SIGKILL, *STOP_SIGNALS)  # what no run sends to itself
_POLL_S = 0.25
_JOIN_S = 1.0
_DYING_S = 0.5  # a killed process group lets go of its locks only once its memory is torn down
_LOST = 255  # what multiprocessing says of a child whose server can no longer tell
_LAST_LINES = 5
_LAST_BYTES = 1 << 16
_LONGEST_TMPDIR = 64

Again = Callable[[Sequence[Unit], str], None]


@dataclass
class Death:
    """Why a run that left no record of its own ended.

    Attributes:
        outside: nothing in the run or its settings was the reason, so that another try may end otherwise.
    """

    status: str
    kind: str
    message: str
    outside: bool = False


@dataclass
class Child:
    """A unit at work in a child process, and what it has told; units that are trained as one share a process.

    Attributes:
        beside: units in the same process, this one included.
    """

    unit: Unit
    process: ForkServerProcess
    inbox: Connection
    oom_kills: int  # of the whole machine, when it was last seen alive
    working_since: float | None = None  # monotonic clock; None: it waits for locks that others hold
    run: Run | None = None  # the record that it committed
    death: Death | None = None  # set when we end it ourselves
    beside: int = 1

    def listen(self) -> None:
        """Take in what the child has told since the last time."""
        with contextlib.suppress(EOFError, OSError):
            while self.inbox.poll():
                told = self.inbox.recv()
                if told == WORKING:
                    self.working_since = time.monotonic()
                else:
                    self.run = told

    def working_s(self) -> float:
        """Seconds since it got its locks; waiting for another sweep does not count."""
        return 0.0 if self.working_since is None else time.monotonic() - self.working_since


def warm_server() -> multiprocessing.context.ForkServerContext:
    """Start the server process that imports torch once; every child is forked from it in milliseconds.

    Ctrl-C in a terminal goes to the whole process group: the server and its children do not listen, since the
    sweep ends them itself.
    """
    _short_socket_names()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["seqbench.warm"])
    resource_tracker.ensure_running()  # unblocks Ctrl-C when it starts, so it goes first
    old = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, old)
    return context


def _short_socket_names() -> None:
    """Put the server's sockets below /tmp where TMPDIR is too long: a socket's path has 107 bytes at most."""
    wanted = tempfile.gettempdir()
    if len(os.fsencode(wanted)) <= _LONGEST_TMPDIR:
        return
    tempfile.tempdir = "/tmp"
    try:
        multiprocessing.util.get_temp_dir()  # made once, and taken away at the end
    finally:
        tempfile.tempdir = wanted


class Pool:
    """Runs units in child processes forked from a warm server that has imported torch.

    Args:
        slots: units side by side.
        again: told of units that start again, as their process was killed from outside, and how it was.
    """

    def __init__(self, slots: int, again: Again = lambda _units, _why: None) -> None:
        self.slots, self._again = slots, again
        self._context = warm_server()
        self._running: list[Child] = []
        self._lost: Counter[str] = Counter()  # how often a unit's process was killed from outside

    @property
    def running(self) -> list[Unit]:
        """The units at work now."""
        return [child.unit for child in self._running]

    def prepare(self, jobs: list[Job], failure: Path) -> None:
        """Check devices and prepare data in a child; ``failure`` is where it leaves a reason.

        Raises:
            UsageError: a device or the data cannot be used.
        """
        code = self._aside(_prepare, jobs, failure)
        if code != 0:
            raise UsageError(f"preparing the data ended with {_in_words(code)}")

    def solve_widths(self, units: list[Unit], failure: Path) -> None:
        """Solve the widths of all networks in a child; ``failure`` is where it leaves a reason.

        A child that dies or hangs over it tells nothing: the runs will, one by one, in their records.

        Raises:
            UsageError: what was to be made equal is out of a model's reach.
        """
        self._aside(_solve_widths, units, failure, units[0].job.limit.time_s)

    def _aside(
        self, work: Callable[[Sealed, Path], None], content: Any, failure: Path, limit_s: float | None = None
    ) -> int | None:
        """Do something in a child before the first run; gives its exit code, None where it took too long."""
        process = self._context.Process(target=work, args=(Sealed.of(content), failure))
        try:
            process.start()
            process.join(limit_s)
        except (OSError, EOFError) as error:
            raise UsageError(f"no child process could be started: {error}") from error
        if (code := process.exitcode) is None:
            end_group(process)
        if failure.exists():
            raise UsageError(failure.read_text(encoding="utf-8"))
        return code

    def run(
        self, units: Sequence[Unit], tick: Callable[[list[Unit]], None]
    ) -> Generator[tuple[Unit, Run], None, None]:
        """Run all units, yielding each with its record as it ends; ``tick`` is told what runs.

        Closing the iterator ends what still runs and records it as interrupted.
        """
        waiting = deque(bundled(units))
        try:
            while waiting or self._running:
                while waiting and len(self._sentinels()) < self.slots:
                    yield from self._start(waiting.popleft())
                wait(self._sentinels(), timeout=_POLL_S)
                tick(self.running)
                oom_kills = environment.oom_kills()
                ended = []
                for child in self._running:
                    child.listen()
                    if child.process.is_alive() and not self._leaves_others(child):
                        child.oom_kills = oom_kills
                    else:
                        ended.append(child)
                self._enforce_limits()
                waiting.extendleft(bundled([child.unit for child in ended if self._starts_again(child)]))
                for child in ended:
                    if child not in self._running:
                        continue
                    leaves = self._leaves_others(child)
                    self._running.remove(child)
                    yield child.unit, child.run if leaves and child.run else _outcome(child)
        finally:
            self._stop_all()

    def _starts_again(self, child: Child) -> bool:
        """Whether a unit that was killed from outside is to run again; then nothing of it is left."""
        if child.process.is_alive() or child.death is not None:
            return False
        child.listen()
        death, before = _cause(child), self._lost[child.unit.identity]
        if child.run is not None or not death.outside or before >= child.unit.job.retries:
            return False
        end_group(child.process)
        child.inbox.close()
        self._running.remove(child)
        self._lost[child.unit.identity] += 1
        self._again([child.unit], death.message)
        return True

    def _leaves_others(self, child: Child) -> bool:
        """Whether a unit has ended while others in the same process are still at work."""
        others = (one for one in self._running if one.process is child.process)
        return child.run is not None and any(one.run is None for one in others)

    def _sentinels(self) -> list[int]:
        """What becomes ready when a child process ends, of every process once."""
        return list({child.process.sentinel for child in self._running})

    def _start(self, units: tuple[Unit, ...]) -> list[tuple[Unit, Run]]:
        """Start a child for a unit, or for several as one; what prevents even that is their outcome."""
        try:
            for unit in units:
                store.make_folder(unit.folder)
            pipes = [self._context.Pipe(duplex=False) for _ in units]
            outboxes = [outbox for _, outbox in pipes]
            process = self._context.Process(target=_execute, args=(Sealed.of(units), outboxes))
            process.start()
            for outbox in outboxes:
                outbox.close()
        except (OSError, EOFError) as error:
            death = Death("failed", "NotStarted", str(error))
            return [(unit, write_failure(unit, death)) for unit in units]
        oom_kills = environment.oom_kills()
        for unit, (inbox, _) in zip(units, pipes, strict=True):
            self._running.append(Child(unit, process, inbox, oom_kills, beside=len(units)))
        return []

    def _enforce_limits(self) -> None:
        """End whatever takes too long; units in one process have the time of all of them."""
        late = [
            child
            for child in self._running
            if child.process.is_alive() and child.working_s() > child.beside * child.unit.job.limit.time_s
        ]
        for child in late:
            limit_s = child.unit.job.limit.time_s
            times = f" x {child.beside} runs trained as one" if child.beside > 1 else ""
            child.death = Death("timeout", "TimeLimit", f"longer than limit.time_s={limit_s:g}{times}")
            end_group(child.process)

    def _stop_all(self) -> None:
        """End every child that still runs (Ctrl-C, SIGTERM, an error) and record it as interrupted.

        Signals wait meanwhile, so that an impatient second Ctrl-C cannot leave half of it undone.
        """
        before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        try:
            for child in self._running:
                child.death = Death("interrupted", "Interrupted", "the sweep was stopped")
                end_group(child.process)
            for child in self._running:
                _outcome(child)
            self._running = []
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _execute(sealed: Sealed, outboxes: list[Connection]) -> None:
    from seqbench.worker import execute

    execute(sealed.opened(), outboxes)


def _prepare(sealed: Sealed, failure: Path) -> None:
    from seqbench.worker import prepare

    prepare(sealed.opened(), failure)


def _solve_widths(sealed: Sealed, failure: Path) -> None:
    from seqbench.worker import solve_widths

    solve_widths(sealed.opened(), failure)


def _outcome(child: Child) -> Run:
    """The record that the child committed; if it committed none, one that says how it died."""
    end_group(child.process)  # also what it left behind, which would hold its locks
    child.listen()
    child.inbox.close()
    return child.run or write_failure(child.unit, child.death or _cause(child))


def _cause(child: Child) -> Death:
    """How a child died that nobody stopped."""
    code = child.process.exitcode
    if code == -signal.SIGKILL and environment.oom_kills() > child.oom_kills:
        return Death("oom", "OutOfMemory", "the kernel ended it for want of memory")
    killed = code is not None and code < 0
    words = _in_words(code) + (", or its server has gone" if code == _LOST else "")
    outside = code == _LOST or (code is not None and -code in _FROM_OUTSIDE)
    return Death("killed" if killed else "failed", "ProcessEnded", words, outside)


def _in_words(code: int | None) -> str:
    return f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"


def end_group(process: BaseProcess) -> None:
    """Kill a child with everything it started (it leads its own process group)."""
    if process.pid is None:
        return
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:  # it has no group yet, or has ended with all of it
        process.kill()
    process.join(_JOIN_S)


def end_children() -> None:
    """Kill every child of this program that is still there, and the server that forked them."""
    for process in multiprocessing.active_children():
        end_group(process)
    server: Any = forkserver._forkserver
    if server._forkserver_pid is not None:  # it may still be loading torch, and would go only after that
        with contextlib.suppress(ProcessLookupError):
            os.kill(server._forkserver_pid, signal.SIGKILL)


def write_failure(unit: Unit, death: Death) -> Run:
    """Record a unit whose child could not do so itself; keeps the last lines of its log.

    Where another sweep has finished the same run meanwhile, its record is the outcome; where one is at work
    on it, nothing is written. A record that cannot be written (a full disk, say) is returned and says so.
    """
    run = Run(
        kind=unit.kind,
        identity=unit.identity,
        status=death.status,
        task=unit.job.task.name,
        rung=unit.rung,
        model=unit.job.model.name,
        seed=unit.seed,
        config=settings(unit.job),
        label=unit.label,
        asked=unit.asked,
        ground=unit.ground,
        card=unit.job.task.described(),
        environment=environment.describe(unit.code_sha256),
        error={"type": death.kind, "message": mask(death.message), "place": last_lines(unit.folder)},
    )
    try:
        store.make_folder(unit.folder)
        with locks.file_lock(unit.folder / records.LOCK_FILE, patience_s=_DYING_S):
            return finished(unit) or records.write_run(unit.folder, run, {})
    except BlockingIOError:  # another sweep is at work on the same run, and its record counts
        return run
    except (OSError, DamagedFile) as error:
        reason = getattr(error, "strerror", None) or str(error)
        told = {**(run.error or {}), "message": f"{mask(death.message)}; not recorded: {reason}"}
        return dataclasses.replace(run, error=told)


def last_lines(folder: Path) -> str:
    """The end of a run's log, in one line."""
    try:
        content = store.read_tail(folder / records.LOG_FILE, _LAST_BYTES)
    except (OSError, DamagedFile):
        return ""
    lines = content.decode("utf-8", "replace").splitlines()[-_LAST_LINES:]
    return mask(" | ".join(lines))[:2000]


def last_event(folder: Path) -> dict[str, Any] | None:
    """The newest progress line of a run."""
    import json

    try:
        lines = store.read_tail(folder / records.EVENTS_FILE, _LAST_BYTES).splitlines()
        event: dict[str, Any] = json.loads(lines[-1])
    except (OSError, DamagedFile, IndexError, ValueError):
        return None  # nothing written yet, or the last line is still being written
    return event
