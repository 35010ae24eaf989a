"""What tests of real engines look at: the queue, and processes."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

HERE = Path(__file__).parent
SCRIPT = HERE / "one_node_slurm.sh"


def python_path() -> str:
    """Where processes of other programs find seqbench and what the tests define."""
    own = [str(HERE.parent.parent), str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.pathsep.join(own)


def queue() -> list[str]:
    """The numbers of the jobs that Slurm has, but for those that have ended."""
    asked = subprocess.run(
        ["squeue", "--noheader", "--format=%A"], capture_output=True, text=True, check=True
    )
    return asked.stdout.split()


def processes(*words: str) -> dict[int, str]:
    """Processes that are alive and whose command line holds one of these words: number and command line."""
    found = {}
    for folder in Path("/proc").iterdir():
        try:
            line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace").strip()
        except OSError:  # no process, or one that has just ended
            continue
        if line and folder.name.isdigit() and any(word in line for word in words):
            found[int(folder.name)] = line
    return found


def parents() -> dict[int, int]:
    """Of every process the one that started it."""
    found = {}
    for folder in Path("/proc").iterdir():
        try:
            found[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):  # no process, or one that has just ended
            continue
    return found


def children(of: int) -> set[int]:
    """A process and all that it has started, directly or not."""
    every, found = parents(), {of}
    while more := {one for one, parent in every.items() if parent in found} - found:
        found |= more
    return found
