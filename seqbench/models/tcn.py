"""The temporal convolutional network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from seqbench.models.base import Blocks
from seqbench.registry import register
from seqbench.schema import setting

if TYPE_CHECKING:
    from seqbench.layers.base import Encoder


@register("model")
@dataclass
class TCN(Blocks):
    """Dilated causal convolutions, the dilation doubling per block (Bai et al. 2018, 1803.01271)."""

    name: str = "tcn"
    layers: int = setting(
        5, "stacked blocks; the dilation doubles from each to the next", minimum=1, maximum=20
    )
    kernel_size: int = setting(3, "taps of each convolution, two convolutions per block", minimum=2)
    norm: str = setting(
        "none", "normalise before or after each sub-layer, or never", choices=("pre", "post", "none")
    )
    feedforward_ratio: float = setting(
        0.0, "inner width of the feed-forward part / width; 0: no such part", minimum=0.0
    )

    @property
    def receptive_field(self) -> int:
        """How many steps an output can depend on, itself included: 1 + 2 (kernel size - 1) (2^layers - 1).

        Each block's convolution before the mixer adds one less than it sees.
        """
        before = self.layers * max(0, self.convolution - 1)
        return 1 + before + 2 * (self.kernel_size - 1) * ((1 << self.layers) - 1)

    def mixer(self, hidden: int, number: int) -> Encoder:
        from seqbench.layers.tcn import TCNLayer

        return TCNLayer(hidden, kernel_size=self.kernel_size, dilation=2**number)
