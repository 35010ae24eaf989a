"""Ways to have a configuration run code: harmless targets that would leave a file, and doors to put them in.

Every target is a call by name, as ``hydra.utils.instantiate`` makes it. Where one runs, a file named ``mark``
appears in the current folder.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

Target = dict[str, Any]
_WRITE = "open('mark','w').close()"
_PATH = {"_target_": "pathlib.Path", "_args_": ["mark"]}
_TEMPLATE = "{{ cycler.__init__.__globals__.os.system('touch mark') }}"


def _call(name: str, *args: Any, **options: Any) -> Target:
    return {"_target_": name, "_args_": list(args), **options}


TARGETS: list[Target] = [
    _call("os.system", "touch mark"), _call("os.popen", "touch mark"), _call("os.mkdir", "mark"),
    _call("os.makedirs", "mark"), _call("os.symlink", "x", "mark"), _call("os.mkfifo", "mark"),
    _call("posix.system", "touch mark"), _call("subprocess.run", ["touch", "mark"]),
    _call("subprocess.Popen", ["touch", "mark"]), _call("subprocess.call", ["touch", "mark"]),
    _call("subprocess.check_output", ["touch", "mark"]), _call("subprocess.getoutput", "touch mark"),
    _call("builtins.eval", _WRITE), _call("builtins.exec", _WRITE), _call("builtins.open", "mark", "w"),
    _call("io.open", "mark", "w"), _call("pathlib.Path.touch", _PATH), _call("pathlib.Path.mkdir", _PATH),
    _call("pathlib.Path.write_text", _PATH, "x"), _call("pathlib.Path.unlink", _PATH, missing_ok=True),
    _call("shutil.copyfile", "evil.py", "mark"), _call("runpy.run_path", "evil.py"),
    _call("pydoc.importfile", "evil.py"), _call("importlib.import_module", "evil"),
    _call("timeit.timeit", _WRITE, number=1), _call("cProfile.run", _WRITE), _call("profile.run", _WRITE),
    _call("logging.FileHandler", "mark"), _call("zipfile.ZipFile", "mark", "w"),
    _call("gzip.open", "mark", "w"),
    _call("sqlite3.connect", "mark"), _call("urllib.request.urlretrieve", "file:evil.py", "mark"),
    _call("tempfile.mkdtemp", dir=".", prefix="mark"),
    _call("pickle.load", _call("builtins.open", "evil.pkl", "rb")),
    _call("pandas.read_pickle", "evil.pkl"), _call("torch.load", "evil.pkl", weights_only=False),
    _call("numpy.load", "evil.pkl", allow_pickle=True), _call("ctypes.CDLL", "./evil.so"),
    _call("jinja2.Template.render", _call("jinja2.Template", _TEMPLATE)),
    _call("webbrowser.open", "file:mark"),
    _call("hydra.utils.get_method", "evil.run"),
    _call("hydra.utils.instantiate", _call("os.system", "touch mark")),
]  # fmt: skip


def written(value: Any) -> str:
    """A value in Hydra's own notation.

    >>> written({"_target_": "os.system", "_args_": ["touch mark"]})
    "{_target_:'os.system',_args_:['touch mark']}"
    """
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{written(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(written, value)) + "]"
    if isinstance(value, str):
        return "'" + value.replace("'", "\\'") + "'"
    return str(value).lower()


WordDoor = Callable[[Target], list[str]]
WORD_DOORS: dict[str, WordDoor] = {
    "callback": lambda t: [f"+hydra.callbacks.a={written(t)}"],
    "callbacks": lambda t: [f"hydra.callbacks={{a:{written(t)}}}"],
    "callback's name": lambda t: [f"+hydra.callbacks.a._target_={t['_target_']}"],
    "multirun callback": lambda t: ["-m", f"+hydra.callbacks.a={written(t)}"],
    "hydra": lambda t: [f"hydra={{callbacks:{{a:{written(t)}}}}}"],
    "launcher's name": lambda t: ["-m", f"hydra.launcher._target_={t['_target_']}"],
    "launcher": lambda t: ["-m", f"hydra.launcher={written(t)}"],
    "launcher's setting": lambda t: ["-m", f"+hydra.launcher.x={written(t)}"],
    "sweeper": lambda t: ["-m", f"hydra.sweeper={written(t)}"],
    "sweeper's name": lambda t: ["-m", f"hydra.sweeper._target_={t['_target_']}"],
    "sweep parameter": lambda t: ["-m", f"+hydra.sweeper.params.hydra.callbacks.a={written(t)}"],
    "sweep parameter's value": lambda t: ["-m", f"+hydra.sweeper.params.model={written(t)}"],
    "job logging": lambda t: [f"hydra.job_logging={{handlers:{{a:{written(t)}}}}}"],
    "package": lambda t: [f"+experiment@hydra.callbacks={t['_target_']}"],
    "model": lambda t: [f"model={written(t)}"],
    "model's key": lambda t: [f"++model._target_={t['_target_']}"],
    "model's setting": lambda t: [f"+model.x={written(t)}"],
    "task's list": lambda t: [f"task.lengths=[{written(t)}]"],
    "swept": lambda t: ["-m", f"model.hidden={written(t)},4"],
    "shown": lambda t: ["--cfg", "all", f"+hydra.callbacks.a={written(t)}"],
    "shown and resolved": lambda t: ["--cfg=job", "--resolve", f"++model._target_={t['_target_']}"],
    "info": lambda t: ["--info", "all", f"+hydra.callbacks.a={written(t)}"],
}  # fmt: skip

FileDoor = Callable[[Target], tuple[str, str, list[str]]]


def _experiment(content: Any, header: str = "# @package _global_\n") -> tuple[str, str, list[str]]:
    return "experiment/x.yaml", header + json.dumps(content), ["experiment=x"]


FILE_DOORS: dict[str, FileDoor] = {
    "experiment": lambda t: _experiment({"hydra": {"callbacks": {"a": t}}}),
    "experiment's launcher": lambda t: _experiment({"hydra": {"launcher": t}}),
    "experiment's sweeper": lambda t: _experiment({"hydra": {"sweeper": t}}),
    "experiment's parameters": lambda t: _experiment(
        {"hydra": {"sweeper": {"params": {"+hydra.callbacks.a": written(t)}}}}
    ),
    "logging factory": lambda t: _experiment(
        {"hydra": {"job_logging": {"version": 1, "handlers": {"a": {"()": t["_target_"]}}}}}
    ),
    "factory elsewhere": lambda t: _experiment({"model": {"()": t["_target_"]}}),
    "deep in lists": lambda t: _experiment({"task": {"lengths": [[[{"x": [t]}]]]}}),
    "model": lambda t: ("model/x.yaml", json.dumps({"name": "x", **t}), ["model=lstm"]),
    "task": lambda t: ("task/x.yaml", json.dumps({"name": t}), ["task=mqar"]),
    "recipe": lambda t: ("recipe/mqar.yaml", json.dumps({"train": {"lr": t}}), ["task=mqar"]),
    "tuned": lambda t: ("tuned/mqar-lstm.yaml", json.dumps(t), ["task=mqar", "model=lstm"]),
    "callbacks group": lambda t: ("hydra/callbacks/x.yaml", json.dumps({"a": t}), ["hydra/callbacks=x"]),
    "callbacks group, chosen in a file": lambda t: (
        "experiment/x.yaml", json.dumps({"defaults": [{"override /hydra/callbacks": t["_target_"]}]}),
        ["experiment=x"],
    ),
    "launcher group": lambda t: ("hydra/launcher/x.yaml", json.dumps(t), ["hydra/launcher=x", "-m"]),
    "launcher group, global": lambda t: (
        "hydra/launcher/x.yaml", f"# @package _global_\nhydra: {{job_logging: {{a: {t['_target_']}}}}}\n",
        ["hydra/launcher=x", "-m"],
    ),
    "header": lambda t: _experiment({"a": {"b": t}}, "# @package hydra.callbacks\n"),
    "header by name": lambda t: _experiment({"callbacks": t["_args_"]}, "#   @package  _name_\n"),
    "package in a list": lambda t: _experiment({"defaults": [{"/recipe@hydra.callbacks": t["_target_"]}]}),
    "path in a list": lambda t: _experiment({"defaults": ["../../../elsewhere"], "x": t["_args_"]}),
    "package address": lambda t: _experiment({"defaults": [f"pkg://{t['_target_']}"]}),
    "search path": lambda t: _experiment({"hydra": {"searchpath": [f"pkg://{t['_target_']}"]}}),
    "merge": lambda t: _experiment({"hydra": {"<<": {"callbacks": {"a": t}}}}),
    "shell of a launcher": lambda t: _experiment({"hydra": {"launcher": {"setup": [t["_target_"]]}}}),
    "tag": lambda t: (
        "experiment/x.yaml", f"a: !!python/object/apply:{t['_target_']} [touch mark]\n", ["experiment=x"],
    ),
    "tag of a key": lambda t: (
        "experiment/x.yaml", f"? !!python/name:{t['_target_']} ''\n: 1\n", ["experiment=x"],
    ),
}  # fmt: skip

# Other ways, each with the files that it needs: the words alone decide.
OTHERS: list[list[str]] = [
    ["--config-path=pkg://evil"], ["-cp", "pkg://evil"], ["--config-path", "elsewhere"],
    ["--config-name=evil"], ["-cn", "evil"], ["--experimental-rerun=evil.pkl"],
    ["--experimental-rerun", "evil.pkl"], ["--cfg", "job", "--experimental-rerun=evil.pkl"],
    ["--cfg=job", "--config-path=pkg://evil"], ["--config-p=pkg://evil"], ["--exp=evil.pkl"],
    ["hydra.searchpath=[pkg://evil]"], ["+hydra.searchpath=[file://elsewhere]"], ["hydra.mode=MULTIRUN"],
    ["--info", "searchpath", "hydra.searchpath=[pkg://evil]"], ["hydra.job.env_set={A:b}"],
    ["hydra.job.env_copy=[HOME]"], ["hydra.job.chdir=true"], ["hydra.run.dir=mark"],
    ["hydra.output_subdir=mark"],
    ["hydra/job_logging=evil"], ["hydra/hydra_logging=evil"], ["hydra/callbacks=evil"], ["+hydra/env=evil"],
    ["hydra/sweeper=evil", "-m"], ["hydra/launcher=../../elsewhere/evil", "-m"], ["hydra/output=evil"],
    ["experiment=../../elsewhere/evil"], ["experiment=/elsewhere/evil"], ["+experiment=x//../../evil"],
    ["-m", "experiment=recall,../../elsewhere/evil"], ["-m", "hydra.sweeper.params.experiment=../evil"],
    ["sweep=${oc.env:HOME}"], ["sweep='${oc.env:HOME}'"], ["sweep=$\\{oc.env\\:HOME\\}"],
    ["runs_dir=${env:HOME}"], ["sweep=${${x}:HOME}"], ["sweep=${oc.decode:${oc.env:HOME}}"],
    ["sweep=${hydra:runtime.cwd}"], ["sweep=${now:%Y}"], ["hydra.sweep.subdir=../../mark", "-m"],
    ["--cfg", "job", "--resolve", "sweep=${oc.env:HOME}"], ["~hydra.callbacks"], ["hydra={}"],
    ["hydra.hydra_help.template=x", "--hydra-help"], ["-sc", "query=bash"],
    ["model=evil.py:Evil"], ["model=evil.py"], ["-m", "model=lstm,./evil.py:Evil"], ["model='evil.py:Evil'"],
    ["--allow-code=true", "model=evil.py:Evil"], ["--allow-code", "task=evil.py:Evil"],
    ["--allow-code", "+model=evil.py:Evil"], ["--allow-code", "++model.name=evil.py:Evil", "model=x"],
    ["--allow-code", "experiment=evil.py:Evil"], ["--allow-code", "probes=[evil.py:Evil]"],
    ["-m", "hydra.sweeper.params.model=evil.py:Evil"],
    ["--allow-code", "-m", "+hydra.sweeper.params.model=evil.py:Evil"],
    ["--allow-code", "hydra/launcher=evil.py:Evil", "-m"], ["allow_code=true", "model=evil.py:Evil"],
]  # fmt: skip
