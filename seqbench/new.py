"""``python -m seqbench.new my_layer.py``: a layer of one's own to start from, and a test of it."""

from __future__ import annotations

import ast
import importlib.util
import keyword
import re
import shlex
import sys
from pathlib import Path

from seqbench.errors import UsageError
from seqbench.registry import plugins

EXIT_FINE, EXIT_USAGE = 0, 2
_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
_VALUES = ("null", "true", "false", "nan", "inf")  # what the command line does not read as a name

LAYER = '''"""MODEL: a layer of my own.

    python -m seqbench.check FILE                      does it keep its promises?
    python FILE -m model=MODEL,lstm seeds=1            compare it with others
    python FILE --help                                 every setting

Shape letters: B batch, T time, D width in, H width out.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from seqbench.cli import main
from seqbench.layers.base import Encoder
from seqbench.layers.recurrent import stack
from seqbench.models.base import ModelConfig
from seqbench.registry import register
from seqbench.schema import setting


@register("model")
@dataclass
class CLASS(ModelConfig):
    """Gated linear recurrence: each channel forgets at a rate that the input decides."""

    name: str = "MODEL"
    # A setting: model.keep_bias=2 on the command line, and model.keep_bias=0,1,2 with -m to compare.
    keep_bias: float = setting(1.0, "initial bias of the gate: the larger, the slower it forgets")

    def build(self, width_in: int, hidden: int) -> Encoder:
        """One stack of self.layers layers; `hidden` is solved so that all models have the same size."""
        return stack(self.layers, width_in, lambda width: CLASSLayer(width, hidden, self.keep_bias))


class CLASSLayer(Encoder):
    """h_t = a_t h_{t-1} + (1 - a_t) W x_t with the gate a_t = sigmoid(V x_t + b)."""

    causal = True  # output t depends on inputs up to t alone: checked, not believed
    kernel = "Python loop"  # which implementation runs: shown beside every speed

    def __init__(self, width_in: int, hidden: int, keep_bias: float) -> None:
        super().__init__()
        self.width_out = hidden  # H: what forward gives
        self.value = nn.Linear(width_in, hidden)
        self.gate = nn.Linear(width_in, hidden)
        nn.init.constant_(self.gate.bias, keep_bias)

    def forward(
        self, x_BTD: Tensor, *, mask_BT: Tensor | None = None, state: Any = None
    ) -> tuple[Tensor, Any]:
        """From vectors (B, T, D) to vectors (B, T, H), and the state from which a next call goes on.

        Padding stands on the right, so a causal layer needs no mask. A layer without a state returns None.
        """
        keep_BTH = torch.sigmoid(self.gate(x_BTD))
        new_BTH = (1 - keep_BTH) * self.value(x_BTD)
        h_BH = torch.zeros_like(new_BTH[:, 0]) if state is None else state
        outputs = []
        for keep_BH, new_BH in zip(keep_BTH.unbind(1), new_BTH.unbind(1), strict=True):
            h_BH = keep_BH * h_BH + new_BH
            outputs.append(h_BH)
        return torch.stack(outputs, dim=1), h_BH

    # Not needed, but used where they are there:
    #   activations(self, x_BTD, *, mask_BT=None) -> {"forget gate": (B, T, H)}   shown by probes=[gates]
    #   reference(self, x_BTD) -> (B, T, H)    a slow form, which the check compares with forward


if __name__ == "__main__":
    main()
'''

TEST = '''"""MODEL keeps its promises: the same as `python -m seqbench.check FILE`."""

from pathlib import Path

from seqbench.check import failures


def test_every_property_holds():
    assert failures(Path(__file__).with_name("FILE")) == []
'''


def main(argv: list[str] | None = None) -> int:
    """Write both files and say what to do with them.

    Returns:
        0, or 2 where the name cannot be used or a file is already there.
    """
    args = sys.argv[1:] if argv is None else argv
    try:
        files = new(args)
    except UsageError as error:
        print(f"seqbench.new: {' '.join(str(error).split())}", file=sys.stderr)  # noqa: T201
        return EXIT_USAGE
    except OSError as error:
        print(f"seqbench.new: {error.filename}: {error.strerror}", file=sys.stderr)  # noqa: T201
        return EXIT_USAGE
    layer, test = files
    print(f"wrote {layer} and {test}; next:\n{commands(layer, test)}")  # noqa: T201
    return EXIT_FINE


def commands(layer: Path, test: Path) -> str:
    """What to do with the files, to copy."""
    file = shlex.quote(str(layer))
    return (
        f"  python -m seqbench.check {file}\n"
        f"  python {file} -m model={layer.stem},lstm seeds=1\n"
        f"  pytest {shlex.quote(str(test))}"
    )


def new(args: list[str]) -> tuple[Path, Path]:
    """Write a layer and its test; the model's name is the file's.

    Raises:
        UsageError: not one usable name, or one of the files is there.
    """
    if len(args) != 1 or args[0].startswith("-"):
        raise UsageError("expected one name: python -m seqbench.new my_layer.py")
    layer = Path(args[0])
    _check_name(layer)
    test = layer.with_name(f"test_{layer.name}")
    for file in (layer, test):
        if file.exists() or file.is_symlink():
            raise UsageError(f"{file}: already there, and never overwritten: choose another name")
    if not layer.parent.is_dir():
        raise UsageError(f"{layer.parent}: no such folder: make it first")
    cls = _class_name(layer.stem)
    for file, text in ((layer, LAYER), (test, TEST)):
        content = text.replace("FILE", layer.name).replace("MODEL", layer.stem).replace("CLASS", cls)
        with file.open("x", encoding="utf-8") as handle:
            handle.write(content)
    return layer, test


def _class_name(stem: str) -> str:
    """The class of a file: MyLayer of my_layer."""
    return "".join(part.capitalize() for part in stem.split("_"))


def _taken() -> set[str]:
    """Names that the file uses for something else."""
    lines = [node for node in ast.walk(ast.parse(LAYER)) if isinstance(node, ast.Import | ast.ImportFrom)]
    return {"None", *(alias.name for line in lines for alias in line.names)}


def _check_name(file: Path) -> None:
    """Refuse what could be no module, or would hide one, and what is a model's name already.

    Raises:
        UsageError: with the reason.
    """
    name = file.stem
    if file.suffix != ".py":
        raise UsageError(f"{file}: expected a name that ends in .py, like my_layer.py")
    if not _NAME.fullmatch(name) or keyword.iskeyword(name):
        raise UsageError(f"{file}: expected small letters, digits and '_' before .py, like my_layer.py")
    if name in _VALUES or _class_name(name) in _taken():
        raise UsageError(f"{file}: '{name}' would mean something else there: choose another name")
    if name in plugins("model"):
        raise UsageError(f"{file}: a model is called '{name}' already: choose another name")
    if importlib.util.find_spec(name) is not None:
        raise UsageError(f"{file}: a module is called '{name}' already: choose another name")


if __name__ == "__main__":
    sys.exit(main())
