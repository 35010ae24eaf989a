"""What every run starts from: its device, and its network at the solved width."""

from __future__ import annotations

from pathlib import Path

import torch

from seqbench.config import Job
from seqbench.errors import UsageError
from seqbench.match import Place, width_of
from seqbench.network import Network
from seqbench.plan import cache_folder
from seqbench.seeds import number
from seqbench.tasks.base import Data


def pick_device(wanted: str) -> torch.device:
    """The device to use.

    Raises:
        UsageError: CUDA was asked for and is not there.
    """
    if wanted == "cuda" and not torch.cuda.is_available():
        raise UsageError("device=cuda: torch finds no CUDA device; use device=cpu or device=auto")
    use_cuda = wanted != "cpu" and torch.cuda.is_available()
    return torch.device("cuda" if use_cuda else "cpu")


def build(
    job: Job, data: Data, seed: int, device: torch.device, sweep: Path | None = None
) -> tuple[Network, int]:
    """The network with its solved width; its initial weights depend on the seed alone.

    Args:
        sweep: the sweep's folder, where widths that take long to solve are kept.
    """
    width = width_of(job, data, cache_folder(job), device, sweep)
    torch.manual_seed(number(seed, "init"))
    return Place.of(data).network(job, width).to(device), width
