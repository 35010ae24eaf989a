"""What the server of child processes loads once: torch and all that a run needs.

It waits while a speed measurement has the machine alone, so that a start never disturbs one.
"""

from __future__ import annotations

import gc
import importlib

from seqbench import environment, locks

gc.disable()  # nothing that is imported is garbage: looking for some takes a quarter of the time
with locks.busy():
    environment.code_sha256()  # of what is imported now, and kept: children compare it with the plan's
    importlib.import_module("seqbench.worker")
gc.freeze()  # children neither look at it nor copy it
gc.enable()
