"""``python -m seqbench.tasks``: what every task is, or one of them: the definition cards."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

from seqbench import schema
from seqbench.errors import UsageError
from seqbench.guard import shown
from seqbench.registry import lookup, plugins
from seqbench.tasks.base import GeneratedTask, TaskConfig, example

_WIDTH, _INDENT = 100, 14


def main(argv: list[str] | None = None) -> int:
    """Print the cards; 0 when done, 2 for a task that does not exist."""
    parser = argparse.ArgumentParser(prog="python -m seqbench.tasks", description=__doc__)
    parser.add_argument("name", metavar="NAME", nargs="?", help="a task (default: all of them)")
    name = parser.parse_args(argv).name
    try:
        tasks = [lookup("task", shown(name))] if name is not None else list(plugins("task").values())
    except UsageError as error:
        print(f"seqbench.tasks: {error}", file=sys.stderr)  # noqa: T201
        return 2
    print("\n\n".join(described(cls) for cls in tasks))  # noqa: T201
    return 0


def described(cls: type[TaskConfig]) -> str:
    """All cards of a task and its worked example."""
    parts = [_card(task, chosen) for task, chosen in variants(cls)]
    return "\n\n".join([*parts, *([textwrap.indent(example(cls), "  ")] if example(cls) else [])])


def usable(task: TaskConfig) -> bool:
    """Whether its settings go together, and nothing is missing."""
    try:
        schema.check(task, "task.")
    except UsageError:
        return False
    return True


def variants(cls: type[TaskConfig]) -> Iterator[tuple[TaskConfig, list[str]]]:
    """The task as it comes, then with every choice that changes the id; and the words that choose it."""
    choices = {
        field.name: dict.fromkeys([field.default, *field.metadata["choices"]])  # the default first
        for field in dataclasses.fields(cls)
        if field.metadata.get("choices")
    }
    seen = set()
    for values in itertools.product(*choices.values()):
        chosen = dict(zip(choices, values, strict=True))
        task = cls(**chosen)
        if not usable(task) and usable(cls()):
            continue  # choices that do not go together; where even the defaults need a file, all are shown
        task = task.rungs()[0]
        if task.card().id not in seen:
            seen.add(task.card().id)
            yield task, [f"task.{key}={value}" for key, value in chosen.items()]


def _card(task: TaskConfig, chosen: list[str]) -> str:
    card = task.card()
    rows = {
        "run": " ".join(["python -m seqbench", f"task={task.name}", *chosen]),
        "tests": card.tests,
        "definition": card.definition,
        "source": card.source,
        "answers": card.answers,
        "loss": card.loss,
        "data": _data(task),
        "floors": "; ".join(f"{name} {value:.4f}" for name, value in card.floors.items()) or "from the data",
        "slices": _slices(task),
        "rungs": _ladder(task),
    }
    return "\n".join([card.id, *(_row(label, text) for label, text in rows.items() if text)])


def _row(label: str, text: str) -> str:
    return textwrap.fill(
        text, _WIDTH, initial_indent=f"  {label:<{_INDENT - 2}}", subsequent_indent=" " * _INDENT,
        break_on_hyphens=False, break_long_words=False,
    )  # fmt: skip


def _data(task: TaskConfig) -> str:
    """Whether every example is new; data from outside is not read for that."""
    if task.needs_preparation:
        return "fixed: a data set, read and cached before the first run"
    count = task.open(0, Path()).examples_per_epoch
    return "fresh: every example is drawn anew" if count is None else f"fixed: {count:,} training examples"


def _slices(task: TaskConfig) -> str:
    """Where a trained network is tested too."""
    if not isinstance(task, GeneratedTask) or not task.slice_values():
        return ""
    values = ", ".join(map(str, task.slice_values()))
    return f"tested at {task.card().slice_axis} {values} too; trained to {task.card().trained_to}"


def _ladder(task: TaskConfig) -> str:
    if task.ladder is None:
        return ""
    values = getattr(type(task)(), task.ladder)
    return ", ".join(f"{task.ladder_symbol}={value}" for value in values) + f" (task.{task.ladder})"


if __name__ == "__main__":
    sys.exit(main())
