"""Which engine a command line asks for: ``hydra/launcher=NAME`` and ``hydra.launcher.KEY=VALUE``."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqbench.config import Job
from seqbench.errors import UsageError, nearest
from seqbench.launch.base import Engine

_WORD = re.compile(r"[+~]*hydra(/launcher(?![\w/-])|\.launcher\.)")
# Of each preset: the plugin or package that it needs, and what to install.
_NEEDS = {
    "par": ("hydra_plugins.hydra_joblib_launcher", "hydra-joblib-launcher"),
    "slurm": ("hydra_plugins.hydra_submitit_launcher", "'seqbench[slurm]'"),
    "ray": ("ray", "'seqbench[ray]'"),
}
_ALSO = {"joblib": "par", "submitit_slurm": "slurm"}  # what Hydra's plugins call the same
_LOCAL = "basic"
_ENGINES = {
    "hydra._internal.core_plugins.basic_launcher.BasicLauncher": _LOCAL,
    "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher": "par",
    "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher": "slurm",
    "seqbench.launch.rays": "ray",  # nobody builds it from this name
}


@dataclass(frozen=True)
class Choice:
    """An engine by name.

    Attributes:
        name: "par", "slurm" or "ray".
        node: Hydra's launcher node, as plain data.
    """

    name: str
    node: Mapping[str, Any]

    @property
    def remote(self) -> bool:
        """Whether runs may be done on other machines."""
        return self.name != "par"

    @property
    def asks_gpus(self) -> bool:
        """Whether a worker is given GPUs."""
        if self.name == "slurm":
            from seqbench.launch import slurm

            return slurm.asks_gpus(self.node)
        if self.name == "ray":
            from seqbench.launch import rays

            return rays.asks_gpus(self.node)
        return False

    def engine(self) -> Engine:
        """The engine, ready to take batches.

        Raises:
            UsageError: its settings cannot be used, or it is not there.
        """
        if self.name == "slurm":
            from seqbench.launch import slurm

            return slurm.engine(self.node)
        if self.name == "ray":
            from seqbench.launch import rays

            return rays.engine(self.node)
        from seqbench.launch import parallel

        return parallel.engine(self.node)


def is_launcher_word(word: str) -> bool:
    """Whether a word of the command line is about the launcher.

    >>> [is_launcher_word(word) for word in ("hydra/launcher=par", "+hydra.launcher.n_jobs=2", "model=lstm")]
    [True, True, False]
    """
    return _WORD.match(word) is not None


def check_words(words: Sequence[str], folders: Iterable[Path] = ()) -> None:
    """Check the launcher's words before anything is composed.

    Args:
        folders: of configurations, which may hold presets.

    Raises:
        UsageError: several launchers, settings without one, one of another name, or one that needs what is
            not installed.
    """
    presets = {path.stem for folder in folders for path in folder.glob("hydra/launcher/*.yaml")}
    groups = [word for word in words if "/launcher" in word.partition("=")[0]]
    if len(groups) > 1:
        raise UsageError(f"{groups[1]}: a command has one launcher: give one")
    if words and not groups:
        raise UsageError(f"{words[0]}: only beside a launcher: hydra/launcher={'|'.join(_NEEDS)}")
    for word in groups:
        name = word.partition("=")[2].strip("'\" ")
        if "," in name:
            raise UsageError(f"{word}: a command has one launcher: give one")
        if name not in {_LOCAL, *_NEEDS, *_ALSO, *presets}:
            raise UsageError(f"{word}: no such launcher; {nearest(name, {_LOCAL, *_NEEDS, *presets})}")
        module, package = _NEEDS.get(_ALSO.get(name, name), ("seqbench", ""))
        if not _installed(module):
            missing = module.rpartition(".")[2]
            raise UsageError(f"hydra/launcher={name}: {missing} is not installed: pip install {package}")


def choice(node: Mapping[str, Any]) -> Choice | None:
    """The engine that a composed launcher node means; None where runs are done by this process.

    Raises:
        UsageError: a launcher of a kind that seqbench has no engine for.
    """
    target = str(node.get("_target_"))
    if target not in _ENGINES:
        known = ", ".join([_LOCAL, *_NEEDS])
        raise UsageError(f"hydra/launcher: no engine for {target}: take {known}, or a preset made from one")
    name = _ENGINES[target]
    return None if name == _LOCAL else Choice(name, node)


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # a parent is not there
        return False


def placed(job: Job, choice: Choice) -> None:
    """Say where a job's runs are done: on which device, and on this machine or any.

    Raises:
        UsageError: a setting of this machine's runs is given, or one device is asked for and another given.
    """
    if job.workers is not None:
        raise UsageError(
            f"workers={job.workers}: counts runs side by side without a launcher: under hydra/launcher="
            f"{choice.name}, {_SIDE_BY_SIDE[choice.name]} does"
        )
    if choice.remote:
        gpus = choice.asks_gpus
        if job.device == "cuda" and not gpus:
            raise UsageError(f"device=cuda: the launcher asks for no GPU: {_GPUS[choice.name]}")
        if job.device == "auto":
            job.device = "cuda" if gpus else "cpu"
        job.anywhere = True


_SIDE_BY_SIDE = {
    "par": "hydra.launcher.n_jobs",
    "slurm": "hydra.launcher.array_parallelism (and cpus_per_task within a batch)",
    "ray": "hydra.launcher.num_cpus",
}
_GPUS = {"slurm": "hydra.launcher.gpus_per_node=1", "ray": "hydra.launcher.num_gpus=0.5"}
