"""``python -m seqbench.collect runs/NAME OTHER/NAME...``: bring the runs of several machines into one sweep.

Whole run folders are copied into the first folder, each verified first; then the plan is written with all
runs that may stand beside each other. Nothing that is finished is ever written over, no link is followed, and
no file is copied that a record does not name. Without another folder it takes in what was copied by hand.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from seqbench import collected, locks, records, store
from seqbench.collected import Adoption, Entry, Hint, Plan
from seqbench.errors import UsageError
from seqbench.records import NewerSchema, Run
from seqbench.store import DamagedFile

EXIT_FINE, EXIT_REFUSED, EXIT_USAGE = 0, 1, 2
DAMAGED = "damaged"
OTHER_NAME = "a folder of this name holds something else here"
AT_WORK = "the same run is at work here"
NOT_A_RUN = "not the record of a run that a sweep can have"
_MOST_NAMES = 10


@dataclass
class Told:
    """What became of the runs of other places.

    Attributes:
        taken, there: how many were copied, and were finished here before.
        refused: the folders that were not taken, by cause in words.
    """

    taken: int = 0
    there: int = 0
    refused: dict[str, list[str]] = field(default_factory=dict)

    def refuse(self, why: str, folder: Path, detail: str = "") -> None:
        """Note a folder that was not taken."""
        self.refused.setdefault(why, []).append(f"{folder}: {detail}" if detail else str(folder))


def main(argv: list[str] | None = None) -> int:
    """Collect, and say what was taken, what was there and what was refused.

    Returns:
        0 when all was taken or there, 1 when something was refused, 2 for what cannot be used.
    """
    arguments = _parser().parse_args(argv)
    try:
        with locks.busy():
            told, left_out, damaged = collect(arguments.folder, arguments.others)
    except (UsageError, OSError) as error:
        _say(f"seqbench.collect: {error}", sys.stderr)
        return EXIT_USAGE
    _say(f"{arguments.folder}: {told.taken} runs taken, {told.there} there already")
    for why, folders in told.refused.items():
        _say(f"refused, {why}: {len(folders)}")
        for name in folders[:_MOST_NAMES]:
            _say(f"  {name}")
        if len(folders) > _MOST_NAMES:
            _say(f"  ... and {len(folders) - _MOST_NAMES} more")
    if left_out:
        _say(f"left out of the sweep, though in its folder: {collected.in_words(left_out)}")
    for reason in list(damaged.values())[:_MOST_NAMES]:
        _say(f"not readable in its folder: {reason}")
    _say(f"see it: python -m seqbench.report {arguments.folder}")
    return EXIT_REFUSED if told.refused or damaged else EXIT_FINE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m seqbench.collect", description=__doc__)
    parser.add_argument(
        "folder", type=Path, help="the sweep that takes the runs, like runs/NAME (it may be new)"
    )
    parser.add_argument(
        "others", type=Path, nargs="*", metavar="OTHER", help="folders of the sweep elsewhere"
    )
    return parser


def _say(words: str, stream: Any = None) -> None:
    print("".join(c if c.isprintable() else "?" for c in words), file=stream or sys.stdout)


def collect(folder: Path, others: list[Path]) -> tuple[Told, Mapping[str, int], Mapping[str, str]]:
    """Copy the runs of other places into a sweep's folder and write its plan.

    Returns:
        What became of them; the finished runs in the folder that stay out of the sweep, by cause; and folders
        there that do not verify.

    Raises:
        UsageError: a folder is no sweep, or its plan cannot be used.
        OSError: the disk does not take it; what was copied stays, and the same command goes on.
    """
    plans = [_plan_of(other, folder) for other in others]
    if not folder.is_dir() and not plans:
        raise UsageError(
            f"{folder}: no such folder; give a sweep, like runs/NAME, and what to collect into it"
        )
    told = Told()
    store.make_folder(folder)
    with locks.file_lock(folder / records.LOCK_FILE):
        start = _start(folder, plans)
        adoption = Adoption(start["runs"], folder)
        for other in others:
            _take_all(folder, other, start, adoption, told)
        hints, commands = _hints(start, plans)
        grown, found = collected.grown({**start, "commands": commands}, folder, hints)
        plan = _with_commands(grown, len(start["commands"]))
        if plan["runs"] != start["runs"] or not (folder / records.PLAN_FILE).exists():
            records.write_plan(folder, plan)
    return told, found.left_out, found.damaged


# Plans


def _plan_of(other: Path, folder: Path) -> Plan:
    """The plan of another place; one without runs where there is none that can be read.

    Raises:
        UsageError: it is no folder, or the one that takes the runs.
    """
    if not other.is_dir():
        raise UsageError(
            f"{other}: no such folder; give the folder of a sweep elsewhere, like OTHER/runs/NAME"
        )
    if folder.exists() and other.samefile(folder):
        raise UsageError(f"{other}: it is the sweep that takes the runs; give another folder")
    try:
        return collected.tidy(records.read_plan(other))
    except (FileNotFoundError, DamagedFile):
        return {"runs": [], "commands": [], "models": []}


def _start(folder: Path, plans: list[Plan]) -> Plan:
    """The plan of the sweep that takes the runs; a new one starts with the first that there is elsewhere.

    Raises:
        UsageError: it cannot be read, or there is none anywhere.
    """
    try:
        return collected.tidy(records.read_plan(folder))
    except FileNotFoundError:
        first = next((plan for plan in plans if plan["runs"]), None)
    except DamagedFile as error:
        raise UsageError(f"{error}; repeat a command of the sweep, which finds its runs again") from None
    if first is None:
        raise UsageError(
            f"{folder}: no {records.PLAN_FILE} there or in what is to be collected; copy one too"
        )
    return {**first, "sweep": folder.resolve().name}


def _hints(start: Plan, plans: list[Plan]) -> tuple[dict[str, Hint], list[Any]]:
    """What the plans of other places say of their runs, and the commands of all plans."""
    hints: dict[str, Hint] = {}
    commands = list(start["commands"])
    free = 0
    for plan in plans:
        places = []
        for words in plan["commands"]:
            commands += [words] if words not in commands else []
            places.append(commands.index(words))
        for entry in plan["runs"]:
            number, base, job = entry.get("command"), entry.get("base"), entry.get("job")
            if isinstance(entry.get("identity"), str) and collected.whole(job):
                known = collected.whole(number) and 0 <= number < len(places)
                place = places[number] if known else len(commands)
                hint = Hint(free + job, base if isinstance(base, str) else "", place)
                hints.setdefault(entry["identity"], hint)
        free = max((hint.job for hint in hints.values()), default=-1) + 1
    return hints, commands


def _with_commands(plan: Plan, own: int) -> Plan:
    """The plan without commands of other places of which it has no runs."""
    used = {entry.get("command") for entry in plan["runs"]}
    kept = [n for n in range(len(plan["commands"])) if n < own or n in used]
    place = {number: position for position, number in enumerate(kept)}
    runs = [{**entry, "command": place.get(entry.get("command"), len(kept))} for entry in plan["runs"]]
    return {**plan, "commands": [plan["commands"][number] for number in kept], "runs": runs}


# Runs


def _take_all(folder: Path, other: Path, plan: Plan, adoption: Adoption, told: Told) -> None:
    """Copy what another place has of the sweep's runs, and what its plan can adopt."""
    planned = {entry["folder"]: entry.get("identity") for entry in plan["runs"]}
    for entry, run in _offered(other, told):
        name = entry["folder"]
        expected = planned.get(name) == run.identity
        if not expected and (_same(folder / name, run) or not (why := adoption.why_not(entry))):
            expected, why = True, ""
        if not expected:
            told.refuse(why, other / name)
        elif _copy(other / name, folder / name, run, told):
            adoption.take(entry)


