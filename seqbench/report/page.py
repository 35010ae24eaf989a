"""The page: sections in their order, rendered into one file that needs nothing else."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup

import seqbench
from seqbench import store
from seqbench.errors import UsageError
from seqbench.metric import ACCURACY
from seqbench.report import facts, fairness, svg, tables, theme, tuning
from seqbench.report.frame import Sweep
from seqbench.report.health import health
from seqbench.report.plots import (
    attention,
    depth,
    gates,
    gradient,
    hops,
    jacobian,
    learning,
    length,
    norms,
    response,
    slices,
    speed,
    states,
    training_flow,
)
from seqbench.report.plots.base import Plot
from seqbench.report.samples import samples
from seqbench.report.summary import (
    Cell,
    Flow,
    cells,
    counted,
    flow_table,
    flows,
    flows_in_training,
    speeds,
    state_decays,
)
from seqbench.report.task import Task
from seqbench.report.verdict import compare, headline, verdicts

_TEMPLATES = Path(__file__).parent / "templates"
_BUSY_CORES = 0.5  # kept busy by others, from which times are no ratios to speak of


@dataclass(frozen=True)
class Drawn:
    """A figure that is ready to stand in the page."""

    key: str
    title: str
    svg: Markup
    how: str
    shows: str


def write_page(sweep: Sweep, out: Path) -> Path:
    """Render the page and put it in place in one step.

    Raises:
        UsageError: ``out`` cannot be written; names the settings for another place.
    """
    html = render(sweep)
    try:
        store.make_folder(out.parent)
        store.write_file(out, html.encode())
    except OSError as error:
        fix = "choose another folder with reports_dir=FOLDER (python -m seqbench.report: --out FILE)"
        raise UsageError(f"{out}: {error.strerror or error}; {fix}") from None
    return out


def render(sweep: Sweep) -> str:
    """The page as text; the same records give the same bytes."""
    loader = jinja2.FileSystemLoader(_TEMPLATES)
    environment = jinja2.Environment(
        loader=loader,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    style, script = ((_TEMPLATES / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    template = environment.get_template("page.html")
    own = {"style": Markup(style), "script": Markup(script), "policy": policy(style, script)}
    return template.render(**context(sweep), **own)


def policy(style: str, script: str) -> str:
    """A content security policy that allows this style and this script, and nothing from anywhere else."""
    hashes = [base64.b64encode(hashlib.sha256(part.encode()).digest()).decode() for part in (style, script)]
    return (
        f"default-src 'none'; style-src 'sha256-{hashes[0]}'; script-src 'sha256-{hashes[1]}'; "
        "base-uri 'none'; form-action 'none'"
    )


def context(sweep: Sweep) -> dict[str, Any]:
    """Everything the template shows."""
    sweep.read_all()
    grid = cells(sweep)
    chosen = flow_table(sweep)
    found = flows(sweep, chosen)
    timed = speeds(sweep)
    rungs = compare(sweep, whole=False)
    whole = compare(sweep, whole=True)
    reference = sweep.reference or ""
    several = any(len(task.rungs) > 1 for task in sweep.tasks)
    return {
        "sweep": sweep,
        "version": seqbench.__version__,
        "question": facts.question(sweep),
        "setting": facts.setting(sweep),
        "smoke": facts.seeds_in_words(sweep).startswith("smoke"),
        "warnings": facts.warnings(sweep) + tuning.warnings(sweep),
        "probes": facts.silent_probes(sweep),
        "rates_swept": bool(facts.swept_rates(sweep)),
        "headline": headline(sweep, grid),
        "verdicts": verdicts(sweep, grid, found, whole),
        "comparisons": max((c.judged.comparisons for c in whole), default=0),
        "glance": tables.glance(sweep, grid),
        "solvable": any(task.solved_at is not None for task in sweep.tasks),
        "alone": any(task.solved_at is None and task.metric is ACCURACY for task in sweep.tasks),
        "margins": margins(sweep),
        "outcomes": [tables.outcomes(task, grid) for task in sweep.tasks],
        "differences": tables.differences(whole, reference) if whole else None,
        "rung_differences": tables.differences(rungs, reference) if rungs and several else None,
        "ladders": drawn(curves(sweep, grid, ladder=True)),
        "gradient": drawn(gradients(sweep, chosen, found)),
        "gradient_table": tables.gradients(found) if found else None,
        "derivative": gradient.WHICH,
        "lengths": drawn(length.plot(t, grid, sweep.labels, i) for i, t in enumerate(sweep.tasks)),
        "slices": drawn(slices.plot(sweep, t, i) for i, t in enumerate(sweep.tasks)),
        "singles": drawn(curves(sweep, grid, ladder=False)),
        "speeds": drawn(speed.plot(t, timed, sweep.labels, i) for i, t in enumerate(sweep.tasks)),
        "costs": tables.costs(sweep, timed, longest=True),
        "all_costs": tables.costs(sweep, timed, longest=False),
        "norms": drawn([norms.plot(sweep)]),
        "health": tables.training_health(health(sweep)),
        "memories": tables.memories(sweep, grid),
        "counted": counted(sweep),
        "samples": samples(sweep),
        "failures": facts.failures(sweep),
        "pending": [
            facts.run_name(r) for r in sweep.runs[sweep.runs["status"] == "pending"].to_dict("records")
        ],
        "commands": facts.commands(sweep),
        "hashes": facts.hashes(sweep),
        "csv": facts.csv_link(sweep),
        "styles": theme.styles(sweep.labels),
        **fair(sweep, grid, timed),
    }


def fair(sweep: Sweep, grid: list[Cell], timed: pd.DataFrame) -> dict[str, Any]:
    """What the section on fairness and noise shows."""
    ledger = fairness.costs(sweep, grid, timed)
    others = facts.others_busy(sweep)
    return {
        "settings": tables.settings(sweep),
        "tuning": tuning.table(sweep),
        "tuning_words": tuning.words(sweep),
        "responses": drawn(response.plot(sweep, t, i) for i, t in enumerate(sweep.tasks)),
        "ledger": fairness.table(ledger),
        "kernels": fairness.kernels(sweep),
        "ledger_words": fairness.words(ledger, busy=others is not None and others[1] > _BUSY_CORES),
        "identity": facts.data_identity(sweep),
        "environments": facts.environments(sweep),
        "others_busy": others,
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
    yield attention.plot(sweep)


def longest(sweep: Sweep) -> tuple[Task, int | None] | None:
    """The highest rung of the first task, for probes without a gradient flow beside them."""
    return next(((task, task.rungs[-1]) for task in sweep.tasks), None)


def curves(sweep: Sweep, grid: list[Cell], *, ladder: bool) -> Iterable[Plot | None]:
    """Learning curves of the tasks with several rungs, or of those without."""
    for number, task in enumerate(sweep.tasks):
        if (len(task.rungs) > 1) == ladder:
            yield learning.plot(sweep, task, grid, number)


def drawn(plots: Iterable[Plot | None]) -> list[Drawn]:
    """Draw the figures that have something to show."""
    found = []
    for plot in plots:
        if plot is not None:
            picture, shown = _picture(plot)
            found.append(Drawn(plot.key, plot.title, Markup(picture), plot.how, shown))
    return found


def _picture(plot: Plot) -> tuple[str, str]:
    """A figure with its words; numbers that nobody vouches for may be impossible to draw."""
    try:
        with theme.drawing():
            figure = plot.draw()
        return svg.inline(figure, plot.key, plot.title, f"{plot.how}. {plot.shows}"), plot.shows
    except Exception as error:
        return "", f"This figure cannot be drawn ({type(error).__name__}); its numbers are in the records."
