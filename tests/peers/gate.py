"""How a contestant's endless training loop is held between rounds, and its time read.

A contestant calls :meth:`Gate.tick` after every step. Inside a call the gate may stand still until the parent
asks for more steps; the clocks run only between such stops. So a framework whose loop cannot be called step
by step is timed in the same way as a loop of three lines.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any


class Finished(Exception):
    """The parent wants no more steps; leaves the contestant's loop."""


class Gate:
    """Counts steps and answers the parent after as many as it asked for.

    Args:
        receive: gives the parent's next order: ``{"steps": n}``, or ``{"end": true}``.
        send: takes the answer: ``steps, cpu_s, wall_s, loss, kernel`` since the last stop.
    """

    def __init__(self, receive: Callable[[], dict[str, Any]], send: Callable[[dict[str, Any]], None]) -> None:
        self._receive, self._send = receive, send
        self.kernel = ""  # which implementation runs, where the contestant knows
        self._done, self._wanted = 0, 1  # the first stop is after one step: what is built and compiled
        self._start()

    @property
    def left(self) -> int:
        """Steps until the next stop."""
        return self._wanted - self._done

    def tick(self, loss: Callable[[], float], steps: int = 1) -> None:
        """Note steps just taken.

        Args:
            loss: of the last of them; called at a stop, where it also waits for what is still computed.

        Raises:
            Finished: the parent has seen enough.
            ArithmeticError: the loss is not finite.
        """
        self._done += steps
        if self.left > 0:
            return
        value = float(loss())
        spent = {"cpu_s": time.process_time() - self._cpu, "wall_s": time.perf_counter() - self._wall}
        if not math.isfinite(value):
            raise ArithmeticError(f"the loss became {value}")
        self._send({"steps": self._done, "loss": value, "kernel": self.kernel, **spent})
        order = self._receive()
        if "steps" not in order:
            raise Finished
        self._done, self._wanted = 0, order["steps"]
        self._start()

    def _start(self) -> None:
        self._cpu, self._wall = time.process_time(), time.perf_counter()
