"""Checkpoints of a long run: what training needs to go on bit for bit where it was stopped.

A checkpoint is a file with one line of header (format, identity of the run, SHA-256) before ``torch.save``'s
bytes. It is read with ``weights_only=True``: tensors and plain values, never code.
"""

from __future__ import annotations

import io
import pickle
import time
from pathlib import Path
from typing import Any

import torch

from seqbench import records, store
from seqbench.store import DamagedFile

_FORMAT = "seqbench-checkpoint-1"
_MOST_BYTES = 8 << 30


class Checkpoint:
    """The checkpoint of one run.

    Args:
        folder: the run's folder.
        identity: of the run; a checkpoint of another one is never used.
        every_s: seconds between two checkpoints.
    """

    def __init__(self, folder: Path, identity: str, every_s: float) -> None:
        self.path = folder / records.CHECKPOINT_FILE
        self.identity, self.every_s = identity, every_s
        self._last = time.monotonic()

    def due(self) -> bool:
        """Whether it is time for the next one."""
        return time.monotonic() - self._last >= self.every_s

    def save(self, state: dict[str, Any]) -> None:
        """Write the state (tensors and plain values only), whole or not at all.

        Where disk or memory do not take it, the checkpoint before stays and training goes on.
        """
        try:
            buffer = io.BytesIO()
            torch.save(state, buffer)
            content = buffer.getvalue()
            header = f"{_FORMAT} {self.identity} {store.sha256(content)}\n"
            store.write_file(self.path, header.encode() + content)
        except (OSError, MemoryError) as error:
            print(f"checkpoint not written: {error}")  # noqa: T201 - the run's log
        self._last = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        """The newest state, or None when there is none that can be trusted (then training starts anew)."""
        try:
            content = store.read_bytes(self.path, _MOST_BYTES)
        except FileNotFoundError:
            return None
        except DamagedFile as error:
            print(f"checkpoint not used: {error}")  # noqa: T201 - the run's log
            return None
        header, _, body = content.partition(b"\n")
        if header.decode("ascii", "replace") != f"{_FORMAT} {self.identity} {store.sha256(body)}":
            print(f"checkpoint not used: {self.path.name} is damaged or of another run")  # noqa: T201
            return None
        try:
            state: dict[str, Any] = torch.load(io.BytesIO(body), weights_only=True)
        except (pickle.UnpicklingError, RuntimeError):
            print(f"checkpoint not used: {self.path.name} holds something else than tensors")  # noqa: T201
            return None
        return state

    def discard(self) -> None:
        """Remove it: the run has ended, or is to start anew."""
        store.remove(self.path)
