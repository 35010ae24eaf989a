"""A real Slurm of one node, and processes that tests look for."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from launchers.watch import HERE, SCRIPT, python_path, queue


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here needs what `make launchers` installs, and only that target asks for it."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker("launchers")


@pytest.fixture(scope="session")
def running_slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Variables with which commands reach a Slurm that runs until the tests have ended."""
    pytest.importorskip("submitit", reason="submitit is not installed: make launchers")
    folder = tmp_path_factory.mktemp("slurm")
    started = subprocess.run([SCRIPT, "start", folder], capture_output=True, text=True, check=False)
    if started.returncode != 0:
        pytest.skip(f"no Slurm here: {started.stderr.strip()}")
    try:
        told = subprocess.run([SCRIPT, "env", folder], capture_output=True, text=True, check=True).stdout
        yield dict(line.split("=", 1) for line in told.splitlines())
    finally:
        subprocess.run([SCRIPT, "stop", folder], check=True)


@pytest.fixture
def slurm(
    running_slurm: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dict[str, str]]:
    """The same with an empty queue and a cache folder of the test's own, for this process too."""
    variables = {**running_slurm, "XDG_CACHE_HOME": str(tmp_path / "cache"), "PYTHONPATH": python_path()}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    yield variables
    left = queue()
    if left:
        subprocess.run(["scancel", *left], check=False)
    assert not left, "a test has left jobs in the queue"
