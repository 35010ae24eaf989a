"""Promises about what nobody vouches for: no code runs, nothing escapes into a page, no secret is kept."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import pickle
import random
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import warm
from rich.console import Console

from faults.bad_words import bad_words
from faults.campaign import Campaign, Figure
from faults.code_paths import FILE_DOORS, OTHERS, TARGETS, WORD_DOORS, Target, written
from faults.markup import Fields, write_sweep, wrong_with_page
from faults.payloads import PAYLOADS
from faults.strange import Evil, write_strange
from seqbench import cli, hooks
from seqbench.errors import UsageError
from seqbench.report import __main__ as report
from seqbench.schema import check
from seqbench.tasks.text import Text

# The command line in this process


@dataclass
class Answer:
    """What a command line came to."""

    code: object
    err: str
    out: str

    def refused(self) -> bool:
        """Exit code 2 and one printable line, nothing else."""
        lines = self.err.splitlines()
        return self.code == 2 and len(lines) == 1 and lines[0].startswith("seqbench: ") and not self.out


@contextlib.contextmanager
def inside(folder: Path) -> Iterator[None]:
    """Work in a folder; what a command line changes in this process is put back."""
    with (
        contextlib.chdir(folder),
        mock.patch.dict(os.environ),
        mock.patch.object(sys, "argv", ["seqbench"]),
        mock.patch.object(cli.signal, "signal"),
        mock.patch("seqbench.isolate.warm_server"),
    ):
        yield


def answer(words: list[str]) -> Answer:
    """Give words to the command line; a sweep that would start counts as "started"."""
    out, err = io.StringIO(), io.StringIO()
    code: object = None
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            with mock.patch("seqbench.store.make_folder", side_effect=SystemExit("started")):
                cli.main(words)
        except SystemExit as ended:
            code = ended.code
        except Exception as error:  # a traceback instead of a line
            code = f"{type(error).__name__}: {error}"
    return Answer(code, err.getvalue(), out.getvalue())


# No code runs because a configuration says so


def _furnish(folder: Path) -> None:
    """What the probes name: a module, a pickle, and a configuration outside of every allowed folder."""
    (folder / "evil.py").write_text("open('mark', 'w').close()\n")
    (folder / "evil.pkl").write_bytes(pickle.dumps(Evil()))
    (folder / "elsewhere").mkdir()
    hostile = "# @package _global_\nhydra:\n  callbacks:\n    a: {_target_: os.system, command: touch mark}\n"
    for name in ("evil.yaml", "elsewhere/evil.yaml", "elsewhere/config.yaml"):
        (folder / name).write_text(hostile)


def _trial(door: str, target: Target, folder: Path) -> tuple[str, list[str]]:
    """One target in one door: its name and the words that open it."""
    name = f"{target['_target_']} through {door}"
    if door in WORD_DOORS:
        return name, WORD_DOORS[door](target)
    place, text, words = FILE_DOORS[door](target)
    file = folder / "own" / place
    for old in (folder / "own").rglob("*.yaml"):
        old.unlink()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return name, [f"--config-dir={folder / 'own'}", *words]


def code_paths(size: int, folder: Path, rng: random.Random) -> Figure:
    """Try ``size`` pairs of target and door, each of both at least once, and every other way."""
    _furnish(folder)
    (folder / "own").mkdir()
    doors = [*WORD_DOORS, *FILE_DOORS]
    pairs = list(itertools.product(doors, TARGETS))
    longest = max(len(doors), len(TARGETS))
    chosen = [(doors[i % len(doors)], TARGETS[i % len(TARGETS)]) for i in range(longest)]
    chosen += rng.sample(pairs, min(len(pairs), max(0, size - longest)))
    violations = []
    with inside(folder):
        for name, words in itertools.chain(
            (_trial(door, target, folder) for door, target in chosen),
            ((" ".join(words), words) for words in OTHERS),
        ):
            found = answer(words)
            if not found.refused():
                violations.append(f"{name}: not refused in one line: {found}")
            if (folder / "mark").exists() or (folder / "mark").is_symlink():
                violations.append(f"{name}: code ran")
                break
    live, of = _live(folder, every=1 if size > len(TARGETS) * 2 else 5)
    if live < of / 4:
        violations.append(f"control: only {live} of {of} targets run when nothing guards them")
    note = f"{len(TARGETS)} targets, {len(doors)} doors; unguarded, {live} of {of} targets run"
    return Figure(len(chosen) + len(OTHERS), violations, note)


def _live(folder: Path, every: int) -> tuple[int, int]:
    """How many targets run when nothing guards them, of how many tried: whether the probes are sharp."""
    slow = ("torch.", "pandas.", "ctypes.", "webbrowser.")
    targets = [written(target) for target in TARGETS if not target["_target_"].startswith(slow)]
    targets = targets[2::every]  # the first of these is one that Hydra's own list of forbidden names misses
    for number in range(len(targets)):
        place = folder / f"control{number}"
        place.mkdir()
        _furnish(place)
    _python(folder, "-c", _UNGUARDED, json.dumps(targets))
    places = [folder / f"control{number}" for number in range(len(targets))]
    live = sum(any(path.name.startswith("mark") for path in place.iterdir()) for place in places)
    return live, len(targets)


_UNGUARDED = """
import contextlib, io, json, os, sys
from unittest import mock
from faults.hostile import answer, inside
from pathlib import Path
here = Path.cwd()
for number, target in enumerate(json.loads(sys.argv[1])):
    place = here / f"control{number}"
    with inside(place), mock.patch("seqbench.guard.check_words"):
        sys.path.insert(0, str(place))
        answer([f"+hydra.callbacks.a={target}"])
        sys.path.pop(0)
        sys.modules.pop("evil", None)
