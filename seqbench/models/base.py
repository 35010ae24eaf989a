"""What every model declares. A model is a configuration that builds an encoder.

This module does not import torch, so that help and composition stay quick; ``build`` does.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from seqbench.errors import UsageError
from seqbench.schema import setting

if TYPE_CHECKING:
    from seqbench.layers.base import Encoder


@dataclass
class ModelConfig:
    """Settings that all models share.

    A subclass is decorated with ``@register("model")`` and ``@dataclass``, sets ``name``, and implements
    :meth:`build`. Its docstring's first line is what help shows.
    """

    canary: ClassVar[bool] = False  # a baseline that must not win, not a contestant
    tuned_settings: ClassVar[Mapping[str, tuple[Any, ...]]] = {}  # what tune=N varies beside train.lr

    name: str = "?"
    hidden: int | None = setting(
        None, "width of the state, per direction; solved from match.target when null", minimum=1
    )
    layers: int = setting(1, "stacked layers", minimum=1)
    bidirectional: bool = setting(False, "add a second stack of layers that reads right to left")

    def variant(self) -> str:
        """The model's name with the settings that differ from its defaults, for labels."""
        changed = [
            f"{field.name}={getattr(self, field.name)}"
            for field in dataclasses.fields(self)
            if field.name != "name" and getattr(self, field.name) != field.default
        ]
        return " ".join([self.name, *changed])

    @property
    def looks_ahead(self) -> bool:
        """Whether an output may depend on later inputs."""
        return self.bidirectional

    @property
    def width_multiple(self) -> int:
        """The width must be a multiple of this (heads, pairs of channels)."""
        return 1

    def build(self, width_in: int, hidden: int) -> Encoder:
        """Build one directed stack of layers: vectors ``(B, T, width_in)`` in, ``(B, T, H)`` out."""
        raise NotImplementedError


@dataclass
class Blocks(ModelConfig):
    """Settings of models that stack blocks around a mixer of steps; a subclass implements :meth:`mixer`."""

    convolves_inside: ClassVar[bool] = False  # its mixer has the convolution of its paper, with this width

    layers: int = setting(2, "stacked blocks", minimum=1)
    feedforward_ratio: float = setting(
        2.0, "inner width of the feed-forward part / width; 0: no such part", minimum=0.0
    )
    norm: str = setting(
        "pre", "normalise before or after each sub-layer, or never", choices=("pre", "post", "none")
    )
    residual: bool = setting(True, "add the input of each sub-layer to its output")
    convolution: int = setting(
        0, "steps that a short causal convolution before the mixer sees; 0: none", unit="steps", minimum=0
    )
    positions: str = setting(
        "none", "positions added to the input", choices=("none", "sinusoidal", "learned")
    )
    longest: int = setting(
        128, "learned positions in the table; later steps share the last", unit="steps", minimum=1
    )
    dropout: float = setting(0.0, "dropout inside the blocks", minimum=0.0, maximum=0.95)

    def mixer(self, hidden: int, number: int) -> Encoder:
        """Build the mixer of one block: ``hidden`` channels in and out; ``number`` counts from 0."""
        raise NotImplementedError

    def convolved(self, number: int) -> int:
        """Steps that the convolution before a block's mixer sees; 0: there is none, or inside the mixer."""
        return 0 if self.convolves_inside else self.convolution

    def build(self, width_in: int, hidden: int) -> Encoder:
        from seqbench.layers.blocks import BlockEncoder

        return BlockEncoder(width_in, hidden, self, lambda number: self.mixer(hidden, number))


@dataclass
class Convolving(Blocks):
    """Settings of blocks whose mixer has a short convolution inside, where its paper puts it."""

    convolves_inside: ClassVar[bool] = True

    convolution: int = setting(
        4, "steps that the short causal convolution inside the mixer sees; 0: none", unit="steps", minimum=0
    )


def ordered(model: ModelConfig, low: str, high: str) -> None:
    """Refuse a range whose ends are swapped.

    Raises:
        UsageError: with the setting to change.
    """
    if getattr(model, low) > getattr(model, high):
        raise UsageError(
            f"model.{low}={getattr(model, low)}: must be at most model.{high}={getattr(model, high)}"
        )
