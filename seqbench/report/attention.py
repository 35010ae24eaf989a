"""The attention of one run, from its table: which run, which heads, what each position gets."""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from seqbench.report.frame import Sweep
from seqbench.report.summary import same

_FARTHEST, _MOST_ROWS = 1 << 11, 1 << 15
_SERIES = ["kind", "moment", "layer", "head", "sequence"]
_WHOLE = ["layer", "head", "sequence", "key", "token"]


class Head(NamedTuple):
    """A head of a layer, both counted from 1."""

    layer: int
    head: int

    def __str__(self) -> str:
        return f"head {self.head} of layer {self.layer}"


@dataclass(frozen=True)
class Look:
    """The attention of one run.

    Attributes:
        place: model, task, rung and seed in words.
        table: ``moment, kind, layer, head, sequence, query, key, value, token, relevant``.
    """

    label: str
    place: str
    table: pd.DataFrame

    def by_key(self, kind: str, moment: str, head: Head, sequence: int = 0) -> pd.Series:
        """Values by distance or position, of a head (0: of equal attention)."""
        return self._series.get((kind, moment, *head, sequence), pd.Series(dtype=float))

    @cached_property
    def _series(self) -> dict[Any, pd.Series]:
        rows = self.table.drop_duplicates([*_SERIES, "key"]).set_index("key").sort_index()
        return dict(iter(rows.groupby(_SERIES)["value"]))

    def heads(self) -> list[Head]:
        """Every head that has a map of the first example after training."""
        pairs = maps(self.table)[["layer", "head"]].drop_duplicates().sort_values(["layer", "head"])
        return [Head(int(layer), int(head)) for layer, head in pairs.itertuples(index=False)]

    def evenness(self, moment: str, head: Head) -> float:
        """Entropy as a share of that of equal attention; NaN where there is none."""
        found = [
            self.by_key(name, moment, Head(head.layer, number)).get(0, math.nan)
            for name, number in (("entropy", head.head), ("uniform entropy", 0))
        ]
        return float(found[0] / found[1]) if found[0] >= 0 and found[1] > 0 else math.nan

    def sharpest(self, moment: str, sequence: int = 0) -> tuple[float, int, Head]:
        """The most that any head puts on one position of an example, on which, and which head."""
        found = [(head, self.by_key("map", moment, head, sequence)) for head in self.heads()]
        peaks = [(*largest(row), head) for head, row in found if len(row)]
        return max(peaks, key=lambda peak: peak[0], default=(math.nan, 0, Head(0, 0)))

    def example(self, sequence: int = 0) -> pd.DataFrame:
        """Token and relevance of each known position of an example."""
        rows = self.table[self.table["kind"].isin(["map", "uniform map"])]
        return rows[rows["sequence"] == sequence].drop_duplicates("key").set_index("key").sort_index()

    def deciding(self, sequence: int = 0) -> list[int]:
        """Positions of an example of which the task says that their tokens decide the answer."""
        marks = self.example(sequence)["relevant"]
        return [int(key) for key in marks.index[marks.eq(1)]]

    def query(self, sequence: int = 0) -> int:
        """The position whose attention an example shows; -1 for the mean over all."""
        found = self.example(sequence)["query"]
        return int(found.iloc[0]) if len(found) else -1


def chosen(sweep: Sweep) -> Look | None:
    """The run to show: of the first model that attends, a solved one, the highest rung, the first seed."""
    table = usable(sweep.table("attention"))
    after = maps(table)
    if after.empty:
        return None
    order = [task.key for task in sweep.tasks]
    for label in sweep.labels:
        runs = sweep.training[sweep.training["label"].eq(label) & sweep.training["task"].isin(order)]
        found = [
            run
            for run in runs.to_dict("records")
            if len(rows_of(after, run)) and len(rows_of(table, run)) <= _MOST_ROWS
        ]
        if found:
            run = min(
                found, key=lambda run: (run["solved"] is not True, order.index(run["task"]), *rank(run))
            )
            place = sweep.tasks[order.index(run["task"])].at(rung_of(run))
            unsolved = " (not solved)" if run["solved"] is False else ""
            return Look(label, f"{label} on {place}, seed {run['seed']}{unsolved}", rows_of(table, run))
    return None


def rank(run: dict[Hashable, Any]) -> tuple[int, int]:
    """The highest rung first, then the first seed."""
    return -(rung_of(run) or 0), int(run["seed"])


def rung_of(run: dict[Hashable, Any]) -> int | None:
    """A run's rung; None without a ladder."""
    return None if pd.isna(run["rung"]) else int(run["rung"])


def rows_of(table: pd.DataFrame, run: dict[Hashable, Any]) -> pd.DataFrame:
    """The rows of one run."""
    mine = (table["label"] == run["label"]) & (table["task"] == run["task"]) & (table["seed"] == run["seed"])
    rows: pd.DataFrame = table[mine & same(table["rung"], rung_of(run))]
    return rows


def usable(table: pd.DataFrame) -> pd.DataFrame:
    """Rows whose numbers can be what they should be; files are not trusted."""
    whole = table[_WHOLE].apply(lambda column: column.between(0, _FARTHEST) & (column % 1 == 0)).all(axis=1)
    whole &= table["query"].between(-1, _FARTHEST) & (table["query"] % 1 == 0)
    most = np.where(table["kind"].str.endswith("entropy"), math.log(_FARTHEST), 1 + 1e-6)
    rows: pd.DataFrame = table[whole & table["value"].between(0, most)]
    return rows


def maps(table: pd.DataFrame) -> pd.DataFrame:
    """The maps of the first example after training."""
    kept = table["kind"].eq("map") & table["moment"].eq("final") & table["sequence"].eq(0)
    rows: pd.DataFrame = table[kept]
    return rows


def largest(values: pd.Series) -> tuple[float, int]:
    """The largest value and its key."""
    place = int(values.to_numpy().argmax())
    return float(values.iloc[place]), int(values.index.to_numpy()[place])
