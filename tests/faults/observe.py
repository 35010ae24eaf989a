"""What is left of a sweep on disk, with everything taken away that a clock or the allocator decided."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from seqbench import records
from seqbench.records import Run

CLOCKS = {
    "train_cpu_s", "train_wall_s", "solved_cpu_s", "peak_memory_bytes", "training_memory_bytes",
    "resumed_step",
}  # fmt: skip


def runs_below(folder: Path) -> dict[str, tuple[Path, Run]]:
    """Every run below a folder that has a record: its own folder and the record, by the folder's name."""
    return {
        path.parent.name: (path.parent, records.read_run(path.parent))
        for path in sorted(folder.glob("runs/*/*/run.json"))
    }


def tables(place: Path, run: Run) -> dict[str, dict[str, list[Any]]]:
    """Every table of a run as columns; each is verified."""
    names = [file.removesuffix(".parquet") for file in run.files if file.endswith(".parquet")]
    found = {name: records.read_table(place, run, name) for name in names}
    return {name: table.to_pydict() for name, table in found.items() if table is not None}


def bits(folder: Path) -> dict[str, tuple[str, str, dict[str, Any], dict[str, Any]]]:
    """Identity, status, metrics and tables of every training run: equal for equal commands, bit for bit."""
    found = {}
    for name, (place, run) in runs_below(folder).items():
        if run.kind == "train":
            metrics = {key: value for key, value in run.metrics.items() if key not in CLOCKS}
            columns = {
                table: {key: values for key, values in content.items() if key not in CLOCKS}
                for table, content in tables(place, run).items()
            }
            found[name] = (run.identity, run.status, metrics, columns)
    return found


def planned(folder: Path) -> set[str]:
    """The folders of the runs that the only plan below a folder names."""
    [plan] = folder.glob("runs/*/plan.json")
    return {run["folder"] for run in records.read_plan(plan.parent)["runs"]}
