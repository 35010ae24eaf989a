"""Command lines and files of configuration that cannot be used, and what the one line must say of each."""

from __future__ import annotations

import itertools
import os
from pathlib import Path


def bad_words(folder: Path) -> list[tuple[list[str], str]]:
    """Command lines that no one should type, and what the one line must say."""
    words = [([word], expected) for expected, some in BAD_WORDS.items() for word in some]
    lines = [(line, expected) for expected, some in BAD_LINES.items() for line in some]
    return [*words, *lines, *_bad_places(folder), *_bad_folders(folder)]


_LONG, _MANY = "x" * 300, ",".join(str(n / 1e4) for n in range(10_000))
BAD_WORDS = {
    "use at most 80 letters": [
        f"sweep={n}" for n in ("a/b", "..", ".a", "a b", "a" * 81, "a%2fb", "CON:", _LONG)
    ],
    "cannot be read": [
        "sweep=a;b",
        "sweep=$(x)",
        "sweep=\N{SNOWMAN}",
        "\N{CYRILLIC SMALL LETTER ER}x=1",
        "x=(",
        "x=" + "[" * 3_000 + "]" * 3_000,
        f"seeds={'1' * 5_000}",
    ],
    "holds a character that cannot be printed": [
        "train.lr=\x00",
        "a\nb=1",
        "sweep=\x1b[31mred",
        "sweep=\N{RIGHT-TO-LEFT OVERRIDE}x",
        "sweep=\udcff",
        "model=lstm\u2028",
        "model=ls\N{ZERO WIDTH SPACE}tm",
        "model=lstm\t",
    ],
    "expected a positive number, or a list": [
        "seeds=10001",
        "seeds=-1",
        f"seeds={1 << 62}",
        "seeds=[]",
        "seeds=[-1]",
        "seeds=[1.5]",
        f"seeds=[{1 << 62}]",
        "seeds=true",
        "seeds=abc",
        "seeds=null",
        "seeds={a:1}",
    ],
    "characters, at most 100000 are read": [f"seeds=[{','.join('1' for _ in range(60_000))}]"],
    "several values need -m": ["model=lstm,gru", f"train.lr={_MANY}", "train.lr=range(0,1e12)"],
    "must be at least": [
        "train.lr=-1",
        "train.batch_size=0",
        "limit.time_s=0",
        "match.target=-5",
        "workers=0",
        "train.steps=-1",
        "task.lengths=[0]",
    ],
    "no setting ''": ["=1", "=", "+=1"],
    "no model 'xxx": [f"model={_LONG}"],
    "no setting 'xxx": [f"{_LONG}=1"],
    "expected key=value": ["", _LONG, "~train.lr", "model", " "],
    "must be a finite number": ["train.lr=1e400"],
    "can be changed, not removed": ["~train.lr=1"],
    "leave out the part after '@'": ["model@train=lstm"],
    "train": [f"train.lr={_LONG}", "train.steps=1e9999", "train={lr:{lr:1}}", "train.lr.x=1", "train=[1]"],
    "no such probe": ["probes=[[]]", "probes=[../x]"],
    "probes": ["probes=1"],
    "no flag": ["--", "-", "-x", "--sweep=a", "---"],
    "expected one argument": ["--cfg", "--config-dir"],
    "invalid choice: 'x'": ["--cfg=x", "--info=x"],
    "goes with --cfg": ["--resolve"],
    "expected the name of a folder": ["--config-dir=", "-cd="],
    "no such folder": ["-cd=/etc/passwd", "-cd=\x00"],
}
BAD_LINES = {
    "more than 1000 combinations: split the sweep": [
        ["-m", f"train.lr={_MANY}"],
        ["-m", "train.lr=range(0,1e12)"],
        ["-m", "train.lr=range(0,1,0)"],
        ["-m", "model=range(0,1000000000)"],
        ["-m", "seeds=range(1,100)", "workers=range(1,100)"],
    ],
    "does not support sweep type": [["-m", "train.lr=interval(0,1)"]],
    "only one of": [["-m", "--cfg", "job"], ["--cfg=job", "--info"]],
    "unrecognized arguments: b=2": [["a=1", "-m", "b=2"]],
}


def _bad_places(folder: Path) -> list[tuple[list[str], str]]:
    """Places for results that cannot be folders."""
    (folder / "a-file").write_text("")
    (folder / "nowhere").symlink_to("nowhere")  # a link to itself
    return [
        *(
            ([f"{key}={folder / name}"], f"{key}={folder / name}: {folder / 'a-file'} is not a folder")
            for key in ("runs_dir", "reports_dir")
            for name in ("a-file", "a-file/below", "a-file/far/below")
        ),
        (["runs_dir=/dev/null"], "runs_dir=/dev/null: /dev/null is not a folder"),
        ([f"reports_dir={'x' * 300}"], "File name too long"),
        ([f"--config-dir={folder / 'a-file'}"], "a-file: no such folder"),
        ([f"--config-dir={folder / 'nowhere'}"], "nowhere: no such folder"),
    ]


