"""No code runs because a command line or a configuration file says so.

Hydra builds objects whose names stand in its own settings (callbacks, sweepers, logging), reads environment
variables into settings, and imports packages named in its search path. None of that is needed here, so it is
refused by name before Hydra reads anything. Only the words of the command line, and the files of a folder
given by ``--config-dir``, are checked: the configuration that comes with seqbench needs no suspicion.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import yaml  # type: ignore[import-untyped]  # comes with omegaconf

from seqbench import store
from seqbench.errors import UsageError
from seqbench.secret import is_secret, mask_word
from seqbench.store import DamagedFile

_MOST_YAML_BYTES = 1 << 20
_MOST_FILES = 1_000
_MOST_CHARACTERS = 100_000
_SHOWN = 120
_CODE = re.compile(r"(?<![A-Za-z0-9])_(?:target|partial|args|convert|recursive)_(?![A-Za-z0-9])|^\(\)$")
_REFERENCE = re.compile(r"\$\{[\w.]+\}")  # to another setting; with a colon it would call a resolver
_HYDRA = re.compile(r"(?<![\w-])hydra(?![\w-])")
_ALLOWED = re.compile(
    r"hydra/launcher|hydra\.launcher\.\w.*|hydra\.sweeper\.params\.\w.*|hydra\.sweep\.(?:dir|subdir)|hydra\.verbose"
)
_ALLOWED_WORDS = (
    "allowed are hydra/launcher=NAME, hydra.launcher.KEY, hydra.sweeper.params.KEY, hydra.sweep.dir, "
    "hydra.sweep.subdir and hydra.verbose"
)
_PARAMS = "hydra.sweeper.params"
_CHOOSES_A_FILE = re.compile(r"(?:task|model|experiment|recipe|tuned|hydra\.sweep\.subdir)$|.*/")
_ELSEWHERE = re.compile(r"\.\.|//|\\|(?:^|[\s,\[({'\"])/")  # leaves the configuration folder
_HEADER = re.compile(r"\s*#+\s*@")
_IN_A_FILE = {"hydra": ("launcher", "sweeper"), "hydra.sweeper": ("params",)}
_SHELL_KEYS = ("setup", "python", "srun_args", "additional_parameters")  # pasted into a script by a launcher
_YAML = "tag:yaml.org,2002:"
_PLAIN_TAGS = {_YAML + name for name in ("map", "seq", "str", "int", "float", "bool", "null", "timestamp")}


class _Refused(Exception):
    """Why something is refused, and what to do instead."""


# The command line


def check_words(words: Iterable[str]) -> None:
    """Check ``key=value`` words.

    Raises:
        UsageError: the first word that could run code, or read what is no setting.
    """
    for word in words:
        try:
            _check_word(word)
        except _Refused as refused:
            raise UsageError(f"{shown(word)}: {refused}") from None


def shown(word: str) -> str:
    """A word as it may stand in an error: printable, of sensible length, without secrets."""
    printable = "".join(c if c.isprintable() else "?" for c in mask_word(word))
    return printable if len(printable) <= _SHOWN else f"{printable[: _SHOWN - 3]}..."


def _check_word(word: str) -> None:
    """Refuse a word that could run code, lead elsewhere, or be recorded though it must not be."""
    if len(word) > _MOST_CHARACTERS:
        raise _Refused(f"{len(word)} characters, at most {_MOST_CHARACTERS} are read: give less in one word")
    if not word.isprintable():
        raise _Refused("holds a character that cannot be printed: type it anew")
    key, _, value = word.partition("=")
    key = key.strip().lstrip("+~")
    if key.startswith(f"{_PARAMS}."):  # Hydra makes words of these again
        _check_word(f"{key.removeprefix(f'{_PARAMS}.')}={value}")
    elif "@" in key:
        raise _Refused("a setting has one place: leave out the part after '@'")
    elif _HYDRA.match(key) and not _ALLOWED.fullmatch(key):
        raise _Refused(f"this part of Hydra can run code or hide settings; {_ALLOWED_WORDS}")
    elif _CHOOSES_A_FILE.match(key) and _ELSEWHERE.search(value):
        raise _Refused("expected a name below the configuration folder: use --config-dir=FOLDER for your own")
    _check_text(word)
    _check_secret(key, value)


def _check_secret(key: str, value: str) -> None:
    """Settings are recorded, so a secret cannot be one."""
    if is_secret(key, value):
        raise _Refused(
            "settings are recorded and a secret must not be: have your file read it from a variable"
        )


def _check_text(text: str) -> None:
    """Refuse a text wherever it stands; escaped characters count as what they become."""
    plain = text.replace("\\", "")
    if found := _CODE.search(plain):
        raise _Refused(
            f"{found.group()} would run code: name a registered model or task, or run your own file"
        )
    if "${" in _REFERENCE.sub("", plain):
        raise _Refused("only ${setting} is read; environment variables would end up in records: write it out")


# Files of a configuration folder


def check_folder(folder: Path) -> None:
    """Check every YAML file below a folder of configuration before Hydra reads any.

    Raises:
        UsageError: ``file: reason: fix`` for the first file that could run code or cannot be read safely.
    """
    if not folder.is_dir():
        raise UsageError(f"--config-dir={folder}: no such folder: give one like conf/")
    root = folder.resolve()
    for number, file in enumerate(_yaml_files(root), 1):
        if number > _MOST_FILES:
            raise UsageError(f"{folder}: more than {_MOST_FILES} YAML files: give a folder of configuration")
        try:
            _check_file(root, file)
        except _Refused as refused:
            raise UsageError(f"{folder / file.relative_to(root)}: {refused}") from None


def _yaml_files(root: Path) -> Iterator[Path]:
    """Every YAML file below a folder, in order.

    Raises:
        UsageError: a folder cannot be listed, or is a link, which could lead anywhere.
    """

    def fail(error: OSError) -> None:
        raise UsageError(f"{error.filename}: {error.strerror}: make it readable, or take it out")

    for place, folders, files in os.walk(root, onerror=fail):
        folders.sort()
        for name in folders:
            if (Path(place) / name).is_symlink():
                raise UsageError(f"{Path(place) / name}: a link to a folder: put the folder itself there")
        yield from (Path(place) / name for name in sorted(files) if name.lower().endswith((".yaml", ".yml")))


def _check_file(root: Path, file: Path) -> None:
    place = file.relative_to(root).parts
    if place[0] == "hydra" and place[1:2] != ("launcher",):
        raise _Refused(f"this part of Hydra can run code: take the file out; {_ALLOWED_WORDS}")
    text = _text(root, file.resolve())
    _check_header(text, launcher=place[0] == "hydra")
    try:
        if node := yaml.compose(text, Loader=yaml.SafeLoader):
            _check_nodes(node, "hydra.launcher" if place[0] == "hydra" else "")
    except (yaml.YAMLError, ValueError) as error:
        raise _Refused(f"not YAML ({' '.join(str(error).split())[:300]}): mend it") from None
    except RecursionError:
        raise _Refused("nested too deeply: mend it") from None


def _check_header(text: str, *, launcher: bool) -> None:
    """A header says where settings go: a launcher's to their own place, others also to the top."""
    places = ("_group_",) if launcher else ("_global_", "_group_")
    for line in text.splitlines():
        if _HEADER.match(line) and line.split() not in [["#", "@package", place] for place in places]:
            raise _Refused(f"{line.strip()[:_SHOWN]!r}: write '# @package {places[0]}', or nothing")


