"""seqbench compares sequence-model architectures fairly and says, in words, what the comparison showed."""

__version__ = "0.1.0"
