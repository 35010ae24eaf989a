"""The tables of a run, column by column, so that nothing but numbers and short texts gets through."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from seqbench import records
from seqbench.metric import Metric
from seqbench.records import Run
from seqbench.report.label import clean
from seqbench.store import DamagedFile

if TYPE_CHECKING:
    import pyarrow as pa

COLUMNS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {  # what each must have; all others of a table are read too
        "evaluations": ("step", "loss", "accuracy"),
        "slices": ("value", "loss", "accuracy"),
        "steps": ("step", "loss", "gradient_norm"),
        "parameters": ("step",),
        "updates": ("step",),
        "gradient_flow": ("moment", "distance", "median", "sequences"),
        "state_flow": ("moment", "state", "distance", "median", "sequences"),
        "hops": ("moment", "distance", "hops", "at_cue", "at_answer"),
        "jacobian": ("moment", "of", "direction", "distance", "largest", "median", "lyapunov"),
        "gates": (
            "moment", "layer", "activation", "gate", "low_share", "high_share", "mean", "median", "largest",
            "time_scale_steps", "longest_time_scale_steps",
        ),
        "attention": (
            "moment", "kind", "layer", "head", "sequence", "query", "key", "value", "token", "relevant",
        ),
        "speed": ("rung", "mode", "step_s", "valid_tokens", "memory_bytes"),
        "grid": ("steps", "batch_size", "mode", "step_s", "valid_tokens", "memory_bytes"),
        "left_out": ("steps", "batch_size", "reason", "about_s", "about_bytes", "limit_s", "limit_bytes"),
    }
)  # fmt: skip
_TEXTS = {
    "state_flow": ("moment", "state"),
    "jacobian": ("moment", "of", "direction"),
    "gates": ("moment", "layer", "activation"),
    "attention": ("moment", "kind"),
    "speed": ("mode",),
    "grid": ("mode",),
    "left_out": ("reason",),
}
_LARGEST = 1e100
_MOST_ROWS, _MOST_COLUMNS, _MOST_TEXTS, _LONGEST_TEXT = 2_000_000, 300, 10_000, 40


def texts(name: str) -> tuple[str, ...]:
    """The columns of a table that hold texts."""
    return _TEXTS.get(name, ("moment",))


def scores(frame: pd.DataFrame, metric: Metric) -> pd.Series:
    """The score of every row; what cannot be one is missing."""
    pairs = zip(frame["loss"], frame["accuracy"], strict=True)
    found = pd.Series([metric.of(*pair) for pair in pairs], index=frame.index, dtype=float)
    return found.where(found.between(0, metric.most))


def read_table(folder: Path, run: Run, name: str) -> pd.DataFrame | None:
    """One table, column by column, so that nothing but numbers and short texts gets through."""
    table = raw_table(folder, run, name)
    return None if table is None else plain(name, [table])


def raw_table(folder: Path, run: Run, name: str) -> pa.Table | None:
    """One table as it was written; None where a run has none, or an empty one.

    Raises:
        DamagedFile: a column is missing, or there are too many rows.
    """
    table = records.read_table(folder, run, name)
    if table is None or table.num_rows == 0:
        return None
    missing = [column for column in COLUMNS[name] if column not in table.column_names]
    if missing:
        raise DamagedFile(f"no column {', '.join(missing)}")
    if table.num_rows > _MOST_ROWS:
        raise DamagedFile(f"{table.num_rows} rows, more than {_MOST_ROWS}")
    return table


def plain(name: str, tables: Sequence[pa.Table]) -> pd.DataFrame:
    """Tables with the same columns, below each other, with nothing but numbers and short texts.

    Raises:
        DamagedFile: a column of texts has too many different ones.
    """
    import pyarrow as pa

    table = pa.concat_tables(tables)
    columns: dict[str, pd.Series] = {}
    for column in list(dict.fromkeys([*COLUMNS[name], *table.column_names]))[:_MOST_COLUMNS]:
        values, endless = table.column(column), str(column).endswith("time_scale_steps")
        read = _texts(values) if column in texts(name) else _numbers(values, endless=endless)
        columns.setdefault(clean(column, 120), read)
    return pd.DataFrame(columns)


@dataclass(frozen=True)
class Part:
    """A table of one run, with the run's row of the sweep and the metric of its task."""

    row: Mapping[Hashable, Any]
    table: pa.Table
    metric: Metric

    def kind(self) -> tuple[Any, ...]:
        """What parts must have in common to be made into one frame at once."""
        return self.table.schema, self.metric, self.row["rung"] is pd.NA