def _text(root: Path, target: Path) -> str:
    """The content of a file of the folder."""
    if not target.is_relative_to(root):
        raise _Refused("a link that leads out of the folder: put the file itself there")
    try:
        return store.read_bytes(target, _MOST_YAML_BYTES).decode("utf-8")
    except (DamagedFile, FileNotFoundError):
        reason = (
            f"not a readable file of at most {_MOST_YAML_BYTES} bytes: give a smaller one, or take it out"
        )
        raise _Refused(reason) from None
    except UnicodeDecodeError:
        raise _Refused("not UTF-8: save the file as UTF-8") from None


def _check_nodes(root: yaml.Node, place: str) -> None:
    """Check everything in a file as it is written; nothing is built from it.

    Args:
        place: the part of Hydra's settings that the file is about; empty for all other settings.
    """
    seen: set[int] = set()
    waiting = [(root, place)]
    while waiting:
        node, place = waiting.pop()
        try:
            if id(node) in seen:
                raise _Refused("anchors are not followed: write the value out")
            seen.add(id(node))
            waiting += _checked_parts(node, place)
        except _Refused as refused:
            raise _Refused(f"line {node.start_mark.line + 1}: {refused}") from None


def _checked_parts(node: yaml.Node, place: str) -> list[tuple[yaml.Node, str]]:
    """Check a node by itself; returns what is inside it, each with its place."""
    if node.tag not in _PLAIN_TAGS:
        raise _Refused(f"tag {node.tag[:_SHOWN]!r} would build an object: write plain values")
    if isinstance(node, yaml.ScalarNode):
        _check_scalar(node.value)
        return []
    if isinstance(node, yaml.SequenceNode):
        return [(item, place) for item in node.value]
    for key, item in node.value:
        if not isinstance(key, yaml.ScalarNode) or key.tag not in _PLAIN_TAGS:
            raise _Refused("a key is no plain word: write one")
        _check_key(key.value, item, place)
    return [(item, _below(place, key.value)) for key, item in node.value]