"""


def _python(
    folder: Path, *args: str, cold: bool = False, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run Python in a folder, with the tests at hand and temporary files of its own."""
    (folder / "tmp").mkdir(exist_ok=True)
    tests = str(Path(__file__).resolve().parent.parent)
    own = {"PYTHONPATH": tests, "TMPDIR": str(folder / "tmp"), "NO_COLOR": "1", "COLUMNS": "200"}
    env = {**os.environ, **own, **variables}
    if warm.can_run(args, variables) and not cold:
        return warm.shared().run(args, folder, env, timeout=240)
    return subprocess.run(
        [sys.executable, *args], cwd=folder, env=env, timeout=240, capture_output=True, text=True, check=False
    )


# Bad inputs with exact verdicts


def bad_inputs(size: int, folder: Path, rng: random.Random) -> Figure:
    """Every bad command line and data file that is known, or ``size`` of them; each has one right verdict."""
    from test_cli import SLIPS
    from test_text_files import BAD_FILES

    lines: list[tuple[list[str], str]] = [(line.split(" "), said) for line, said in SLIPS.items()]
    lines += bad_words(folder)
    trials = [*lines, *BAD_FILES.items()]
    chosen = trials if size >= len(trials) else rng.sample(trials, size)
    violations = []
    empty = folder / "empty"
    empty.mkdir()
    with inside(empty):
        for given, expected in chosen:
            found = (
                _file_verdict(folder / given, *expected)
                if isinstance(given, str)
                else _verdict(given, expected)
            )
            if found or list(empty.iterdir()):
                violations.append(f"{str(given)[:200]}: {found or 'something was started'}")
    return Figure(len(chosen), violations, f"{len(trials)} are known")


def _verdict(words: list[str], expected: str) -> str:
    """What is wrong with the answer to a bad command line; empty when all is right."""
    found = answer(words)
    if not found.refused():
        return f"not refused in one line: {found}"
    return "" if expected in found.err else f"expected {expected!r} in {found.err!r}"


def _file_verdict(file: Path, content: bytes, expected: str) -> str:
    """What is wrong with the refusal of a bad data file."""
    file.write_bytes(content)
    try:
        task = Text(path=str(file))
        check(task, "task.")
        task.prepare(file.parent / "cache")
    except UsageError as error:
        said = str(error).replace(f"{file.parent}/", "")
        right = said.startswith(expected) and "\n" not in said and not (file.parent / "cache").exists()
        return "" if right else f"expected {expected!r}, got {said!r}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "not refused"


# Nothing in a record becomes markup


