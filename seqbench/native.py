"""A library compiled from seqbench's own C source on the machine it runs on, where there is a C compiler.

It is optional: without a compiler, or where anything about it fails, layers run on torch's operators. It is
built once per source, compiler and processor, and kept in the user's cache folder. Imports no torch.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import stat
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from seqbench.environment import cache_root, instruction_set

SOURCE = Path(__file__).parent / "layers" / "scan.c"
# No -ffast-math: linking it would make the whole process flush the smallest numbers to zero.
FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC")
_SWITCH = "SEQBENCH_NATIVE"  # 0: as if there were no compiler
_PATIENCE_S = 60


@cache
def compiler() -> str | None:
    """The C compiler: what CC says, or the first of cc, gcc and clang; None without one."""
    if os.environ.get(_SWITCH) == "0":
        return None
    names = [os.environ.get("CC", ""), "cc", "gcc", "clang"]
    return next((found for name in names if name and (found := shutil.which(name))), None)


@cache
def fingerprint() -> str | None:
    """What decides the library's bits: source, flags, compiler and processor; None where there is none."""
    tool = compiler()
    if tool is None or library() is None:
        return None
    return _key(tool)


@cache
def _key(tool: str) -> str:
    about = subprocess.run([tool, "--version"], capture_output=True, timeout=_PATIENCE_S, check=False).stdout
    parts = [SOURCE.read_bytes(), " ".join(FLAGS).encode(), about, instruction_set().encode()]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:32]


@cache
def library() -> ctypes.CDLL | None:
    """The library, compiled if it was not; None where that fails."""
    tool = compiler()
    if tool is None:
        return None
    try:
        path = _folder() / f"scan-{_key(tool)}.so"
        if not path.exists():
            _compile(tool, path)
        return ctypes.CDLL(str(path)) if _is_ours(path) else None
    except (OSError, RuntimeError, subprocess.SubprocessError):  # RuntimeError: nobody knows the home folder
        return None


def _folder() -> Path:
    folder = cache_root() / "native"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def _compile(tool: str, path: Path) -> None:
    """Compile beside the place and move it there, so that nobody loads half a library."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        made = Path(folder) / path.name
        command = [tool, *FLAGS, str(SOURCE), "-o", str(made)]
        subprocess.run(command, capture_output=True, timeout=_PATIENCE_S, check=True)
        made.replace(path)


def _is_ours(path: Path) -> bool:
    """Whether nobody else may have written it: code is loaded from nowhere else."""
    about = path.stat()
    others_write = about.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return about.st_uid == os.getuid() and not others_write
