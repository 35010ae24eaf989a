"""What Slurm's queue says of jobs, by ``squeue`` alone: ``sacct`` needs an accounting database."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Collection
from dataclasses import dataclass

_PATIENCE_S = 60.0
_ARRAY_SIZE = re.compile(r"MaxArraySize\s*=\s*(\d+)")
_USUAL_ARRAY = 1_000  # MaxArraySize is 1001 unless set otherwise
_UNKNOWN_JOB = "invalid job id"

# What a job is in while it may still be worked on, or be queued again.
_ALIVE = {
    "PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT",
    "RESIZING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESV_DEL_HOLD", "SPECIAL_EXIT",
}  # fmt: skip
# Why a job waits that no waiting mends, in squeue's words.
_NEVER = {
    "badconstraints", "dependencyneversatisfied", "jobholdmaxrequeue", "launch failed requeued held",
    "partitionnodelimit", "partitiontimelimit",
}  # fmt: skip
_ENDS = {
    "": "Slurm knows it no more",
    "BOOT_FAIL": "its node did not start",
    "CANCELLED": "it was cancelled",
    "COMPLETED": "it ended without an answer",
    "DEADLINE": "it ended at its deadline",
    "FAILED": "its process ended before it could answer",
    "NODE_FAIL": "its node failed",
    "OUT_OF_MEMORY": "it took more memory than it was given (hydra.launcher.mem_gb)",
    "PREEMPTED": "it was preempted, and Slurm does not queue it again",
    "TIMEOUT": "it ran out of time (hydra.launcher.timeout_min)",
}


@dataclass(frozen=True)
class Standing:
    """Where a job is.

    Attributes:
        state: Slurm's word, such as RUNNING; empty where Slurm does not know the job any more.
        reason: why it waits, in Slurm's words.
    """

    state: str = ""
    reason: str = ""

    @property
    def alive(self) -> bool:
        """Whether it may still give an answer by itself.

        >>> [Standing(state).alive for state in ("PENDING", "COMPLETING", "NODE_FAIL", "")]
        [True, True, False, False]
        """
        return self.state in _ALIVE

    @property
    def never_starts(self) -> bool:
        """Whether it waits for what will not come.

        >>> [Standing("PENDING", reason).never_starts for reason in ("BadConstraints", "Priority")]
        [True, False]
        """
        return self.alive and self.reason.lower().replace("_", " ") in _NEVER

    def in_words(self) -> str:
        """Why there is no answer of it.

        >>> Standing("TIMEOUT").in_words(), Standing("REVOKED").in_words()
        ('it ran out of time (hydra.launcher.timeout_min)', 'Slurm says REVOKED')
        """
        if self.never_starts:
            return f"it can never start: {self.reason}"
        return _ENDS.get(self.state, f"Slurm says {self.state}")


class QueueError(Exception):
    """Slurm does not answer; what its jobs do meanwhile is not known."""


def longest_array() -> int:
    """How many jobs a cluster takes as one array: one less than its MaxArraySize."""
    found = _ARRAY_SIZE.search(run("scontrol", "show", "config").stdout)
    return max(1, int(found[1]) - 1) if found else _USUAL_ARRAY


def standings(arrays: Collection[str]) -> dict[str, Standing]:
    """The standing of every job and array element of these job numbers, by identifier, such as 12 or 12_3.

    Raises:
        QueueError: Slurm does not answer.
    """
    found = {}
    for array in arrays:
        for line in _squeue(array, "--states=all", "--format=%i|%T|%r").splitlines():
            identifier, state, reason = line.strip().split("|", 2)
            found[identifier] = Standing(state, reason)
    return found


def still_there(arrays: Collection[str]) -> list[str]:
    """The job numbers of which something waits, runs or is being ended.

    Raises:
        QueueError: Slurm does not answer.
    """
    return [array for array in arrays if _squeue(array, "--format=%i").strip()]


def cancel(identifiers: Collection[str]) -> None:
    """Ask Slurm to end jobs; those that have ended are no error, and whether it did is seen in the queue."""
    if identifiers:
        run("scancel", "--quiet", *identifiers)


def _squeue(array: str, *options: str) -> str:
    """What squeue says of one job number: a question that the controller answers from that job alone."""
    asked = run("squeue", "--noheader", "--array", f"--jobs={array}", *options)
    if asked.returncode == 0:
        return asked.stdout
    if _UNKNOWN_JOB in asked.stderr.lower():  # it ended longer ago than the controller remembers
        return ""
    raise QueueError(last_line(asked.stderr) or f"squeue ended with exit code {asked.returncode}")


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a command of Slurm's; one that takes too long has failed."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE_S, check=False)
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 1, "", f"{command[0]}: no answer in {_PATIENCE_S:g} s")


def last_line(text: str) -> str:
    r"""The last line that says anything.

    >>> last_line("sbatch: error: one\nsbatch: error: two\n\n")
    'sbatch: error: two'
    """
    lines = [line.strip() for line in text.splitlines() if line.strip(" -\t")]
    return lines[-1] if lines else ""
