"""What every model declares. A model is a configuration that builds an encoder.

This module does not import torch, so that help and composition stay quick; ``build`` does.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

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
