"""MLflow: an experiment per sweep in ``FOLDER/mlflow.db`` (SQLite), artifacts below ``FOLDER/artifacts``.

MLflow 3 refuses its old store of plain files, hence SQLite. A run "sweep: NAME" holds the report; all others
are its children. The last tag of each is the hash of what was written: a run with the same hash is left
alone, one with another, or with none since the writing was cut off, is deleted (MLflow keeps deleted runs
apart) and written again; the report is replaced in its run. Telemetry is switched off.
"""

from __future__ import annotations

import logging
import os
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from seqbench import store
from seqbench.adapters.base import Board, Curve, Logged, tool
from seqbench.errors import UsageError

_RUN, _HASH = "seqbench.run", "seqbench.sha256"
_SWEEP = "."  # in place of a run's folder, which never has this name
_BATCH_METRICS, _BATCH_PARAMETERS = 1000, 100  # MLflow takes no more at once
_PAGE = 1000


class MLflow:
    """Writes through ``MlflowClient`` with a store of its own; the global state of MLflow is not touched."""

    def check(self) -> None:
        """See :class:`seqbench.adapters.base.Adapter`."""
        os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # read when MLflow is imported
        os.environ["DO_NOT_TRACK"] = "true"
        tool("mlflow", "mlflow")
        tool("sqlalchemy", "mlflow")
        tool("alembic", "mlflow")

    def write(self, board: Board, folder: Path) -> int:
        from mlflow import MlflowClient

        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)
        client = MlflowClient(tracking_uri=_store(folder))
        experiment = _experiment(client, board.name, folder)
        known = _known(client, experiment)
        parent = _sweep(client, experiment, board, known)
        return sum(_put(client, experiment, run, parent, known) for run in board.runs)

    def look(self, folder: Path) -> str:
        return f"mlflow ui --backend-store-uri {shlex.quote(_store(folder))}"


ADAPTER = MLflow()


def _store(folder: Path) -> str:
    """The address of the store.

    Raises:
        UsageError: the folder's name would mean something else in an address.
    """
    if found := sorted(set(str(folder)) & set("?#%")):
        raise UsageError(f"{folder}: MLflow cannot keep a store below a folder with {found[0]} in its name")
    return f"sqlite:///{folder.resolve() / 'mlflow.db'}"


def _experiment(client: Any, name: str, folder: Path) -> str:
    """The experiment of a sweep; one that was deleted is taken back."""
    found = client.get_experiment_by_name(name)
    if found is None:
        return str(client.create_experiment(name, artifact_location=(folder / "artifacts" / name).as_uri()))
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return str(found.experiment_id)


def _known(client: Any, experiment: str) -> dict[str, list[Any]]:
    """What earlier writings left, by the run it is of."""
    found: dict[str, list[Any]] = {}
    token = None
    while True:
        page = client.search_runs([experiment], max_results=_PAGE, page_token=token)
        for run in page:
            found.setdefault(run.data.tags.get(_RUN, ""), []).append(run)
        token = page.token
        if not token:
            return found


def _sweep(client: Any, experiment: str, board: Board, known: Mapping[str, list[Any]]) -> str:
    """The run that stands for the sweep, with its report."""
    page = board.page.read_bytes()
    digest = store.digest({"page": store.sha256(page), "question": board.question, "finding": board.finding})
    tags = {"mlflow.note.content": f"{board.question} {board.finding}", "kind": "sweep", "sweep": board.name}
    earlier = known.get(_SWEEP, [])
    if earlier and earlier[0].data.tags.get(_HASH) == digest:
        return str(earlier[0].info.run_id)
    if earlier:
        run = str(earlier[0].info.run_id)
        for name, value in tags.items():
            client.set_tag(run, name, value)
    else:
        run = _start(client, experiment, f"sweep: {board.name}", _SWEEP, tags, 0.0)
    client.log_artifact(run, str(board.page))
    _end(client, run, digest, "FINISHED", max((r.ended_s for r in board.runs), default=0.0))
    return run


def _put(client: Any, experiment: str, logged: Logged, parent: str, known: Mapping[str, list[Any]]) -> bool:
    """Write a run, unless it is there; say whether it was written."""
    digest = store.digest({"run": logged.digest, "parent": parent})
    if _kept(client, known.get(logged.key, []), digest) is not None:
        return False
    tags = {**logged.tags, "mlflow.parentRunId": parent, "identity": logged.identity}
    run = _start(client, experiment, logged.name, logged.key, tags, logged.started_s)
    for parameters in _batches(_parameters(logged), _BATCH_PARAMETERS):
        client.log_batch(run, params=parameters)
    for metrics in _batches(list(_metrics(logged)), _BATCH_METRICS):
        client.log_batch(run, metrics=metrics)
    if logged.flows:
        client.log_table(run, _flow_table(logged), "gradient_flow.json")
    killed = logged.status in ("killed", "interrupted")
    _end(
        client,
        run,
        digest,
        "FINISHED" if logged.ended_well else "KILLED" if killed else "FAILED",
        logged.ended_s,
    )
    return True


def _kept(client: Any, runs: list[Any], digest: str) -> str | None:
    """The run that was written whole with this hash; all others of its kind are deleted."""
    same = [run for run in runs if run.data.tags.get(_HASH) == digest]
    for run in runs:
        if run not in same[:1]:
            client.delete_run(run.info.run_id)
    return str(same[0].info.run_id) if same else None


def _start(client: Any, experiment: str, name: str, key: str, tags: Mapping[str, str], time_s: float) -> str:
    run = client.create_run(experiment, round(1000 * time_s), {**tags, _RUN: key}, run_name=name)
    return str(run.info.run_id)


def _end(client: Any, run: str, digest: str, status: str, time_s: float) -> None:
    """Close a run; its hash comes last and says that all is there."""
    client.set_terminated(run, status, round(1000 * time_s))
    client.set_tag(run, _HASH, digest)


def _batches(items: list[Any], size: int) -> Iterator[list[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _parameters(logged: Logged) -> list[Any]:
    from mlflow.entities import Param

    return [Param(name, str(value)) for name, value in logged.parameters.items()]


def _metrics(logged: Logged) -> Iterator[Any]:
    """Curves, gradient flow (its step is the distance) and results."""
    from mlflow.entities import Metric

    flows = [
        Curve(f"gradient_flow/{flow.moment}", flow.distances, flow.median, [0.0] * len(flow.distances))
        for flow in logged.flows
    ]
    for curve in logged.curves + flows:
        for step, value, seconds in zip(curve.steps, curve.values, curve.seconds, strict=True):
            yield Metric(curve.name, value, round(1000 * (logged.started_s + seconds)), step)
    for name, value in logged.results.items():
        yield Metric(f"result/{name}", value, round(1000 * logged.ended_s), 0)


def _flow_table(logged: Logged) -> dict[str, list[Any]]:
    rows = [
        (flow.moment, flow.step, *row)
        for flow in logged.flows
        for row in zip(flow.distances, flow.median, flow.low, flow.high, strict=True)
    ]
    names = ("moment", "step", "distance", "median", "low", "high")
    return dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
