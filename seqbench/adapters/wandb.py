"""Weights & Biases, offline: run folders ``FOLDER/wandb/offline-run-*``, for ``wandb sync`` to send later.

Project "seqbench", one group per sweep; a run of type "report" holds the page as an artifact. A run's id is a
hash of sweep and run. The file ``seqbench.sha256`` in a run's folder is written last and holds the hash of
what was written: a folder with the same one is left alone, any other of the same id is removed and written
again. What was sent to a server before stays there until it is deleted there.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from seqbench import store
from seqbench.adapters.base import Board, Logged, tool

PROJECT = "seqbench"
_DONE_FILE = "seqbench.sha256"
_LONGEST_TAG = 64


class WeightsAndBiases:
    """Writes with the client's own offline mode; it keeps nothing outside the folder and asks no server."""

    def check(self) -> None:
        """See :class:`seqbench.adapters.base.Adapter`."""
        with _offline(Path()):
            tool("wandb", "wandb")

    def write(self, board: Board, folder: Path) -> int:
        with _offline(folder):
            page = store.sha256(board.page.read_bytes())
            told = {"page": page, "question": board.question, "finding": board.finding}
            with _run(board, "sweep", store.digest(told), folder, name=board.name, job_type="report") as run:
                if run is not None:
                    _tell(run, board)
            return sum(_put(board, logged, folder) for logged in board.runs)

    def look(self, folder: Path) -> str:
        return f"wandb sync {shlex.quote(str(folder / 'wandb'))}/offline-run-* (this sends it to a server)"


ADAPTER = WeightsAndBiases()


@contextlib.contextmanager
def _offline(folder: Path) -> Iterator[None]:
    """The client's environment: no network, no error reports, no files elsewhere."""
    places = {"WANDB_DIR": ".", "WANDB_DATA_DIR": "wandb-data", "WANDB_CACHE_DIR": "wandb-cache"}
    places["WANDB_CONFIG_DIR"] = "wandb-config"
    wanted = {name: str(folder / place) for name, place in places.items()}
    wanted |= {"WANDB_MODE": "offline", "WANDB_ERROR_REPORTING": "false", "WANDB_SILENT": "true"}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _put(board: Board, logged: Logged, folder: Path) -> bool:
    """Write a run, unless it is there; say whether it was written."""
    config = {**logged.parameters, "run": logged.key, "identity": logged.identity, **_prefixed(logged)}
    tags = [
        logged.tags[name][:_LONGEST_TAG]
        for name in ("label", "task", "status", "kind")
        if name in logged.tags
    ]
    given = {
        "name": logged.name,
        "job_type": logged.tags["kind"],
        "config": config,
        "tags": sorted(set(tags)),
    }
    with _run(board, logged.key, logged.digest, folder, ended_well=logged.ended_well, **given) as run:
        if run is None:
            return False
        _log(run, logged)
    return True


def _prefixed(logged: Logged) -> dict[str, str]:
    """Tags as settings: there they can be grouped by."""
    return {f"tag.{name}": value for name, value in logged.tags.items()}


@contextlib.contextmanager
def _run(
    board: Board, key: str, digest: str, folder: Path, *, ended_well: bool = True, **given: Any
) -> Iterator[Any]:
    """A run to write into; None when it is there with this hash already."""
    import wandb

    identity = store.digest({"sweep": board.name, "run": key})[:16]
    earlier = sorted((folder / "wandb").glob(f"offline-run-*-{identity}"))
    if any(_done(place) == digest for place in earlier[:1]) and len(earlier) == 1:
        yield None
        return
    for place in earlier:
        shutil.rmtree(place)
    settings = wandb.Settings(
        mode="offline", silent=True, console="off", disable_git=True, disable_code=True, save_code=False,
        host="", x_disable_meta=True, x_disable_stats=True, x_disable_machine_info=True,
        x_save_requirements=False,
    )  # fmt: skip
    run = wandb.init(
        project=PROJECT, group=board.name, id=identity, dir=str(folder), settings=settings,
        reinit="create_new", **given,
    )  # fmt: skip
    place = Path(run.dir).parent
    try:
        yield run
    finally:
        run.finish(exit_code=0 if ended_well else 1)
    store.write_file(place / _DONE_FILE, digest.encode())


def _done(place: Path) -> str:
    """The hash of what was written whole into a run's folder; empty if it was cut off."""
    path = place / _DONE_FILE
    return path.read_text("ascii", "replace") if path.is_file() else ""


def _tell(run: Any, board: Board) -> None:
    """What stands for the sweep: question, finding, and the report."""
    import wandb

    run.summary.update({"question": board.question, "finding": board.finding})
    report = wandb.Artifact(f"report-{run.id}", "report", description=board.question)
    report.add_file(str(board.page), name="report.html")
    run.log_artifact(report)


def _log(run: Any, logged: Logged) -> None:
    """Curves by step, gradient flow as a table, results as summary."""
    import wandb

    rows: dict[int, dict[str, Any]] = {}
    for curve in logged.curves:
        for step, value, seconds in zip(curve.steps, curve.values, curve.seconds, strict=True):
            rows.setdefault(step, {"train_wall_s": seconds})[curve.name] = value
    for step in sorted(rows):
        run.log(rows[step], step=step)
    if logged.flows:
        columns = ["moment", "step", "distance", "median", "low", "high"]
        table = wandb.Table(columns=columns)
        for flow in logged.flows:
            for row in zip(flow.distances, flow.median, flow.low, flow.high, strict=True):
                table.add_data(flow.moment, flow.step, *row)
        run.log({"gradient_flow": table})
    run.summary.update({f"result/{name}": value for name, value in logged.results.items()})
