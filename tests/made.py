"""Sweeps as the measuring half leaves them, made by hand for the tests of the report."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from seqbench import records
from seqbench.records import Run

FLOORS = {"chance": 0.125, "bag of tokens": 0.667}


def card(**changes: Any) -> dict[str, Any]:
    return {
        "id": "order/ladder", "tests": "order", "definition": "which came first", "source": "a paper",
        "floors": FLOORS, "reference_points": {}, "answers": "many-to-one", "rung_symbol": "T", **changes,
    }  # fmt: skip


def settings(model: str, rung: int | None, **model_settings: Any) -> dict[str, Any]:
    task: dict[str, Any] = {"name": "order", "solved_at": 0.998}
    task |= {} if rung is None else {"lengths": [rung]}
    return {
        "task": task,
        "model": {"name": model, **model_settings},
        "train": {"lr": 0.01, "steps": 100, "clip": 1.0, "batch_size": 4},
        "match": {"by": "params", "target": 1000},
    }


def training(model: str, rung: int | None, seed: int, accuracy: float, **changes: Any) -> Run:
    solved = accuracy >= 0.998
    metrics: dict[str, Any] = {
        "test_accuracy": accuracy, "test_loss": 1.0, "test_answers": 200, "solved": solved,
        "solved_step": 50 if solved else None, "solved_cpu_s": 0.5 if solved else None, "steps": 100,
        "train_cpu_s": 1.0, "parameters": 1010, "matched_parameters": 1000, "width": 8, "kernel": "own",
        "causal": True, "readout": "last", "canary": False, "first_batch_sha256": f"{rung}-{seed}",
        "data_sha256": f"{rung}-{seed}",
    }  # fmt: skip
    metrics |= changes.pop("metrics", {})
    fields: dict[str, Any] = {
        "kind": "train", "identity": "", "status": "done", "task": "order", "rung": rung, "model": model,
        "seed": seed, "config": settings(model, rung), "card": card(), "metrics": metrics,
        "environment": {"cpu": "a chip", "threads": 1, "versions": {"torch": "1"}}, **changes,
    }  # fmt: skip
    return Run(**fields)


def changed(run: Run, **metrics: Any) -> Run:
    return dataclasses.replace(run, metrics={**run.metrics, **metrics})


def tables(accuracy: float, decay: float = 0.5) -> dict[str, dict[str, list[Any]]]:
    steps, distance = [20, 40, 60, 80, 100], list(range(24))
    flow = {
        "moment": ["init"] * 24 + ["final"] * 24,
        "distance": distance * 2,
        "median": [decay**d for d in distance] * 2,
        "sequences": [4] * 48,
    }
    return {
        "evaluations": {"step": steps, "loss": [1.0] * 5, "accuracy": list(np.linspace(0.1, accuracy, 5))},
        "steps": {"step": steps, "loss": [1.0] * 5, "gradient_norm": [0.5, 2.0, 1.5, 0.1, 0.2]},
        "parameters": {"step": steps, "encoder.recurrent": [0.3] * 5},
        "gradient_flow": flow,
    }


def timing(model: str, **changes: Any) -> tuple[Run, dict[str, dict[str, list[Any]]]]:
    run = training(model, None, 0, 0.0, kind="speed", config=settings(model, 16), **changes)
    run = dataclasses.replace(run, metrics={"parameters": 1010, "kernel": "own", "causal": True})
    rows = [
        (r, m, 1e-4 * r * k, 4 * r) for r in (16, 32) for m in ("train", "forward") for k in (1, 1.1, 1.3)
    ]
    columns = dict(
        zip(("rung", "mode", "step_s", "valid_tokens"), map(list, zip(*rows, strict=True)), strict=True)
    )
    return run, {"speed": {**columns, "memory_bytes": [5e6] * len(rows)}}


Work = tuple[Run, dict[str, dict[str, list[Any]]]]


def write_sweep(folder: Path, work: list[Work], pending: int = 0, **plan: Any) -> Path:
    """A sweep's folder as the other half writes it; the last ``pending`` runs get no record."""
    entries = []
    for number, (run, columns) in enumerate(work):
        name = f"run-{number}"
        identity = f"{number:064x}"
        if number < len(work) - pending:
            records.write_run(folder / name, dataclasses.replace(run, identity=identity), columns)
        kept = ("kind", "task", "rung", "model", "seed", "config")
        entries.append({"folder": name, "identity": identity, **{key: getattr(run, key) for key in kept}})
    folder.mkdir(parents=True, exist_ok=True)
    models = list(dict.fromkeys(run.model for run, _ in work))
    described = {"sweep": folder.name, "commands": [["-m", "model=a,b"]], "models": models}
    records.write_plan(folder, {**described, "reference": next(iter(models), None), "runs": entries, **plan})
    return folder


def small(models: dict[str, float], seeds: int = 1) -> list[Work]:
    """Models with an accuracy at T=16, few tables, no speed record: quick to draw."""
    kept = ("evaluations", "parameters")
    columns = {name: columns for name, columns in tables(0.5).items() if name in kept}
    return [
        (training(m, 16, seed, accuracy), columns) for m, accuracy in models.items() for seed in range(seeds)
    ]


def usual(models: dict[str, float], seeds: int = 3) -> list[Work]:
    """Models with a mean accuracy at T=16 and T=32 each, and a speed record."""
    work = []
    for model, accuracy in models.items():
        for rung in (16, 32):
            for seed in range(seeds):
                reached = min(1.0, accuracy + 0.001 * seed)
                work.append((training(model, rung, seed, reached), tables(reached)))
        work.append(timing(model))
    return work


FIVE = {"rnn": 0.12, "lstm": 0.4, "gru": 0.998, "bilstm": 0.66, "transformer": 0.998}
