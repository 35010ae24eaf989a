"""What networks wrote that predict the next character: one text per model."""

from __future__ import annotations

from dataclasses import dataclass

from seqbench.report.frame import Sweep
from seqbench.report.label import clean

_MOST_LINES, _LINE, _MOST_MODELS = 40, 200, 20


@dataclass(frozen=True)
class Sample:
    """A model's text, and the text it had to go on from, as lines without control characters."""

    label: str
    task: str
    seed: int
    prompt: str
    text: str


def samples(sweep: Sweep) -> list[Sample]:
    """The text of each model's first seed that has one."""
    found: dict[tuple[str, str], Sample] = {}
    for row in sweep.training_rows:
        run = sweep.records.get(str(row["folder"]))
        text, prompt = (run.metrics.get(name) if run else None for name in ("sample", "sample_prompt"))
        if isinstance(text, str) and isinstance(prompt, str):
            place = str(row["label"]), str(row["task"])
            found.setdefault(place, Sample(*place, int(row["seed"]), lines(prompt), lines(text)))
    return list(found.values())[:_MOST_MODELS]


def lines(text: str) -> str:
    r"""A text line by line, nothing but printable characters in each.

    >>> lines("to be\nor\x1b[31m")
    'to be\nor [31m'
    """
    return "\n".join(clean(line, _LINE) if line.strip() else "" for line in text.split("\n")[:_MOST_LINES])
