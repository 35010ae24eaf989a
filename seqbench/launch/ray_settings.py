"""What ``hydra/launcher=ray`` takes: Hydra needs it before anything heavy is loaded."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class RayConf:
    """Settings of the Ray engine, as Hydra's launcher node.

    Attributes:
        address: of an existing cluster, like "HOST:6379", or "auto"; None: a Ray of our own on this machine.
        num_cpus, num_gpus: what a batch asks for; a fraction of a GPU is shared with other batches.
        memory_mib: what a batch asks for of a node's memory; None: nothing.
        resources: custom resources that a batch asks for, by name.
    """

    _target_: str = "seqbench.launch.rays"
    address: str | None = None
    num_cpus: float = 1.0
    num_gpus: float = 0.0
    memory_mib: int | None = None
    resources: dict[str, float] = field(default_factory=dict)
