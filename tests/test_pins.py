"""Every package that the set-up installs is pinned, and checked by hash wherever pip can do it."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from conftest import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

FOLDER = ROOT / "requirements"
CHECKS = ("build.txt", "bench.txt", "test.txt", "lint.txt")  # what `make lint` installs, besides torch
HASHED, UNHASHED = (*CHECKS, "launchers.txt"), "torch.txt"
APART = "peers.txt"  # for the peers of `make perf`, in an environment of their own
TORCH_FAMILY = re.compile(r"torch|triton|(nvidia|cuda)-[a-z0-9-]+")
FOR_USERS = {
    "tensorboard",
    "mlflow",
    "wandb",
}  # their own versions of what they use anyway; no target installs them
HASHES = r"(?P<hashes>(?: \\\n    --hash=sha256:[0-9a-f]{64})*)"
PIN = re.compile(r"(?P<pin>[a-z0-9][a-z0-9.-]*==[^\s\\]+(?: ; [^\\]+?)?)" + HASHES + r"\n")
COMMENT = re.compile(r" *#.*\n|\n")


def read(name: str) -> dict[str, tuple[Requirement, int]]:
    """The pins of a file by package, each with the number of its hashes; nothing else may be in the file."""
    text, at, found = (FOLDER / name).read_text(encoding="utf-8"), 0, {}
    while at < len(text):
        match = PIN.match(text, at) or COMMENT.match(text, at)
        assert match, f"{name}: neither a pin, a hash nor a comment: {text[at:].splitlines()[0]}"
        if match.re is PIN:
            pin = Requirement(match["pin"])
            assert pin.name not in found, f"{name} pins {pin.name} twice"
            found[pin.name] = pin, match["hashes"].count("sha256")
        at = match.end()
    return found


def pins() -> dict[str, Requirement]:
    """Every pin that holds on this machine, by package."""
    every = [pin for name in (*HASHED, UNHASHED) for pin, _ in read(name).values()]
    assert len({pin.name for pin in every}) == len(every), "two files pin the same package"
    return {pin.name: pin for pin in every if pin.marker is None or pin.marker.evaluate()}


def version(pin: Requirement) -> str:
    [only] = pin.specifier
    assert only.operator == "=="
    assert "*" not in only.version
    return only.version


def installed(name: str) -> str | None:
    """The version here, without a build's suffix such as +cpu."""
    try:
        return metadata.version(name).split("+")[0]
    except metadata.PackageNotFoundError:
        return None


def test_every_pin_has_a_hash_but_for_torch_and_its_companions():
    assert {path.name for path in FOLDER.glob("*.txt")} == {*HASHED, UNHASHED, APART}
    for name in (*HASHED, APART):
        assert not [package for package, (_, hashes) in read(name).items() if not hashes]
    for package in read(UNHASHED):
        assert TORCH_FAMILY.fullmatch(package)


def test_the_files_name_no_index_and_no_folder():
    forbidden = re.compile(r"://|--(extra-)?index|--find-links|(^|[\s=\"'(])[/~]\w")
    for path in (*FOLDER.glob("*.txt"), FOLDER / "lock.py"):
        assert not forbidden.search(path.read_text(encoding="utf-8")), path


def test_everything_that_pyproject_asks_for_is_pinned_within_its_range():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    asked = [*project["build-system"]["requires"], *project["project"]["dependencies"]]
    extras = project["project"]["optional-dependencies"]
    assert set(extras) == {"test", "dev", "slurm", "ray", *FOR_USERS}
    asked += [text for name, some in extras.items() if name not in FOR_USERS for text in some]
    known = pins()
    left, seen = [("pyproject.toml", Requirement(text), "") for text in asked], set()
    while left:
        asker, wanted, extra = left.pop()
        name = canonicalize_name(wanted.name)
        if wanted.marker and not wanted.marker.evaluate({"extra": extra}):
            continue
        if TORCH_FAMILY.fullmatch(asker) and TORCH_FAMILY.fullmatch(name):
            continue  # every build of torch has its own companions; torch.txt is for the one on PyPI
        assert name in known, f"{asker} needs {wanted}, which no file in requirements/ pins: make lock"
        fits = wanted.specifier.contains(version(known[name]), prereleases=True)
        assert fits, f"{asker} needs {wanted}, pinned is {known[name]}: make lock"
        for extra in ("", *wanted.extras):
            if (name, extra) not in seen and installed(name) == version(known[name]):
                seen.add((name, extra))
                left += [(name, Requirement(text), extra) for text in metadata.requires(name) or ()]


def test_this_environment_has_the_pinned_versions():
    if not Path(sys.prefix, ".bench").exists():
        pytest.skip("not an environment that the Makefile made: its versions are its owner's choice")
    known = pins()
    here = {name: found for name in known if (found := installed(name))}
    assert {name: version(known[name]) for name in here} == here
    needed = {name for file in ("build.txt", "bench.txt", "test.txt") for name in read(file) if name in known}
    assert needed <= set(here)


def test_the_makefile_lets_pip_install_nothing_unchecked_but_torch_and_seqbench_itself(tmp_path):
    command = ["make", "--dry-run", "--no-print-directory", f"VENV={tmp_path}", "lint"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    installs = [line for line in shown.splitlines() if " pip install " in line]
    assert len(installs) == len(CHECKS) + 2
    for line in installs:
        checked = " --require-hashes --no-deps -r requirements/" in line
        assert checked or line.endswith((f" -c requirements/{UNHASHED} torch", " --no-deps -e .")), line
        assert " --no-build-isolation " in line, "pip would fetch what builds a package without a hash"


def test_the_peers_have_the_versions_of_what_they_share_with_seqbench():
    ours, theirs = pins(), {name: pin for name, (pin, _) in read(APART).items()}
    shared = sorted(ours.keys() & theirs.keys())
    assert "numpy" in shared
    assert not [name for name in theirs if TORCH_FAMILY.fullmatch(name)]
    assert {name: version(theirs[name]) for name in shared} == {name: version(ours[name]) for name in shared}
