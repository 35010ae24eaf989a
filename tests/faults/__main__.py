"""Run every campaign at full size and print the table: ``make faults`` (some minutes on two cores)."""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from faults import hostile, jobs, powercut, store_faults, sweeps
from faults.campaign import Campaign, Figure

CAMPAIGNS = [
    campaign for module in (store_faults, powercut, jobs, sweeps, hostile) for campaign in module.CAMPAIGNS
]


def main(argv: list[str] | None = None) -> int:
    """Exit with 0 when no promise was broken, and 1 otherwise."""
    parser = argparse.ArgumentParser(prog="make faults", description=__doc__)
    parser.add_argument("words", nargs="*", help="only campaigns whose name holds one of these words")
    parser.add_argument("--few", action="store_true", help="the sizes of `make test`")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # else ignored where a shell runs us in the background
    chosen = [c for c in CAMPAIGNS if not arguments.words or any(word in c.name for word in arguments.words)]
    table = Table(title="What was broken, how often, and promises that did not hold")
    for head in ("campaign", "tried", "violations", "s", "remark"):
        table.add_column(head, justify="left" if head in ("campaign", "remark") else "right", overflow="fold")
    console = Console()
    violations: list[str] = []
    for campaign in chosen:
        figure, took_s = run(campaign, campaign.few if arguments.few else campaign.many, arguments.seed)
        row = (campaign.name, f"{figure.tried:,}", str(len(figure.violations)), f"{took_s:.0f}", figure.note)
        console.print("  ".join(row), markup=False, highlight=False, soft_wrap=True)
        table.add_row(*row)
        violations += [f"{campaign.name}: {violation}" for violation in figure.violations]
    console.print(table)
    for violation in violations[:50]:
        console.print(violation, markup=False, highlight=False)
    console.print(f"violations = {len(violations)}", highlight=False)
    return 1 if violations else 0


def run(campaign: Campaign, size: int, seed: int) -> tuple[Figure, float]:
    """One campaign in a folder of its own, and how long it took."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="seqbench-faults-") as folder:
        figure = campaign.run(size, Path(folder), random.Random(seed)) if size else Figure(0)
    return figure, time.monotonic() - began


if __name__ == "__main__":
    sys.exit(main())
