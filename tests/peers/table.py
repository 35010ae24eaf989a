"""The results in words: tables for a terminal, Markdown, JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from peers.contest import Result
from peers.contestants import BY_NAME, NAIVE, OURS, PEAK
from peers.goals import CellResults, Ratio, Results, duels, over_floor, ratio, step_s, verdicts
from peers.work import (
    BATCH,
    BLOCKS,
    EMBEDDING,
    FEEDFORWARD,
    HEADS,
    HIDDEN,
    LEARNING_RATE,
    PRODUCT_FLOPS,
    VOCABULARY,
    Cell,
)

WORK = (
    f"The work: a training step that classifies {BATCH} sequences of lengths uniform in [T/4, T]; vocabulary "
    f"{VOCABULARY:,}, embedding {EMBEDDING}, one layer of width {HIDDEN} (bilstm: {HIDDEN} per direction; "
    f"transformer: {BLOCKS} pre-norm blocks, {HEADS} heads, feed-forward {FEEDFORWARD}, GELU, sinusoidal "
    f"positions, not causal), read-out at the last valid token, Adam at {LEARNING_RATE}. All get the same "
    "raw sequences, one thread of one core, and take turns in random order; compiling is left out."
)
READING = (
    "ms: CPU milliseconds per step, the median over rounds; µs/token: the same per valid token (no padding). "
    f"x naive: time relative to '{BY_NAME[NAIVE].title}' in the same round, median [quartiles]; smaller is "
    "faster. x floor: time over that of the matrix products of the valid tokens at this core's peak rate, "
    "by the faster of torch's libraries (BLAS, oneDNN), measured in the same rounds."
)


@dataclass(frozen=True)
class Grid:
    """A table before it is drawn; ``left`` columns hold words."""

    title: str
    head: list[str]
    rows: list[list[str]]
    left: int = 1


def grids(results: Results) -> Iterator[Grid]:
    """One table per model, then seqbench against the fastest peer, then the goals."""
    for model in dict.fromkeys(cell.model for cell in results):
        yield _of_model(model, {cell: r for cell, r in results.items() if cell.model == model})
    yield _of_duels(results)
    yield _of_goals(results)


def _of_model(model: str, results: Results) -> Grid:
    rows = [row for cell, of_cell in results.items() for row in _rows(cell, of_cell)]
    head = ["T", "contestant", "ms", "µs/token", "x naive", "x floor"]
    return Grid(f"{model}: time of a training step", head, rows, left=2)


def _rows(cell: Cell, of_cell: CellResults) -> Iterator[list[str]]:
    naive = of_cell.get(NAIVE, Result(problem="not asked for"))
    for name, result in of_cell.items():
        first = [str(cell.length), BY_NAME[name].title]
        if name == PEAK:
            continue
        if (time := step_s(result)) is None:
            yield [*first, "-", "-", problem(result.problem), "-"]
            continue
        floor = over_floor(cell, of_cell, name)
        yield [
            *first,
            f"{1e3 * time:.3g}",
            f"{1e6 * time / cell.tokens_per_step:.3g}",
            _spread(ratio(result, naive)),
            f"{floor.median:.2f}" if floor else "-",
        ]


def problem(reason: str) -> str:
    """Why there is no figure, short enough for a table; the whole reason stands below it."""
    for known in ("not installed", "equality test failed"):
        if known in reason:
            return known
    return "failed" if reason else "-"


def _spread(found: Ratio | None) -> str:
    return f"{_short(found.median)} [{_short(found.low)}, {_short(found.high)}]" if found else "-"


def _short(number: float) -> str:
    """Two digits after the point, or three significant ones where that would say too little."""
    return f"{number:.2f}" if number >= 0.1 else f"{number:.3f}"


def _of_duels(results: Results) -> Grid:
    rows = [
        [
            cell.model,
            str(cell.length),
            BY_NAME[name].title,
            _spread(found),
            "yes" if found.median < 1 else "no",
        ]
        for cell, name, found in duels(results)
    ]
    head = ["model", "T", "fastest peer", "seqbench to it", "faster"]
    return Grid("Faster than every peer? seqbench relative to the fastest one", head, rows, left=3)


def _of_goals(results: Results) -> Grid:
    words = {True: "met", False: "missed"}
    rows = [
        [
            verdict.goal.words,
            _spread(verdict.ratio) if verdict.ratio else verdict.why,
            f"{_short(verdict.goal.at_most)}",
            words[verdict.met] if verdict.met is not None else "no figure",
        ]
        for verdict in verdicts(results)
    ]
    return Grid("Goals", ["goal", "figure", "at most", ""], rows)


def problems(results: Results) -> list[str]:
    """Everything that went without a figure, and why, each reason once."""
    found: dict[tuple[str, str], list[str]] = {}
    for cell, of_cell in results.items():
        for name, result in of_cell.items():
            if result.problem:
                found.setdefault((name, result.problem), []).append(f"{cell.model} T={cell.length}")
    every = len(results)
    return [
        f"{BY_NAME[name].title}: {reason}" + ("" if len(where) == every else f" ({', '.join(where)})")
        for (name, reason), where in found.items()
    ]


def failures(results: Results) -> int:
    """How many figures are missing for another reason than that a package is not installed."""
    every = (result.problem for of_cell in results.values() for result in of_cell.values())
    return sum(bool(reason) and not reason.startswith("not installed") for reason in every)


def contestants_in_words(results: Results) -> list[str]:
    """What each contestant does."""
    names = dict.fromkeys(name for of_cell in results.values() for name in of_cell if name != PEAK)
    return [f"{BY_NAME[name].title}: {BY_NAME[name].how}" for name in names]


def kernels(results: Results) -> list[str]:
    """Which implementation of each model seqbench ran."""
    found = {cell.model: of_cell[OURS].kernel for cell, of_cell in results.items() if OURS in of_cell}
    return [f"{model}: {kernel}" for model, kernel in found.items() if kernel]


def multipliers(results: Results) -> str:
    """How fast each way to multiply matrices was at the start; the floor stands on the fastest."""
    found = [of_cell[PEAK].kernel for of_cell in results.values() if PEAK in of_cell]
    return found[-1] if found else ""


def peak(results: Results) -> float | None:
    """This core's rate in large float32 matrix products, operations per second; median of all rounds."""
    times = [time for of_cell in results.values() if PEAK in of_cell for time in of_cell[PEAK].cpu_s]
    return PRODUCT_FLOPS / sorted(times)[len(times) // 2] if times else None


def markdown(results: Results, facts: list[str]) -> str:
    """Everything as Markdown."""
    parts = ["# Peers: the time of a training step", WORK, READING]
    for grid in grids(results):
        line = "|".join(["---"] * grid.left + ["--:"] * (len(grid.head) - grid.left))
        rows = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in grid.rows]
        parts.append("\n".join([f"## {grid.title}", "", f"| {' | '.join(grid.head)} |", f"|{line}|", *rows]))
    for title, lines in (
        ("Without a figure", problems(results)),
        ("Contestants", contestants_in_words(results)),
        ("Kernels of seqbench", kernels(results)),
    ):
        if lines:
            parts.append("\n".join([f"## {title}", "", *(f"- {line}" for line in lines)]))
    return "\n\n".join([*parts, "\n".join(f"- {fact}" for fact in facts)]) + "\n"


def plain(results: Results, facts: dict[str, Any]) -> dict[str, Any]:
    """Raw values and verdicts for JSON."""
    cells = [
        {
            "model": cell.model,
            "length": cell.length,
            "tokens_per_step": cell.tokens_per_step,
            "step_flops": cell.step_flops,
            "contestants": {name: dataclasses.asdict(result) for name, result in of_cell.items()},
        }
        for cell, of_cell in results.items()
    ]
    goals = [
        {
            **dataclasses.asdict(v.goal),
            "ratio": v.ratio and dataclasses.asdict(v.ratio),
            "met": v.met,
            "why": v.why,
        }
        for v in verdicts(results)
    ]
    return {"schema": 1, **facts, "cells": cells, "goals": goals}
