"""Files that survive a crash: written whole or not at all, sealed with a hash, read without trust.

Every byte that seqbench keeps goes through :func:`write_file`: temporary file, write, fsync, rename, fsync of
the folder. Only functions of :mod:`os` touch the disk, so that tests can make each call fail or record it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

MOST_JSON_BYTES = 64 << 20


class DamagedFile(Exception):
    """A file is not what was written; the message says which and how."""


def write_file(path: Path, content: bytes | memoryview, *, durable: bool = True) -> None:
    """Put ``content`` in place in one step: readers see the old file or the new one, never a part of it.

    Args:
        durable: also flush the folder, so that the file is there after a power cut. Files that a later,
            durable one depends on may leave that to it.

    Raises:
        OSError: the disk does not take it; the old file is untouched.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o644)
    try:
        try:
            _write_fully(descriptor, content)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    if durable:
        flush_folder(path.parent)


def _write_fully(descriptor: int, content: bytes | memoryview) -> None:
    """Write everything, however little the kernel takes at a time."""
    rest = memoryview(content)
    while rest:
        written = os.write(descriptor, rest)
        if written <= 0:
            raise OSError(f"the disk took {written} of {len(rest)} bytes")
        rest = rest[written:]


def flush_folder(folder: Path) -> None:
    """Make names in a folder (new, renamed, removed) survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Create a folder and its parents so that each of them survives a power cut."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    present = missing[-1].parent if missing else folder
    with contextlib.suppress(PermissionError):  # a process killed right here may have left it to us
        flush_folder(present.parent)
    for path in reversed(missing):
        with contextlib.suppress(FileExistsError):  # another process was quicker
            os.mkdir(path)
        flush_folder(path.parent)
    if not folder.is_dir():
        raise NotADirectoryError(20, "not a folder", str(folder))


def remove(path: Path) -> None:
    """Remove a file for good; one that is gone already may come back after a power cut until this returns."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    with contextlib.suppress(FileNotFoundError):
        flush_folder(path.parent)


def read_bytes(path: Path, limit: int) -> bytes:
    """Read a regular file, and nothing else, of at most ``limit`` bytes.

    Raises:
        DamagedFile: a link, a pipe, a folder, too large, or the disk does not give it back.
        FileNotFoundError: no such file.
    """
    with _regular(path) as (descriptor, size):
        if size > limit:
            raise DamagedFile(f"{path}: not a regular file of at most {limit} bytes")
        return _read_fully(descriptor, size)


def read_tail(path: Path, limit: int) -> bytes:
    """The last ``limit`` bytes of a regular file; raises like :func:`read_bytes`."""
    with _regular(path) as (descriptor, size):
        os.lseek(descriptor, max(0, size - limit), os.SEEK_SET)
        return _read_fully(descriptor, min(size, limit))


@contextlib.contextmanager
def _regular(path: Path) -> Iterator[tuple[int, int]]:
    """A regular file, open for reading, and its size: never a link, a device, or a pipe that would block."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise DamagedFile(f"{path}: {error.strerror}") from error
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise DamagedFile(f"{path}: not a regular file")
        yield descriptor, found.st_size
    except OSError as error:
        raise DamagedFile(f"{path}: {error.strerror}") from error
    finally:
        os.close(descriptor)


def _read_fully(descriptor: int, size: int) -> bytes:
    """Read ``size`` bytes, or up to the end of a file that shrank meanwhile."""
    parts: list[bytes] = []
    while size > 0 and (part := os.read(descriptor, size)):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def sha256(content: bytes) -> str:
    """SHA-256 of bytes, in hex."""
    return hashlib.sha256(content).hexdigest()


def digest(plain: Mapping[str, Any]) -> str:
    """SHA-256 of plain data, independent of key order.

    Raises:
        ValueError: a number that JSON does not know.
    """
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return sha256(text.encode())


def json_safe(value: Any) -> Any:
    """Plain data as JSON can say it: NaN and infinity become None, keys become texts.

    >>> json_safe({1: (math.inf, 2.0)})
    {'1': [None, 2.0]}
    """
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): json_safe(item) for key, item in value.items()}
    return [json_safe(item) for item in value] if isinstance(value, list | tuple) else value


def write_sealed(
    path: Path, plain: Mapping[str, Any], *, indent: int | None = 1, limit: int = MOST_JSON_BYTES
) -> None:
    """Write plain data as JSON that carries the hash of itself.

    Args:
        indent: spaces by which each level is moved in, on lines of their own; None: all on one line, which
            is a third as long to write.

    Raises:
        ValueError: more than ``limit`` bytes, which :func:`read_json` would refuse.
    """
    safe = json_safe(plain)
    safe["sha256"] = digest(safe)
    content = (json.dumps(safe, indent=indent, sort_keys=True, allow_nan=False) + "\n").encode()
    if len(content) > limit:
        raise ValueError(f"{path}: {len(content)} bytes, more than {limit}")
    write_file(path, content)


def read_json(path: Path, limit: int = MOST_JSON_BYTES) -> dict[str, Any]:
    """Read an object of JSON from a folder that nobody vouches for.

    Raises:
        DamagedFile: not valid JSON, not an object, or not a regular file of at most ``limit`` bytes.
        FileNotFoundError: no such file.
    """
    try:
        plain = json.loads(read_bytes(path, limit), parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise DamagedFile(f"{path}: not valid JSON: {error}") from error
    if not isinstance(plain, dict):
        raise DamagedFile(f"{path}: not an object of JSON")
    return plain


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def unsealed(path: Path, plain: Mapping[str, Any]) -> dict[str, Any]:
    """The data without its seal, once the seal is known to fit.

    Raises:
        DamagedFile: the content is not what was written.
    """
    content = {key: value for key, value in plain.items() if key != "sha256"}
    try:
        intact = plain.get("sha256") == digest(content)
    except ValueError:
        intact = False
    if not intact:
        raise DamagedFile(f"{path}: content does not match its checksum")
    return content