def joined(name: str, parts: Sequence[Part], problem: Callable[[str, Exception], None]) -> list[pd.DataFrame]:
    """Parts of a table as frames with ``label, task, seed, rung``, as few as possible.

    Args:
        problem: told the folder of a run whose part cannot be used, and why.
    """
    frames: list[pd.DataFrame] = []
    for _, group in itertools.groupby(parts, Part.kind):
        alike = list(group)
        try:
            frames.append(_frame(name, alike))
        except Exception:  # one by one, to find whose it is
            frames += _one_by_one(name, alike, problem)
    return frames


def _one_by_one(
    name: str, parts: Sequence[Part], problem: Callable[[str, Exception], None]
) -> Iterator[pd.DataFrame]:
    for part in parts:
        try:
            yield _frame(name, [part])
        except Exception as error:  # a Parquet file that nobody vouches for may fail in any way
            problem(str(part.row["folder"]), error)


def _frame(name: str, alike: Sequence[Part]) -> pd.DataFrame:
    """Parts of one kind below each other, with the names of their runs and, where they have one, a score."""
    frame = plain(name, [part.table for part in alike])
    if {"loss", "accuracy"} <= set(frame):
        frame["score"] = scores(frame, alike[0].metric)
    lengths = [len(part.table) for part in alike]
    for key in ("label", "task", "seed") if "rung" in frame else ("label", "task", "seed", "rung"):
        frame[key] = _repeated([part.row[key] for part in alike], lengths)
    return frame


def _repeated(values: Sequence[Any], lengths: Sequence[int]) -> pd.Series:
    """What each run's row says, once for every row of its table."""
    if not isinstance(values[0], str):
        return pd.Series(np.repeat(np.array(values), lengths))
    places = {value: place for place, value in enumerate(dict.fromkeys(values))}
    return _taken(list(places), np.repeat([places[value] for value in values], lengths))


def _taken(texts: list[str], places: pa.Array | np.ndarray[Any, Any]) -> pd.Series:
    """A few texts as a long column."""
    import pyarrow as pa

    encoded = pa.DictionaryArray.from_arrays(places, pa.array(texts, pa.large_string()))
    return pd.Series(encoded.cast(pa.large_string()), dtype=str)


def _texts(values: pa.ChunkedArray) -> pd.Series:
    """A column as short texts; each different one is cut once, however often it stands there."""
    import pyarrow as pa

    encoded = values if pa.types.is_dictionary(values.type) else values.dictionary_encode()
    column = encoded.unify_dictionaries().combine_chunks()
    if len(column.dictionary) > _MOST_TEXTS:
        raise DamagedFile(f"{len(column.dictionary)} different texts, more than {_MOST_TEXTS}")
    short = [*(clean(text, _LONGEST_TEXT) for text in column.dictionary.to_pylist()), "?"]
    return _taken(short, column.indices.fill_null(len(short) - 1))


def _numbers(values: pa.ChunkedArray, *, endless: bool) -> pd.Series:
    """A column as numbers; a text that is none is missing, and so is what is too large to draw.

    Args:
        endless: infinity means something and stays.
    """
    import pyarrow as pa

    if pa.types.is_dictionary(values.type) or pa.types.is_string(values.type):
        found = pd.to_numeric(_texts(values), errors="coerce").astype(float)
    else:
        found = pd.Series(values.cast(pa.float64(), safe=False).to_numpy(), dtype=float)
    usable = found.abs() <= _LARGEST
    return found.where(usable | (found == math.inf) if endless else usable)
