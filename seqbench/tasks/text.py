"""Texts of one's own with one class each: from a file, a folder or the hub."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from seqbench.errors import UsageError
from seqbench.registry import register
from seqbench.schema import setting
from seqbench.source import LocalFiles
from seqbench.source_hub import HubDataset
from seqbench.source_rows import SEPARATORS, Columns
from seqbench.tasks.base import Card
from seqbench.tasks.text_base import TextTask


@register("task")
@dataclass
class Text(TextTask):
    """Name the class of a text: your own CSV, TSV, JSONL, Parquet, folders, or hub data (many-to-one).

    Example: ``task=text task.path=mails.csv task.label_column=folder``, where mails.csv is

        text,folder
        "Lunch at noon, or later?",private
        The server is down again,work

    reads ``lunch at noon or later ?`` and ``the server is down again``, as ids; the answers are 0, "private",
    and 1, "work".
    """

    name: str = "text"
    path: str | None = setting(
        None,
        "CSV, TSV, JSONL or Parquet file; folder with train* and perhaps valid* and test* files; or with a "
        "folder of .txt files per class",
    )
    hub: str | None = setting(None, "data set on the hub, owner/name, instead of task.path")
    revision: str | None = setting(None, "commit of task.hub, 40 hexadecimal digits")
    subset: str | None = setting(None, "configuration of task.hub, where it has several")
    text_column: str = setting("text", "column that holds the text")
    label_column: str = setting("label", "column that holds the class, a whole number or a name")
    separator: str = setting(
        "auto", "what stands between the columns of CSV; auto: a comma, or a tab in .tsv",
        choices=("auto", *SEPARATORS),
    )  # fmt: skip

    def columns(self) -> Columns:
        return Columns(self.text_column, self.label_column, self.separator)

    def pinned(self) -> HubDataset:
        return HubDataset(self.hub or "", self.revision or "", self.subset)

    def check(self) -> None:
        """Exactly one source, and two columns."""
        if self.path is None and self.hub is None:
            raise UsageError(
                "task=text: which texts? Add task.path=FILE (or a folder), or task.hub=OWNER/NAME with "
                "task.revision=COMMIT"
            )
        if self.path is not None:
            for name in ("hub", "revision", "subset"):
                if getattr(self, name) is not None:
                    raise UsageError(f"task.{name}={getattr(self, name)}: task.path is given too: keep one")
        if self.text_column == self.label_column:
            raise UsageError(f"task.label_column={self.label_column}: is task.text_column too: name another")
        super().check()

    def card(self) -> Card:
        name, files = self._name(), self.files_if_there()
        given = None if files is None else files.splits
        return Card(
            id=f"text/{self.variant()}@{name}",
            tests="telling classes of texts of your own apart",
            definition=(
                f"Data: {self._described_source(files)}; {self.described_cuts(given)}; "
                f"{self.described_tokens()}; the test part is read once, after training"
            ),
            source=f"local data {name}" if self.hub is None else f"hub data set {name}",
            floors={},
        )

    def _name(self) -> str:
        """What the data is called in ids."""
        if self.hub is not None:
            return "/".join(filter(None, (self.hub, self.subset))) + f"@{(self.revision or '')[:7]}"
        return "data" if self.path is None else Path(os.path.abspath(self.local)).name

    def _described_source(self, files: LocalFiles | None) -> str:
        columns = f"text in column '{self.text_column}', class in column '{self.label_column}'"
        if self.hub is not None:
            return f"{self._name()} from the hub, {columns}"
        if files is None:
            return f"your own texts, {columns}"
        left_out = f" ({files.left_out} more files there are not read)" if files.left_out else ""
        if files.per_class:
            return f"{self._name()}, a folder of .txt files per class{left_out}"
        counts = ", ".join(f"{split} {len(some)}" for split, some in files.splits.items())
        what = f"files by split: {counts}" if self.local.is_dir() else "one file"
        return f"{self._name()}, {what}{left_out}, {columns}"