def markup(size: int, folder: Path, rng: random.Random) -> Figure:
    """Make ``size`` pages of sweeps whose every text is hostile, each starting at another payload."""
    violations, tried, words = [], 0, io.StringIO()
    starts = rng.sample(range(len(PAYLOADS)), min(size, len(PAYLOADS)))
    with inside(folder), contextlib.redirect_stdout(words), contextlib.redirect_stderr(words):
        for number, start in enumerate(starts):
            text = Fields(start)
            try:
                found = wrong_with_page(
                    _page(write_sweep(folder / str(number) / _file_name(start), text), words)
                )
            except Exception as error:
                found = [f"{type(error).__name__}: {error}"]
            tried += text.count
            violations += [f"payloads from {start} on: {what}" for what in found]
    if unprintable := {c for c in words.getvalue() if not c.isprintable() and c != "\n"}:
        violations.append(f"printed in the terminal: {unprintable}")
    if (folder / "mark").exists():
        violations.append("a template was run")
    return Figure(tried, violations, f"{len(PAYLOADS)} payloads, {len(starts)} pages")


def _page(sweep: Path, words: io.StringIO) -> str:
    """The page of a sweep, made by the command or at the end of a sweep."""
    out = sweep.parent / "page.html"
    if len(sweep.name) % 2:
        report.main([str(sweep), f"--out={out}"])
        return out.read_text(encoding="utf-8")
    plain = sweep.rename(sweep.with_name("plain"))
    hooks.finish(plain, sweep.parent, Console(file=words, width=100))
    return (sweep.parent / "plain.html").read_text(encoding="utf-8")


def _file_name(start: int) -> str:
    """A payload as the name of a folder."""
    name = PAYLOADS[start].replace("/", "_").replace("\0", "_").encode("utf-8", "replace")[:200]
    return os.fsdecode(name).strip(".") or "empty"


# A report of any folder reads it and writes its page, nothing else


def audited(size: int, folder: Path, rng: random.Random) -> Figure:
    """Build reports of ``size`` strange folders under an audit hook, and from inside a folder of code."""
    made = write_strange(folder / "runs", size, rng)
    out = folder / "out"
    out.mkdir()
    usual = write_sweep(folder / "usual", Fields(0))
    done = _python(folder, "-m", "faults.audit", str(out), str(usual), *map(str, made))
    violations = json.loads(done.stdout) if done.returncode == 0 else [f"ended: {done.stderr[-2000:]}"]
    blind = _python(folder, "-m", "faults.audit", "--control", str(out))
    violations += [f"control: the hook does not see {what}" for what in json.loads(blind.stdout or '["it"]')]
    here = folder / "runs" / "code"
    within = _python(here, "-m", "seqbench.report", ".", "--out", str(out / "within.html"), cold=True)
    if within.returncode != 0 or not (out / "within.html").exists():
        violations.append(f"no report from inside a folder with code: {within.stderr[-500:]}")
    violations += [f"code ran: {mark}" for mark in folder.rglob("mark")]
    return Figure(len(made) + 1, violations, "the hook sees all 20 forbidden things of the control")


# No secret is written down

_LEAKY = '''
import os
from dataclasses import dataclass

from seqbench.cli import main
from seqbench.models.base import ModelConfig
from seqbench.registry import register
from seqbench.schema import setting


@register("model")
@dataclass
class Leaky(ModelConfig):
    """A model that says everything it knows."""

    name: str = "leaky"
    api_key: str = setting("", "a key that a layer needs")
    note: str = setting("", "anything")
    fails: bool = setting(False, "end in an error")

    def build(self, width_in, hidden):
        from seqbench.layers.recurrent import GRULayer

        known = [os.environ[name] for name in os.environ["CANARIES"].split()]
        print("known:", *known, flush=True)
        print(f"login password={os.environ['TYPED']} Authorization: Bearer {os.environ['TYPED']}", flush=True)
        typed = os.environ.pop("TYPED")  # nothing else says that it is one
        os.write(2, f"https://me:{typed}@host/x {dict(os.environ)}\\n".encode())
        if self.fails:
            raise ValueError(f"refused: {known} token: {typed}")
        return GRULayer(width_in, hidden, None)


if __name__ == "__main__":
    main()
'''
_NAMES = (
    "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "WANDB_API_KEY", "GITHUB_TOKEN", "DATABASE_URL", "SSH_PASSPHRASE",
    "MY_PASSWORD", "OPENAI_API_KEY", "GOOGLE_CREDENTIALS",
)  # fmt: skip
_QUICK = [
    "task=temporal_order", "task.lengths=[8]", "train.steps=2", "train.eval_every=2", "train.eval_examples=8",
    "train.test_examples=8", "model.hidden=4", "seeds=1", "speed.enabled=false", "canaries=false",
    "sweep=s",
]  # fmt: skip


