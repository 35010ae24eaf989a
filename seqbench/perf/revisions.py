"""Revisions of a git repository laid out in folders, so that each can be imported beside the other.

A revision is taken out of the repository with ``git archive``, which leaves nothing behind in ``.git``
whatever ends the program; the working tree is copied, so that it may be edited while it is measured.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
from dataclasses import dataclass
from pathlib import Path

from seqbench import store
from seqbench.errors import UsageError

WORKING_TREE = "working tree"
_NEEDED = ("seqbench", "conf", "requirements", "pyproject.toml", "Makefile", "README.md", "LICENSE")
_PINS = ("bench.txt", "torch.txt")
_MOST_WORDS = 300


@dataclass(frozen=True)
class Tree:
    """The files of a revision.

    Attributes:
        name: as it was asked for.
        commit: its full hash; of the working tree, that of the commit it stands on, with "+" where it
            differs.
    """

    name: str
    commit: str
    folder: Path


def repository(start: Path) -> Path:
    """The repository around a folder.

    Raises:
        UsageError: there is none, or it holds no seqbench.
    """
    root = Path(_git(start, "rev-parse", "--show-toplevel", fix="go to a checkout of seqbench").strip())
    if not (root / "seqbench" / "__init__.py").is_file():
        raise UsageError(f"{root}: no seqbench/ in this repository; go to a checkout of seqbench")
    return root


def split(words: str) -> tuple[str, str]:
    """BASE and HEAD of a range; an empty HEAD is the working tree.

    Raises:
        UsageError: no range.

    >>> split("v1..v2"), split("main..")
    (('v1', 'v2'), ('main', ''))
    """
    base, dots, head = words.partition("..")
    if not dots or not base or "..." in words:
        raise UsageError(
            f"{words!r}: expected BASE..HEAD, two git revisions (BASE..: the working tree as head)"
        )
    return base, head


def lay_out(root: Path, name: str, folder: Path) -> Tree:
    """Put the files of a revision into a new folder.

    Args:
        name: a git revision; empty: the working tree as it is now.

    Raises:
        UsageError: no such revision, or there is no seqbench in it.
    """
    folder.mkdir(parents=True)
    if name:
        commit = commit_of(root, name)
        packed = _git_bytes(root, "archive", "--format=tar", commit)
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            archive.extractall(folder, filter="data")
    else:
        commit = commit_of(root, "HEAD") + (
            "+" if _git(root, "status", "--porcelain", "--", *_NEEDED) else ""
        )
        _copy(root, folder)
    if not (folder / "seqbench" / "__init__.py").is_file():
        raise UsageError(f"{name}: holds no seqbench/; choose a later revision")
    return Tree(name or WORKING_TREE, commit, folder)


def commit_of(root: Path, name: str) -> str:
    """The hash of a revision.

    Raises:
        UsageError: git does not know it.
    """
    fix = f"{name!r} is no revision of {root}; see: git log --oneline"
    return _git(
        root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}", fix=fix
    ).strip()


def _copy(root: Path, folder: Path) -> None:
    """Copy what git tracks, or would track, of the working tree."""
    listed = _git(root, "ls-files", "-coz", "--exclude-standard", "--", *_NEEDED)
    for name in filter(None, listed.split("\0")):
        if (root / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, folder / name)


def differing_pins(base: Tree, head: Tree) -> list[str]:
    """What names the packages that a run needs and is not the same on both sides."""
    one, other = (_pins(tree.folder) for tree in (base, head))
    return sorted(name for name in {*one, *other} if one.get(name) != other.get(name))


def _pins(folder: Path) -> dict[str, str]:
    found = {
        f"requirements/{name}": store.sha256((folder / "requirements" / name).read_bytes())
        for name in _PINS
        if (folder / "requirements" / name).is_file()
    }
    project = folder / "pyproject.toml"
    if project.is_file():
        asked = tomllib.loads(project.read_text(encoding="utf-8")).get("project", {}).get("dependencies", [])
        found["pyproject.toml (dependencies)"] = "\n".join(map(str, asked))
    return found


def build(tree: Tree) -> str:
    """Make an environment of a revision's own pins with its Makefile; returns the interpreter.

    Raises:
        UsageError: it cannot be built, with make's last line.
    """
    if not (tree.folder / "Makefile").is_file():
        raise UsageError(f"--build: {tree.name} has no Makefile; leave --build out")
    print(f"building the environment of {tree.name} ...", file=sys.stderr, flush=True)  # noqa: T201
    command = ["make", "-C", str(tree.folder), "VENV=.venv", f"PYTHON={sys.executable}", ".venv/.bench"]
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    made = subprocess.run(command, env=clean, capture_output=True, text=True, check=False)
    if made.returncode:
        raise UsageError(f"--build: {tree.name} cannot be built: {_last(made.stderr or made.stdout)}")
    return str(tree.folder / ".venv" / "bin" / "python")


def _git(root: Path, *words: str, fix: str = "") -> str:
    return os.fsdecode(_git_bytes(root, *words, fix=fix))


def _git_bytes(root: Path, *words: str, fix: str = "") -> bytes:
    """What git answers.

    Raises:
        UsageError: git is not there, or says no.
    """
    try:
        done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, check=False)
    except FileNotFoundError:
        raise UsageError("git is not installed; revisions need it (--store and --baseline do not)") from None
    if done.returncode:
        said = _last(os.fsdecode(done.stderr))
        raise UsageError("; ".join(filter(None, [said, fix])) or f"git {words[0]} failed")
    return done.stdout


def _last(said: str) -> str:
    lines = said.strip().splitlines()
    return lines[-1][:_MOST_WORDS] if lines else ""
