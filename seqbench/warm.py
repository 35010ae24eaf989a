"""What the server of child processes loads once: torch and all that a run needs.

It waits while a speed measurement has the machine alone, so that a start never disturbs one.
"""

from __future__ import annotations

import importlib

from seqbench import locks

with locks.busy():
    importlib.import_module("seqbench.worker")