def _below(place: str, key: str) -> str:
    """Where in Hydra's settings a key leads; empty for all other settings."""
    return f"{place}.{key}" if place else key if key == "hydra" else ""


def _check_scalar(text: str) -> None:
    if len(text) > _MOST_CHARACTERS or not text.replace("\n", "").replace("\t", "").isprintable():
        raise _Refused("a text that is too long or cannot be printed: write a plain value")
    _check_text(text)


def _check_key(key: str, item: yaml.Node, place: str) -> None:
    _check_scalar(key)
    if isinstance(item, yaml.ScalarNode):
        _check_secret(key, item.value)
    if place == _PARAMS:
        if not isinstance(item, yaml.ScalarNode):
            raise _Refused(f"{key[:_SHOWN]}: expected one text like 'a,b'")
        _check_word(f"{key}={item.value}")
    elif place == "hydra.launcher" and key in _SHELL_KEYS:
        raise _Refused(f"{place}.{key} would run commands: give it on the command line")
    elif key not in _IN_A_FILE.get(place, (key,)) or (not place and key != "hydra" and _HYDRA.match(key)):
        raise _Refused(
            f"'{key[:_SHOWN]}' can run code: a file may set hydra.launcher.KEY and {_PARAMS}.KEY only"
        )
    elif place in _IN_A_FILE or (not place and key == "hydra"):
        if not isinstance(item, yaml.MappingNode):
            raise _Refused(f"{key}: expected settings below it")
    elif key == "defaults":
        _check_defaults(item)


def _check_defaults(node: yaml.Node) -> None:
    """A defaults list may name files of the configuration folder, and a launcher."""
    for entry in node.value if isinstance(node, yaml.SequenceNode) else [node]:
        for key, item in entry.value if isinstance(entry, yaml.MappingNode) else [(None, entry)]:
            group = str(key.value) if key is not None else ""
            for choice in item.value if isinstance(item, yaml.SequenceNode) else [item]:
                _check_choice(group, str(choice.value))


def _check_choice(group: str, name: str) -> None:
    group = re.sub(r"^(?:(?:optional|override)\s+)*/?", "", group)
    told = f"'{group}: {name}'"[:_SHOWN]
    if _HYDRA.search(f"{group if group != 'hydra/launcher' else ''} {name}"):
        raise _Refused(f"{told} can run code: a file may choose hydra/launcher only")
    inside = f"{group}/{name}" if group else name.removeprefix("/")
    if _ELSEWHERE.search(inside) or set("@:") & set(inside):
        raise _Refused(f"{told} is no file of the configuration folder: name one")
