"""Blocks around any layer that mixes steps: norm, residual, convolution, feed-forward, and positions.

A mixer is an :class:`Encoder` that writes as many channels as it reads: attention, a recurrence, a
convolution. What stands around it is the same for all of them.

Shape letters: B batch, T time, D width in, H width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from seqbench.layers.base import Encoder
from seqbench.layers.convolution import Convolution
from seqbench.layers.positions import Learned, Sinusoidal

if TYPE_CHECKING:
    from seqbench.models.base import Blocks


class BlockEncoder(Encoder):
    """Input projection (only where widths differ), positions, blocks, final norm (pre-norm only).

    Its state is the list of its blocks' states; there is none where a block has none, or where added
    positions tie a step to its place in the sequence.

    Args:
        mixer: builds the mixer of each block from the block's number, from 0.
    """

    def __init__(self, width_in: int, hidden: int, config: Blocks, mixer: Callable[[int], Encoder]) -> None:
        super().__init__()
        self.width_out = hidden
        self.enter = nn.Identity() if width_in == hidden else nn.Linear(width_in, hidden)
        self.positions = added_positions(config, hidden)
        blocks = [Block(hidden, config, mixer(n), config.convolved(n)) for n in range(config.layers)]
        self.blocks = nn.ModuleList(blocks)
        self.leave = nn.LayerNorm(hidden) if config.norm == "pre" else nn.Identity()
        self.causal = all(mixer.causal for mixer in self.mixers)
        fields: list[Any] = [field for block in blocks for field in block.receptive_fields]
        self.receptive_field = None if None in fields else 1 + sum(field - 1 for field in fields)

    @property
    def mixers(self) -> list[Any]:
        """The mixer of every block."""
        return [block.mixer for block in self.blocks]

    @property
    def kernel(self) -> str:
        return ", ".join(dict.fromkeys(mixer.kernel for mixer in self.mixers))

    @property
    def state_names(self) -> tuple[str, ...]:  # type: ignore[override]
        """Each block's names, after its number where there are several."""
        several = len(self.blocks) > 1
        blocks: list[Any] = list(self.blocks)
        pairs = enumerate(blocks, start=1)
        return tuple(f"{n} {name}" if several else name for n, one in pairs for name in one.state_names)

    def forward(
        self, x_BTD: Tensor, *, mask_BT: Tensor | None = None, state: Any = None
    ) -> tuple[Tensor, Any]:
        x_BTH = self.positions(self.enter(x_BTD))
        after = []
        for block, before in zip(self.blocks, state or [None] * len(self.blocks), strict=True):
            x_BTH, new = block(x_BTH, mask_BT, before)
            after.append(new)
        whole = isinstance(self.positions, nn.Identity) and all(new is not None for new in after)
        return self.leave(x_BTH), after if whole else None


class Block(nn.Module):
    """A mixer and, perhaps, a feed-forward part, each with norm and residual as the configuration says.

    Args:
        convolution: steps that a convolution between the norm and the mixer sees; 0: none.
    """

    def __init__(self, hidden: int, config: Blocks, mixer: Encoder, convolution: int = 0) -> None:
        super().__init__()
        if mixer.width_out != hidden:
            raise ValueError(f"a mixer must write what it reads: {hidden} channels, not {mixer.width_out}")
        inner = max(1, round(hidden * config.feedforward_ratio)) if config.feedforward_ratio else 0
        self.convolution = Convolution(hidden, convolution) if convolution else None
        self.mixer = mixer
        parts = [nn.Linear(hidden, inner), nn.GELU(), nn.Linear(inner, hidden)] if inner else []
        self.feedforward = nn.Sequential(*parts)
        norms = [nn.Identity() if config.norm == "none" else nn.LayerNorm(hidden) for _ in range(2)]
        self.norms = nn.ModuleList(norms[: 2 if inner else 1])
        self.drop = nn.Dropout(config.dropout)
        self.pre, self.residual = config.norm == "pre", config.residual

    @property
    def sequence(self) -> list[Encoder]:
        """What looks at other steps, in order."""
        return [part for part in (self.convolution, self.mixer) if part is not None]

    @property
    def receptive_fields(self) -> list[int | None]:
        """How far each part of the sequence sees."""
        return [part.receptive_field for part in self.sequence]

    @property
    def state_names(self) -> tuple[str, ...]:
        """What the tensors of its state are called."""
        return tuple(name for part in self.sequence for name in part.state_names)

    def forward(self, x_BTH: Tensor, mask_BT: Tensor | None, state: Any) -> tuple[Tensor, Any]:
        y_BTH, state = self._mixed(self._before(0, x_BTH), mask_BT, state)
        x_BTH = self._after(0, x_BTH, y_BTH)
        if len(self.feedforward):
            x_BTH = self._after(1, x_BTH, self.feedforward(self._before(1, x_BTH)))
        return x_BTH, state

    def _mixed(self, x_BTH: Tensor, mask_BT: Tensor | None, state: Any) -> tuple[Tensor, Any]:
        if self.convolution is None:
            mixed: tuple[Tensor, Any] = self.mixer(x_BTH, mask_BT=mask_BT, state=state)
            return mixed
        recent, state = (None, None) if state is None else state
        x_BTH, recent = self.convolution(x_BTH, mask_BT=mask_BT, state=recent)
        x_BTH, state = self.mixer(x_BTH, mask_BT=mask_BT, state=state)
        return x_BTH, None if state is None else (recent, state)

    def _before(self, index: int, x_BTH: Tensor) -> Tensor:
        normed: Tensor = self.norms[index](x_BTH) if self.pre else x_BTH
        return normed

    def _after(self, index: int, x_BTH: Tensor, y_BTH: Tensor) -> Tensor:
        y_BTH = self.drop(y_BTH)
        y_BTH = x_BTH + y_BTH if self.residual else y_BTH
        normed: Tensor = y_BTH if self.pre else self.norms[index](y_BTH)
        return normed


def added_positions(config: Blocks, hidden: int) -> nn.Module:
    """What adds positions to the input of the first block; nothing where a mixer sees to them, or order."""
    if config.positions == "learned":
        return Learned(config.longest, hidden)
    return Sinusoidal() if config.positions == "sinusoidal" else nn.Identity()
