"""A contestant's process: ``python -m peers.worker NAME``; one JSON object per line in and out.

``{"cell": [model, length]}`` starts training and is answered after the first step; ``{"steps": n}`` asks for
more; ``{"end": true}`` ends the training, and the end of the input ends the process.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
import traceback
import warnings
from importlib import metadata
from typing import Any

from peers.contestants import BY_NAME, Contestant
from peers.gate import Finished, Gate
from peers.work import Cell

_VARIANTS = {"tensorflow": ("tensorflow", "tensorflow-cpu")}  # distributions that bring the same package


class Channel:
    """The parent's orders and our answers; whatever the frameworks print goes to stderr instead."""

    def __init__(self) -> None:
        self._answers = os.fdopen(os.dup(1), "w", buffering=1)
        os.dup2(2, 1)

    def receive(self) -> dict[str, Any]:
        line = sys.stdin.readline()
        if not line:  # the parent has gone
            sys.exit(0)
        order: dict[str, Any] = json.loads(line)
        return order

    def send(self, answer: dict[str, Any]) -> None:
        self._answers.write(json.dumps(answer) + "\n")


def main(name: str) -> None:
    """Serve the parent until it closes the pipe."""
    warnings.simplefilter("ignore")
    channel, contestant = Channel(), BY_NAME[name]
    versions = {package: _version(package) for package in contestant.packages}
    absent = [package for package, version in versions.items() if version is None]
    channel.send({"missing": absent} if absent else {"versions": versions})
    while True:
        order = channel.receive()
        if "cell" in order:
            channel.send(_train(contestant, Cell(*order["cell"]), channel))


def _version(package: str) -> str | None:
    for variant in _VARIANTS.get(package, (package,)):
        with contextlib.suppress(metadata.PackageNotFoundError):
            return metadata.version(variant)
    return None


def _train(contestant: Contestant, cell: Cell, channel: Channel) -> dict[str, Any]:
    """Train until the parent has seen enough, or say what went wrong."""
    try:
        train = importlib.import_module(f"peers.{contestant.module}").train
        train(cell, Gate(channel.receive, channel.send))
    except Finished:
        return {"ended": True}
    except Exception as error:
        traceback.print_exc()
        first = (str(error).strip() or "no message").splitlines()[0]
        return {"failed": f"{type(error).__name__}: {first}"[:300]}
    return {"failed": "its training ended by itself"}


if __name__ == "__main__":
    main(sys.argv[1])
