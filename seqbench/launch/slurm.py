"""``hydra/launcher=slurm``: batches of runs as a job array of Slurm, by submitit's public interface.

A job that is preempted, runs out of time or loses its node is queued again by Slurm or submitit and goes on
from its runs' checkpoints; one that is gone without an answer is reported as lost. Orders and answers pass
through files of submitit's in a private folder that all nodes must see, the user's cache by default.
"""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import secrets
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from seqbench import store
from seqbench.errors import UsageError
from seqbench.isolate import STOP_SIGNALS
from seqbench.launch import on_worker, slurm_queue
from seqbench.launch.base import Ended
from seqbench.launch.slurm_queue import QueueError, Standing, last_line
from seqbench.launch.slurm_settings import Settings, asks_gpus, settings
from seqbench.secret import mask
from seqbench.store import DamagedFile

__all__ = ["Slurm", "Task", "asks_gpus", "engine"]

_LOOK_S = 0.25  # between looks for answers
_ASK_S = 3.0  # between questions to Slurm's controller, which others ask too
_LOOKS = (
    2  # so often a job must be seen to have ended: one on its way back into the queue looks so for a moment
)
_VISIBLE_S = 15.0  # so much later a shared folder may show the answer of a job that ended well
_END_S = 180.0  # for ending jobs: a cluster's KillWait is 30 s unless set otherwise
_CANCEL_AGAIN_S = 10.0
_LOG_BYTES, _LOG_LINES = 4096, 3

_NEEDED = ("sbatch", "srun", "squeue", "scancel", "scontrol")


def engine(node: Mapping[str, Any]) -> Slurm:
    """The engine for Hydra's launcher node.

    Raises:
        UsageError: a setting makes no sense, Slurm's commands are not on this machine, or submitit is not
            installed.
    """
    found = settings(node)
    try:
        import submitit  # noqa: F401
    except ImportError as error:
        raise UsageError("hydra/launcher=slurm needs submitit: pip install 'seqbench[slurm]'") from error
    for command in _NEEDED:
        if shutil.which(command) is None:
            raise UsageError(
                f"hydra/launcher=slurm: no command {command} here: run it on a machine of a Slurm cluster, "
                "such as its login node"
            )
    return Slurm(found, slots=found.slots)


class Task:
    """A batch as submitit carries it: done on a node, and queued again when Slurm takes the node away.

    Args:
        do: what is done with an order.
        stop: a file that is there once the sweep wants no more answers.
    """

    def __init__(self, do: Callable[[bytes], str], stop: Path) -> None:
        self.do = do
        self.stop = stop

    def __call__(self, order: bytes) -> str:
        """Do an order; gives what was told of it.

        Slurm tells all processes of a job that it will end them (SIGTERM), and what was at work stops. To
        answer then would end a job well that is about to be queued again, so this waits for what comes.
        """
        told_to_end: list[int] = []
        signal.signal(signal.SIGTERM, lambda number, _frame: told_to_end.append(number))
        try:
            return self.do(order)
        except on_worker.WorkerFailed:
            while told_to_end and not self.stop.exists():
                time.sleep(_LOOK_S)
            raise

    def checkpoint(self, order: bytes) -> Any:
        """The same order for the time when the job runs again; what is at work on it has ended by then."""
        import submitit

        on_worker.stop()
        return submitit.helpers.DelayedSubmission(self, order)


@dataclass
class _Job:
    """A batch in the queue.

    Attributes:
        handle: submitit's job.
        answer: the file that will hold its answer.
        ended_at: when it was first seen to have ended without one; None while it lives.
        seen: how often it was.
    """

    handle: Any
    answer: Path
    ended_at: float | None = None
    seen: int = 0

    @property
    def identifier(self) -> str:
        """Slurm's, such as 12 or 12_3."""
        return str(self.handle.job_id)


