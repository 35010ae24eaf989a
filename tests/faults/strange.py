"""Folders that nobody should trust: each would do harm to a reader who opens, unpacks or follows it."""

from __future__ import annotations

import contextlib
import os
import pickle
import random
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from faults.markup import Fields, write_sweep
from faults.payloads import PAYLOADS
from seqbench import records, store

MARK = "mark"  # what a payload would leave in the current folder


class Evil:
    """Unpickling it leaves a mark."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {MARK}",)


def _reseal(folder: Path, name: str, content: bytes) -> None:
    """Put content in the place of a run's file, with a record that vouches for it."""
    (folder / name).write_bytes(content)
    plain = store.read_json(folder / records.RUN_FILE)
    plain["files"][name] = store.sha256(content)
    plain.pop("sha256")
    store.write_sealed(folder / records.RUN_FILE, plain)


def _written(table: pa.Table, **options: Any) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, **options)
    return bytes(sink.getvalue().to_pybytes())


def _pickles(folder: Path) -> None:
    for name in ("steps.parquet", "evaluations.parquet", "parameters.parquet"):
        _reseal(folder / "run-0", name, pickle.dumps(Evil()))
    (folder / "run-1" / "run.json").write_bytes(pickle.dumps(Evil()))
    (folder / "run-2" / "log.txt").write_bytes(pickle.dumps(Evil()))


def _pickle_as_plan(folder: Path) -> None:
    (folder / "plan.json").write_bytes(pickle.dumps(Evil()))


def _pipes(folder: Path) -> None:
    for name in ("run-0/run.json", "run-1/steps.parquet", "run-2/log.txt"):
        (folder / name).unlink()
        os.mkfifo(folder / name)


def _devices(folder: Path) -> None:
    for name in ("run-0/run.json", "run-1/steps.parquet", "run-2/log.txt"):
        (folder / name).unlink()
        (folder / name).symlink_to("/dev/zero")


def _links(folder: Path) -> None:
    outside = folder.parent / "outside"
    outside.mkdir(exist_ok=True)
    for name in ("run-0/run.json", "run-1/steps.parquet", "run-2/log.txt"):
        (folder / name).rename(outside / f"{folder.name}-{Path(name).name}")
        (folder / name).symlink_to(outside / f"{folder.name}-{Path(name).name}")
    (folder / "run-3").rename(outside / f"{folder.name}-run-3")
    (folder / "run-3").symlink_to(outside / f"{folder.name}-run-3")
    (folder / "loop").symlink_to(folder)


def _link_as_plan(folder: Path) -> None:
    (folder / "plan.json").unlink()
    (folder / "plan.json").symlink_to("/etc/passwd")


def _sockets(folder: Path) -> None:
    (folder / "run-0" / "run.json").unlink()
    with socket.socket(socket.AF_UNIX) as server:
        os.chdir(folder)  # a socket's path is short
        server.bind("run-0/run.json")
    (folder / "run-1" / "run.json").unlink()
    (folder / "run-1" / "run.json").mkdir()


def _huge(folder: Path) -> None:
    for name in ("run-0/run.json", "run-1/steps.parquet", "run-2/log.txt"):
        os.truncate(folder / name, 1 << 40)


def _huge_plan(folder: Path) -> None:
    os.truncate(folder / "plan.json", 1 << 40)


def _deep(folder: Path) -> None:
    (folder / "run-0" / "run.json").write_text('{"a":' * 100_000)
    (folder / "run-1" / "run.json").write_text("[" * 1_000_000)
    (folder / "run-2" / "run.json").write_text('{"schema": 1' + "0" * 100_000 + "}")
    (folder / "run-3" / "run.json").write_text('{"schema": 1e999, "schema": NaN}')


def _deep_plan(folder: Path) -> None:
    (folder / "plan.json").write_text('{"schema":1,"runs":' + "[" * 100_000)


def _bombs(folder: Path) -> None:
    """Tables that are small on disk: a hundred million rows, a long text a million times, foreign codecs."""
    _reseal(folder / "run-0", "steps.parquet", _written(pa.table({"step": pa.nulls(101_000_000)})))
    places = pa.array([0] * 200_000, pa.int32())
    text = pa.DictionaryArray.from_arrays(places, pa.array(["x" * 100_000]))
    flow = {"distance": pa.nulls(200_000, pa.int64()), "median": text, "sequences": text, "moment": text}
    _reseal(folder / "run-0", "gradient_flow.parquet", _written(pa.table(flow), store_schema=False))
    zeros = pa.table({"step": [0] * 1000, "loss": [0.0] * 1000, "accuracy": [0.0] * 1000})
    for codec, run in (("gzip", "run-0"), ("zstd", "run-1")):
        _reseal(folder / run, "evaluations.parquet", _written(zeros, compression=codec))
    nested = pa.table({"step": [[{"a": [1]}]], "x": pa.array([b"x"])})
    _reseal(folder / "run-1", "parameters.parquet", _written(nested))
    _reseal(folder / "run-1", "steps.parquet", _written(pa.table({f"c{n}": [1] for n in range(3_000)})))


