"""Time a training step of seqbench and of its peers on the same work and print the table: ``make perf``."""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from peers import table
from peers.contest import contest, players
from peers.contestants import BY_NAME, EVERY, PEAK_METER
from peers.goals import Results, step_s
from peers.work import LENGTHS, MODELS, Cell
from seqbench import environment, locks


def main(argv: list[str] | None = None) -> int:
    """Exit with 0 however the goals stand, 1 if a contestant failed, 2 for what cannot be asked for."""
    options = parsed(argv)
    console = Console()
    cells = [Cell(model, length) for model in options.models for length in options.lengths]
    facts = {"cpu": environment.cpu_model(), "core": options.core, "rounds": options.rounds}
    with tempfile.TemporaryDirectory(prefix="seqbench-peers-") as folder, locks.alone():
        os.environ["SEQBENCH_LOCKS"] = folder  # for contestants: they must not wait for us
        results, versions = measured(cells, options, console)
    facts |= {
        "versions": versions,
        "peak_flops_per_s": table.peak(results),
        "products": table.multipliers(results),
    }
    show(results, facts, console)
    if options.json:
        options.json.write_text(json.dumps(table.plain(results, facts), indent=1) + "\n", encoding="utf-8")
    if options.markdown:
        options.markdown.write_text(table.markdown(results, in_words(facts)), encoding="utf-8")
    return 1 if table.failures(results) else 0


def parsed(argv: list[str] | None) -> argparse.Namespace:
    """The command line; exits with 2 and one line for what does not exist."""
    parser = argparse.ArgumentParser(prog="make perf", description=__doc__)
    names = [one.name for one in EVERY]
    parser.add_argument("--models", type=_chosen(MODELS), default=MODELS, help=f"of {','.join(MODELS)}")
    parser.add_argument("--lengths", type=_lengths, default=LENGTHS, help="T, like 32,128,512")
    parser.add_argument("--peers", type=_chosen(names), default=names, help=f"of {','.join(names)}")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each contestant")
    parser.add_argument(
        "--seconds", type=float, default=1.2, help="measured time of each contestant and cell"
    )
    parser.add_argument(
        "--python", type=Path, default=_peers_python(), help="interpreter of the peers' environment"
    )
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)), help="where all of it runs")
    parser.add_argument("--seed", type=int, default=0, help="of the order of turns")
    parser.add_argument("--json", type=Path, help="raw values and verdicts")
    parser.add_argument("--markdown", type=Path, help="the tables as a page")
    options = parser.parse_args(argv)
    if options.rounds < 2 or options.seconds <= 0:
        parser.error("--rounds: at least 2; --seconds: more than 0")
    if options.core not in os.sched_getaffinity(0):
        parser.error(f"--core {options.core}: not one of {sorted(os.sched_getaffinity(0))}")
    return options


def _peers_python() -> Path:
    """Beside this interpreter's environment ``X``, that of ``X-peers``, which `make perf` sets up."""
    return Path(f"{sys.prefix}-peers") / "bin" / "python"


def _chosen(known: Any) -> Any:
    def of(text: str) -> list[str]:
        names = text.split(",")
        if unknown := [name for name in names if name not in known]:
            raise argparse.ArgumentTypeError(f"no {unknown[0]!r}; there are {', '.join(known)}")
        return names

    return of


def _lengths(text: str) -> list[int]:
    lengths = [int(word) for word in text.split(",")]
    if min(lengths) < 4:
        raise argparse.ArgumentTypeError("a length is less than 4")
    return lengths


def measured(
    cells: list[Cell], options: argparse.Namespace, console: Console
) -> tuple[Results, dict[str, str]]:
    """All contestants on all cells, and the versions that they found."""
    wanted = [*(BY_NAME[name] for name in options.peers), PEAK_METER]
    rng, results = random.Random(options.seed), Results()
    with players(wanted, options.python, {options.core}) as every:
        for number, cell in enumerate(cells, start=1):
            console.print(f"{number} of {len(cells)}: {cell.model} T={cell.length}", highlight=False, end=" ")
            began = time.monotonic()
            results[cell] = contest(cell, every, seconds=options.seconds, rounds=options.rounds, rng=rng)
            took = f"{time.monotonic() - began:.0f} s; "
            console.print(took + _in_short(results[cell]), highlight=False, markup=False, soft_wrap=True)
        versions = {name: version for player in every for name, version in player.versions.items()}
    return results, versions


def _in_short(results: Any) -> str:
    """A line on a cell while the others run."""
    times = {name: step_s(result) for name, result in results.items()}
    parts = [f"{name} {1e3 * time:.3g}" if time else f"{name} -" for name, time in times.items()]
    return f"ms: {', '.join(parts)}"


def show(results: Results, facts: dict[str, Any], console: Console) -> None:
    """Print the tables with what a stranger needs to read them."""
    console.print(f"\n{table.WORK}\n\n{table.READING}\n", highlight=False, markup=False)
    for grid in table.grids(results):
        drawn = Table(title=grid.title, title_justify="left")
        for number, head in enumerate(grid.head):
            drawn.add_column(head, justify="left" if number < grid.left else "right", overflow="fold")
        for number, row in enumerate(grid.rows):
            ends = number + 1 < len(grid.rows) and grid.rows[number + 1][0] != row[0] and grid.left == 2
            drawn.add_row(*(cell.replace("[", "\\[") for cell in row), end_section=ends)
        console.print(drawn)
    for title, lines in (
        ("Without a figure", table.problems(results)),
        ("Contestants", table.contestants_in_words(results)),
        ("Kernels of seqbench", table.kernels(results)),
        ("Measured on", in_words(facts)),
    ):
        if lines:
            console.print(
                "\n".join([f"{title}:", *(f"  {line}" for line in lines)]), markup=False, highlight=False
            )


def in_words(facts: dict[str, Any]) -> list[str]:
    """Where it was measured, in lines."""
    rate = facts["peak_flops_per_s"]
    return [
        f"{facts['cpu']}, core {facts['core']}, {facts['rounds']} rounds",
        f"peak of matrix products in float32: {rate / 1e9:.0f} GFLOP/s ({facts['products']})"
        if rate
        else "peak: not measured",
        ", ".join(f"{name} {version}" for name, version in facts["versions"].items()),
    ]


if __name__ == "__main__":
    sys.exit(main())
