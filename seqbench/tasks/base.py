"""What every task declares, and the two kinds of data: generated afresh, or a fixed set of sequences."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from seqbench.batch import Batch, Bools, Ints, Rows, bucketed, in_length_order, trim
from seqbench.errors import UsageError, nearest
from seqbench.metric import ACCURACY, METRICS, Goal
from seqbench.schema import setting
from seqbench.seeds import stream

EVAL_BATCH = 128


@dataclass(frozen=True)
class Card:
    """The definition card of a task variant.

    Attributes:
        id: names the variant; numbers of different ids are never comparable.
        tests: what solving it requires.
        definition: exactly what is drawn and asked.
        source: paper and section.
        floors: scores that need no learning of the point, by name, the worst first; exact.
        reference_points: published or known scores to read a result against, by source.
        answers: "many-to-one", "many-to-many" or "one-to-many".
        metric: what scores and floors are, a name of :data:`seqbench.metric.METRICS`.
        loss: what is trained on; every other position is neither trained nor scored.
        slice_axis: what the extra test sets differ in ("length", "number of pairs"), if there are any.
        trained_to: the largest value on that axis that training shows.
    """

    id: str
    tests: str
    definition: str
    source: str
    floors: dict[str, float]
    reference_points: dict[str, float] = dataclasses.field(default_factory=dict)
    answers: str = "many-to-one"
    metric: str = ACCURACY.name
    loss: str = "cross-entropy at the scored answers"
    slice_axis: str = ""
    trained_to: int | None = None


def example(cls: type) -> str:
    """The worked example: a task's docstring from the word "Example" on."""
    text = inspect.getdoc(cls) or ""
    return text[text.index("Example") :] if "Example" in text else ""


@dataclass(frozen=True)
class Writer:
    """How a network's answers become a text.

    Attributes:
        prompt_T: ids to go on from.
        window: ids that are read at once, at most.
        next_id: the input id of an answer.
        spelled: ids as text.
    """

    prompt_T: Ints
    window: int
    next_id: Callable[[int], int]
    spelled: Callable[[Ints], str]


class Data(ABC):
    """The data of one run: an endless training stream and held-out splits from separate streams.

    Attributes:
        features: numbers at every step where the inputs are numbers; 0 where they are tokens.
        floors: floors that only the data itself tells (majority class), in addition to the card's.
        notes: counts about the data, for the record.
    """

    vocabulary_size: int
    classes: int
    features: int = 0
    examples_per_epoch: int | None = None  # None: fresh data, no epochs
    floors: Mapping[str, float] = MappingProxyType({})
    notes: Mapping[str, int | float] = MappingProxyType({})

    @abstractmethod
    def train(self, batch_size: int) -> Iterator[Batch]:
        """Training batches, endlessly; the same for every model of a seed."""

    @abstractmethod
    def held_out(self, split: str, examples: int) -> list[Batch]:
        """Batches of "valid" or "test"; fixed data returns the whole split."""

    @abstractmethod
    def probe(self, examples: int) -> Batch:
        """One held-out batch for probes, the same for every model of a seed."""

    def writer(self) -> Writer | None:
        """What lets a trained network write a text; None where its answers are no next tokens."""
        return None

    def slices(self, examples: int) -> Iterator[tuple[int, list[Batch]]]:
        """Extra test sets along the card's ``slice_axis``: each value with its batches."""
        return iter(())


@dataclass
class TaskConfig:
    """Settings that all tasks share.

    A subclass is decorated with ``@register("task")`` and ``@dataclass``, sets ``name``, and implements
    :meth:`card` and :meth:`open`. A task with a ladder (several lengths, say) trains one run per rung.
    """

    ladder: ClassVar[str | None] = None  # the list-valued setting whose entries are separate runs
    ladder_symbol: ClassVar[str] = ""  # how a rung is written: "T" gives "T=16"
    forbids_looking_ahead: ClassVar[bool] = False  # the answers are later inputs
    needs_preparation: ClassVar[bool] = False  # data to load and cache before the first run

    name: str = "?"
    solved_at: float | None = setting(
        None, "held-out score, twice in a row, that counts as solved; null: never", maximum=1.0
    )

    @property
    def features(self) -> int:
        """Numbers at every step where the inputs are numbers; 0 where they are tokens."""
        return 0

    def check(self) -> None:
        """Refuse settings that cannot work; called before anything heavy starts.

        Raises:
            UsageError: with the key to change.
        """

    def rungs(self) -> list[TaskConfig]:
        """This task once per entry of its ladder, or just itself."""
        if self.ladder is None:
            return [self]
        rungs: list[dict[str, Any]] = [{self.ladder: [value]} for value in getattr(self, self.ladder)]
        return [dataclasses.replace(self, **rung) for rung in rungs]

    def rung(self) -> int | None:
        """The ladder's value, once there is only one."""
        return None if self.ladder is None else int(getattr(self, self.ladder)[0])

    def cost(self) -> float:
        """Relative cost of a training step, to start long runs first."""
        return 1.0

    def prepare(self, cache: Path) -> None:
        """Load and cache what :meth:`open` needs; runs once before the first run.

        Raises:
            UsageError: the data cannot be used; names the file, the reason and the fix.
        """

    def card(self) -> Card:
        """The definition card of this variant (of one rung)."""
        raise NotImplementedError

    def goal(self) -> Goal:
        """What training is judged by.

        Raises:
            UsageError: the card names a metric that does not exist.
        """
        name = self.card().metric
        if name not in METRICS:
            raise UsageError(
                f"task={self.name}: no metric {name!r}; {nearest(name, METRICS)}: name it in card()"
            )
        return Goal(METRICS[name], self.solved_at)

    def oracle(self, batch: Batch) -> npt.NDArray[Any] | None:
        """Answers of a player who follows the definition and sees the inputs alone, never the targets.

        Shaped like ``batch.targets``; what it says where nothing is asked does not matter. Written apart from
        :meth:`sample`, so that the two check each other. None where no such player is definable.
        """
        return None

    def relevant(self, batch: Batch) -> Bools | None:
        """Which tokens decide the last scored answer of each sequence, ``(B, T)``; probes look at them.

        True at a token if, by the definition, putting another of its kind in its place can change that answer
        while the question stays the same: at the value that is asked for, and at the key it is found by. The
        question (the last query, a delimiter) is not marked, nor is padding. Every unmarked token can be
        replaced by another of its kind without changing the answer. None where all tokens count, or where the
        task does not say.
        """
        return None

    def fingerprint(self) -> list[str]:
        """What identifies data that comes from outside; part of a run's identity."""
        return []

    def described(self) -> dict[str, Any]:
        """The card as plain data, with how a rung is written and the worked example, for records."""
        own = {
            "rung_symbol": self.ladder_symbol,
            "example": example(type(self)).replace("``", "").splitlines(),
        }
        return {**dataclasses.asdict(self.card()), **own}

    def open(self, seed: int, cache: Path) -> Data:
        """The data of the run with this seed."""
        raise NotImplementedError


