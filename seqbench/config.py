"""The settings of a job: what Hydra composes and what every run records. No torch here."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from seqbench.budget import duration_s
from seqbench.errors import UsageError
from seqbench.models.base import ModelConfig
from seqbench.schema import check, setting
from seqbench.tasks.base import TaskConfig

PARAMETERS = 35_000  # of encoder and head, where nobody says how many


@dataclass
class NetworkConfig:
    """Everything around the encoder; the same for every model of a comparison."""

    embedding: str = setting("learned", "how token ids become vectors", choices=("learned", "onehot"))
    embedding_width: int = setting(48, "width of learned embeddings", minimum=1)
    readout: str = setting(
        "last", "many-to-one summary: last valid state, mean or maximum", choices=("last", "mean", "max")
    )
    dropout: float = setting(
        0.0, "dropout after the embedding and before the head", minimum=0.0, maximum=0.95
    )


@dataclass
class TrainConfig:
    """The budget and the optimiser (AdamW); the same for every model unless tuned."""

    steps: int = setting(400, "most training steps", unit="steps", minimum=1)
    epochs: float | None = setting(
        None, "passes over a fixed data set; replaces steps", unit="epochs", minimum=0.001
    )
    batch_size: int = setting(32, "sequences per step", minimum=1)
    lr: float = setting(3e-3, "peak learning rate", minimum=0.0)
    tuned: bool = setting(False, "the learning rate was tuned for this model and task (conf/tuned says so)")
    weight_decay: float = setting(0.0, "decoupled weight decay", minimum=0.0)
    warmup: float = setting(0.1, "share of the steps with rising learning rate", minimum=0.0, maximum=1.0)
    schedule: str = setting("cosine", "learning rate after the warm-up", choices=("cosine", "constant"))
    clip: float = setting(1.0, "largest gradient norm; 0: never clip", minimum=0.0)
    eval_every: int = setting(50, "steps between evaluations", unit="steps", minimum=1)
    eval_examples: int = setting(512, "held-out sequences per evaluation (fresh data)", minimum=1)
    test_examples: int = setting(1024, "held-out sequences of the final test (fresh data)", minimum=1)
    slice_examples: int = setting(
        256, "held-out sequences of each extra test, longer than in training, say (fresh data)", minimum=1
    )
    stop_when_solved: bool = setting(True, "stop once task.solved_at is reached twice in a row")
    keep_best: bool = setting(False, "test the weights with the best validation score")
    log_every: int = setting(10, "steps between synchronisations for logging", unit="steps", minimum=1)
    precision: str = setting(
        "float32",
        "of matrix products in training and evaluation (autocast); weights, optimiser, recurrences and all "
        "that is logged stay float32; float16 needs a GPU",
        choices=("float32", "bfloat16", "float16"),
    )
    cuda_graph: bool = setting(
        False, "replay the forward and backward pass of each shape of a batch as a CUDA graph; needs a GPU"
    )


@dataclass
class MatchConfig:
    """Fairness of size: the width is solved so that every model costs the same."""

    by: str = setting(
        "params",
        "what is made equal: trainable parameters; floating-point operations of a forward pass; numbers kept "
        "of a sequence (state, or keys and values); time of a training step; or nothing",
        choices=("params", "flops", "state", "time", "none"),
    )
    target: int | None = setting(
        None,
        "how much: parameters of encoder and head (null: 35,000; the shared embedding is not counted), "
        "operations or numbers per sequence (null: what the sweep's first model has at its own width or "
        "35,000 parameters, as always for time)",
        minimum=1,
        maximum=1e15,
    )
    rung: int | None = setting(
        None,
        "rung of the task's ladder whose sequences count for all others, by flops, state and time; null: the "
        "highest",
        minimum=1,
    )
    reference: Any = setting(None, "settings of the model that is matched to; the sweep's first one")

    @property
    def measured(self) -> bool:
        """Whether the cost depends on the task's sequences."""
        return self.by in ("flops", "state", "time")

    def check(self) -> None:
        """Fill in the usual number of parameters; refuse a target of seconds or nothing, an idle rung."""
        if self.by == "params" and self.target is None:
            self.target = PARAMETERS
        if self.by == "time" and self.target is not None:
            raise UsageError(
                f"match.target={self.target}: match.by=time takes the time of the sweep's first model: leave "
                "match.target out"
            )
        if self.by == "none" and self.target is not None:
            raise UsageError(f"match.target={self.target}: match.by=none makes nothing equal: leave one out")
        if self.rung is not None and not self.measured:
            raise UsageError(
                f"match.rung={self.rung}: match.by={self.by} looks at no sequences: leave match.rung out, or "
                "match by flops, state or time"
            )


