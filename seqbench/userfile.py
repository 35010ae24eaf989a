"""A user's own file, loaded because the command line names it for that purpose, and for no other reason.

``python -m seqbench --allow-code model=my_layer.py:Mine`` is the only way to have a sweep load a file that is
not itself run. No configuration and no variable can give the flag, and only a word ``model=...`` of the
command line is looked at. Child processes are told by their parent which files it loaded.
"""

from __future__ import annotations

import importlib.util
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import ModuleType

from seqbench.errors import UsageError, nearest
from seqbench.registry import plugins

FLAG = "--allow-code"
_PART = re.compile(r"""\s*('[^']*'|"[^"]*"|[^,]+)""")  # of a list; quotes hold a comma together
_QUOTED = re.compile(r"""(['"])(.*)\1""")
_CLASS = re.compile(r"(?P<file>.+\.py)(?::(?P<cls>.*))?")
_modules: dict[str, Path] = {}  # what was loaded, by module name


def is_loaded(module: object) -> bool:
    """Whether a module is a file that :func:`load` has loaded or is loading: its ``main()`` does nothing."""
    return module in _modules


def loaded() -> list[Path]:
    """The files loaded so far, for child processes to load too."""
    return list(_modules.values())


def load_all(files: Iterable[Path]) -> None:
    """Load files that another process of the same command has loaded."""
    for file in files:
        load(file)


def load(file: str | Path) -> ModuleType:
    """Import a file under its own name; files beside it can be imported by it, but hide no library.

    Raises:
        UsageError: there is no such file, its name is another module's, or it cannot be imported.
    """
    path = Path(file).absolute()
    if not path.is_file():
        raise UsageError(f"{file}: no such file: expected a Python file that registers a model")
    name = path.stem
    if _modules.get(name) == path:
        return sys.modules[name]
    _refuse_taken(name, path, file)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    before = dict(plugins("model"))
    _modules[name], sys.modules[name] = path, module
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    try:
        spec.loader.exec_module(module)
        _refuse_hidden(before)
    except BaseException as error:
        del _modules[name], sys.modules[name]
        if isinstance(error, KeyboardInterrupt):
            raise
        kind = "" if isinstance(error, UsageError) else f"{type(error).__name__}: "
        raise UsageError(f"{file}: {kind}{' '.join(str(error).split())}") from error
    return module


def _refuse_taken(name: str, path: Path, file: str | Path) -> None:
    """Two modules of one name cannot be told apart when a child process looks for a class."""
    if "." in name:
        raise UsageError(f"{file}: a dot in the name of a module: rename the file")
    if (known := sys.modules.get(name)) is not None:
        where = getattr(known, "__file__", None) or "built in"
    else:
        spec = importlib.util.find_spec(name)
        where = str(path) if spec is None else spec.origin or "a folder"
    if Path(where) != path:
        raise UsageError(f"{file}: '{name}' is also the name of another module: rename the file")


def _refuse_hidden(before: dict[str, type]) -> None:
    """A class of the same name would take the place of seqbench's own without a word."""
    for name, cls in before.items():
        if plugins("model").get(name) is not cls:
            raise UsageError(f"model '{name}' is already taken by {cls.__module__}.{cls.__qualname__}")


def models(file: str | Path) -> list[str]:
    """Load a file; the names of the models that it registers.

    Raises:
        UsageError: it cannot be loaded, or registers none.
    """
    module = load(file)
    found = [name for name, cls in plugins("model").items() if cls.__module__ == module.__name__]
    if not found:
        raise UsageError(f'{file}: no model there: decorate a ModelConfig with @register("model")')
    return found


def named(args: Sequence[str], program: Callable[[], list[str]]) -> list[str]:
    """The command line with every ``FILE.py:CLASS`` in ``model=`` replaced by the class's registered name.

    Args:
        program: gives the words that start this program, to show the command that would be right.

    Raises:
        UsageError: a file is named without the flag, or names no registered model.
    """
    allowed = FLAG in args
    words = []
    for arg in args:
        key, equals, value = arg.partition("=")
        if arg == FLAG:
            continue
        if key == "model" and equals and any(_CLASS.fullmatch(part) for part in _parts(value)):
            if not allowed:
                right = shlex.join([*program(), FLAG, *args])
                raise UsageError(f"{arg}: would run that file; if you trust it, switch that on: {right}")
            words.append(f"model={','.join(map(_named, _parts(value)))}")
        else:
            words.append(arg)
    return words


def _parts(value: str) -> list[str]:
    """The parts of a list without their quotes."""
    return [_QUOTED.sub(r"\2", part.strip()) for part in _PART.findall(value)]


def _named(part: str) -> str:
    """The registered name of a class in a file; anything else as it is."""
    match = _CLASS.fullmatch(part)
    if match is None:
        return part
    file, wanted = match["file"], match["cls"]
    known = {type_.__name__: name for name in models(file) if (type_ := plugins("model")[name])}
    if not wanted:
        raise UsageError(f"{file}: expected {file}:CLASS; {nearest('', known)}")
    if wanted not in known:
        there = hasattr(load(file), wanted)
        kind = f"'{wanted}' is no registered model" if there else f"no class '{wanted}'"
        raise UsageError(f"{file}: {kind}; {nearest(wanted, known)}")
    return known[wanted]