@dataclass
class GeneratedTask(TaskConfig):
    """A task whose examples are drawn afresh: implement :meth:`sample` and the two sizes."""

    batches_at_once: ClassVar[int] = 1  # drawn together for training, where many small draws cost too much

    @property
    def vocabulary_size(self) -> int:
        """Number of token ids, padding (0) included."""
        raise NotImplementedError

    @property
    def classes(self) -> int:
        """Number of possible answers; 1 where the answer is a number."""
        raise NotImplementedError

    def sample(self, rng: np.random.Generator, examples: int) -> Batch:
        """Draw a batch of examples."""
        raise NotImplementedError

    def slice_values(self) -> list[int]:
        """Values of the card's ``slice_axis`` (lengths, say) at which a trained network is tested too."""
        return []

    def sample_slice(self, rng: np.random.Generator, examples: int, value: int) -> Batch:
        """Draw a batch of examples that all have this value on the axis."""
        raise NotImplementedError

    def open(self, seed: int, cache: Path) -> Data:
        return FreshData(self, seed)


class FreshData(Data):
    """Never the same example twice: training, validation and test draw from separate streams."""

    def __init__(self, task: GeneratedTask, seed: int) -> None:
        self.task, self.seed = task, seed
        self.vocabulary_size, self.classes = task.vocabulary_size, task.classes
        self.features = task.features

    def train(self, batch_size: int) -> Iterator[Batch]:
        rng, several = stream(self.seed, "train"), self.task.batches_at_once
        while several == 1:
            yield self.task.sample(rng, batch_size)
        while True:
            block = self.task.sample(rng, several * batch_size)
            for start in range(0, several * batch_size, batch_size):
                yield trim(block.rows(start, start + batch_size))

    def held_out(self, split: str, examples: int) -> list[Batch]:
        rng = stream(self.seed, split)
        return [self.task.sample(rng, size) for size in _sizes(examples)]

    def slices(self, examples: int) -> Iterator[tuple[int, list[Batch]]]:
        for value in self.task.slice_values():
            rng = stream(self.seed, "slice", value)
            yield value, [self.task.sample_slice(rng, size, value) for size in _sizes(examples)]

    def probe(self, examples: int) -> Batch:
        return self.task.sample(stream(self.seed, "probe"), examples)


def _sizes(examples: int) -> list[int]:
    """Batches that an evaluation is cut into."""
    sizes = [EVAL_BATCH] * (examples // EVAL_BATCH) + [examples % EVAL_BATCH]
    return [size for size in sizes if size]


class FixedData(Data):
    """A data set: training shuffled and bucketed anew each epoch, splits read whole."""

    def __init__(
        self, splits: Mapping[str, Rows], vocabulary_size: int, classes: int, seed: int, features: int = 0
    ) -> None:
        self.splits, self.seed = splits, seed
        self.vocabulary_size, self.classes, self.features = vocabulary_size, classes, features
        self.examples_per_epoch = len(splits["train"])

    def train(self, batch_size: int) -> Iterator[Batch]:
        rows = self.splits["train"]
        rng = stream(self.seed, "order")
        for _ in itertools.count():
            for index_B in bucketed(rows.lengths, batch_size, rng):
                yield rows.take(index_B)

    def held_out(self, split: str, examples: int) -> list[Batch]:
        rows = self.splits[split]
        return [rows.take(index_B) for index_B in in_length_order(rows.lengths, EVAL_BATCH)]

    def probe(self, examples: int) -> Batch:
        rows = self.splits["valid"]
        rng = stream(self.seed, "probe")
        return rows.take(rng.choice(len(rows), size=min(examples, len(rows)), replace=False))
