"""A built wheel works without the checkout: the configuration travels inside it."""

from __future__ import annotations

import shutil
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def wheel(python_in, tmp_path_factory) -> Path:
    """Built from a copy, so that the checkout stays clean and nothing outside version control gets in."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    for name in ("seqbench", "conf"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    result = python_in(folder, "-c", "import hatchling.build as b; print(b.build_wheel('dist'))")
    assert result.returncode == 0, result.stderr
    [built] = (folder / "dist").glob("*.whl")
    return built


def test_the_wheel_holds_every_module_and_every_configuration_file(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for path in (ROOT / "conf").rglob("*.yaml"):
        assert f"seqbench/conf/{path.relative_to(ROOT / 'conf')}" in names
    for path in (ROOT / "seqbench").rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            assert path.relative_to(ROOT).as_posix() in names
    assert not [name for name in names if name.startswith(("tests/", "conf/", "runs/"))]
    assert [name for name in names if name.endswith("licenses/LICENSE")]


def test_the_wheel_composes_and_refuses_without_the_checkout(wheel, python_in, tmp_path):
    target = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(target)
    packages = next(path for path in sys.path if path.endswith("site-packages"))
    check = (
        "import sys; sys.path[:0] = sys.argv[1:3]; import seqbench, seqbench.cli as cli; "
        "assert seqbench.__file__.startswith(sys.argv[1]), seqbench.__file__; "
        "assert str(cli.conf_folder()).startswith(sys.argv[1]), cli.conf_folder(); "
        "jobs = cli.compose(['-m', 'model=lstm,gru', 'task=mqar']); "
        "print(*[(j.model.name, j.task.name, j.train.tuned) for j in jobs]); cli.main(['model=lstn'])"
    )
    result = python_in(tmp_path, "-I", "-S", "-c", check, str(target), packages)  # -S: no editable install
    assert result.stdout.startswith("('lstm', 'mqar', True) ('gru', 'mqar', True)"), result.stderr
    assert result.returncode == 2
    assert "did you mean 'lstm'?" in result.stderr
