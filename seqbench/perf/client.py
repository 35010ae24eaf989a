"""A worker process that measures one revision, held on a string of JSON lines."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

_WORKER = Path(__file__).with_name("worker.py")
_PATIENCE_S = 5.0
_SAMPLE_S = 0.3


class Refused(Exception):
    """A worker could not do what it was asked.

    Attributes:
        missing: the revision lacks what the measurement needs, so that it is no failure of it.
        usage: what was asked for makes no sense there (no such model, say).
    """

    def __init__(self, message: str, kind: str = "") -> None:
        super().__init__(message)
        self.missing, self.usage = kind == "not there", kind == "UsageError"


class Worker:
    """A process with a revision's package; requests are methods of ``worker.Session`` by name."""

    def __init__(
        self,
        tree: Path,
        log: Path,
        *,
        python: str = sys.executable,
        device: str = "cpu",
        planted: float = 0.0,
        core: int | None = None,
    ) -> None:
        ours = {
            "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONHASHSEED": "0",
            "TMPDIR": str(log.parent),
        }  # fmt: skip
        self.log = log
        self.facts: dict[str, Any] = {}
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                [python, "-P", str(_WORKER), "--device", device, "--planted", str(planted)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=os.environ | ours,
                cwd=log.parent,
                start_new_session=True,  # Ctrl-C is for us; who asks also ends
                text=True,
            )
        if core is not None and hasattr(os, "sched_setaffinity"):
            with contextlib.suppress(OSError):  # it died at once: the first request says so
                os.sched_setaffinity(self._process.pid, {core})

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._in.close()
        try:
            self._process.wait(_PATIENCE_S if error is None else 0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._out.close()

    @property
    def _in(self) -> Any:
        assert self._process.stdin is not None
        return self._process.stdin

    @property
    def _out(self) -> Any:
        assert self._process.stdout is not None
        return self._process.stdout

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Send a request and wait for its answer.

        Raises:
            Refused: it cannot be done, in words; the process's own output is in ``log``.
        """
        try:
            self._in.write(json.dumps({"do": do, **arguments}) + "\n")
            self._in.flush()
            line = self._out.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise Refused(f"the process ended (exit code {self._process.wait()}): {self._last_words()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise Refused(str(answer["error"]), str(answer.get("kind")))
        return answer

    def _last_words(self) -> str:
        lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return lines[-1][:300] if lines else "it said nothing"

    def start(self) -> Worker:
        """Wait until the process is ready; its facts are known then.

        Raises:
            Refused: the revision cannot be measured.
        """
        self.facts = self.ask("hello")
        return self

    def prepare(self) -> float:
        """A fresh network, warm; returns the seconds of a step."""
        return float(self.ask("prepare")["step_s"])

    def block(self, steps: int) -> float:
        """Seconds of some training steps."""
        return float(self.ask("block", steps=steps)["seconds"])


def quiet_core() -> int | None:
    """The core with least to do, of those that we may use; both sides share it."""
    if not hasattr(os, "sched_getaffinity"):
        return None
    before = _busy()
    time.sleep(_SAMPLE_S)
    after = _busy()
    cores = sorted(os.sched_getaffinity(0))
    return min(cores, key=lambda core: after.get(core, 0) - before.get(core, 0))


def _busy() -> dict[int, int]:
    """Clock ticks that each core has been busy."""
    try:
        lines = Path("/proc/stat").read_text(encoding="ascii").splitlines()
    except OSError:
        return {}
    found = {}
    for line in lines:
        name, *ticks = line.split()
        if name.startswith("cpu") and name != "cpu":
            user, nice, system, _idle, _waiting, *rest = map(int, ticks[:8])
            found[int(name[3:])] = user + nice + system + sum(rest)
    return found
