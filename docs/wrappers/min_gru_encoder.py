"""The minGRU of minGRU-pytorch. Needs: pip install -c requirements/torch.txt minGRU-pytorch==0.2.1."""

from dataclasses import dataclass

from minGRU_pytorch import minGRU

from seqbench.cli import main
from seqbench.layers.base import Encoder
from seqbench.layers.recurrent import stack
from seqbench.models.base import ModelConfig
from seqbench.registry import register


class MinGRUEncoder(Encoder):
    kernel = "minGRU-pytorch (log-space scan)"

    def __init__(self, width_in, hidden):
        super().__init__()
        self.width_out = hidden
        self.model = minGRU(width_in, expansion_factor=(hidden + 0.5) / width_in, proj_out=False)

    def forward(self, x_BTD, *, mask_BT=None, state=None):
        return self.model(x_BTD, state, return_next_prev_hidden=True)


@register("model")
@dataclass
class MinGRU(ModelConfig):
    """minGRU as the package computes it (2410.01201)."""

    name: str = "min_gru_pytorch"

    def build(self, width_in, hidden):
        return stack(self.layers, width_in, lambda width: MinGRUEncoder(width, hidden))


if __name__ == "__main__":
    main()
