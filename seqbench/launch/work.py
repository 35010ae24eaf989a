"""The process of one batch on a worker: ``python -m seqbench.launch.work PARENT``, with the order on stdin.

It answers on stdout with what became of each run, by identity: ``{"status": "done", "recorded": true,
"again": ["signal 9"]}``, where the last says how often, and why, it had to start again.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import signal
import sys
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from seqbench import environment
from seqbench.isolate import STOP_SIGNALS, Pool, end_children
from seqbench.launch.batches import Order
from seqbench.plan import Unit
from seqbench.records import RUN_FILE

_NOT_FOR_US = (signal.SIGUSR1, signal.SIGUSR2)  # Slurm tells every process of a job; its own program answers


def main(parent: int) -> int:
    """Do the order; gives the exit code: 0, or 1 where the worker or a signal ended it."""
    for number in _NOT_FOR_US:
        signal.signal(number, signal.SIG_IGN)
    for number in STOP_SIGNALS:
        signal.signal(number, _stop)
    environment.end_with_parent(signal.SIGTERM)
    if os.getppid() != parent:  # it has gone already
        return 1
    answer = os.dup(1)
    os.dup2(2, 1)  # whatever else is printed is no answer
    order = pickle.load(sys.stdin.buffer)  # from the parent process
    assert isinstance(order, Order)
    try:
        told = done(order)
    except KeyboardInterrupt:
        return 1
    finally:
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        end_children()
    with os.fdopen(answer, "w", encoding="utf-8") as out:
        json.dump(told, out)
    return 0


def done(order: Order) -> dict[str, dict[str, Any]]:
    """Do the units of an order as a sweep on this machine would; their records are where the order says."""
    told, restarts = {}, defaultdict(list)

    def again(units: Sequence[Unit], why: str) -> None:
        for unit in units:
            restarts[unit.identity].append(why)

    units = order.opened()
    with contextlib.closing(Pool(order.slots, again).run(units, lambda _: None)) as ended:
        for unit, run in ended:
            recorded = (unit.folder / RUN_FILE).exists()
            reasons = restarts[unit.identity]
            told[unit.identity] = {"status": run.status, "recorded": recorded, "again": reasons}
    return told


def _stop(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