@dataclass
class Slurm:
    """Batches in Slurm's queue.

    Attributes:
        do: what is done with an order on a node.
    """

    settings: Settings
    do: Callable[[bytes], str] = on_worker.do
    slots: int = 1
    name: str = "slurm"
    remote: bool = True
    by_seed: bool = True
    _open: dict[int, _Job] = field(default_factory=dict)
    _arrays: list[str] = field(default_factory=list)  # job numbers of all that was handed over
    _asked: float = 0.0  # when the queue was last asked, on the monotonic clock
    _place: Path | None = None
    _keep: bool = False  # the place holds logs of what was lost

    def submit(self, orders: Mapping[int, bytes]) -> None:
        """Queue batches as one job array (as several where the cluster takes none so long).

        Raises:
            UsageError: sbatch refuses them.
        """
        numbers = list(orders)
        longest = slurm_queue.longest_array() if len(numbers) > 1 else 1
        pieces = [numbers[at : at + longest] for at in range(0, len(numbers), longest)]
        before = list(self._arrays)
        unheard = contextlib.redirect_stderr(io.StringIO())  # submitit prints what it also raises
        with _undisturbed(), _outside_any_job(), unheard:
            try:
                executor = self._executor(max(1, self.settings.side_by_side // max(1, len(pieces))))
                for piece in pieces:
                    self._submit(executor, piece, orders)
            except (RuntimeError, OSError, UsageError) as error:
                self._take_back([array for array in self._arrays if array not in before], numbers)
                raise UsageError(f"hydra/launcher=slurm: {mask(_refusal(str(error)))}") from error
        self._asked = time.monotonic()  # what was just queued need not be asked for

    def _submit(self, executor: Any, numbers: Sequence[int], orders: Mapping[int, bytes]) -> None:
        task = Task(self.do, self._made_place() / "stop")
        handles = executor.map_array(task, [orders[number] for number in numbers])
        self._arrays.append(handles[0].job_id.partition("_")[0])
        for number, handle in zip(numbers, handles, strict=True):
            self._open[number] = _Job(handle, handle.paths.result_pickle)

    def _made_place(self) -> Path:
        """The private folder of this engine's files."""
        if self._place is None:
            parts = Path(self.settings.folder).expanduser().absolute().parts
            plain = Path(*parts[: next((at for at, part in enumerate(parts) if "%" in part), len(parts))])
            place = plain / f"{time.strftime('%Y-%m-%d')}-{secrets.token_hex(4)}"
            try:
                plain.mkdir(mode=0o700, parents=True, exist_ok=True)
                place.mkdir(mode=0o700)
            except OSError as error:
                raise UsageError(f"submitit_folder={plain}: {error.strerror}") from error
            self._place = place
        return self._place

    def _executor(self, side_by_side: int) -> Any:
        import submitit

        try:
            executor = submitit.AutoExecutor(
                folder=self._made_place() / "%A",
                cluster="slurm",
                slurm_max_num_timeout=self.settings.requeues,
            )
            executor.update_parameters(**self.settings.parameters, slurm_array_parallelism=side_by_side)
        except (AssertionError, NameError, TypeError, ValueError) as error:  # submitit's of parameters
            raise UsageError(str(error).splitlines()[0]) from error
        return executor

    def _take_back(self, arrays: Sequence[str], numbers: Sequence[int]) -> None:
        """Undo a submission that was taken in part."""
        _end(arrays)
        self._arrays = [array for array in self._arrays if array not in arrays]
        for number in numbers:
            self._open.pop(number, None)
        self._tidy()

    def poll(self, patience_s: float) -> list[Ended]:
        """The batches that ended since the last call."""
        deadline = time.monotonic() + patience_s
        while True:
            ended = self._answered() + self._lost()
            left_s = deadline - time.monotonic()
            if ended or left_s <= 0:
                return ended
            time.sleep(min(_LOOK_S, left_s))

    def _answered(self) -> list[Ended]:
        """Batches that have left an answer."""
        here: dict[Path, set[str]] = {}
        for folder in {job.answer.parent for job in self._open.values()}:
            with contextlib.suppress(OSError):
                here[folder] = set(os.listdir(folder))
        there = [n for n, job in self._open.items() if job.answer.name in here.get(job.answer.parent, ())]
        return [self._answer(number, self._open.pop(number)) for number in there]

    def _answer(self, number: int, job: _Job) -> Ended:
        """What a batch answered, or why it could not."""
        try:
            failure = job.handle.exception()
            if failure is None:
                return Ended(number, told=job.handle.result())
        except (OSError, EOFError, pickle.UnpicklingError) as error:
            failure = error
        self._keep = True
        return Ended(number, lost=mask(f"Slurm's job {job.identifier}: {_cause(str(failure))}"))

    def _lost(self) -> list[Ended]:
        """Batches whose job is gone without an answer."""
        if not self._open or time.monotonic() - self._asked < _ASK_S:
            return []
        for folder in {job.answer.parent for job in self._open.values()}:
            with contextlib.suppress(OSError):
                os.utime(folder)  # has a shared folder show what is new at the next look
        try:
            standings = slurm_queue.standings(
                {job.identifier.partition("_")[0] for job in self._open.values()}
            )
        except QueueError:  # its controller may be away for a while, and jobs go on meanwhile
            return []
        finally:
            self._asked = time.monotonic()
        gone = {number: standings.get(job.identifier, Standing()) for number, job in self._open.items()}
        gone = {number: standing for number, standing in gone.items() if self._is_over(number, standing)}
        slurm_queue.cancel(
            [self._open[number].identifier for number, one in gone.items() if one.never_starts]
        )
        return [self._given_up(number, standing) for number, standing in gone.items()]

    def _is_over(self, number: int, standing: Standing) -> bool:
        """Whether nothing more is to be expected of a batch without an answer."""
        job = self._open[number]
        if standing.alive and not standing.never_starts:
            job.ended_at, job.seen = None, 0
            return False
        job.seen += 1
        job.ended_at = job.ended_at or time.monotonic()
        waited = time.monotonic() - job.ended_at >= _VISIBLE_S
        return job.seen >= _LOOKS and (standing.state not in ("COMPLETED", "") or waited)

    def _given_up(self, number: int, standing: Standing) -> Ended:
        job = self._open.pop(number)
        self._keep = True
        words = [f"Slurm's job {job.identifier}: {standing.in_words()}"]
        if not standing.never_starts:
            words.append(_last_words(job))
        return Ended(number, lost=mask("; ".join(words)))

    def close(self) -> None:
        """Cancel what has not ended, wait until Slurm has ended it, and remove what is of no more use.

        Raises:
            UsageError: Slurm still has some of it after a while, and how to cancel it.
        """
        if self._place is None:
            return
        (self._place / "stop").touch()
        _end(self._arrays)
        self._open, self._arrays = {}, []
        self._tidy()

    def _tidy(self) -> None:
        """Remove the files of jobs that ended well; logs of others stay."""
        if self._place is not None and not self._arrays and not self._open:
            if not self._keep:
                shutil.rmtree(self._place, ignore_errors=True)  # a late writer's file on NFS may stay
            self._place, self._keep = None, False


def _end(arrays: Sequence[str]) -> None:
    """Cancel jobs and wait until Slurm shows nothing of them."""
    started, cancelled = time.monotonic(), -_CANCEL_AGAIN_S
    while True:
        with contextlib.suppress(QueueError):  # ask again
            arrays = slurm_queue.still_there(arrays)
        if not arrays:
            return
        now = time.monotonic()
        if now - started > _END_S:
            raise UsageError(f"Slurm still has jobs of this sweep: scancel {' '.join(arrays)}")
        if now - cancelled >= _CANCEL_AGAIN_S:
            with _undisturbed():
                slurm_queue.cancel(arrays)
            cancelled = now
        time.sleep(_LOOK_S)


def _refusal(said: str) -> str:
    r"""What sbatch has against a submission, in one line.

    >>> _refusal("sbatch: error: no such partition\nsbatch: error: Submission failed")
    'no such partition; Submission failed'
    """
    return "; ".join(
        line.removeprefix("sbatch: error: ").strip() for line in said.splitlines() if line.strip()
    )


def _cause(failure: str) -> str:
    r"""The error in submitit's account of a failure, which holds a traceback between lines of dashes.

    >>> _cause("Job failed with trace:\n-----\nTraceback:\n  ...\nValueError: no\n-----\nSee the logs")
    'ValueError: no'
    """
    parts = failure.split("\n-----")
    return last_line(parts[1] if len(parts) > 1 else parts[0])


def _last_words(job: _Job) -> str:
    """The end of a job's log."""
    try:
        log = store.read_tail(job.handle.paths.stderr, _LOG_BYTES).decode("utf-8", "replace")
    except (OSError, DamagedFile):
        return (
            f"it left no log: do all nodes see {job.answer.parent.parent}? (hydra.launcher.submitit_folder)"
        )
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    return f"its log ends: {' | '.join(lines[-_LOG_LINES:])}" if lines else "its log is empty"


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Let signals wait: a Ctrl-C in between would leave jobs behind that nobody knows of."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _outside_any_job() -> Iterator[None]:
    """Hide that this process runs in a job of Slurm's itself, if so: new jobs would take over its limits."""
    import submitit

    which = os.environ.get("SLURM_CONF")
    with submitit.helpers.clean_env():
        if which is not None:  # which cluster it is, is no job's affair
            os.environ["SLURM_CONF"] = which
        yield
