"""The decoder of x-transformers. Needs: pip install -c requirements/torch.txt x-transformers==2.31.10."""

from dataclasses import dataclass

from x_transformers import ContinuousTransformerWrapper, Decoder

from seqbench.cli import main
from seqbench.layers.base import Encoder
from seqbench.models.base import ModelConfig
from seqbench.registry import register


class XTransformersEncoder(Encoder):
    kernel = "x-transformers"

    def __init__(self, width_in, hidden, layers):
        super().__init__()
        self.width_out, head = hidden, hidden // 2
        blocks = Decoder(
            dim=hidden, depth=layers, heads=2, attn_dim_head=head, rotary_pos_emb=True, verbose=False
        )
        self.model = ContinuousTransformerWrapper(attn_layers=blocks, dim_in=width_in)

    def forward(self, x_BTD, *, mask_BT=None, state=None):
        return self.model(x_BTD, mask=mask_BT), None


@register("model")
@dataclass
class XTransformers(ModelConfig):
    """Causal blocks of x-transformers with rotary positions."""

    name: str = "x_transformers"
    width_multiple = 16  # two heads, rotary pairs in half of each

    def build(self, width_in, hidden):
        return XTransformersEncoder(width_in, hidden, self.layers)


if __name__ == "__main__":
    main()
