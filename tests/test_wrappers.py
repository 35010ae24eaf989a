"""The files in docs/wrappers: short, sound by ``seqbench.check`` where their package is installed."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

import pytest
from conftest import ROOT

FILES = sorted((ROOT / "docs" / "wrappers").glob("*.py"))
OURS = ("seqbench", "dataclasses")
MOST_LINES = 30


def package(tree: ast.Module) -> str:
    """The one third-party package that a file wraps."""
    [name] = {
        str(node.module).split(".")[0]
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] not in OURS
    }
    return name


def test_there_are_a_transformer_and_recurrent_ones():
    assert len(FILES) >= 2


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_wrapper_is_short_and_says_what_it_needs(file: Path):
    text = file.read_text(encoding="utf-8")
    tree = ast.parse(text)
    compile(tree, file.name, "exec")
    assert sum(bool(line.strip()) for line in text.splitlines()) <= MOST_LINES
    assert "pip install -c requirements/torch.txt " in (ast.get_docstring(tree) or "")
    assert text.endswith('if __name__ == "__main__":\n    main()\n')
    assert package(tree)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_wrapper_keeps_every_promise(file: Path, run_python):
    needed = package(ast.parse(file.read_text(encoding="utf-8")))
    if importlib.util.find_spec(needed) is None:
        pytest.skip(f"{needed} is not installed; the first line of {file.name} says how")
    result = run_python("-m", "seqbench.check", str(file))
    assert result.returncode == 0, result.stdout + result.stderr
