"""What a batch asks of Slurm: hydra-submitit-launcher's keys, checked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from seqbench import environment
from seqbench.errors import UsageError

_SHARED = (
    "name",
    "timeout_min",
    "cpus_per_task",
    "gpus_per_node",
    "tasks_per_node",
    "mem_gb",
    "nodes",
    "stderr_to_stdout",
)
_NOT_SUBMITIT = (
    "_target_",
    "submitit_folder",
    "max_num_timeout",
    "array_parallelism",
    "additional_parameters",
)
_LOWEST = {
    "timeout_min": 1, "cpus_per_task": 1, "array_parallelism": 1, "max_num_timeout": 0, "signal_delay_s": 0,
}  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """What a batch asks of Slurm.

    Attributes:
        folder: where submitit's files go, with %j for a job's number.
        requeues: how often a job that ran out of time is queued again.
        side_by_side: jobs that run at once.
        slots: runs at once within a job.
        parameters: for submitit's ``update_parameters``.
    """

    folder: str
    requeues: int
    side_by_side: int
    slots: int
    parameters: Mapping[str, Any]


def asks_gpus(node: Mapping[str, Any]) -> bool:
    """Whether a launcher node asks Slurm for GPUs.

    >>> [asks_gpus(node) for node in ({"gpus_per_node": 1}, {"gres": "gpu:a100:1"}, {"gres": "x:2"}, {})]
    [True, True, False, False]
    """
    others = node.get("additional_parameters") or {}
    numbers = (
        node.get("gpus_per_node"),
        node.get("gpus_per_task"),
        others.get("gpus"),
        others.get("gpus-per-node"),
    )
    return any(numbers) or any("gpu" in str(gres) for gres in (node.get("gres"), others.get("gres")) if gres)


def settings(node: Mapping[str, Any]) -> Settings:
    """The settings in a launcher node, whose keys are those of hydra-submitit-launcher.

    Raises:
        UsageError: a value makes no sense here.
    """
    for key, lowest in _LOWEST.items():
        _check_whole(key, node.get(key), lowest)
    if (delay_s := node.get("signal_delay_s") or 0) >= 60 * (node.get("timeout_min") or math.inf):
        raise UsageError(
            f"hydra.launcher.signal_delay_s={delay_s}: expected less than timeout_min, in seconds"
        )
    for key in ("nodes", "tasks_per_node"):
        if node.get(key) not in (None, 1):
            raise UsageError(f"hydra.launcher.{key}={node[key]}: a run is one process: leave it at 1")
    others = node.get("additional_parameters") or {}
    if not isinstance(others, Mapping):
        raise UsageError(f"hydra.launcher.additional_parameters={others}: expected names and values")
    gpus, cpus = asks_gpus(node), node.get("cpus_per_task") or 1
    given = {key: value for key, value in node.items() if key not in _NOT_SUBMITIT and value is not None}
    parameters = {key if key in _SHARED else f"slurm_{key}": value for key, value in given.items()}
    parameters |= {
        "nodes": 1,
        "tasks_per_node": 1,
        "slurm_additional_parameters": {"requeue": True, **others},
    }
    if "cpus_per_gpu" not in given:  # since Slurm 22.05, srun does not take it over from sbatch
        parameters |= {"cpus_per_task": cpus, "slurm_srun_args": [f"--cpus-per-task={cpus}"]}
    return Settings(
        folder=str(node.get("submitit_folder") or environment.cache_root() / "submitit"),
        requeues=node.get("max_num_timeout", 0),
        side_by_side=node.get("array_parallelism") or 256,
        slots=1 if gpus else cpus,
        parameters=parameters,
    )


def _check_whole(key: str, value: Any, lowest: int) -> None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    if value is not None and not (whole and value >= lowest):
        raise UsageError(f"hydra.launcher.{key}={value}: expected a whole number of at least {lowest}")
