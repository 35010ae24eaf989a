"""The page: sections in their order, rendered into one file that needs nothing else."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup

import seqbench
from seqbench import store
from seqbench.errors import UsageError
from seqbench.metric import ACCURACY
from seqbench.report import (
    aggregate,
    facts,
    fairness,
    main_table,
    noise,
    scaling,
    speed_tables,
    svg,
    tables,
    theme,
    tuning,
)
from seqbench.report.frame import Sweep
from seqbench.report.health import health
from seqbench.report.main_table import Whole
from seqbench.report.plots import (
    attention,
    depth,
    gates,
    gradient,
    growth,
    hops,
    jacobian,
    learning,
    length,
    norms,
    pareto,
    profile,
    progress,
    response,
    slices,
    speed,
    states,
    training_flow,
)
from seqbench.report.plots.base import Plot
from seqbench.report.premises import data_identity
from seqbench.report.samples import samples
from seqbench.report.speeds import points, speeds
from seqbench.report.summary import (
    Cell,
    Flow,
    cells,
    counted,
    flow_table,
    flows,
    flows_in_training,
    state_decays,
)
from seqbench.report.task import Task
from seqbench.report.verdict import Comparison, compare, headline, verdicts

_SEVERAL_TASKS = 3  # two stand side by side in the main table
_TEMPLATES = Path(__file__).parent / "templates"
_MOST_VERDICTS = 8  # more are folded behind a summary


@dataclass(frozen=True)
class Drawn:
    """A figure of the page: its plot, drawn when its picture or what it shows is first asked for."""

    plot: Plot

    @property
    def key(self) -> str:
        """Unique on the page."""
        return self.plot.key

    @property
    def title(self) -> str:
        """Its heading."""
        return self.plot.title

    @property
    def how(self) -> str:
        """How to read it."""
        return self.plot.how

    @property
    def svg(self) -> Markup:
        """The picture; empty when the numbers are impossible to draw."""
        return Markup(self._made[0])

    @property
    def shows(self) -> str:
        """What it shows, or why there is no picture."""
        return self._made[1]

    @cached_property
    def _made(self) -> tuple[str, str]:
        return _picture(self.plot)


def write_page(sweep: Sweep, out: Path) -> Path:
    """Render the page and put it in place in one step.

    Raises:
        UsageError: ``out`` cannot be written; names the settings for another place.
    """
    return put(render(sweep), out)


def put(html: str, out: Path) -> Path:
    """Write a page in one step.

    Raises:
        UsageError: ``out`` cannot be written; names the settings for another place.
    """
    try:
        store.make_folder(out.parent)
        store.write_file(out, html.encode())
    except OSError as error:
        fix = "choose another folder with reports_dir=FOLDER (python -m seqbench.report: --out FILE)"
        raise UsageError(f"{out}: {error.strerror or error}; {fix}") from None
    return out


def render(sweep: Sweep) -> str:
    """The page as text; the same records give the same bytes."""
    return filled("page.html", context(sweep))


def filled(name: str, shown: Mapping[str, Any]) -> str:
    """A template with what it shows, its style, its script and a policy that allows these two alone."""
    loader = jinja2.FileSystemLoader(_TEMPLATES)
    environment = jinja2.Environment(
        loader=loader,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    style, script = ((_TEMPLATES / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    template = environment.get_template(name)
    own = {"style": Markup(style), "script": Markup(script), "policy": policy(style, script)}
    return template.render(**shown, **own)


def policy(style: str, script: str) -> str:
    """A content security policy that allows this style and this script, and nothing from anywhere else."""
    hashes = [base64.b64encode(hashlib.sha256(part.encode()).digest()).decode() for part in (style, script)]
    return (
        f"default-src 'none'; style-src 'sha256-{hashes[0]}'; script-src 'sha256-{hashes[1]}'; "
        "base-uri 'none'; form-action 'none'"
    )


def context(sweep: Sweep) -> dict[str, Any]:
    """Everything the template shows, in the order of the page."""
    sweep.read_all()
    grid = cells(sweep)
    chosen = flow_table(sweep)
    found = flows(sweep, chosen)
    timed = speeds(sweep)
    rungs = compare(sweep, whole=False)
    whole = compare(sweep, whole=True)
    ledger = fairness.costs(sweep, grid, timed)
    every = main_table.wholes(sweep, grid, whole, ledger, timed)
    return {
        **head(sweep),
        "headline": headline(sweep, grid),
        "verdicts": verdicts(sweep, grid, found, whole),
        "verdicts_folded": len(sweep.labels) > _MOST_VERDICTS,
        **results(sweep, grid, whole, rungs, every),
        **together(sweep),
        "learning": drawn(curves(sweep, grid)),
        "lengths": drawn(reach(sweep, grid)),
        "memories": tables.memories(sweep, grid),
        "samples": samples(sweep),
        "gradient": drawn(gradients(sweep, chosen, found)),
        "gradient_table": tables.gradients(found) if found else None,
        "derivative": gradient.WHICH,
        "health": tables.training_health(health(sweep)),
        "attention": drawn([attention.plot(sweep)]),
        "probes": facts.silent_probes(sweep),
        **costing(sweep, timed, every),
        **fair(sweep, ledger),
        "noise": noise.table(sweep, grid, whole),
        "environments": facts.environments(sweep),
        **ending(sweep),
        "styles": theme.styles(sweep.labels),
    }


def head(sweep: Sweep) -> dict[str, Any]:
    """What stands above the verdict."""
    return {
        "sweep": sweep,
        "version": seqbench.__version__,
        "question": facts.question(sweep),
        "setting": facts.setting(sweep),
        "evaluated": facts.evaluated(sweep),
        "counted": counted(sweep),
        "smoke": facts.seeds_in_words(sweep).startswith("smoke"),
        "warnings": facts.warnings(sweep) + tuning.warnings(sweep),
    }


def results(
    sweep: Sweep, grid: list[Cell], whole: list[Comparison], rungs: list[Comparison], every: list[Whole]
) -> dict[str, Any]:
    """The main table, and what it leaves out: single sizes, floors, all statistics."""
    reference = sweep.reference or ""
    several = any(len(task.rungs) > 1 for task in sweep.tasks)
    clock = sweep.clocks.caption() or sweep.clocks.caption("train")
    return {
        "outcomes_in_words": main_table.outcomes(whole, reference),
        "comparisons": max((c.judged.comparisons for c in whole), default=0),
        "margins": margins(sweep),
        "main": main_table.table(every, reference, clock) if every else None,
        "floors": [words for task in sweep.tasks if (words := main_table.floors(task))],
        "glance": main_table.glance(sweep, grid),
        "outcomes": [tables.outcomes(task, grid) for task in sweep.tasks],
        "differences": tables.differences(whole, reference) if whole else None,
        "rung_differences": tables.differences(rungs, reference) if rungs and several else None,
        "solvable": any(task.solved_at is not None for task in sweep.tasks),
        "alone": any(task.solved_at is None and task.metric is ACCURACY for task in sweep.tasks),
    }


def together(sweep: Sweep) -> dict[str, Any]:
    """Several tasks on a common scale."""
    if len(sweep.tasks) < _SEVERAL_TASKS:
        return {"together": None, "together_words": "", "profiles": []}
    standings = aggregate.standings(sweep)
    return {
        "together": aggregate.table(sweep, standings),
        "together_words": aggregate.words(sweep, standings),
        "profiles": drawn([profile.plot(sweep)]),
    }


def costing(sweep: Sweep, timed: pd.DataFrame, every: list[Whole]) -> dict[str, Any]:
    """Speed and memory over length, and score against speed."""
    fronts = (pareto.plot(sweep, task, every, i) for i, task in enumerate(sweep.tasks))
    return {
        "speeds": drawn(speed.plot(t, timed, sweep.labels, i) for i, t in enumerate(sweep.tasks)),
        "fronts": drawn(fronts),
        "clocks": sweep.clocks.words(),
        "costs": speed_tables.costs(sweep, timed),
        **grown(sweep),
        "kernels": fairness.kernels(sweep),
    }


def grown(sweep: Sweep) -> dict[str, Any]:
    """What the grid of lengths and batch sizes shows, where there is one."""
    every = points(sweep)
    laws = [law for task in sweep.tasks for law in scaling.laws(sweep, task.key)]
    plots = (plot for i, task in enumerate(sweep.tasks) for plot in growth.plots(sweep, task.key, every, i))
    return {
        "growths": drawn(plots),
        "laws": speed_tables.laws(laws),
        "grid": speed_tables.grid(sweep, every),
        "left_out": scaling.left_out(sweep),
        "trained": not sweep.speed_alone,
    }


def fair(sweep: Sweep, ledger: list[fairness.Cost]) -> dict[str, Any]:
    """What the section on fairness shows."""
    others = facts.others_busy(sweep)
    crowded = others is not None and others[1] > noise.BUSY_CORES
    return {
        "rates_swept": bool(facts.swept_rates(sweep)),
        "tuned_before": facts.tuned_before(sweep),
        "settings": tables.settings(sweep),
        "tuning": tuning.table(sweep),
        "tuning_words": tuning.words(sweep),
        "responses": drawn(response.plot(sweep, t, i) for i, t in enumerate(sweep.tasks)),
        "ledger": fairness.table(ledger, sweep.clocks.caption()),
        "ledger_words": fairness.words(ledger, busy=crowded),
        "identity": data_identity(sweep),
    }


def ending(sweep: Sweep) -> dict[str, Any]:
    """Runs that are not done, and how to repeat all."""
    pending = sweep.runs[sweep.runs["status"] == "pending"]
    return {
        "failures": facts.failures(sweep),
        "pending": [facts.run_name(run) for run in pending.to_dict("records")],
        "commands": facts.commands(sweep),
        "hashes": facts.hashes(sweep),
        "csv": facts.csv_link(sweep),
    }


def margins(sweep: Sweep) -> str:
    """Differences that count as none, of every metric of the sweep, in words."""
    words = {
        m.name: f"{100 * m.margin:g} % of the worst floor" if m.relative else f"{m.margin:g}"
        for m in (task.metric for task in sweep.tasks)
    }
    several = len(words) > 1
    return " or ".join(f"{margin} ({name})" if several else margin for name, margin in words.items())


def gradients(
    sweep: Sweep, chosen: tuple[Task, int | None, pd.DataFrame] | None, found: list[Flow]
) -> Iterable[Plot | None]:
    """The figures of the gradient's way back, on the rung that reaches back farthest."""
    yield gradient.plot(sweep, chosen, found)
    yield hops.plot(sweep)
    place = chosen[:2] if chosen is not None else longest(sweep)
    if place is not None:
        task, rung = place
        yield training_flow.plot(task, rung, flows_in_training(sweep, chosen), sweep.labels)
        yield states.plot(sweep, task, rung, state_decays(states.chosen(sweep, task, rung)))
        yield jacobian.plot(sweep, task, rung)
        yield depth.plot(sweep, task, rung)
    yield gates.plot(sweep)
    yield norms.plot(sweep)


