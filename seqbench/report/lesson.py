"""The lesson: the same records told as a short illustrated text for students. Every number is read from them.

What the records do not hold is left out, or said with the command that shows it; what came out otherwise than
textbooks have it is said so.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

import seqbench
from seqbench.report import facts, fairness, main_table, theme
from seqbench.report.frame import Sweep
from seqbench.report.label import clean
from seqbench.report.lesson_parts import cast, duel, fading, gating, growth, looking, outcome, reading
from seqbench.report.page import Drawn, drawn, filled, put
from seqbench.report.plots import attention, gates, gradient, hops, length, slices, speed, states
from seqbench.report.plots.base import Plot
from seqbench.report.premises import data_identity
from seqbench.report.speeds import speeds
from seqbench.report.summary import Cell, Flow, cells, counted, flow_table, flows, state_decays
from seqbench.report.task import Task
from seqbench.report.verdict import compare, headline, verdicts

_MOST_TASKS, _MOST_LINES = 3, 12
Chosen = tuple[Task, int | None, pd.DataFrame] | None


@dataclass(frozen=True)
class Told:
    """A task as the lesson tells it.

    Attributes:
        example: the worked example of the task's own description, line by line.
        floors: scores that need no learning of the point, the worst first, with their names.
    """

    key: str
    tests: str
    definition: str
    example: list[str]
    floors: list[tuple[str, str]]


def write_lesson(sweep: Sweep, out: Path) -> Path:
    """Render the lesson and put it in place in one step.

    Raises:
        UsageError: ``out`` cannot be written; names the settings for another place.
    """
    return put(render(sweep), out)


def render(sweep: Sweep) -> str:
    """The lesson as text; the same records give the same bytes."""
    return filled("lesson.html", context(sweep))


def context(sweep: Sweep) -> dict[str, Any]:
    """Everything the template shows."""
    sweep.read_all()
    grid, chosen = cells(sweep), flow_table(sweep)
    found = flows(sweep, chosen)
    return {
        "sweep": sweep,
        "version": seqbench.__version__,
        "question": facts.question(sweep),
        "setting": facts.setting(sweep),
        "warnings": facts.warnings(sweep),
        "counted": counted(sweep),
        "tasks": [told(task) for task in sweep.tasks[:_MOST_TASKS]],
        "more_tasks": max(0, len(sweep.tasks) - _MOST_TASKS),
        "styles": theme.styles(sweep.labels),
        "sources": reading.SOURCES,
        "glossary": reading.GLOSSARY,
        "exercises": reading.exercises(sweep),
        "see": reading.command("vanishing"),
        "see_bias": reading.command("forget_bias"),
        "commands": facts.commands(sweep),
        "pictures": pictures(sweep, grid, chosen, found),
        **recurrence(sweep, grid, chosen, found),
        **attending(sweep, found),
        **results(sweep, grid, found),
    }


def told(task: Task) -> Told:
    """A task from its definition card; files are not trusted."""
    card = task.card
    lines = card.get("example")
    lines = lines[:_MOST_LINES] if isinstance(lines, list) else []
    floors = task.floors(task.rungs[-1])
    return Told(
        key=task.key,
        tests=clean(card.get("tests", ""), 300) if card.get("tests") else "",
        definition=clean(told, 800).removeprefix("Data: ") if (told := card.get("definition")) else "",
        example=[clean(line, 200) for line in lines if isinstance(line, str) and line.strip()],
        floors=[(name, task.metric.shown(level)) for name, level in floors.items()],
    )


def recurrence(sweep: Sweep, grid: list[Cell], chosen: Chosen, found: list[Flow]) -> dict[str, Any]:
    """Sections 2 to 4: the state, its gradient, its gates."""
    fades = fading.before_training(sweep, found)
    clearest = fading.clearest(sweep, fades)
    place = chosen[0].at(chosen[1]) if chosen is not None else ""
    gated_at, gated = gating.found(sweep, grid)
    rnn, jordan = cast.first(sweep, "rnn"), cast.first(sweep, "jordan")
    return {
        "place": place,
        "clearest": clearest,
        "width": cast.widths(sweep, clearest.label) if clearest else "",
        "rnn": fading.of(fades, rnn),
        "jordan": fading.of(fades, jordan),
        "fades": fading.table(fades, place) if fades else None,
        "pooled": any(fade.pooled for fade in fades),
        "biases": gating.bias_table(clearest.hops) if clearest else None,
        "varied": [fade for fade in fades if fade.label in gating.varied(sweep)],
        "lstm": fading.of(fades, cast.first(sweep, "lstm", "bilstm")),
        "gates": gating.table(gated, gated_at) if gated else None,
        "moved": [gate for gate in gated if gate.moved][:6],
        "duel": duel.duel(sweep, grid, found, fades, chosen[0] if chosen is not None else None),
    }


def attending(sweep: Sweep, found: list[Flow]) -> dict[str, Any]:
    """Section 5: what attention reads, where positions come from, and what it costs."""
    labels = cast.attends(sweep)
    grown = growth.growth(sweep)
    return {
        "attends": labels,
        "positions": cast.positions(sweep, labels[0]) if labels else None,
        "way": looking.way(sweep),
        "example": looking.example(sweep),
        "spread": looking.glance(sweep, fading.before_training(sweep, found)),
        "growth": grown,
        "ranking": growth.ranking(sweep, grown.task) if grown else "",
        "on_cpu": grown is not None and growth.on_cpu(sweep, grown.task),
        "growth_table": growth.table(grown) if grown else None,
        "kernels": fairness.kernels(sweep),
    }


def results(sweep: Sweep, grid: list[Cell], found: list[Flow]) -> dict[str, Any]:
    """Section 6: the verdict, and how sure it is."""
    whole = compare(sweep, whole=True)
    compared, different = data_identity(sweep)
    return {
        "headline": headline(sweep, grid),
        "glance": main_table.glance(sweep, grid),
        "verdicts": verdicts(sweep, grid, found, whole),
        "undecided": outcome.undecided(whole),
        "too_few": outcome.too_few(whole),
        "seeds": len(sweep.seeds),
        "same_data": compared > 0 and not different,
        "smoke": facts.seeds_in_words(sweep).startswith("smoke"),
    }


def pictures(sweep: Sweep, grid: list[Cell], chosen: Chosen, found: list[Flow]) -> dict[str, Drawn]:
    """The figures that have something to show, by name; of each kind the first."""
    place = chosen[:2] if chosen is not None else None
    every: dict[str, Iterable[Plot | None]] = {
        "gradient": [gradient.plot(sweep, chosen, found)],
        "states": [states.plot(sweep, *place, state_decays(states.chosen(sweep, *place)))] if place else [],
        "gates": [gates.plot(sweep)],
        "hops": [hops.plot(sweep)],
        "attention": [attention.plot(sweep)],
        "speed": (speed.plot(t, speeds(sweep), sweep.labels, i) for i, t in enumerate(sweep.tasks)),
        "ladder": (length.plot(t, grid, sweep.labels, i) for i, t in enumerate(sweep.tasks)),
        "beyond": (slices.plot(sweep, t, i) for i, t in enumerate(sweep.tasks)),
    }
    first = {name: next((p for p in plots if p is not None), None) for name, plots in every.items()}
    return {name: drawn([plot])[0] for name, plot in first.items() if plot is not None}
