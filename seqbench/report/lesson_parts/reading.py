"""What the lesson refers to: papers, words, and experiments to run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

from seqbench.report.frame import Sweep


class Entry(NamedTuple):
    """What is referred to: how it is called, and what it is."""

    name: str
    text: str


SOURCES: Mapping[str, Entry] = MappingProxyType(
    {
        "jordan": Entry(
            "Jordan 1986",
            "M. I. Jordan, Attractor dynamics and parallelism in a connectionist sequential machine. "
            "Proceedings of the 8th Annual Conference of the Cognitive Science Society",
        ),
        "elman": Entry(
            "Elman 1990",
            "J. L. Elman, Finding structure in time. Cognitive Science 14",
        ),
        "bengio": Entry(
            "Bengio et al. 1994",
            "Y. Bengio, P. Simard, P. Frasconi, Learning long-term dependencies with gradient descent is "
            "difficult. IEEE Transactions on Neural Networks 5",
        ),
        "hochreiter": Entry(
            "Hochreiter & Schmidhuber 1997",
            "S. Hochreiter, J. Schmidhuber, Long short-term memory. Neural Computation 9; the cell in "
            "sections 3 and 4, temporal order in experiment 6",
        ),
        "gers": Entry(
            "Gers et al. 2000",
            "F. A. Gers, J. Schmidhuber, F. Cummins, Learning to forget: continual prediction with LSTM. "
            "Neural Computation 12",
        ),
        "pascanu": Entry(
            "Pascanu et al. 2013",
            "R. Pascanu, T. Mikolov, Y. Bengio, On the difficulty of training recurrent neural networks. "
            "ICML, arXiv 1211.5063, section 2",
        ),
        "cho": Entry(
            "Cho et al. 2014",
            "K. Cho and others, Learning phrase representations using RNN encoder-decoder for statistical "
            "machine translation. EMNLP, arXiv 1406.1078, section 2.3",
        ),
        "jozefowicz": Entry(
            "Jozefowicz et al. 2015",
            "R. Jozefowicz, W. Zaremba, I. Sutskever, An empirical exploration of recurrent network "
            "architectures. ICML",
        ),
        "vaswani": Entry(
            "Vaswani et al. 2017",
            "A. Vaswani and others, Attention is all you need. NeurIPS, arXiv 1706.03762, section 3.2.1 and "
            "table 1",
        ),
        "raschka": Entry(
            "Raschka et al. 2022",
            "S. Raschka, Y. Liu, V. Mirjalili, Machine learning with PyTorch and scikit-learn. Packt, "
            "chapters 15 (recurrent networks) and 16 (attention, transformers)",
        ),
        "deletang": Entry(
            "Del\u00e9tang et al. 2023",
            "G. Del\u00e9tang and others, Neural networks and the Chomsky hierarchy. ICLR, arXiv 2207.02098",
        ),
    }
)

GLOSSARY: Mapping[str, Entry] = MappingProxyType(
    {
        "state": Entry(
            "hidden state",
            "the vector that a recurrent network hands from one step to the next: all it knows of the past",
        ),
        "gradient": Entry(
            "gradient",
            "the derivative of the loss with respect to something; here mostly to the vector that enters at "
            "one step. It says how the loss would change with that vector, and is all that training hears",
        ),
        "jacobian": Entry(
            "Jacobian",
            "the matrix of derivatives of one vector with respect to another, such as of one state with "
            "respect to the state before",
        ),
        "vanishing": Entry(
            "vanishing gradient",
            "a gradient that shrinks by a factor below 1 with every step back in time",
        ),
        "half": Entry(
            "half-life",
            "the number of steps after which half is left: ln \u00bd / ln f where each leaves a share f",
        ),
        "gate": Entry(
            "gate",
            "a number between 0 and 1, computed at every step for every unit, that another number is "
            "multiplied by",
        ),
        "attention": Entry(
            "attention",
            "a weighted mean over positions, whose weights are computed from what stands there",
        ),
        "hop": Entry(
            "hop",
            "one application of a layer from position to position, on the way from input to answer",
        ),
        "mask": Entry(
            "causal mask",
            "each position reads itself and what came before, nothing later",
        ),
        "floor": Entry(
            "floor",
            "the score that a player reaches who does not have the ability that the task tests",
        ),
        "seed": Entry(
            "seed",
            "the number that random choices start from: initial weights and data. Other seeds, other results",
        ),
        "interval": Entry(
            "95 % interval",
            "a range computed so that, over many repetitions, 95 of 100 such ranges hold the true value",
        ),
    }
)


@dataclass(frozen=True)
class Exercise:
    """A question with the command that answers it.

    Attributes:
        here: the sweep itself comes from this experiment.
    """

    experiment: str
    question: str
    look: str
    here: bool = False

    @property
    def command(self) -> str:
        """What to type."""
        return command(self.experiment)


def command(experiment: str) -> str:
    """The command that runs an experiment and writes it as a lesson.

    >>> command("vanishing")
    'python -m seqbench -m experiment=vanishing report=lesson'
    """
    return f"python -m seqbench -m experiment={experiment} report=lesson"


_EXERCISES = (
    Exercise(
        "forget_bias",
        "Is it the LSTM that remembers, or the initial bias of its forget gate?",
        "Predict the factor per step for each bias from the table in section 4, then compare.",
    ),
    Exercise(
        "vanishing",
        "Where does the gradient vanish, and what does training change?",
        "Take one model that learned the task and one that did not: which gates did training open?",
    ),
    Exercise(
        "residuals",
        "Do residual connections ease vanishing gradients in depth?",
        "Compare the gradient of the first layer with that of the last, with and without residuals.",
    ),
    Exercise(
        "attention_ladder",
        "What does each step from attention without parameters to the Transformer block buy?",
        "Which step is the first to get past the floors, and what does each cost in parameters and time?",
    ),
    Exercise(
        "positions",
        "How does attention learn order?",
        "Predict which of the ten variants cannot get past the floor of a bag of tokens, and why.",
    ),
    Exercise(
        "length_generalisation",
        "Where does attention lose? Is the number of b's in a string odd (parity)?",
        "One bit of state is enough for every length: who still answers on strings longer than in training?",
    ),
)


def exercises(sweep: Sweep) -> list[Exercise]:
    """Experiments to run, those marked that the sweep comes from."""
    words = {word for line in sweep.commands for word in line}
    return [
        Exercise(one.experiment, one.question, one.look, f"experiment={one.experiment}" in words)
        for one in _EXERCISES
    ]
