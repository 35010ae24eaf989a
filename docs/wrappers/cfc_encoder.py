"""The closed-form continuous-time RNN of ncps. Needs: pip install -c requirements/torch.txt ncps==1.0.1."""

from dataclasses import dataclass

from ncps.torch import CfC

from seqbench.cli import main
from seqbench.layers.base import Encoder
from seqbench.layers.recurrent import stack
from seqbench.models.base import ModelConfig
from seqbench.registry import register


class CfCEncoder(Encoder):
    kernel = "ncps (Python loop)"

    def __init__(self, width_in, hidden):
        super().__init__()
        self.width_out = hidden
        self.model = CfC(width_in, hidden, backbone_units=hidden)

    def forward(self, x_BTD, *, mask_BT=None, state=None):
        return self.model(x_BTD, state)


@register("model")
@dataclass
class ClosedForm(ModelConfig):
    """Closed-form continuous-time RNN (2106.13898)."""

    name: str = "cfc"

    def build(self, width_in, hidden):
        return stack(self.layers, width_in, lambda width: CfCEncoder(width, hidden))


if __name__ == "__main__":
    main()
