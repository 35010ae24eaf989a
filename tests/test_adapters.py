"""Sweeps in other tools, read back with the tools' own readers, and no connection opened on the way.

The tools are extras: where one is not installed, its tests are skipped and say so.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib
import pytest
from faults import markup
from made import Work, tables, timing, training, write_sweep

from seqbench import records
from seqbench.adapters import __main__ as command
from seqbench.adapters.base import Board, read_board, safe
from seqbench.errors import UsageError
from seqbench.report.frame import read_sweep
from seqbench.report.speeds import speeds

EVALUATIONS = {
    "step": [50, 100], "loss": [1.0, 0.5], "accuracy": [0.3, 0.9], "train_wall_s": [3.0, 7.0],
}  # fmt: skip
STEPS = {
    "step": [1, 10, 20], "loss": [2.0, math.nan, 0.25], "gradient_norm": [0.5, 2.0, 1.5],
    "learning_rate": [0.001, 0.01, 0.005],
}  # fmt: skip
TIMES = {"train_wall_s": 10.0, "steps": 100}
GUARD = """
import os, sys
def watch(event, args):
    if event in ("socket.connect", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname"):
        place = args[1] if event in ("socket.connect", "socket.sendto") else args[0]
        host = place[0] if isinstance(place, tuple) else place
        if isinstance(place, tuple) and host in ("127.0.0.1", "::1") or str(host).startswith("/"):
            return  # the tool's own process on this machine
        if event.startswith("socket.get") and host in ("127.0.0.1", "::1", "localhost"):
            return
        print("CONNECTS:", event, args, file=sys.stderr, flush=True)
        os._exit(9)
sys.addaudithook(watch)
from seqbench.adapters.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


def needs(tool: str) -> pytest.MarkDecorator:
    wanted = {"mlflow": ("mlflow", "sqlalchemy", "alembic")}.get(tool, (tool,))
    missing = [name for name in wanted if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"{tool} is an extra: pip install 'seqbench[{tool}]'")


def work() -> list[Work]:
    columns = {**tables(0.9), "evaluations": EVALUATIONS, "steps": STEPS}
    failed = training("rnn", 16, 0, 0.0, status="failed", error={"type": "ValueError", "message": "no <b>"})
    return [
        (training("gru", 16, 0, 0.9, metrics=TIMES), columns),
        (training("gru", 16, 1, 0.8, metrics=TIMES), columns),
        (failed, {}),
        timing("gru"),
        (training("rnn", 16, 1, 0.1), {}),
    ]


@pytest.fixture
def sweep(tmp_path) -> Path:
    return write_sweep(tmp_path / "runs" / "my sweep", work(), pending=1)


@pytest.fixture
def board(sweep, tmp_path) -> Board:
    page = tmp_path / "page.html"
    page.write_text("a page")
    return read_board(read_sweep(sweep), page)


# What every tool is given


def test_every_run_with_a_record_is_told_in_the_order_of_the_plan(board):
    assert [run.key for run in board.runs] == ["run-0", "run-1", "run-2", "run-3"]
    assert [run.status for run in board.runs] == ["done", "done", "failed", "done"]
    assert [run.ended_well for run in board.runs] == [True, True, False, True]
    assert (
        board.runs[0].tags | {"label": "gru", "task": "order", "rung": "16", "seed": "0"}
        == board.runs[0].tags
    )
    assert board.runs[2].tags["error"] == "ValueError: no <b>"
    assert board.question == "gru or rnn: which learns order (T=16)?"


def test_curves_have_their_steps_values_and_times(board):
    curves = {curve.name: curve for curve in board.runs[0].curves}
    assert set(curves) == {
        "train/loss", "train/gradient_norm", "train/learning_rate", "validation/loss", "validation/score",
    }  # fmt: skip
    assert (curves["train/loss"].steps, curves["train/loss"].values) == ([1, 20], [2.0, 0.25])  # NaN is none
    assert curves["train/loss"].seconds == pytest.approx([0.1, 2.0])  # 10 s for 100 steps
    assert curves["validation/score"].values == [0.3, 0.9]
    assert curves["validation/score"].seconds == [3.0, 7.0]  # as measured
    assert board.runs[0].ended_s - board.runs[0].started_s == pytest.approx(10.0)


def test_results_and_settings_are_flat(board, sweep):
    run = board.runs[0]
    assert run.parameters | {"train.lr": 0.01, "task.lengths": "[16]", "match.by": "params"} == run.parameters
    assert run.results | {"test_score": 0.9, "test_accuracy": 0.9, "solved": 0.0, "width": 8.0} == run.results
    timed = speeds(read_sweep(sweep)).set_index(["rung", "mode"])
    rate = timed["valid_tokens_per_s"][16, "train"]  # the number of the page
    assert run.results["speed_train_tokens_per_s"] == pytest.approx(rate)
    lengths = {curve.name: curve for curve in board.runs[3].curves}
    assert lengths["speed/train_tokens_per_s"].steps == [16, 32]
    assert lengths["speed/train_tokens_per_s"].values[0] == pytest.approx(rate)


def test_gradient_flow_stands_at_the_step_of_its_moment(board):
    first, last = board.runs[0].flows
    assert (first.moment, first.step, last.moment, last.step) == ("init", 0, "final", 100)
    assert first.distances == list(range(24))
    assert first.median == [0.5**d for d in range(24)]


def test_a_digest_changes_with_what_is_told_and_with_nothing_else(sweep, board):
    again = read_board(read_sweep(sweep), board.page)
    assert [run.digest for run in again.runs] == [run.digest for run in board.runs]
    assert len({run.digest for run in board.runs}) == 4
    old = records.read_run(sweep / "run-0")
    changed = training("gru", 16, 0, 0.7, identity=old.identity, metrics=TIMES)
    records.write_run(sweep / "run-0", changed, work()[0][1])
    third = read_board(read_sweep(sweep), board.page)
    assert [a.digest == b.digest for a, b in zip(third.runs, board.runs, strict=True)] == [
        False,
        True,
        True,
        True,
    ]


@pytest.mark.parametrize("start", [0, 25, 50])
def test_hostile_records_become_plain_names_and_finite_numbers(tmp_path, start):
    folder = markup.write_sweep(tmp_path / "s", markup.Fields(start))
    found = read_board(read_sweep(folder), tmp_path / "none")
    assert len(found.runs) >= 3
    for run in found.runs:
        names = [
            *run.tags,
            *run.parameters,
            *run.results,
            *(part for c in run.curves for part in c.name.split("/")),
        ]
        assert all(name == safe(name) and name.isascii() for name in names)
        assert all(text.isprintable() for text in [run.name, *run.tags.values()])
        assert all(math.isfinite(value) for curve in run.curves for value in [*curve.values, *curve.seconds])


def test_names_that_would_become_one_are_numbered(tmp_path):
    odd = training("gru", 16, 0, 0.5, metrics={"a<b": 1.0, "a>b": 2.0})
    found = read_board(read_sweep(write_sweep(tmp_path / "s", [(odd, {})])), tmp_path / "none")
    assert (found.runs[0].results["a_b"], found.runs[0].results["a_b_2"]) == (1.0, 2.0)


@pytest.mark.parametrize("tool", command.TOOLS)
def test_without_the_package_one_line_says_what_to_install(tool, sweep, tmp_path, monkeypatch, capsys):
    module = {"tensorboard": "tensorboard.summary.writer.record_writer"}.get(tool, tool)
    for name in (tool, module):
        monkeypatch.setitem(sys.modules, name, None)
    assert command.main([tool, str(sweep), "--out", str(tmp_path / "out")]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert f"pip install 'seqbench[{tool}]'" in line
    assert not (tmp_path / "out").exists()


def test_mlflow_names_the_character_that_its_address_cannot_hold(tmp_path):
    from seqbench.adapters.mlflow import ADAPTER

    with pytest.raises(UsageError, match=r"a folder with \? in its name"):
        ADAPTER.look(tmp_path / "what?")


# The tools themselves


@pytest.fixture
def proxy() -> Iterator[socket.socket]:
    """A proxy that answers nobody; whoever wants out, in whatever language, comes by here."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        yield server


Export = Callable[..., str]


@pytest.fixture
def export(tmp_path, proxy) -> Export:
    """Write a sweep for a tool in a process that may open no connection; return what it said."""
    address = f"http://127.0.0.1:{proxy.getsockname()[1]}"
    names = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")
    env = {**os.environ, **dict.fromkeys(names, address), "SEQBENCH_LOCKS": str(tmp_path)}
    env |= {"HOME": str(tmp_path / "home"), "MPLCONFIGDIR": matplotlib.get_cachedir()}

    def run(tool: str, folder: Path, out: Path) -> str:
        words = [sys.executable, "-c", GUARD, tool, str(folder), "--out", str(out)]
        done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        with pytest.raises(TimeoutError):
            proxy.accept()
        assert not list((tmp_path / "home").rglob(f"*{tool}*")), "the tool wrote to the home folder"
        return done.stdout

    return run


def read_back(script: str, *words: object) -> Any:
    """What a script prints as JSON, in a process of its own: the tools warn, which is an error here."""
    command_line = [sys.executable, "-c", script, *map(str, words)]
    done = subprocess.run(command_line, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


TENSORBOARD = """
import json, pathlib, sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata
from tensorboard.util import tensor_util
found = {}
for place in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    events = EventAccumulator(str(place), size_guidance={"tensors": 0})
    events.Reload()
    tensors, texts = {}, {}
    for tag in events.Tags()["tensors"]:
        points = [(e.step, e.wall_time, tensor_util.make_ndarray(e.tensor_proto).tolist())
                  for e in events.Tensors(tag)]
        if isinstance(points[0][2], bytes):
            texts[tag] = points[0][2].decode()
        elif not tag.startswith("_hparams_"):
            tensors[tag] = points
    one = {"tensors": tensors, "texts": texts}
    plugin = {tag: about.plugin_data.content for tag, about in events.summary_metadata.items()}
    if metadata.SESSION_START_INFO_TAG in plugin:
        start = metadata.parse_session_start_info_plugin_data(plugin[metadata.SESSION_START_INFO_TAG])
        end = metadata.parse_session_end_info_plugin_data(plugin[metadata.SESSION_END_INFO_TAG])
        values = {k: v.number_value or v.string_value for k, v in start.hparams.items()}
        one |= {"settings": values, "status": end.status}
    found[place.name] = one
print(json.dumps(found))
"""


@needs("tensorboard")
def test_tensorboard_reads_back_what_was_written(export, sweep, tmp_path, board):
    out = tmp_path / "out"
    assert "4 runs written, 0 unchanged" in export("tensorboard", sweep, out)
    found = read_back(TENSORBOARD, out / "my sweep")
    assert set(found) == {"run-0", "run-1", "run-2", "run-3", "sweep"}
    one = found["run-0"]["tensors"]
    assert [(step, value) for step, _, value in one["train/loss"]] == [(1, 2.0), (20, 0.25)]
    times = [time_s - board.runs[0].started_s for _, time_s, _ in one["validation/score"]]
    assert times == pytest.approx([3.0, 7.0], abs=1e-3)
    assert [value for *_, value in one["validation/score"]] == pytest.approx([0.3, 0.9])
    assert [value for *_, value in one["gradient_flow/init"]] == pytest.approx([0.5**d for d in range(24)])
    [start, end] = one["gradient_flow/log10"]
    assert (start[0], end[0]) == (0, 100)
    assert sum(bucket[2] for bucket in start[2]) == 24
    assert start[2][0][0] == pytest.approx(23 * math.log10(0.5))
    assert one["result/test_score"][0][2] == pytest.approx(0.9)
    settings = found["run-0"]["settings"]
    assert (settings["train.lr"], settings["tag.label"], settings["tag.status"]) == (0.01, "gru", "done")
    assert [found[f"run-{n}"]["status"] for n in range(4)] == [1, 1, 2, 1]  # success, failure
    assert found["sweep"]["texts"] == {"question": board.question, "finding": board.finding}


@needs("tensorboard")
def test_tensorboard_again_changes_nothing_and_drops_what_left_the_plan(export, sweep, tmp_path):
    out = tmp_path / "out"
    export("tensorboard", sweep, out)
    before = {path: path.read_bytes() for path in out.rglob("*tfevents*")}
    assert "0 runs written, 4 unchanged" in export("tensorboard", sweep, out)
    assert {path: path.read_bytes() for path in out.rglob("*tfevents*")} == before
    write_sweep(sweep, work()[:1])
    assert "1 runs written, 0 unchanged" in export("tensorboard", sweep, out)  # its record is new
    assert {path.parent.name for path in out.rglob("*tfevents*")} == {"run-0", "sweep"}


MLFLOW = """
import json, os, sys
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
from mlflow import MlflowClient
client = MlflowClient(tracking_uri="sqlite:///" + sys.argv[1] + "/mlflow.db")
[experiment] = [e for e in client.search_experiments() if e.name != "Default"]
found = []
for run in client.search_runs([experiment.experiment_id]):
    key = run.info.run_id
    history = {name: sorted((m.step, m.value, m.timestamp) for m in client.get_metric_history(key, name))
               for name in run.data.metrics}
    files = {a.path: a.file_size for a in client.list_artifacts(key)}
    found.append({"name": run.info.run_name, "id": key, "status": run.info.status, "tags": run.data.tags,
                  "params": run.data.params, "metrics": history, "files": files})
print(json.dumps([experiment.name, found]))
"""


@needs("mlflow")
@pytest.mark.timeout(600)
def test_mlflow_reads_back_what_was_written_once(export, sweep, tmp_path, board):
    out = tmp_path / "out"
    assert "4 runs written, 0 unchanged" in export("mlflow", sweep, out)
    name, found = read_back(MLFLOW, out)
    assert (name, len(found)) == ("my sweep", 5)
    runs = {run["tags"]["seqbench.run"]: run for run in found}
    one, whole = runs["run-0"], runs["."]
    assert one["tags"]["mlflow.parentRunId"] == whole["id"]
    assert (
        one["tags"] | {"label": "gru", "task": "order", "rung": "16", "seed": "0", "status": "done"}
        == one["tags"]
    )
    assert one["params"] | {"train.lr": "0.01", "task.lengths": "[16]"} == one["params"]
    assert [point[:2] for point in one["metrics"]["train/loss"]] == [[1, 2.0], [20, 0.25]]
    times = [point[2] - 1000 * board.runs[0].started_s for point in one["metrics"]["validation/score"]]
    assert times == pytest.approx([3000, 7000], abs=1)
    assert [point[1] for point in one["metrics"]["gradient_flow/init"]] == [0.5**d for d in range(24)]
    assert one["metrics"]["result/test_score"][0][1] == 0.9
    assert list(one["files"]) == ["gradient_flow.json"]
    assert list(whole["files"]) == ["report.html"]
    assert whole["files"]["report.html"] > 10_000
    assert [runs[f"run-{n}"]["status"] for n in range(4)] == ["FINISHED", "FINISHED", "FAILED", "FINISHED"]
    old = records.read_run(sweep / "run-1")
    records.write_run(sweep / "run-1", training("gru", 16, 1, 0.7, identity=old.identity), {})
    assert "1 runs written, 3 unchanged" in export("mlflow", sweep, out)
    _, again = read_back(MLFLOW, out)
    later = {run["tags"]["seqbench.run"]: run for run in again}
    assert len(again) == 5
    assert later["run-0"] == one
    assert later["run-1"]["metrics"]["result/test_score"][0][1] == 0.7
    assert later["run-1"]["id"] != runs["run-1"]["id"]
    assert later["."]["id"] == whole["id"]


WANDB = """
import json, pathlib, struct, sys
from wandb.proto.wandb_internal_pb2 import Record
BLOCK = 32768  # a log of records in blocks: https://github.com/google/leveldb, doc/log_format.md
def read(path):
    data, position, part = path.read_bytes(), 7, b""  # 7: its header
    assert data[:4] == b":W&B"
    while position + 7 <= len(data):
        if (left := BLOCK - position % BLOCK) < 7:
            position += left
            continue
        _, size, kind = struct.unpack("<IHB", data[position : position + 7])
        part += data[position + 7 : position + 7 + size]
        position += 7 + size
        if kind in (1, 4):  # whole, or its last part
            yield Record.FromString(part)
            part = b""
def items(found):
    return {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in found}
found = {}
for path in sorted(pathlib.Path(sys.argv[1]).glob("wandb/offline-run-*/*.wandb")):
    one = {"history": [], "summary": {}, "artifacts": [], "exit": None}
    for record in read(path):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run = record.run
            config = {u.key: json.loads(u.value_json) for u in run.config.update}
            one |= {"id": run.run_id, "name": run.display_name, "group": run.run_group, "type": run.job_type,
                    "host": run.host, "tags": sorted(run.tags), "config": config}
        elif kind == "history":
            one["history"].append(items(record.history.item))
        elif kind == "summary":
            one["summary"].update(items(record.summary.update))
        elif kind == "artifact":
            paths = [entry.path for entry in record.artifact.manifest.contents]
            one["artifacts"].append([record.artifact.type, paths])
        elif kind == "exit":
            one["exit"] = record.exit.exit_code
    found[one["config"].get("run", ".")] = one
print(json.dumps(found))
"""


@needs("wandb")
@pytest.mark.timeout(600)
def test_wandb_reads_back_what_was_written_once(export, sweep, tmp_path, board):
    out = tmp_path / "out"
    assert "4 runs written, 0 unchanged" in export("wandb", sweep, out)
    found = read_back(WANDB, out)
    assert set(found) == {".", "run-0", "run-1", "run-2", "run-3"}
    one, whole = found["run-0"], found["."]
    assert (one["group"], one["type"], one["host"]) == ("my sweep", "train", "")
    assert one["tags"] == ["done", "gru", "order", "train"]
    assert one["config"] | {"train.lr": 0.01, "task.lengths": "[16]", "tag.seed": "0"} == one["config"]
    losses = [(row["_step"], row["train/loss"]) for row in one["history"] if "train/loss" in row]
    assert losses == [(1, 2.0), (20, 0.25)]
    scores = [(row["_step"], row["train_wall_s"], row["validation/score"]) for row in one["history"]
              if "validation/score" in row]  # fmt: skip
    assert scores == [(50, 3.0, 0.3), (100, 7.0, 0.9)]
    assert one["summary"]["result/test_score"] == 0.9
    [place] = (out / "wandb").glob(f"offline-run-*-{one['id']}")
    [table] = place.rglob("*.table.json")
    data = json.loads(table.read_text())
    assert data["columns"] == ["moment", "step", "distance", "median", "low", "high"]
    assert data["data"][3] == ["init", 0, 3, 0.125, 0.125, 0.125]
    assert ["report", ["report.html"]] in whole["artifacts"]
    assert whole["summary"]["finding"] == board.finding
    assert [found[f"run-{n}"]["exit"] for n in range(4)] == [0, 0, 1, 0]
    before = sorted(path.name for path in (out / "wandb").glob("offline-run-*"))
    old = records.read_run(sweep / "run-1")
    records.write_run(sweep / "run-1", training("gru", 16, 1, 0.7, identity=old.identity), {})
    assert "1 runs written, 3 unchanged" in export("wandb", sweep, out)
    after = sorted(path.name for path in (out / "wandb").glob("offline-run-*"))
    ids = [name.rsplit("-", 1)[-1] for name in after]
    assert len(set(ids)) == len(ids) == 5
    assert len(set(before) & set(after)) == 3  # the changed run and the report are new
    assert read_back(WANDB, out)["run-1"]["summary"]["result/test_score"] == 0.7


@pytest.mark.parametrize("tool", [pytest.param(tool, marks=needs(tool)) for tool in command.TOOLS])
@pytest.mark.timeout(600)
def test_hostile_records_get_through_whole(tool, export, tmp_path):
    folder = markup.write_sweep(tmp_path / "runs" / "=cmd '<b>", markup.Fields(7))
    count = len(read_board(read_sweep(folder), tmp_path / "none").runs)
    assert f"{count} runs written" in export(tool, folder, tmp_path / "out")
    assert f"0 runs written, {count} unchanged" in export(tool, folder, tmp_path / "out")