@dataclass
class SpeedConfig:
    """The undisturbed speed measurement after training: alone on the machine, in a process of its own."""

    enabled: bool = setting(True, "measure speed after training")
    lengths: list[int] = setting(
        [], "extra rungs of the task's ladder to time; empty: its own rungs", minimum=1
    )
    seconds: float = setting(0.4, "time spent on each rung", unit="s", minimum=0.0)
    min_steps: int = setting(8, "fewest timed steps of each rung", unit="steps", minimum=3)
    steps: list[int] = setting(
        [], "lengths of full sequences to time beside the task's own, at train.batch_size; empty: none",
        unit="steps", minimum=1,
    )  # fmt: skip
    batch_sizes: list[int] = setting(
        [], "batch sizes to time, of full sequences of speed.batch_steps; empty: none", minimum=1
    )
    batch_steps: int = setting(128, "length at which batch sizes are timed", unit="steps", minimum=1)
    point_s: float = setting(
        30.0, "longest time a length or batch size may take; what would take longer is left out, and said",
        unit="s", minimum=0.001,
    )  # fmt: skip
    memory_mib: float | None = setting(
        None, "most memory one of them may take; null: half of what is free", unit="MiB", minimum=1.0
    )
    only: bool = setting(False, "train nothing: time the lengths and batch sizes, or else the task's own")

    @property
    def has_grid(self) -> bool:
        """Whether lengths or batch sizes are timed beside the task's own."""
        return bool(self.steps or self.batch_sizes)

    @property
    def grid_alone(self) -> bool:
        """Whether they are timed instead of the task's own."""
        return self.only and self.has_grid

    def check(self) -> None:
        """Refuse a measurement that is all there is and switched off, and points that stand there twice."""
        if self.only and not self.enabled:
            raise UsageError("speed.only=true speed.enabled=false: nothing is left to do: leave one out")
        for name, values in (("steps", self.steps), ("batch_sizes", self.batch_sizes)):
            if len(set(values)) != len(values):
                raise UsageError(f"speed.{name}={values}: expected different values, like [32,64]")


@dataclass
class TuningConfig:
    """What ``tune=N`` searches, and where it writes what it finds."""

    low: float = setting(3e-4, "lowest learning rate", minimum=1e-12)
    high: float = setting(3e-2, "highest learning rate", minimum=1e-12)
    others: bool = setting(True, "also vary what a model declares beside it (forget_bias of an lstm, say)")
    halvings: int = setting(
        1, "rounds before the last, each with half the steps of the next; half of the trials go on",
        minimum=0, maximum=6,
    )  # fmt: skip
    seeds: list[int] = setting(
        [1000, 1001], "seeds of the trials, never evaluation seeds", minimum=0, maximum=1e18
    )
    dir: str | None = setting(
        None,
        "where TASK-MODEL.yaml is written; null: conf/tuned in a checkout, else a folder tuned beside runs",
    )

    def check(self) -> None:
        """A range, and different seeds."""
        if not self.low < self.high:
            raise UsageError(f"tuning.low={self.low:g}: must be less than tuning.high={self.high:g}")
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise UsageError(f"tuning.seeds={self.seeds}: expected different seeds, like [1000,1001]")
        if self.dir is not None and not self.dir.strip():
            raise UsageError("tuning.dir=: expected a folder, like tuning.dir=tuned; or leave it out")


