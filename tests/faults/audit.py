"""Build reports in a process of its own, and list whatever a report must never do.

``python -m faults.audit OUT FOLDER...`` builds a page of the first folder to load the libraries, and then,
under an audit hook, of all others. ``python -m faults.audit --control OUT`` does each forbidden thing once.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import marshal
import os
import pickle
import shutil
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

from seqbench import report
from seqbench.errors import UsageError

_NEVER = (
    "socket.", "subprocess.", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.startfile",
    "pty.", "pickle.", "shelve.", "webbrowser.", "urllib.", "http.", "ftplib.", "smtplib.", "sqlite3.",
    "code.", "os.putenv", "os.kill", "signal.", "builtins.input", "sys.settrace", "sys.setprofile", "syslog.",
)  # fmt: skip
_CHANGES = ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.chmod", "os.chown", "os.link", "os.symlink",
            "os.truncate", "os.utime", "shutil.", "tempfile.")  # fmt: skip
_TRUSTED = tuple(
    {os.path.realpath(place) for place in (*sysconfig.get_paths().values(), sys.base_prefix, sys.prefix)}
    | {str(Path(report.__file__).resolve().parent.parent)}
)
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Watch:
    """An audit hook; it cannot be removed, so it is switched."""

    def __init__(self, out: Path) -> None:
        self.on, self.found, self.folder = False, dict[str, None](), ""
        self._out = str(out.resolve())

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if self.on:
            self.on = False  # what the hook does itself does not count
            try:
                if reason := self._reason(event, args):
                    self.found[f"{self.folder}: {event} {reason}"[:300]] = None
            finally:
                self.on = True

    def _reason(self, event: str, args: tuple[Any, ...]) -> str:
        """Why an event must not be; empty for what may be."""
        if event.startswith(_NEVER):
            return repr(args)
        if event == "open":
            return self._outside(args[0], "written") if _writes(args) else ""
        if event.startswith(_CHANGES):
            return next((why for place in args if (why := self._outside(place, "changed"))), "")
        return _foreign(event, args)

    def _outside(self, place: object, how: str) -> str:
        """Whether a path is not below the folder for pages."""
        if not isinstance(place, str | bytes | os.PathLike):
            return ""
        path = os.path.realpath(os.fsdecode(place))
        return "" if path == os.devnull or path.startswith(self._out) else f"{path} is {how}"


def _foreign(event: str, args: tuple[Any, ...]) -> str:
    """Code or a library that is not of the interpreter, the installed packages or ours."""
    if event in ("marshal.loads", "marshal.load"):
        return "" if _caller() == "<frozen importlib._bootstrap_external>" else "outside of an import"
    if event in ("compile", "exec"):
        return _code(event, args)
    if event in ("ctypes.dlopen", "import"):
        name = str(args[0] if event == "ctypes.dlopen" else args[1] or "")
        return "" if not name.startswith("/") or _trusted(name) else name
    return ""


def _writes(args: tuple[Any, ...]) -> bool:
    mode, flags = args[1], args[2]
    return bool(set(str(mode or "")) & set("wax+")) or bool(isinstance(flags, int) and flags & _WRITING)


def _trusted(path: str) -> bool:
    return os.path.realpath(path).startswith(_TRUSTED)


def _caller() -> str:
    """The file of the code that caused the event, below the hook itself."""
    frame = sys._getframe()
    while frame.f_back is not None and frame.f_code.co_filename == __file__:
        frame = frame.f_back
    return frame.f_code.co_filename


def _code(event: str, args: tuple[Any, ...]) -> str:
    """Where code comes from that no trusted file holds."""
    name = str(getattr(args[0], "co_filename", "")) if event == "exec" else os.fsdecode(args[1] or "")
    if name.startswith("/"):
        return "" if _trusted(name) else name
    if name.startswith("<frozen "):
        return ""
    return f"{name or '?'} from {_caller()}: {str(args[0])[:80]!r}"


def watched(out: Path, folders: list[Path]) -> list[str]:
    """Build the first page freely and all others under the hook; what they did that they must not."""
    report.build(folders[0], out / "first.html")
    watch = Watch(out)
    sys.addaudithook(watch)
    known = set(sys.modules)
    for number, folder in enumerate(folders):
        watch.folder, watch.on = folder.name, True
        try:
            with contextlib.suppress(UsageError):
                report.build(folder, out / f"{number}.html")
        except Exception as error:
            watch.found[f"{folder.name}: {type(error).__name__}: {error}"[:300]] = None
        finally:
            watch.on = False
    files = {name: getattr(sys.modules[name], "__file__", None) for name in set(sys.modules) - known}
    strange = [f"imported {name} from {file}" for name, file in files.items() if file and not _trusted(file)]
    return [*watch.found, *strange]


def _forbidden(out: Path) -> dict[str, Callable[[], object]]:
    """Each forbidden thing, done once."""
    outside = out.parent
    (outside / "foreign.py").write_text("")
    sys.path.insert(0, str(outside))
    return {
        "socket": lambda: socket.socket().close(),
        "subprocess": lambda: subprocess.run(["true"], check=False),
        "os.system": lambda: os.system("true"),
        "os.posix_spawn": lambda: os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0),
        "os.fork": lambda: os.waitpid(os.fork() or os._exit(0), 0),
        "pickle": lambda: pickle.loads(pickle.dumps(os.getcwd)),
        "marshal": lambda: marshal.loads(marshal.dumps(1)),
        "eval": lambda: eval("1"),
        "exec": lambda: exec("x = 1"),
        "compile": lambda: compile("1", str(outside / "a.py"), "eval"),
        "import": lambda: __import__("foreign"),
        "dlopen": lambda: _load(outside / "x.so"),
        "open to write": lambda: (outside / "written").write_text(""),
        "os.open to write": lambda: os.close(os.open(outside / "opened", os.O_CREAT | os.O_WRONLY)),
        "os.rename": lambda: os.rename(outside / "written", outside / "renamed"),
        "os.remove": lambda: os.remove(outside / "renamed"),
        "os.mkdir": lambda: os.mkdir(outside / "made"),
        "os.symlink": lambda: os.symlink("x", outside / "link"),
        "shutil": lambda: shutil.copyfile(outside / "opened", outside / "copied"),
        "os.putenv": lambda: os.environ.__setitem__("A_TRIAL", "1"),
    }


def _load(path: Path) -> None:
    with contextlib.suppress(OSError):
        ctypes.CDLL(str(path))


def control(out: Path) -> list[str]:
    """Names of forbidden things that the hook does not see."""
    actions = _forbidden(out)
    watch = Watch(out)
    sys.addaudithook(watch)
    missed = []
    for name, act in actions.items():
        watch.found.clear()
        watch.on = True
        act()
        watch.on = False
        missed += [] if watch.found else [name]
    return [*missed, *([] if len(actions) >= 20 else ["too few"])]


if __name__ == "__main__":
    given = sys.argv[1:]
    trial = given[0] == "--control"
    found = control(Path(given[1])) if trial else watched(Path(given[0]), [Path(p) for p in given[1:]])
    print(json.dumps(found))  # noqa: T201
