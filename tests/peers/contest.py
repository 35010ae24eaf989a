"""The parent's side: contestants as processes on one core, and rounds in which they take turns."""

from __future__ import annotations

import contextlib
import json
import os
import random
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from peers.contestants import Contestant
from peers.work import Cell

_PATIENCE_S = 240.0  # for an answer: a first step may compile
_LONG_STEP_S = 15.0  # of which the first, with what is built for it, is a sample already
_WARM = 5  # times what is measured: a first stop of several steps after which nothing is cold
_FEWEST_ROUNDS = 2
_HERE = Path(__file__).resolve().parent


@dataclass
class Result:
    """What a contestant did on one cell.

    Attributes:
        cpu_s, wall_s: seconds per step, one entry per round.
        steps: steps of each round.
        loss: of the last step.
        kernel: which implementation ran, where the contestant says so.
        problem: why there are no figures; empty where there are.
    """

    cpu_s: list[float] = field(default_factory=list)
    wall_s: list[float] = field(default_factory=list)
    steps: int = 0
    loss: float | None = None
    kernel: str = ""
    problem: str = ""


class Stopped(Exception):
    """A contestant cannot go on; the message says why."""


class Player:
    """A contestant's process; started when needed, and again after it broke.

    Args:
        python: the interpreter that runs it.
        cores: where it may run.
    """

    def __init__(self, contestant: Contestant, python: Path, cores: set[int]) -> None:
        self.contestant, self.python, self.cores = contestant, python, cores
        self.versions: dict[str, str] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._log: Any = None
        self._unread = b""

    def ask(self, order: dict[str, Any], patience_s: float = _PATIENCE_S) -> dict[str, Any]:
        """Send an order and wait for the answer.

        Raises:
            Stopped: it has failed, ended or not answered.
        """
        if self._process is None:
            self._start(patience_s)
        assert self._process is not None
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # what it died of is found below
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            self._process.stdin.flush()
        answer = self._answer(patience_s)
        if "failed" in answer:
            raise Stopped(answer["failed"])
        return answer

    def _start(self, patience_s: float) -> None:
        if not self.python.exists():
            raise Stopped("not installed (no environment for peers)")
        self._log, self._unread = tempfile.TemporaryFile(), b""  # noqa: SIM115  (closed with the process)
        paths = os.pathsep.join([str(_HERE.parent), str(_HERE.parents[1])])
        self._process = subprocess.Popen(
            [str(self.python), "-m", "peers.worker", self.contestant.name],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, start_new_session=True,
            env={**os.environ, **self.contestant.environment, "PYTHONPATH": paths},
            preexec_fn=lambda: _keep_to(self.cores),  # noqa: PLW1509  (no threads here)
        )  # fmt: skip
        hello = self._answer(patience_s)
        if "missing" in hello:
            self.close()
            raise Stopped(f"not installed ({', '.join(hello['missing'])})")
        self.versions = hello["versions"]

    def _answer(self, patience_s: float) -> dict[str, Any]:
        assert self._process is not None
        assert self._process.stdout is not None
        deadline, pipe = time.monotonic() + patience_s, self._process.stdout.fileno()
        while b"\n" not in self._unread:
            if not select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))[0]:
                self.close()
                raise Stopped(f"no answer in {patience_s:.0f} s")
            if not (some := os.read(pipe, 1 << 16)):
                raise Stopped(self._last_words())
            self._unread += some
        line, self._unread = self._unread.split(b"\n", 1)
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _last_words(self) -> str:
        """How a process that is no more ended."""
        assert self._process is not None
        code = self._process.wait()
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        self.close()
        return f"its process ended with {code}: {lines[-1][:200] if lines else 'no message'}"

    def close(self) -> None:
        """End the process with everything that it started."""
        if self._process is None:
            return
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                pipe.close() if pipe else None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._process = None
        self._log.close()


def _keep_to(cores: set[int]) -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)


@contextlib.contextmanager
def players(contestants: list[Contestant], peers_python: Path, cores: set[int]) -> Iterator[list[Player]]:
    """All contestants; their processes end with the block."""
    own = Path(sys.executable)
    every = [Player(one, peers_python if one.apart else own, cores) for one in contestants]
    try:
        yield every
    finally:
        for player in every:
            player.close()


class Turn:
    """A player's part in one cell: what it has done and how much it does per round."""

    def __init__(self, player: Player, seconds: float, rounds: int) -> None:
        self.player, self.seconds, self.rounds = player, seconds, rounds
        self.result = Result()

    def prepare(self, cell: Cell) -> None:
        """Build, compile and warm up, and see how many steps fit into a round."""
        contestant = self.player.contestant
        self._guarded(lambda: self._prepare(cell, contestant))

    def _prepare(self, cell: Cell, contestant: Contestant) -> None:
        answer = self.player.ask({"cell": [cell.model, cell.length]})
        if _step_s(answer) > _LONG_STEP_S and not contestant.compiles:
            self._note(answer)
        elif contestant.compiles:
            self.player.ask({"steps": 1})  # some compile their second step as well
            answer = self.player.ask({"steps": 1})
        elif answer["steps"] == 1 or answer["cpu_s"] < _WARM * self.seconds:
            answer = self.player.ask({"steps": contestant.at_once})
        pace = _step_s(answer)
        in_round = self.seconds / self.rounds / pace
        self.result.steps = contestant.at_once * max(1, round(in_round / contestant.at_once))
        affordable = int(1.5 * self.seconds / (pace * self.result.steps))
        self.rounds = min(self.rounds, max(_FEWEST_ROUNDS, affordable))

    def play(self) -> None:
        """Take part in a round, if this one needs more of them."""
        if not self.result.problem and len(self.result.cpu_s) < self.rounds:
            self._guarded(lambda: self._note(self.player.ask({"steps": self.result.steps})))

    def end(self) -> None:
        """Leave the training loop."""
        if not self.result.problem:
            self._guarded(lambda: self.player.ask({"end": True}))

    def _note(self, answer: dict[str, Any]) -> None:
        self.result.cpu_s.append(_step_s(answer))
        self.result.wall_s.append(answer["wall_s"] / answer["steps"])
        self.result.loss, self.result.kernel = answer["loss"], answer["kernel"]

    def _guarded(self, step: Callable[[], None]) -> None:
        try:
            step()
        except Stopped as reason:
            self.result.problem = str(reason)


def _step_s(answer: dict[str, Any]) -> float:
    """CPU seconds of each of the steps; unlike wall time, hardly longer where others use the core too."""
    return float(answer["cpu_s"] / answer["steps"])


def contest(
    cell: Cell, every: list[Player], *, seconds: float, rounds: int, rng: random.Random
) -> dict[str, Result]:
    """All players on one cell, in rounds of random order.

    Args:
        seconds: measured time of each player, as far as its steps are short enough.
    """
    turns = [Turn(p, seconds, rounds) for p in every if cell.model in p.contestant.models]
    for turn in turns:
        turn.prepare(cell)
    for _ in range(rounds):
        for turn in rng.sample(turns, len(turns)):
            turn.play()
    for turn in turns:
        turn.end()
    return {turn.player.contestant.name: turn.result for turn in turns}