@dataclass
class LimitConfig:
    """What a run may use before it is stopped and recorded as such."""

    time_s: float = setting(7200.0, "wall-clock limit of a run", unit="s", minimum=1.0)
    memory_mib: float | None = setting(
        None,
        "memory that a run may take on top of the program itself; null: no limit",
        unit="MiB",
        minimum=1.0,
    )


@dataclass
class Job:
    """One point of a sweep: task x model x settings, with all its seeds."""

    task: TaskConfig = field(default_factory=TaskConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    match: MatchConfig = field(default_factory=MatchConfig)
    speed: SpeedConfig = field(default_factory=SpeedConfig)
    limit: LimitConfig = field(default_factory=LimitConfig)
    seeds: Any = setting(3, "number of seeds (0, 1, ...), or a list of seeds")
    tune: int = setting(
        0, "trials for each model, on validation, before the comparison; 0: settings as they are", minimum=0,
        maximum=1000,
    )  # fmt: skip
    tuning: TuningConfig = field(default_factory=TuningConfig)
    canaries: bool = setting(
        True, "train a bag of tokens and a constant beside every comparison (one seed), as measured floors"
    )
    probes: list[str] = setting(["gradient_flow", "state_flow", "hops"], "what to measure on each network")
    device: str = setting("auto", "where to train", choices=("auto", "cpu", "cuda"))
    workers: int | None = setting(
        None, "runs side by side, one thread each; null: one per core (one on a GPU)", minimum=1
    )
    stack: int = setting(
        1,
        "seeds of a job that are trained as one network in one process, where the model allows it; pays on a "
        "GPU, for small models",
        minimum=1,
    )
    budget: str = setting(
        "",
        "time for the whole command, like 90s, 10m or 1h30m: it chooses seeds, and trials of untuned models",
    )
    dry_run: bool = setting(False, "time a pilot, print what would run and how long it takes, and stop")
    sweep: str = setting("", "name of the folder below runs/; empty: made from the command")
    runs_dir: str = setting("runs", "where records are written")
    reports_dir: str = setting("reports", "where reports are written")
    report: str = setting(
        "full",
        "what is written: the full report, a lesson for students from the same records (NAME.lesson.html), "
        "or both",
        choices=("full", "lesson", "both"),
    )
    cache_dir: str | None = setting(None, "prepared data sets; null: the user's cache folder")
    force: bool = setting(False, "redo runs that are already finished")
    fail_fast: bool = setting(False, "stop the sweep at the first run that does not end well")
    retries: int = setting(
        2, "how often a run starts again, from its checkpoint, when its process or worker was killed",
        minimum=0, maximum=100,
    )  # fmt: skip
    anywhere: bool = setting(
        False,
        "a run counts as the same on any processor; so it is under hydra/launcher=slurm and ray",
    )
    checkpoint_s: float = setting(
        60.0, "time between checkpoints, from which an interrupted run goes on", unit="s", minimum=0.0
    )

    def check(self) -> None:
        """Normalise the seeds; refuse impossible ones and a ladder without distinct rungs."""
        self.seeds = seed_list(self.seeds)
        duration_s(self.budget)
        self._check_tuning()
        ladder = self.task.ladder
        if ladder is not None:
            values = getattr(self.task, ladder)
            if not values or len(set(values)) != len(values):
                raise UsageError(f"task.{ladder}={values}: expected different values, like [16,32]")
        if self.network.embedding == "onehot" and self.task.features:
            raise UsageError(
                f"network.embedding=onehot: the inputs of '{self.task.name}' are numbers, not tokens: "
                "leave it out"
            )
        if self.match.rung is not None and ladder is None:
            raise UsageError(f"match.rung={self.match.rung}: '{self.task.name}' has no ladder: leave it out")
        if ladder is not None and self.match.rung not in (None, *values):
            raise UsageError(f"match.rung={self.match.rung}: not one of task.{ladder}={values}")
        if self.match.by == "state" and self.model.looks_ahead:
            raise UsageError(
                f"match.by=state model={self.model.name}: a model that reads ahead keeps its whole input, "
                "not a state: match it by params, flops or time"
            )
        if self.task.forbids_looking_ahead and self.model.looks_ahead:
            raise UsageError(
                f"task={self.task.name} model={self.model.name}: the answer at each position is the next "
                "input, which a model that reads ahead sees: take one that reads left to right"
            )

    def _check_tuning(self) -> None:
        if self.tune and self.speed.only:
            raise UsageError(f"tune={self.tune} speed.only=true: tuning trains models: leave one out")
        if 0 < self.tune < _FEWEST_TRIALS:
            raise UsageError(
                f"tune={self.tune}: expected 0, or {_FEWEST_TRIALS} or more trials: fewer cannot show an edge"
            )
        if self.tune and (both := set(self.seeds) & set(self.tuning.seeds)):
            raise UsageError(
                f"tuning.seeds={self.tuning.seeds}: {min(both)} is one of seeds={self.seeds!s:.80}: "
                "tuning seeds must not be evaluation seeds"
            )


# Settings that say where and how often, not what: they do not change a run's identity.
_NOT_IDENTITY = (
    "seeds", "workers", "sweep", "runs_dir", "reports_dir", "report", "cache_dir", "force", "fail_fast",
    "limit", "retries", "anywhere", "checkpoint_s", "canaries", "tune", "tuning",
    "budget", "dry_run",
)  # fmt: skip


_MOST_SEEDS = 10_000
_FEWEST_TRIALS = 3
_LARGEST_SEED = 2**62


def seed_list(value: Any) -> list[int]:
    """Turn ``seeds`` into a list.

    >>> seed_list(3), seed_list([7, 9])
    ([0, 1, 2], [7, 9])
    """
    counted = isinstance(value, int) and not isinstance(value, bool) and value <= _MOST_SEEDS
    seeds = list(range(value)) if counted else value
    valid = (
        isinstance(seeds, list)
        and 0 < len(seeds) <= _MOST_SEEDS
        and all(isinstance(s, int) and not isinstance(s, bool) and 0 <= s < _LARGEST_SEED for s in seeds)
        and len(set(seeds)) == len(seeds)
    )
    if not valid:
        raise UsageError(
            f"seeds={value!s:.80}: expected a positive number, or a list of different seeds like [0,1,2]"
            f" (at most {_MOST_SEEDS:,})"
        )
    return list(seeds)


def name_reference(job: Job, jobs: list[Job]) -> None:
    """Say what a job is matched to, where that is another model's cost: on which rung, and whose.

    Raises:
        UsageError: somebody has said so already.
    """
    if job.match.reference is not None:
        raise UsageError("match.reference: cannot be given: name the model that others are matched to first")
    if not job.match.measured:
        return
    ladder = job.task.ladder
    if ladder is not None and job.match.rung is None:
        job.match.rung = max(getattr(job.task, ladder), default=None)
    job.match.reference = reference_of(job, jobs)


def reference_of(job: Job, jobs: Sequence[Job]) -> dict[str, Any] | None:
    """Settings of the model whose cost a job is matched to: the first on the same task; None without one.

    A canary, which costs next to nothing, is taken only where there is nothing else.
    """
    if not job.match.measured or job.match.target is not None:
        return None
    first = min((one for one in jobs if one.task.name == job.task.name), key=lambda one: one.model.canary)
    return dataclasses.asdict(first.model)


def at_matched_rung(job: Job) -> Job:
    """The job on the rung whose sequences count when its width is solved."""
    if job.task.ladder is None or job.match.rung is None:
        return job
    ladder: dict[str, Any] = {job.task.ladder: [job.match.rung]}
    return dataclasses.replace(job, task=dataclasses.replace(job.task, **ladder))


def checked(job: Job) -> Job:
    """Check every setting of a job.

    Raises:
        UsageError: names the first key that cannot be used.
    """
    check(job)
    return job


def settings(job: Job) -> dict[str, Any]:
    """The job as plain data, as recorded with each run (without settings that change nothing)."""
    one = dataclasses.replace(job, seeds=0)  # which are no part, and would be copied for each of them
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(one)))
    unsaid = ("stack",) if job.stack == 1 else ()
    return {key: value for key, value in plain.items() if key not in (*_NOT_IDENTITY, *unsaid)}