def longest(sweep: Sweep) -> tuple[Task, int | None] | None:
    """The highest rung of the first task, for probes without a gradient flow beside them."""
    return next(((task, task.rungs[-1]) for task in sweep.tasks), None)


def curves(sweep: Sweep, grid: list[Cell]) -> Iterable[Plot | None]:
    """Score against steps, and against time and operations, of every task."""
    for number, task in enumerate(sweep.tasks):
        yield learning.plot(sweep, task, grid, number)
        yield progress.plot(sweep, task, grid, number)


def reach(sweep: Sweep, grid: list[Cell]) -> Iterable[Plot | None]:
    """Score against the size of a task, and beyond what training showed."""
    for number, task in enumerate(sweep.tasks):
        yield length.plot(task, grid, sweep.labels, number)
        yield slices.plot(sweep, task, number)


def drawn(plots: Iterable[Plot | None]) -> list[Drawn]:
    """The figures that have something to show."""
    return [Drawn(plot) for plot in plots if plot is not None]


def _picture(plot: Plot) -> tuple[str, str]:
    """A figure with its words; numbers that nobody vouches for may be impossible to draw."""
    try:
        with theme.drawing():
            figure = plot.draw()
        return svg.inline(figure, plot.key, plot.title, f"{plot.how}. {plot.shows}"), plot.shows
    except Exception as error:
        return "", f"This figure cannot be drawn ({type(error).__name__}); its numbers are in the records."
