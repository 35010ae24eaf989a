"""Arrays on disk that are verified when they are read: one file, written whole or not at all, no pickle."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from seqbench import store

Array = npt.NDArray[Any]
_HEADER = "header"


class DamagedCache(Exception):
    """A cached file is not what was written; it must be built again."""


def save(path: Path, arrays: Mapping[str, Array], facts: Mapping[str, Any]) -> None:
    """Write arrays and plain facts; readers see the old file or the new one, never a part of it."""
    sha256 = {name: _digest(array) for name, array in arrays.items()}
    text = json.dumps({"facts": dict(facts), "sha256": sha256}, allow_nan=False)
    header = np.frombuffer(f"{hashlib.sha256(text.encode()).hexdigest()}{text}".encode(), dtype=np.uint8)
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **{_HEADER: header}, **arrays)
    store.make_folder(path.parent)
    store.write_file(path, content.getbuffer())


class Cached:
    """A file written by :func:`save`. Arrays are read, and verified, when they are asked for.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedCache: the file, or an array read from it, differs from what was written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        text = self._read(_HEADER).tobytes().decode(errors="replace")
        if hashlib.sha256(text[64:].encode()).hexdigest() != text[:64]:
            raise DamagedCache(f"{path}: the header does not match its checksum")
        header = json.loads(text[64:])
        self.facts: dict[str, Any] = header["facts"]
        self._sha256: dict[str, str] = header["sha256"]

    def __getitem__(self, name: str) -> Array:
        array = self._read(name)
        if _digest(array) != self._sha256[name]:
            raise DamagedCache(f"{self.path}: '{name}' does not match its checksum")
        return array

    def verify(self) -> None:
        """Read every array once."""
        for name in self._sha256:
            self[name]

    def _read(self, name: str) -> Array:
        try:
            with self.path.open("rb") as handle, np.load(handle, allow_pickle=False) as file:
                return np.asarray(file[name])
        except FileNotFoundError:
            raise
        except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise DamagedCache(f"{self.path}: '{name}' cannot be read: {error}") from error


def _digest(array: Array) -> str:
    """SHA-256 of the values with their type and shape."""
    digest = hashlib.sha256(f"{array.dtype.str}{array.shape}".encode())
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
