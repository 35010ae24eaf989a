"""Tables of a run of the usual size, and sweeps of many runs made of one real sweep."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from seqbench import records, store
from seqbench.records import Run

Columns = dict[str, list[Any]]
_STEPS, _DISTANCES, _MOMENTS, _PARAMETERS = 400, 128, 8, 12


def usual_tables() -> dict[str, Columns]:
    """The tables of 400 steps at T=128 with the default probes, filled with noise."""
    rng = np.random.default_rng(0)

    def noise(rows: int) -> list[float]:
        return list(rng.random(rows))

    steps, seen = list(range(1, _STEPS + 1)), list(range(50, _STEPS + 1, 50))
    moments = [f"step {number}" for number in range(_MOMENTS) for _ in range(_DISTANCES)]
    rows, distance = _MOMENTS * _DISTANCES, [*range(_DISTANCES)] * _MOMENTS
    names = [f"encoder.weight_{number}" for number in range(_PARAMETERS)]
    spread = {name: noise(rows) for name in ("median", "low", "high")}
    flow: Columns = {"moment": moments, "distance": distance, **spread, "sequences": [16] * rows}
    timed = {name: noise(_STEPS) for name in ("loss", "gradient_norm", "learning_rate")}
    scored = {name: noise(len(seen)) for name in ("loss", "accuracy", "cpu_s", "wall_s")}
    return {
        "steps": {"step": steps, **timed},
        "parameters": {"step": steps, **{name: noise(_STEPS) for name in names}},
        "updates": {"step": steps[9::10], **{name: noise(_STEPS // 10) for name in names}},
        "evaluations": {"step": seen, **scored},
        "gradient_flow": flow,
        "state_flow": {**flow, "state": ["state"] * rows},
    }


def multiplied(real: Path, folder: Path, models: int, seeds: int) -> int:
    """Write a sweep with the runs of a real one under other names: each training run per model and seed.

    What was measured differs from run to run by a few per cent, so that no two are alike.

    Returns:
        The number of runs.
    """
    rng = np.random.default_rng(0)
    plan = records.read_plan(real)
    entries: list[dict[str, Any]] = []
    for entry in plan["runs"]:
        run = records.read_run(real / entry["folder"])
        names = [name.removesuffix(".parquet") for name in run.files if name.endswith(".parquet")]
        tables = {name: _plain(records.read_table(real / entry["folder"], run, name)) for name in names}
        for number in range(models):
            for seed in range(seeds if run.kind == "train" else 1):
                factor = 1.0 - 0.01 * number - 0.02 * float(rng.random())
                entries.append(_write(folder, entry, run, tables, f"model{number}", seed, factor))
    names = [f"model{number}" for number in range(models)]
    records.write_plan(folder, {**plan, "models": names, "reference": names[0], "runs": entries})
    return len(entries)


def _write(
    folder: Path,
    entry: dict[str, Any],
    run: Run,
    tables: Mapping[str, Columns],
    model: str,
    seed: int,
    factor: float,
) -> dict[str, Any]:
    """A run like another, but for its model, its seed and what was measured; gives its entry of the plan."""
    name = f"{model}-{run.kind}-{run.rung}-{seed}"
    config = {**run.config, "model": {**run.config["model"], "name": model}}
    changed = {"model": model, "seed": seed, "config": config, "identity": store.sha256(name.encode())}
    scaled = {
        key: value * factor for key, value in run.metrics.items() if key in ("test_accuracy", "test_loss")
    }
    told = dataclasses.replace(run, metrics={**run.metrics, **scaled}, **changed)
    records.write_run(
        folder / name, told, {table: dict(_times(columns, factor)) for table, columns in tables.items()}
    )
    return {**entry, "folder": name, **changed}


def _plain(table: Any) -> Columns:
    return dict(table.to_pydict())


def _times(columns: Columns, factor: float) -> Iterator[tuple[str, list[Any]]]:
    """Columns with every fraction a little larger or smaller."""
    for name, column in columns.items():
        yield name, [value * factor if isinstance(value, float) else value for value in column]
