"""What one process hands to another of the same command: closed until the files it needs have been loaded."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqbench import userfile


@dataclass(frozen=True)
class Sealed:
    """What a child works on, closed until it has loaded the files that its parent was told to load."""

    files: tuple[Path, ...]
    content: bytes

    @classmethod
    def of(cls, content: Any) -> Sealed:
        """Close something."""
        return cls(tuple(userfile.loaded()), pickle.dumps(content))

    def opened(self) -> Any:
        """Load the files, then open; the content comes from the parent process and from nowhere else."""
        userfile.load_all(self.files)
        return pickle.loads(self.content)
