"""The claims: each a sentence with its source, its setting and the test that decides it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from seqbench.registry import lookup
from seqbench.verify import exact

if TYPE_CHECKING:
    from seqbench.report.frame import Sweep

CONFIRMED, REFUTED, CANNOT_TELL, NOT_TRIED = "confirmed", "refuted", "cannot tell", "not tried"
_LEVEL = 0.05
_SMALL = 0.01
_FAR = 160


@dataclass(frozen=True)
class Verdict:
    """What became of a claim, and the numbers behind it."""

    word: str
    evidence: str


@dataclass(frozen=True)
class Exact:
    """A claim about a number that is known exactly."""

    sentence: str
    source: str
    check: exact.Check

    setting = "no training"

    def judge(self) -> Verdict:
        """Compare the measured with the exact number."""
        found = self.check()
        word = CONFIRMED if found.holds else REFUTED
        return Verdict(word, f"{found.measured:.6g}, exact {found.exact:.6g} (within {found.tolerance:.1g})")


@dataclass(frozen=True)
class Trained:
    """A claim that every seed of a model confirms or does not.

    Attributes:
        setting: words of the command line that run it.
        model: which of its models is meant.
        holds: whether a run, by its number in the sweep's table of runs, does what the sentence says.
        told: the number that is shown for each run.
        needs: data that must be at hand, as an option of the command; empty: none.
    """

    sentence: str
    source: str
    setting: str
    model: str
    holds: Callable[[float], bool]
    told: Callable[[Sweep, str], dict[int, float]]
    needs: str = ""

    def judge(self, sweep: Sweep) -> Verdict:
        """Test whether more than half of all seeds would hold (exact binomial test, one-sided)."""
        from scipy.stats import binomtest

        numbers = self.told(sweep, self.model)
        planned = int((sweep.training["model"] == self.model).sum())
        good = sum(self.holds(number) for number in numbers.values())
        shown = ", ".join(
            f"{number:.3f}" if number >= _SMALL else f"{number:.1e}" for _, number in sorted(numbers.items())
        )
        evidence = f"{good} of {planned} seeds: {shown}"
        if planned == 0 or len(numbers) < planned:
            return Verdict(CANNOT_TELL, f"{planned - len(numbers)} of {planned} runs did not end; {evidence}")
        if binomtest(good, planned, 0.5, alternative="greater").pvalue < _LEVEL:
            return Verdict(CONFIRMED, evidence)
        refuted = binomtest(good, planned, 0.5, alternative="less").pvalue < _LEVEL
        return Verdict(REFUTED if refuted else CANNOT_TELL, evidence)


def test_score(sweep: Sweep, model: str) -> dict[int, float]:
    """Test score of each seed."""
    runs = sweep.training[(sweep.training["model"] == model) & (sweep.training["status"] == "done")]
    return {int(row["seed"]): float(row["test_score"]) for row in runs.to_dict("records")}


def at_length_160(sweep: Sweep, model: str) -> dict[int, float]:
    """Score of each seed on the extra test set of that length."""
    table = sweep.table("slices")
    mine = table[(table["label"] == model) & (table["value"] == _FAR)]
    return {int(row["seed"]): float(row["score"]) for row in mine.to_dict("records")}


def _recall_floor() -> float:
    floors: dict[str, float] = lookup("task", "mqar")().rungs()[0].card().floors
    return floors[exact.WITHOUT_BINDING]


_ORDER = "-m experiment=order_at_distance seeds=5"
_RECALL = "-m experiment=recall_at_the_floor seeds=5"
_LENGTH = "-m experiment=length_generalisation seeds=5"
_ADDING = "-m experiment=adding_at_fifty seeds=5"
_REVIEWS = "-m task=imdb model=bag seeds=5"
_ARJOVSKY = "Arjovsky et al. 2016 (1511.06464), section 5.2 (scaled to T=50)"
_SOLVED_SUM, _UNSOLVED_SUM = 0.01, 0.05  # mean squared errors; always answering the mean has 1/6
_LEAST_BAG, _MOST_BAG = 0.85, 0.90
_HOCHREITER = "Hochreiter & Schmidhuber 1997, experiment 6a (scaled)"
_ZOOLOGY = "Arora et al. 2023, Zoology (2312.04927)"
_CHOMSKY = "Deletang et al. 2023 (2207.02098), table 1"

CLAIMS: tuple[Exact | Trained, ...] = (
    Exact(
        "A linear RNN with recurrent matrix g times orthogonal keeps exactly g of its gradient per step.",
        "closed form", exact.linear_rnn,
    ),
    Exact(
        "An LSTM whose forget gate is pinned at f keeps exactly f of its gradient per step.",
        "closed form", exact.lstm_with_pinned_forget_gate,
    ),
    Exact(
        "A GRU whose update gate is pinned at z keeps exactly z of its gradient per step.",
        "closed form", exact.gru_with_pinned_update_gate,
    ),
    Exact(
        "One layer of attention without positions keeps its gradient at every distance.",
        "closed form", exact.attention_without_positions,
    ),
    Exact(
        "In temporal order, knowing both symbols but not their order reaches the floor on the card.",
        "exact floor", exact.temporal_order_floor,
    ),
    Exact(
        "In mqar, knowing the values shown but not their keys reaches the floor on the card.",
        "exact floor", exact.mqar_floor,
    ),
    Trained(
        "A tanh RNN does not learn temporal order at length 64.",
        _HOCHREITER, _ORDER, "rnn", lambda score: score < 0.7, test_score,
    ),
    Trained(
        "A GRU learns temporal order at length 64.",
        _HOCHREITER, _ORDER, "gru", lambda score: score > 0.99, test_score,
    ),
    Trained(
        "A Transformer learns temporal order at length 64.",
        _HOCHREITER, _ORDER, "transformer", lambda score: score > 0.99, test_score,
    ),
    Trained(
        "On mqar with 8 pairs an LSTM gets no farther than knowing the values without their keys.",
        _ZOOLOGY, _RECALL, "lstm", lambda score: score < _recall_floor() + 0.03, test_score,
    ),
    Trained(
        "On mqar with 8 pairs a two-layer causal Transformer recalls every value.",
        _ZOOLOGY, _RECALL, "transformer", lambda score: score > 0.99, test_score,
    ),
    Trained(
        "An LSTM trained on parity up to length 40 solves it at length 160.",
        _CHOMSKY, _LENGTH, "lstm", lambda score: score > 0.95, at_length_160,
    ),
    Trained(
        "A GRU trained on parity up to length 40 solves it at length 160.",
        _CHOMSKY, _LENGTH, "gru", lambda score: score > 0.95, at_length_160,
    ),
    Trained(
        "A Transformer trained on parity up to length 40 is near chance at length 160.",
        _CHOMSKY, _LENGTH, "transformer", lambda score: score < 0.65, at_length_160,
    ),
    Trained(
        "An LSTM learns the adding problem at T=50 to a mean squared error below 0.01.",
        _ARJOVSKY, _ADDING, "lstm", lambda error: error < _SOLVED_SUM, test_score,
    ),
    Trained(
        "A GRU learns the adding problem at T=50 to a mean squared error below 0.01.",
        _ARJOVSKY, _ADDING, "gru", lambda error: error < _SOLVED_SUM, test_score,
    ),
    Trained(
        "A Transformer learns the adding problem at T=50 to a mean squared error below 0.01.",
        _ARJOVSKY, _ADDING, "transformer", lambda error: error < _SOLVED_SUM, test_score,
    ),
    Trained(
        "A tanh RNN does not learn the adding problem at T=50: its mean squared error stays above 0.05.",
        _ARJOVSKY, _ADDING, "rnn", lambda error: error > _UNSOLVED_SUM, test_score,
    ),
    Trained(
        "On IMDb a bag of embeddings reaches a test accuracy between 0.85 and 0.90.",
        "pytorch-sentiment-analysis tutorial: 0.858 at other settings", _REVIEWS, "bag",
        lambda score: _LEAST_BAG < score < _MOST_BAG, test_score, needs="--imdb",
    ),
)  # fmt: skip