def secrets(size: int, folder: Path, rng: random.Random) -> Figure:
    """Plant canaries in the environment, in words and in a layer's output; look for them everywhere.

    ``size`` is how many sweeps are run.
    """
    violations, tried = [], 0
    for number in range(size):
        place = folder / str(number)
        place.mkdir()
        (place / "leaky.py").write_text(_LEAKY)
        found = _leaks(place, _canaries(rng))
        violations += [f"sweep {number}: {what}" for what in found]
        tried += len(_NAMES) + 3
    return Figure(tried, violations, f"{len(_NAMES) + 3} canaries in each of {size} sweeps")


def _canaries(rng: random.Random) -> dict[str, str]:
    """A value that nothing else holds for each place that a secret can come from."""
    names = (*_NAMES, "TYPED", "IN_ADDRESS", "SETTING")
    return {name: f"canary{number:02}{rng.getrandbits(64):016x}" for number, name in enumerate(names)}


def _leaks(place: Path, canaries: dict[str, str]) -> list[str]:
    """Where a canary is found after a sweep, a refused command, a refused address, and a second report."""
    known = {name: canaries[name] for name in _NAMES}
    address = f"postgres://me:{known['DATABASE_URL']}@host:5432/db"
    told = {**known, "DATABASE_URL": address, "TYPED": canaries["TYPED"], "CANARIES": " ".join(_NAMES)}
    told |= {"XDG_CACHE_HOME": str(place / "cache")}
    key, typed = canaries["SETTING"], canaries["TYPED"]
    sweep = _python(place, "leaky.py", "-m", "model=leaky", "model.fails=false,true", *_QUICK, **told)
    again = _python(place, "-m", "seqbench.report", "runs/s", **told)
    address = f"task.path=https://me:{canaries['IN_ADDRESS']}@host/data"
    with inside(place), mock.patch.dict(os.environ, told):
        answers = [
            answer(words)
            for words in (
                [f"hub.token={typed}"], [f"+train.password='{typed} {typed}'"], [f"--token={typed}"],
                [f"password={typed}"], ["task=imdb", address], [f"--config-dir=x?token={typed}"],
                [f"model.api_key={key}"], [f"+model.note={known['HF_TOKEN']}"],
                [f"sweep={known['MY_PASSWORD']}"],
            )
        ]  # fmt: skip
    texts = {"the sweep's terminal": sweep.stdout + sweep.stderr, "the report's": again.stdout + again.stderr}
    texts |= {f"answer {number}": found.err + found.out for number, found in enumerate(answers)}
    files = [path for path in place.rglob("*") if path.is_file() and path.name != "leaky.py"]
    texts |= {str(path.relative_to(place)): path.read_bytes().decode("utf-8", "replace") for path in files}
    found = [
        f"{name} is in {where}" for where, text in texts.items() for name, c in canaries.items() if c in text
    ]
    found += [
        f"answer {number}: not refused: {one}" for number, one in enumerate(answers) if not one.refused()
    ]
    if (sweep.returncode, again.returncode) != (1, 0) or len(list(place.glob("runs/s/*/run.json"))) != 2:
        found.append(f"control: the sweep did not run: {sweep.stdout[-300:]}{sweep.stderr[-900:]}")
    if not any("known: ***" in text for where, text in texts.items() if where.endswith("log.txt")):
        found.append("control: no layer said anything")
    return found


CAMPAIGNS = [
    Campaign("refused code paths", code_paths, few=60, many=2_000),
    Campaign("XSS payloads", markup, few=3, many=len(PAYLOADS)),
    Campaign("secret canaries", secrets, few=1, many=4),
    Campaign("hostile folders under an audit hook", audited, few=16, many=80),
    Campaign("bad inputs with exact verdicts", bad_inputs, few=40, many=1_000),
]
