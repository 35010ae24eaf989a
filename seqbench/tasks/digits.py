"""Handwritten digits read as a sequence: real data that comes with a library, nothing to download."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import ClassVar

import numpy as np

from seqbench.batch import ValueRows
from seqbench.cache import Array, Cached, DamagedCache, save
from seqbench.registry import register
from seqbench.schema import setting
from seqbench.seeds import stream
from seqbench.tasks.base import Card, Data, FixedData, TaskConfig
from seqbench.text import stratified

_SIDE, _DARKEST = 8, 16.0
_TEST_SHARE, _VALID_SHARE = 0.2, 0.1
_SPLIT_SEED = 0  # the cut and the permutation are the same for every seed and model
_READ = {
    "pixel": "64 steps of one brightness in 0..1, line by line",
    "permuted": "64 steps of one brightness in 0..1, in one fixed random order",
    "row": "8 steps of the 8 brightnesses of a row, in 0..1",
}


def _file(cache: Path) -> Path:
    return cache / "digits" / f"scikit-learn-{version('scikit-learn')}.npz"


@register("task")
@dataclass
class Digits(TaskConfig):
    """Which digit is it? 1,797 images of 8 x 8 pixels, read pixel by pixel or row by row (many-to-one).

    Example: a row-wise image is 8 steps of 8 numbers, the first of a zero ``0 0 .31 .81 .56 .06 0 0``; its
    class is 0. Ids are 1 at every step: the inputs are numbers.
    """

    needs_preparation: ClassVar[bool] = True

    name: str = "digits"
    variant: str = setting("pixel", "how an image becomes a sequence", choices=tuple(_READ))

    @property
    def features(self) -> int:
        return _SIDE if self.variant == "row" else 1

    def card(self) -> Card:
        return Card(
            id=f"digits/{self.variant}",
            tests="recognising a shape that is shown bit by bit",
            definition=(
                f"Data: scikit-learn's copy of the test part of the UCI optical digits, 1,797 images; "
                f"{_READ[self.variant]}; {_TEST_SHARE:.0%} test and {_VALID_SHARE:.0%} of the rest "
                "validation, stratified, cut alike for every seed; one answer, at the last step"
            ),
            source="Alpaydin & Kaynak 1998, Optical Recognition of Handwritten Digits (UCI)",
            floors={"chance": 1 / 10},
        )

    def fingerprint(self) -> list[str]:
        """The images are part of the library."""
        return [f"scikit-learn {version('scikit-learn')}"]

    def prepare(self, cache: Path) -> None:
        """Take the images out of the library once, so that a run need not import it."""
        try:
            Cached(_file(cache)).verify()
        except (FileNotFoundError, DamagedCache):
            from sklearn.datasets import load_digits  # type: ignore[import-untyped]

            images, targets = load_digits(return_X_y=True)
            arrays: dict[str, Array] = {
                "images": np.asarray(images, np.float32),
                "targets": np.asarray(targets, np.int64),
            }
            save(_file(cache), arrays, {})

    def open(self, seed: int, cache: Path) -> Data:
        self.prepare(cache)
        cached = Cached(_file(cache))
        values_NTF, targets = self._read(cached["images"] / np.float32(_DARKEST)), cached["targets"]
        rng = stream(_SPLIT_SEED, "split")
        rest, test = stratified(targets, _TEST_SHARE, rng)
        train, valid = stratified(targets[rest], _VALID_SHARE, rng)
        parts = {"train": rest[train], "valid": rest[valid], "test": test}
        splits = {part: ValueRows(values_NTF[index], targets[index]) for part, index in parts.items()}
        data = FixedData(splits, 2, 10, seed, self.features)
        data.floors = {"majority class": float(np.bincount(targets[test]).max() / len(test))}
        data.notes = {f"images in the {part} part": len(index) for part, index in parts.items()}
        return data

    def _read(self, images: np.ndarray) -> np.ndarray:
        """Images ``(N, 64)`` as sequences ``(N, T, F)``."""
        if self.variant == "permuted":
            images = images[:, stream(_SPLIT_SEED, "permutation").permutation(_SIDE * _SIDE)]
        return images.reshape(len(images), -1, self.features)