def _bad_folders(folder: Path) -> list[tuple[list[str], str]]:
    """Folders of configuration that hold what cannot be read, or what leads elsewhere."""
    trials = []
    for number, (name, content, expected) in enumerate(BAD_YAML):
        place = folder / f"own{number}" / name
        place.parent.mkdir(parents=True)
        place.write_bytes(content)
        trials.append(([f"--config-dir={folder / f'own{number}'}", "experiment=x"], f"{name}: {expected}"))
    links = folder / "links"
    (links / "experiment").mkdir(parents=True)
    (links / "experiment" / "x.yaml").symlink_to("/etc/hostname")
    trials.append(([f"-cd={links}", "experiment=x"], "a link that leads out of the folder"))
    linked = folder / "linked"
    linked.mkdir()
    (linked / "experiment").symlink_to(links)
    trials.append((["-cd", str(linked), "experiment=x"], "experiment: a link to a folder"))
    pipes = folder / "pipes"
    pipes.mkdir()
    os.mkfifo(pipes / "x.yaml")
    trials.append(([f"--config-dir={pipes}"], "not a readable file"))
    crowd = folder / "crowd"
    crowd.mkdir()
    for number in range(1_001):
        (crowd / f"{number}.yaml").touch()
    return [*trials, ([f"--config-dir={crowd}"], "more than 1000 YAML files")]


_BOMB = "a: &a [x, x]\n" + "".join(
    f"{b}: &{b} [*{a}, *{a}]\n" for a, b in itertools.pairwise("abcdefghijklmnop")
)
BAD_YAML: list[tuple[str, bytes, str]] = [
    ("experiment/x.yaml", b"a: " + b"x" * (1 << 20), "not a readable file of at most 1048576 bytes"),
    ("experiment/x.yaml", b"\xff\xfe", "not UTF-8"),
    ("experiment/x.yaml", b"a: [", "not YAML"),
    ("experiment/x.yaml", b"a: 1\n---\nb: 1\n", "not YAML"),
    ("experiment/x.yaml", b"a: \x00", "not YAML"),
    ("experiment/x.yaml", b'a: "\\0"', "line 1: a text that is too long or cannot be printed"),
    ("experiment/x.yaml", b"[" * 100_000, "nested too deeply"),
    ("experiment/x.yaml", b"a: *b", "not YAML"),
    ("experiment/x.yaml", _BOMB.encode(), "line 1: anchors are not followed"),
    ("experiment/x.yaml", b"a: &a [*a]", "line 1: anchors are not followed"),
    ("experiment/x.yaml", b"a: {<<: {b: 1}}", "line 1: a key is no plain"),
    ("experiment/x.yaml", b"? [a]\n: 1", "line 1: a key is no plain word"),
    (
        "experiment/x.yaml",
        b"a: !!binary aGk=",
        "line 1: tag 'tag:yaml.org,2002:binary' would build an object",
    ),
    ("experiment/x.yaml", b"a: !mine 1", "line 1: tag '!mine' would build an object"),
    ("experiment/x.yaml", b"\n\nsweep: ${oc.env:HOME}", "line 3: only ${setting} is read"),
    ("experiment/x.yaml", b"hydra: 1", "line 1: hydra: expected settings below it"),
    ("experiment/x.yaml", b"hydra.callbacks: {}", "line 1: 'hydra.callbacks' can run code"),
    ("experiment/x.yaml", b"hydra: {run: {dir: x}}", "line 1: 'run' can run code"),
    ("experiment/x.yaml", b"hydra: {sweeper: {max_batch_size: 1}}", "line 1: 'max_batch_size' can run code"),
    ("experiment/x.yaml", b"hydra: {sweeper: {params: {a: [1]}}}", "line 1: a: expected one text"),
    ("experiment/x.yaml", b"hydra: {sweeper: {params: {task: ../x}}}", "line 1: expected a name below"),
    ("experiment/x.yaml", b"# @package hydra\na: 1", "'# @package hydra': write '# @package _global_'"),
    ("experiment/x.yaml", b"#@package hydra\na: 1", "'#@package hydra': write"),
    ("experiment/x.yaml", b"defaults: [../../x]", "line 1: ': ../../x' is no file of"),
    ("experiment/x.yaml", b"defaults: [{/model@task: lstm}]", "line 1: 'model@task: lstm' is no file"),
    ("experiment/x.yaml", b"defaults: [{override hydra/launcher: a}, hydra/x]", "line 1: ': hydra/x' can"),
    ("hydra/output/x.yaml", b"a: 1", "this part of Hydra can run code"),
    ("hydra.yaml", b"- !!set {a}", "line 1"),
    ("hydra/launcher/x.yaml", b"# @package _global_\n", "'# @package _global_': write '# @package _group_'"),
]
