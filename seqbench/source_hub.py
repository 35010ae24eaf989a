"""Labelled texts from the Hugging Face hub through ``datasets``, always at a pinned commit."""

from __future__ import annotations

import os
import re
import socket
import threading
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from seqbench.errors import UsageError, nearest
from seqbench.source_formats import dataset_rows
from seqbench.source_rows import Columns, Row

PROBE_S = 2.0
ENDPOINT = "https://huggingface.co"
_ANSWER_S = 5.0
_LONGEST_REASON = 300
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/\w[\w.-]*", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SPLITS = {"train": ("train",), "valid": ("validation", "valid", "val", "dev"), "test": ("test",)}
_LOCAL = "put the data set into a folder and add task.path=FOLDER"


@dataclass(frozen=True)
class HubDataset:
    """A data set on the hub, pinned to a commit, so that it can never change between two runs."""

    name: str
    revision: str
    subset: str | None = None

    def check(self) -> None:
        """Refuse names and revisions that cannot be meant, before anything is loaded.

        Raises:
            UsageError: no owner/name, no commit (and, where the hub answers, which one is the newest), or a
                folder of that name, which ``datasets`` would read instead.
        """
        if not _NAME.fullmatch(self.name):
            raise UsageError(f"task.hub={self.name}: expected owner/name, as on {ENDPOINT}/datasets")
        if not _COMMIT.fullmatch(self.revision):
            newest = newest_commit(self.name)
            raise UsageError(
                f"task.hub={self.name}: data on the hub can change, so name a commit: add task.revision="
                + (f"{newest} (the newest)" if newest else f"the 40 digits from {_history(self.name)}")
            )
        if Path(self.name).exists():
            raise UsageError(
                f"{self.name}: there is a folder of that name here: to read it add task.path={self.name}, "
                "to read from the hub start in another folder"
            )


def _history(name: str) -> str:
    return f"{ENDPOINT}/datasets/{name}/commits/main"


def read_hub(hub: HubDataset, columns: Columns, needed: Collection[str]) -> dict[str, Iterator[Row]]:
    """The splits "train", "valid" and "test", where there; from the cache of ``datasets`` if it has them.

    Raises:
        UsageError: the hub cannot be reached and this commit is not cached, or what is needed is missing.
    """
    hub.check()
    found = _loaded(hub)
    splits = {}
    for split, names in _SPLITS.items():
        name = next((name for name in names if name in found), None)
        if name is not None:
            _refuse_other_commit(hub, found[name])
            splits[split] = dataset_rows(found[name], f"{hub.name}/{name}", columns)
        elif split in needed:
            there = nearest(split, map(str, found))
            raise UsageError(f"{hub.name}: no split '{split}'; {there}: {_LOCAL}")
    return splits


def _loaded(hub: HubDataset) -> Any:
    """All splits of the data set, a ``datasets.DatasetDict``."""
    offline = _told_offline()
    if not offline and not reachable():
        os.environ["HF_HUB_OFFLINE"] = "1"  # else datasets tries again for 24 s before it looks at its cache
        offline = True
    import datasets  # type: ignore[import-untyped]

    try:
        return datasets.load_dataset(hub.name, hub.subset, revision=hub.revision)
    except Exception as error:  # datasets raises a dozen kinds for a hub that does not answer
        if offline:
            raise UsageError(
                f"{hub.name}: the hub cannot be reached, and the data set is not cached here: {_LOCAL}"
            ) from error
        reason = " ".join(str(error).split())[:_LONGEST_REASON] or type(error).__name__
        raise UsageError(
            f"{hub.name}: {reason}: check task.hub, task.revision and task.subset, or {_LOCAL}"
        ) from error


def _refuse_other_commit(hub: HubDataset, table: Any) -> None:
    """Without the hub, ``datasets`` takes what it cached last, whatever commit was asked for."""
    files = [str(file["filename"]) for file in table.cache_files]
    if files and not all(hub.revision in Path(file).parts for file in files):
        raise UsageError(
            f"{hub.name}: the hub cannot be reached, and only another commit is cached here "
            f"({Path(files[0]).parent.name[:40]}): {_LOCAL}"
        )


def _told_offline() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def newest_commit(name: str) -> str | None:
    """The newest commit of a data set; None where the hub does not answer or knows none."""
    if _told_offline() or not reachable():
        return None
    from huggingface_hub import HfApi

    try:
        api = HfApi(endpoint=os.environ.get("HF_ENDPOINT", ENDPOINT))
        return api.dataset_info(name, timeout=_ANSWER_S).sha
    except Exception:  # this is a hint in an error; whatever goes wrong here must not hide that one
        return None


def reachable(timeout_s: float = PROBE_S) -> bool:
    """Whether the hub (or the proxy on the way to it) accepts a connection within ``timeout_s``."""
    endpoint = urlsplit(os.environ.get("HF_ENDPOINT", ENDPOINT))
    proxy = getproxies().get(endpoint.scheme) or getproxies().get("all")
    target = endpoint if proxy is None else urlsplit(proxy if "//" in proxy else f"//{proxy}")
    port = target.port or (80 if target.scheme == "http" else 443)
    answered = threading.Event()

    def connect() -> None:
        try:
            socket.create_connection((target.hostname, port), timeout_s).close()
            answered.set()
        except OSError:
            pass

    thread = threading.Thread(target=connect, daemon=True)  # looking a name up knows no time limit
    thread.start()
    thread.join(timeout_s)
    return answered.is_set()
