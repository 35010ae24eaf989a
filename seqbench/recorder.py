"""Training or timing one unit, and the record of whatever came of it."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import math
import traceback
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import numpy as np
import torch

from seqbench import environment, native, records, store
from seqbench.batch import UNSCORED, Batch
from seqbench.build import build, pick_device
from seqbench.checkpoint import Checkpoint
from seqbench.config import settings
from seqbench.contract import check_contract
from seqbench.errors import UsageError
from seqbench.evaluate import evaluate
from seqbench.events import Events
from seqbench.generate import generate
from seqbench.layers import linear
from seqbench.layers.stacking import stacked
from seqbench.match import matched_parameters
from seqbench.memory import PeakMeter, is_out_of_memory, lift_memory_limit, limit_memory, peak_bytes
from seqbench.network import Network, parameter_count
from seqbench.plan import THREADS, Unit, cache_folder, ground_of
from seqbench.probes.base import NotApplicable
from seqbench.records import Run, Scalar
from seqbench.registry import lookup
from seqbench.secret import mask
from seqbench.seeds import number
from seqbench.speed_unit import time_unit
from seqbench.stepper import Columns, Diverged, extend
from seqbench.tasks.base import Data, TaskConfig
from seqbench.train import Outcome, Snapshot, Training

_PROBE_EXAMPLES = 16
_SAMPLE_TOKENS = 240


class Moved(Exception):
    """Code or data changed between planning and the end of the run."""


class Recorder:
    """Does the work of one unit and turns every outcome into a record.

    Args:
        allocator: whether glibc keeps freed memory.
        beside: units whose work this process does at the same time, this one included.
    """

    def __init__(self, unit: Unit, allocator: bool, beside: int = 1) -> None:
        self.beside = beside
        self.unit, self.job, self.allocator = unit, unit.job, allocator
        self.metrics: dict[str, Scalar] = {}
        self.tables: dict[str, Columns] = {}
        self.environment = environment.describe(unit.code_sha256) | {
            "threads": THREADS,
            "glibc_arena_reuse": allocator,
            "linear_products": linear.kernel(),
            "native_scans": native.fingerprint() is not None,
        }
        self.status = "done"
        self.error: dict[str, str] | None = None
        self.card = self.job.task.described()
        self.checkpoint = Checkpoint(unit.folder, unit.identity, self.job.checkpoint_s)

    def run(self) -> Run:
        """Train or time, then write the record and return it."""
        stages = self.stages()
        while True:
            try:
                next(stages)
            except StopIteration as end:
                run: Run = end.value
                return run

    def stages(self) -> Generator[Training, None, Run]:
        """The same, with a halt before training: others may train it, together with networks of their own."""
        with self._guarded():
            if self.unit.kind == "speed":
                self._speed()
            else:
                yield from self._train()
        return self._recorded()

    def _recorded(self) -> Run:
        """The record of what came of it, written."""
        lift_memory_limit()
        self.metrics["peak_memory_bytes"] = peak_bytes()
        run = Run(
            kind=self.unit.kind,
            identity=self.unit.identity,
            status=self.status,
            task=self.job.task.name,
            rung=self.unit.rung,
            model=self.job.model.name,
            seed=self.unit.seed,
            config=settings(self.job),
            label=self.unit.label,
            asked=self.unit.asked,
            ground=self.unit.ground,
            card=self.card,
            environment=self.environment,
            metrics=self.metrics,
            error=self.error,
        )
        run = self._commit(run)
        with contextlib.suppress(OSError):
            store.remove(self.unit.folder / records.EVENTS_FILE)
            if run.status in records.ENDED:
                self.checkpoint.discard()
        return run

    def _commit(self, run: Run) -> Run:
        """Write the record; where the disk does not take it, at least the reason, if that fits."""
        try:
            return records.write_run(self.unit.folder, run, self.tables)
        except Exception as error:  # a full disk, or a table or number of a plugin's that cannot be written
            traceback.print_exc()
            status = self._failed("failed", error)
            short = dataclasses.replace(run, status=status, metrics={}, error=self.error)
            return records.write_run(self.unit.folder, short, {})

    def _check_ground(self) -> None:
        """Refuse to go on when code or data are no longer what was planned: the identity would lie.

        Called when all code has been imported and the data opened; what is edited later changes nothing here.

        Raises:
            Moved: with the way on.
        """
        loaded = environment.code_sha256()  # taken when the server began to import (warm.py)
        environment.forget_sources()
        if loaded != self.unit.code_sha256 or ground_of(self.job) != self.unit.ground:
            raise Moved("code or data changed while the sweep ran: repeat the command")

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        """Within a limit of memory, turn what goes wrong into a status instead of raising."""
        try:
            if self.job.limit.memory_mib is not None:
                limit_memory(self.beside * self.job.limit.memory_mib, pick_device(self.job.device))
            yield
        except Diverged as error:
            self._keep(error.outcome)
            self.status = self._failed("diverged", error)
        except Exception as error:
            traceback.print_exc()
            self.status = self._failed("oom" if is_out_of_memory(error) else "failed", error)

    def _failed(self, status: str, error: Exception) -> str:
        frames = traceback.extract_tb(error.__traceback__)
        place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
        message = mask(str(error))[:2000]
        self.error = {"type": type(error).__name__, "message": message, "place": place}
        return status

    def _train(self) -> Iterator[Training]:
        job, seed = self.job, self.unit.seed
        device = pick_device(job.device)
        data = job.task.open(seed, cache_folder(job))
        self.card["floors"] |= data.floors
        self.card["notes"] = dict(data.notes)
        network, width = build(job, data, seed, device, self.unit.folder.parent)
        self._describe(network, width, device)
        first = data.probe(_PROBE_EXAMPLES)
        check_contract(network, first.checked(data.vocabulary_size, data.classes, data.features))
        self._refuse_looking_ahead(network)
        self._probe(network, data, "init")
        self._check_ground()
        memory = PeakMeter(device)
        torch.manual_seed(number(seed, "dropout"))
        events = Events(self.unit.folder / records.EVENTS_FILE)
        look = self._snapshot(data)
        training = Training(network, data, job.train, job.task.goal(), device, events, self.checkpoint, look)
        yield training
        self._say_how(training)
        outcome = training.to_end()
        training_bytes = memory.bytes() // training.stacked  # its share, as of the time
        self._keep(outcome)
        self.metrics["training_memory_bytes"] = training_bytes
        if self.unit.kind == "trial":  # tuning never looks at a test set
            return
        self._test(network, data, device)
        self._slices(network, data, device)
        self._harmless("sample", lambda: self._write(network, data))
        self._probe(network, data, "final")

    def _say_how(self, training: Training) -> None:
        """Whether it was trained as one with others, and by which kernel then."""
        if self.unit.stack:
            self.metrics["stacked"] = training.stacked
        if training.not_stacked:
            self.metrics["not_stacked"] = training.not_stacked
        if training.stacked > 1:
            with stacked():
                self.metrics["kernel"] = training.network.encoder.kernel

    def _refuse_looking_ahead(self, network: Network) -> None:
        """Composition refuses what says so in its settings; a user's layer may only say it once built."""
        if self.job.task.forbids_looking_ahead and not network.encoder.causal:
            raise UsageError(
                f"'{self.job.model.name}' reads ahead (causal = False), and the answers of "
                f"'{self.job.task.name}' are later inputs: take a model that reads left to right"
            )

    def _test(self, network: Network, data: Data, device: torch.device) -> None:
        """Score the network, and the task's own oracle, on the test set."""
        sizes = (data.vocabulary_size, data.classes, data.features)
        batches = data.held_out("test", self.job.train.test_examples)
        ready = [batch.checked(*sizes).tensors(device) for batch in batches]
        score = evaluate(network, ready, self.job.train.precision)
        self.metrics |= {
            "test_accuracy": score.accuracy if math.isfinite(score.accuracy) else None,
            "test_loss": score.loss,
            "test_answers": score.answers,
        }
        self._harmless("oracle", lambda: self._ask_oracle(batches))

    def _ask_oracle(self, batches: list[Batch]) -> None:
        oracle = oracle_score(self.job.task, batches)
        if oracle is not None:
            self.metrics["oracle_score"] = oracle

    def _harmless(self, name: str, look: Callable[[], None]) -> None:
        """Do what must never cost a trained network its record; its failure is a remark."""
        try:
            look()
        except Exception as error:
            traceback.print_exc()
            self.metrics[f"{name}_failed"] = f"{type(error).__name__}: {error}"[:500]

    def _write(self, network: Network, data: Data) -> None:
        """Let a network that predicts next tokens write a text, for the reader."""
        writer = data.writer()
        if writer is not None and math.isfinite(float(self.metrics["test_loss"] or 0.0)):
            drawn = number(self.unit.seed, "generate")
            ids = generate(network, writer.prompt_T, _SAMPLE_TOKENS, writer.window, writer.next_id, drawn)
            self.metrics["sample"] = writer.spelled(ids)
            self.metrics["sample_prompt"] = writer.spelled(writer.prompt_T)

    def _slices(self, network: Network, data: Data, device: torch.device) -> None:
        """Score the extra test sets: lengths beyond training, say."""
        table: Columns = {}
        for value, batches in data.slices(self.job.train.slice_examples):
            ready = [batch.tensors(device) for batch in batches]
            score = evaluate(network, ready, self.job.train.precision)
            row = {"value": value, "accuracy": score.accuracy, "loss": score.loss, "answers": score.answers}
            extend(table, {name: [one] for name, one in row.items()})
        if table:
            self.tables["slices"] = table

    def _describe(self, network: Network, width: int, device: torch.device) -> None:
        """Facts about the network and the device that a reader needs to judge the numbers."""
        self.environment["device"] = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
        self.metrics |= {
            "width": width,
            "parameters": parameter_count(network),
            "matched_parameters": matched_parameters(network),
            "kernel": network.encoder.kernel,
            "causal": network.encoder.causal,
            "readout": network.readout,
            "canary": type(self.job.model).canary,
            "companion": self.unit.companion,
        }

    def _keep(self, outcome: Outcome) -> None:
        """Put what training left into the record."""
        for probe, columns in outcome.snapshots.items():
            moments = {"moment": [f"step {step}" for step in columns["step"]]}
            taken = {name: column for name, column in columns.items() if name != "step"}
            extend(self.tables[probe], {**moments, **taken})
        self.tables |= {
            name: columns
            for name, columns in (
                ("steps", outcome.steps),
                ("parameters", outcome.parameters),
                ("updates", outcome.updates),
                ("evaluations", outcome.evaluations),
            )
            if columns
        }
        self.metrics |= {
            "steps": outcome.steps_done,
            "solved": outcome.solved_step is not None if self.job.task.solved_at is not None else None,
            "solved_step": outcome.solved_step,
            "solved_cpu_s": outcome.solved_cpu_s,
            "best_valid_score": outcome.best_score,
            "best_valid_loss": min(outcome.evaluations.get("loss", []), default=None),
            "train_cpu_s": outcome.train_cpu_s,
            "train_wall_s": outcome.train_wall_s,
            "trained_tokens": outcome.valid_tokens,
            "resumed_step": outcome.resumed_step,
            "skipped_steps": outcome.skipped_steps,
            "graph_shapes": outcome.graph_shapes,
            "eager_steps": outcome.eager_steps,
            "first_batch_sha256": outcome.first_batch_sha256,
            "data_sha256": outcome.data_sha256,
        }

    def _snapshot(self, data: Data) -> Snapshot | None:
        """The probes that also look on during training, where they were chosen and apply."""
        chosen = {name: lookup("probe", name)() for name in self.job.probes if name in self.tables}
        followed = {name: probe for name, probe in chosen.items() if getattr(probe, "in_training", False)}
        batch = self._marked(data.probe(_PROBE_EXAMPLES))

        def measure(name: str, network: Network, found: dict[str, Columns]) -> None:
            columns = followed[name].measure(network, batch)
            if {"moment", *columns} != {*self.tables[name]}:
                raise ValueError(f"columns {', '.join(columns)}: not those of before training")
            found[name] = columns

        def look(network: Network) -> dict[str, Columns]:
            found: dict[str, Columns] = {}
            for name in followed:
                self._harmless(name, functools.partial(measure, name, network, found))
            return found

        return look if followed else None

    def _probe(self, network: Network, data: Data, moment: str) -> None:
        """Run every chosen probe; one that cannot measure this network says why."""
        batch = self._marked(data.probe(_PROBE_EXAMPLES))
        for name in self.job.probes:
            try:
                columns = lookup("probe", name)().measure(network, batch)
                rows = len(next(iter(columns.values())))
                table = copy.deepcopy(self.tables.get(name, {}))
                extend(table, {"moment": [moment] * rows, **columns})
                records.parquet(table)  # what cannot be written is the probe's failure, not the run's
            except NotApplicable as reason:
                self.metrics[f"{name}_not_applicable"] = str(reason)
                continue
            except Exception as error:  # a probe must never cost the run it looks at
                traceback.print_exc()
                self.metrics[f"{name}_failed"] = f"{type(error).__name__}: {error}"[:500]
                continue
            self.tables[name] = table

    def _marked(self, batch: Batch) -> Batch:
        """The batch with the tokens marked that decide the last answers, where the task says which."""
        found = [batch]
        self._harmless("relevant", lambda: found.append(batch.marked(self.job.task.relevant(batch))))
        return found[-1]

    def _speed(self) -> None:
        """Time everything that the unit asks for, alone on the machine."""

        def ready(network: Network, width: int) -> None:
            self._describe(network, width, device)
            self._check_ground()

        device = pick_device(self.job.device)
        found = time_unit(self.unit, device, ready, self._harmless)
        self.tables |= found.tables
        self.metrics |= found.metrics
        self.environment |= found.environment


def oracle_score(task: TaskConfig, batches: list[Batch]) -> float | None:
    """What a player scores who follows the task's definition; None where none is definable."""
    pairs = [(task.oracle(batch), batch) for batch in batches]
    known = [(answers, batch) for answers, batch in pairs if answers is not None]
    if not known:
        return None
    if known[0][1].asks_numbers:
        return float(np.mean(np.concatenate([answers - batch.targets for answers, batch in known]) ** 2))
    return float(np.mean(np.concatenate([(a == b.targets)[b.targets != UNSCORED] for a, b in known])))
