"""``python -m seqbench.verify``: reproduce exact and published results, and say of each what was found."""

from __future__ import annotations

import argparse
import sys

from rich.console import Console
from rich.text import Text

from seqbench.cli import compose
from seqbench.errors import UsageError
from seqbench.report.frame import Sweep, read_sweep
from seqbench.sweep import run_sweep
from seqbench.verify.claims import (
    CANNOT_TELL,
    CLAIMS,
    CONFIRMED,
    NOT_TRIED,
    REFUTED,
    Exact,
    Trained,
    Verdict,
)

EXIT_FINE, EXIT_REFUTED, EXIT_USAGE, EXIT_CANNOT_TELL = 0, 1, 2, 3
_COLOURS = {CONFIRMED: "green", REFUTED: "bold red", CANNOT_TELL: "yellow", NOT_TRIED: "dim"}


def main(argv: list[str] | None = None) -> int:
    """Judge every claim.

    Returns:
        0 when all that were tried are confirmed, 1 when one is refuted, 3 when one cannot be told, 2 for bad
        usage.
    """
    parser = argparse.ArgumentParser(prog="python -m seqbench.verify", description=__doc__)
    parser.add_argument("--exact", action="store_true", help="only what needs no training (seconds)")
    parser.add_argument(
        "--imdb", metavar="WHERE", help="a local copy of stanfordnlp/imdb, or 'hub' (a few minutes more)"
    )
    arguments = parser.parse_args(argv)
    console = Console()
    claims = [claim for claim in CLAIMS if isinstance(claim, Exact) or not arguments.exact]
    data = {"--imdb": arguments.imdb}
    try:
        sweeps = {
            claim.setting: _swept(claim.setting, _place(data.get(claim.needs)), console)
            for claim in _one_for_each_setting(claims)
            if not claim.needs or data[claim.needs]
        }
    except UsageError as error:
        print(f"seqbench.verify: {error}", file=sys.stderr)  # noqa: T201
        return EXIT_USAGE
    verdicts = [_verdict(claim, sweeps) for claim in claims]
    console.print()
    for claim, verdict in zip(claims, verdicts, strict=True):
        console.print(told(claim, verdict), highlight=False)
    words = [verdict.word for verdict in verdicts]
    counted = ", ".join(f"{words.count(word)} {word}" for word in _COLOURS)
    console.print(f"{len(claims)} claims: {counted}", highlight=False)
    return EXIT_REFUTED if REFUTED in words else EXIT_CANNOT_TELL if CANNOT_TELL in words else EXIT_FINE


def _one_for_each_setting(claims: list[Exact | Trained]) -> list[Trained]:
    return list({claim.setting: claim for claim in claims if isinstance(claim, Trained)}.values())


def _place(where: str | None) -> list[str]:
    """The words of the command line that say where data is."""
    return [] if where in (None, "hub") else [f"task.path={where}"]


def _verdict(claim: Exact | Trained, sweeps: dict[str, Sweep]) -> Verdict:
    if isinstance(claim, Exact):
        return claim.judge()
    if claim.setting not in sweeps:
        return Verdict(NOT_TRIED, f"the data is not at hand: add {claim.needs} WHERE")
    return claim.judge(sweeps[claim.setting])


def _swept(setting: str, more: list[str], console: Console) -> Sweep:
    """Run the sweep of a setting (what is finished is reused) and read it."""
    words = [*setting.split(), *more, "speed.enabled=false", "canaries=false"]
    console.print(f"python -m seqbench {' '.join(words)}", highlight=False)
    swept = run_sweep(compose(words), words, console)
    assert swept is not None  # as it is for a dry run
    return read_sweep(swept.folder)


def told(claim: Exact | Trained, verdict: Verdict) -> Text:
    """A claim with its verdict, what was found, its source and its setting."""
    text = Text(f"{verdict.word:<12}", _COLOURS[verdict.word])
    text.append(f"{claim.sentence}\n", "default")
    text.append(
        f"{'':12}found: {verdict.evidence}\n{'':12}source: {claim.source}; setting: {claim.setting}\n", "dim"
    )
    return text


if __name__ == "__main__":
    sys.exit(main())
