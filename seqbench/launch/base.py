"""What an engine does for a sweep: take batches of runs, and say when each has ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Ended:
    """A batch that no worker has any more.

    Attributes:
        number: of the batch, as it was submitted.
        told: what :func:`seqbench.launch.on_worker.do` gave back.
        lost: why there is no answer, in words; empty where there is one.
        started: whether a worker had begun with it; what had not is sent again without counting as lost.
    """

    number: int
    told: str = ""
    lost: str = ""
    started: bool = True


class Engine(Protocol):
    """Workers somewhere.

    Attributes:
        name: as in ``hydra/launcher=NAME``, for messages.
        remote: a batch may be worked on by another machine than this one.
        slots: runs side by side within a batch.
        by_seed: a batch is a job at one seed; else with all of its seeds.
    """

    name: str
    remote: bool
    slots: int
    by_seed: bool

    def submit(self, orders: Mapping[int, bytes]) -> None:
        """Hand over batches, each to be done by :func:`seqbench.launch.on_worker.do`; may be called again.

        Raises:
            UsageError: they are not taken, and why; none of them is at work.
        """

    def poll(self, patience_s: float) -> list[Ended]:
        """The batches that ended since the last call; waits up to ``patience_s`` for one."""

    def close(self) -> None:
        """Cancel what has not ended: when this returns, nothing of it is at work. May be called again."""