def _offered(other: Path, told: Told) -> Iterator[tuple[Entry, Run]]:
    """The recorded runs of another place, canaries beside the comparison last."""
    found = []
    for name, run in collected.recorded(other):
        if isinstance(run, str):
            told.refuse(DAMAGED, other / name, run)
        elif (entry := collected.entry_of(name, run)) is None:
            told.refuse(NOT_A_RUN, other / name)
        else:
            found.append((entry, run))
    yield from sorted(found, key=lambda one: one[0]["companion"] is True)


def _same(place: Path, run: Run) -> bool:
    """Whether a finished record of the same run stands at a place."""
    with contextlib.suppress(NewerSchema):
        here = _record_at(place)
        return here is not None and here.status in records.ENDED and here.identity == run.identity
    return False


def _record_at(place: Path) -> Run | None:
    """The record of a run that is here; None without a whole one.

    Raises:
        NewerSchema: it is of a later version.
    """
    try:
        return records.read_run(place)
    except NewerSchema:
        raise
    except (FileNotFoundError, NotADirectoryError, DamagedFile):
        return None


def _copy(source: Path, place: Path, run: Run, told: Told) -> bool:
    """Copy a run; says whether it is here now."""
    if place.is_symlink() or (place.exists() and not place.is_dir()):
        told.refuse(OTHER_NAME, source)
        return False
    if not records.files_intact(source, run):
        told.refuse(DAMAGED, source, "a file is missing or not what the record says")
        return False
    store.make_folder(place)
    try:
        with locks.file_lock(place / records.LOCK_FILE, patience_s=0):
            return _put(source, place, run, told)
    except BlockingIOError:
        told.refuse(AT_WORK, source)
    except DamagedFile as error:
        told.refuse(DAMAGED, source, str(error))
    return False


def _put(source: Path, place: Path, run: Run, told: Told) -> bool:
    """Write a run's files, and its record last: it is the commit.

    What is finished here stays as it is; what is not is replaced by what is finished there.

    Raises:
        DamagedFile: a file changed since it was verified, or the record here is of a later version.
    """
    here = _record_at(place)
    if here is not None and here.identity != run.identity:
        told.refuse(OTHER_NAME, source)
        return False
    better = here is None or (run.status in records.ENDED and here.status not in records.ENDED)
    if here is not None and not better and records.files_intact(place, here):
        told.there += 1
        return True
    for name in run.files:
        store.write_file(place / name, records.verified(source, run, name), durable=False)
    store.flush_folder(place)
    store.write_sealed(place / records.RUN_FILE, dataclasses.asdict(run))
    store.remove(place / records.CHECKPOINT_FILE)  # the state of a run that was cut off here
    told.taken += 1
    return True


if __name__ == "__main__":
    sys.exit(main())
