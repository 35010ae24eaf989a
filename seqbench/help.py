"""The text of ``--help``: commands to copy, then every model, task and setting from its dataclass."""

from __future__ import annotations

import dataclasses
import inspect
import typing

from seqbench.config import Job
from seqbench.models.base import ModelConfig
from seqbench.registry import plugins
from seqbench.schema import describe
from seqbench.tasks.base import TaskConfig

_INTRO = """seqbench compares sequence-model architectures and says what the comparison showed.

  python -m seqbench -m model=rnn,lstm,gru,transformer       the built-in default, no download
  python -m seqbench -m task=imdb model=bilstm,bag seeds=1   real reviews from the hub (task.path=... local)
  python -m seqbench -m task=text task.path=FILE model=lstm,bag   your own labelled texts; charlm: any text
  python -m seqbench -m budget=10m dry_run=true              what fits into ten minutes and what it can show
  python -m seqbench -m hydra/launcher=par|slurm|ray         jobs side by side; a cluster (docs/scale.md)
  python -m seqbench.collect runs/NAME OTHER/NAME            runs of another machine into the same table
  python -m seqbench.report runs/SWEEP                       the report again, from the records alone
  python -m seqbench.report                                  an index of all sweeps below runs
  python -m seqbench.compare runs/A runs/B                   two sweeps against each other, paired by seed
  python -m seqbench.new my_layer.py                         a layer of your own to start from
  python -m seqbench.check my_layer.py                       does it keep its promises? (or names of models)
  python -m seqbench --allow-code -m model=my_layer.py:MyLayer,lstm   compare it (it runs that file)
  python -m seqbench.tasks [NAME]                            what a task is: definition, source, floors

Settings are written key=value; -m sweeps over comma-separated values. Nothing here starts with a dash
but -m, --allow-code, --help, --version and Hydra's own flags (--hydra-help)."""


def help_text() -> str:
    """The whole help."""
    parts = [_INTRO]
    for group, base in (("model", ModelConfig), ("task", TaskConfig)):
        shared = {name for name, _, _ in describe(base)}
        parts.append(f"{group.upper()}S ({group}=NAME)")
        for name, cls in plugins(group).items():
            first = (inspect.getdoc(cls) or "").splitlines()[0]
            own = ", ".join(f"{n}={d}" for n, d, _ in describe(cls) if n not in shared)
            parts.append(f"  {name:<15} {first}" + (f"\n{'':18}{group}.*: {own}" if own else ""))
        parts.append(
            f"  every {group}: " + "; ".join(f"{group}.{n}={d} {doc}" for n, d, doc in describe(base))
        )
    hints = typing.get_type_hints(Job)
    parts.append("SETTINGS (default, meaning)")
    rows = describe(Job)
    for field in dataclasses.fields(Job):
        if field.name not in ("model", "task") and dataclasses.is_dataclass(hints[field.name]):
            cls = typing.cast(type, hints[field.name])
            rows += [(f"{field.name}.{n}", d, doc) for n, d, doc in describe(cls)]
    parts += [f"  {name + '=' + default:<30} {doc}" for name, default, doc in rows]
    parts.append("Exit codes: 0 fine, 1 a run failed, 2 the command cannot be used.")
    return "\n".join(parts)