def _code(folder: Path) -> None:
    """Python, settings and templates that lie around; names of code in every text."""
    for name in ("pandas", "matplotlib", "jinja2", "numpy", "sitecustomize", "evil", "argparse"):
        (folder / f"{name}.py").write_text(f"open({MARK!r}, 'w').close()\n")
    (folder / "hydra_plugins").mkdir()
    (folder / "hydra_plugins" / "evil.py").write_text(f"open({MARK!r}, 'w').close()\n")
    (folder / "matplotlibrc").write_text("text.usetex: True\nbackend: module://evil\ninteractive: True\n")
    (folder / "page.html").write_text("{{ cycler.__init__.__globals__.os.system('touch mark') }}")
    (folder / "config.yaml").write_text("a: !!python/object/apply:os.system ['touch mark']\n")
    code = {
        "_target_": "os.system",
        "_args_": [f"touch {MARK}"],
        "__reduce__": "cos\nsystem\n(S'touch mark'\ntR.",
    }
    plan = records.read_plan(folder)
    plan["runs"] = [{**run, **code, "config": {**code, "model": code}} for run in plan["runs"][:5]]
    records.write_plan(folder, plan)
    for number in range(2):
        run = store.read_json(folder / f"run-{number}" / "run.json")
        run.pop("sha256")
        store.write_sealed(folder / f"run-{number}" / "run.json", {**run, "config": code, "card": code})


def _wrong_types(folder: Path) -> None:
    """Valid seals around values of every wrong kind."""
    odd: list[Any] = [None, True, -1, 1e308, 10**400, "", [], {}, [[]], {"a": {}}, "x" * 100_000]
    for number in range(4):
        run = store.read_json(folder / f"run-{number}" / "run.json")
        run.pop("sha256")
        for place, key in enumerate(("metrics", "config", "card", "environment")):
            run[key] = {k: odd[(number + place + n) % len(odd)] for n, k in enumerate(run[key])}
        store.write_sealed(folder / f"run-{number}" / "run.json", run)


def _elsewhere(folder: Path) -> None:
    """A plan whose runs lie outside of its folder."""
    plan = records.read_plan(folder)
    names = ["../other/run-0", "/etc", "..", ".", "run-0/../../x", "run-0\0", "a" * 5_000]
    plan["runs"] = [{**plan["runs"][0], "folder": name} for name in names]
    records.write_plan(folder, plan)


def _nothing(folder: Path) -> None:
    """Only the hostile texts of every sweep here."""


STRANGE: dict[str, Callable[[Path], None]] = {
    make.__name__.strip("_"): make
    for make in (
        _nothing, _pickles, _pickle_as_plan, _pipes, _devices, _links, _link_as_plan, _sockets, _huge,
        _huge_plan, _deep, _deep_plan, _bombs, _code, _wrong_types, _elsewhere,
    )
}  # fmt: skip


def noise(folder: Path, rng: random.Random) -> None:
    """Change bytes anywhere, and files for other files; seals are made to fit where that is possible."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    for path in rng.sample(files, 4):
        content = bytearray(path.read_bytes())
        for _ in range(rng.randrange(1, 40)):
            if content:
                content[rng.randrange(len(content))] = rng.randrange(256)
        if path.suffix == ".parquet":
            with contextlib.suppress(store.DamagedFile, KeyError):  # its record may be noise by now
                _reseal(path.parent, path.name, bytes(content))
        else:
            path.write_bytes(rng.choice([bytes(content), files[0].read_bytes(), rng.randbytes(2_000), b""]))


def write_strange(parent: Path, count: int, rng: random.Random) -> list[Path]:
    """Every kind of folder once, then noise, ``count`` in all."""
    made = []
    home = Path.cwd()
    for number in range(count):
        name = list(STRANGE)[number] if number < len(STRANGE) else f"noise-{number}"
        folder = write_sweep(parent / name, Fields(rng.randrange(len(PAYLOADS))))
        STRANGE[name](folder) if name in STRANGE else noise(folder, rng)
        os.chdir(home)
        made.append(folder)
    return made
