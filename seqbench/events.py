"""Progress of a run, for the display in the parent."""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path
from typing import IO, Any


class Events:
    """Progress of a run as one JSON object per line, for the display in the parent.

    Progress that cannot be written (a full disk) is no reason to stop training; the record will say so.
    """

    def __init__(self, path: Path) -> None:
        self._handle: IO[str] | None = None
        with contextlib.suppress(OSError):
            self._handle = path.open("w", encoding="utf-8", buffering=1)
        self._started = time.perf_counter()

    def __call__(self, event: dict[str, Any]) -> None:
        elapsed_s = time.perf_counter() - self._started
        left_s = elapsed_s / max(1, event["step"] - event["first_step"]) * (event["steps"] - event["step"])
        if self._handle is not None:
            with contextlib.suppress(OSError):
                self._handle.write(json.dumps({**event, "left_s": round(left_s, 1)}) + "\n")
