"""What every probe declares. A probe measures a network and returns a table of columns."""

from __future__ import annotations

from typing import Any, Protocol

from seqbench.batch import Batch
from seqbench.network import Network


class NotApplicable(Exception):
    """This probe cannot measure this network; the message says why and is shown in the report."""


class Probe(Protocol):
    """A class registered with ``@register("probe")``; its table is stored as ``<name>.parquet``."""

    name: str

    def measure(self, network: Network, batch: Batch) -> dict[str, list[Any]]:
        """Measure on one held-out batch.

        Raises:
            NotApplicable: with the reason.
        """
        ...
