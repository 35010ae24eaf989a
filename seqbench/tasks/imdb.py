"""Sentiment of film reviews: real text, real length, and a bag of words that is hard to beat."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from seqbench import source
from seqbench.errors import UsageError
from seqbench.registry import register
from seqbench.schema import setting
from seqbench.source_hub import HubDataset
from seqbench.source_rows import Columns
from seqbench.tasks.base import Card
from seqbench.tasks.text_base import TextTask

HUB = HubDataset("stanfordnlp/imdb", "e6281661ce1c48d982bc483cf8a173c1bbeb5d31")
PUBLISHED = (  # SHA-256 of the two files of that commit: a local copy of them is the published data set
    "train .parquet d35bcc1528ce001711c7356e455d997a20b5a46618eeee70fcfb19d79a391ace",
    "test .parquet b83160d6403790d70196a2fc8e5c9601b79ddc97080930beeb3bfe7eac3aa8e8",
)


@register("task")
@dataclass
class IMDb(TextTask):
    """Positive or negative? 25,000 film reviews to learn from and 25,000 to be tested on (many-to-one).

    Example: "What a waste. Not even the dog could act." is ``what a waste not even the dog could act``, as
    ids; the answer is 0, negative.
    """

    name: str = "imdb"
    path: str | None = setting(
        None, f"folder with a copy of the Parquet files of {HUB.name}; null: from the hub"
    )

    def columns(self) -> Columns:
        return Columns("text", "label")

    def pinned(self) -> HubDataset:
        return HUB

    def needed_splits(self) -> Collection[str]:
        return ("train", "test")

    def check(self) -> None:
        """A local copy must be the published reviews: scores of other texts must not pass for IMDb's."""
        super().check()
        if self.path is not None and source.fingerprint(self.files()) != list(PUBLISHED):
            raise UsageError(
                f"task.path={self.path}: not the two files of {HUB.name} at {HUB.revision[:7]}: "
                f"copy them again, or for texts of your own use task=text task.path={self.path}"
            )

    def card(self) -> Card:
        where = "from the hub" if self.path is None else "a local copy"
        return Card(
            id=f"imdb/{self.variant()}",
            tests="sentiment of real reviews, most of which a bag of words tells",
            definition=(
                f"Data: {HUB.name}, {where}, commit {HUB.revision[:7]}, splits train and test; "
                f"{self.described_cuts({'train', 'test'})}; {self.described_tokens()}; "
                "the test split is read once, after training"
            ),
            source="Maas et al. 2011, Learning Word Vectors for Sentiment Analysis (ACL), section 4.1",
            floors={"chance": 0.5},
            reference_points={
                "LSTM, full length (Raschka et al. 2022, ch. 15)": 0.8598,
                "BiLSTM, full length (Raschka et al. 2022, ch. 15)": 0.8566,
                "bag of embeddings (pytorch-sentiment-analysis tutorial)": 0.858,
                "BiLSTM (pytorch-sentiment-analysis tutorial)": 0.862,
                "CNN (pytorch-sentiment-analysis tutorial)": 0.875,
            },
        )
