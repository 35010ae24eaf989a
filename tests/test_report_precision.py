"""What a page says of the precision that models were trained in."""

from __future__ import annotations

import dataclasses

import pytest
from made import settings, tables, training, write_sweep

from seqbench.report import facts
from seqbench.report.frame import read_sweep
from seqbench.report.tables import NONE
from seqbench.report.tables import settings as given


@pytest.mark.parametrize(
    ("kinds", "phrase", "cells"),
    [
        ([None], None, [NONE]),  # a record of before
        (["float32"], None, ["float32"]),
        (["bfloat16"], "matrix products in bfloat16", ["bfloat16"]),
        (["float32", "float16"], "matrix products in float16 or float32", ["float32", "float16"]),
    ],
)
def test_precision_is_part_of_the_setting_and_of_the_labels(tmp_path, kinds, phrase, cells):
    work = []
    for seed, kind in enumerate(kinds):
        config = settings("gru", 16)
        config["train"] |= {} if kind is None else {"precision": kind}
        run = dataclasses.replace(training("gru", 16, 0, 0.9), config=config, identity=str(seed))
        work.append((run, tables(0.9)))
    sweep = read_sweep(write_sweep(tmp_path / "runs", work))
    found = [one for one in facts.setting(sweep) if "matrix products" in one]
    assert found == ([] if phrase is None else [phrase])
    table = given(sweep)
    column = [head for head, _ in table.heads].index("precision")
    assert [row[column].text for row in table.rows] == cells
    if len(kinds) > 1:
        assert sweep.labels == ["gru (precision=float32)", "gru (precision=float16)"]
