"""Who takes part: what each is, where it runs, and how it is set up."""

from __future__ import annotations

from dataclasses import dataclass, field

from peers.work import BATCHES, MODELS

OURS, NAIVE, PACKED, PEAK = "seqbench", "naive", "packed", "matmul"
KERAS = ("keras-torch", "keras-tensorflow", "keras-jax")
FLAX = "flax"

_ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "1",
    "TF_CPP_MIN_LOG_LEVEL": "2",
    "TF_ENABLE_ONEDNN_OPTS": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "KERAS_HOME": "/dev/null",
}


@dataclass(frozen=True)
class Contestant:
    """One way to train the standard work.

    Attributes:
        title: as the table names it.
        how: the settings that were chosen for it, in words.
        module: what of this package holds its ``train(cell, gate)``.
        packages: distributions it needs, beside numpy.
        apart: whether it runs in the peers' environment instead of seqbench's own.
        compiles: its first steps include compiling.
        at_once: its loop can be held only after so many steps; with batches sorted by length, an epoch.
    """

    name: str
    title: str
    how: str
    module: str
    packages: tuple[str, ...] = ("torch",)
    apart: bool = True
    models: tuple[str, ...] = MODELS
    variables: dict[str, str] = field(default_factory=dict)
    compiles: bool = False
    at_once: int = 1

    @property
    def environment(self) -> dict[str, str]:
        """Variables that hold it to one thread, and its own."""
        return {**_ONE_THREAD, **self.variables}


def _keras(backend: str) -> Contestant:
    return Contestant(
        f"keras-{backend}",
        f"Keras 3 ({backend})",
        "model.fit on one array padded to T",
        "keras_fit",
        ("keras", backend),
        variables={"KERAS_BACKEND": backend},
        compiles=True,
    )


EVERY = (
    Contestant(
        OURS, "seqbench", "a run's own loop with all default logging", "ours", ("torch", "seqbench"), False,
        at_once=BATCHES,
    ),
    Contestant(NAIVE, "PyTorch, padded", "DataLoader, torch's modules and Adam, loss.item()", "torch_loop",
               apart=False),
    Contestant(
        PACKED, "PyTorch, packed", "the same with pack_padded_sequence, as textbooks do", "torch_packed",
        apart=False, models=MODELS[:-1],
    ),
    Contestant("lightning", "Lightning", "the padded network in a LightningModule", "lightning_fit",
               ("torch", "lightning")),
    Contestant("trainer", "Hugging Face Trainer", "the padded network, fused AdamW (its default)",
               "hf_trainer", ("torch", "transformers", "accelerate")),
    *(_keras(backend) for backend in ("torch", "tensorflow", "jax")),
    Contestant(FLAX, "JAX (flax nnx, optax)", "one jitted step on arrays padded to T", "flax_loop",
               ("jax", "flax", "optax"), compiles=True),
)  # fmt: skip
# How fast this core multiplies matrices: a step is one product.
PEAK_METER = Contestant(PEAK, "matrix product", "1024 x 1024 x 1024, float32", "matmul", apart=False)
BY_NAME = {one.name: one for one in (*EVERY, PEAK_METER)}
