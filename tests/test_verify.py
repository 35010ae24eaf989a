"""The claims: exact ones hold and can fail; trained ones are decided by the test that they name."""

from __future__ import annotations

import dataclasses
import functools
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from seqbench import cli
from seqbench.verify import __main__ as verify
from seqbench.verify import claims, exact
from seqbench.verify.claims import CANNOT_TELL, CLAIMS, CONFIRMED, REFUTED, Exact, Trained, Verdict

EXACT = [claim for claim in CLAIMS if isinstance(claim, Exact)]
TRAINED = [claim for claim in CLAIMS if isinstance(claim, Trained)]


@functools.cache
def measured(claim: Exact) -> exact.Measured:
    """What a claim's check finds, once for all tests."""
    return claim.check()


@pytest.mark.parametrize("claim", EXACT, ids=[claim.check.__name__ for claim in EXACT])
def test_every_exact_claim_holds(claim):
    assert dataclasses.replace(claim, check=lambda: measured(claim)).judge().word == CONFIRMED


@pytest.mark.parametrize("claim", EXACT, ids=[claim.check.__name__ for claim in EXACT])
def test_an_exact_claim_with_another_number_is_refuted(claim):
    found = measured(claim)
    other = dataclasses.replace(found, exact=found.exact * 0.9)
    assert dataclasses.replace(claim, check=lambda: other).judge().word == REFUTED


def sweep(scores: list[float], status: str = "done") -> SimpleNamespace:
    """A sweep of one model with these accuracies, and the same at length 160."""
    runs = pd.DataFrame({"model": "lstm", "status": status, "seed": range(len(scores)), "test_score": scores})
    near, far = (
        pd.DataFrame({"label": "lstm", "value": value, "seed": range(len(scores)), "score": accuracy})
        for value, accuracy in ((40, np.ones(len(scores))), (160, scores))
    )
    return SimpleNamespace(training=runs, table=lambda _: pd.concat([near, far]))


@pytest.mark.parametrize(
    ("scores", "word"),
    [
        ([0.99] * 5, CONFIRMED),
        ([0.5] * 5, REFUTED),
        ([0.99] * 4 + [0.5], CANNOT_TELL),
        ([0.99] * 3, CANNOT_TELL),  # three seeds can never be enough
        ([0.99] * 10 + [0.5], CONFIRMED),
        ([], CANNOT_TELL),
    ],
)
@pytest.mark.parametrize("told", [claims.test_score, claims.at_length_160])
def test_a_claim_about_training_needs_more_than_half_of_all_seeds(scores, word, told):
    claim = Trained("s", "s", "s", "lstm", lambda score: score > 0.9, told)
    assert claim.judge(sweep(scores)).word == word


def test_a_claim_is_not_decided_while_runs_are_missing():
    claim = Trained("s", "s", "s", "lstm", lambda score: score > 0.9, claims.test_score)
    verdict = claim.judge(sweep([0.99] * 6, status="failed"))
    assert verdict.word == CANNOT_TELL
    assert "6 of 6 runs did not end" in verdict.evidence


@pytest.mark.parametrize("setting", sorted({claim.setting for claim in TRAINED}))
def test_every_setting_composes_and_runs_the_models_that_are_judged(setting):
    jobs = cli.compose([*setting.split(), "speed.enabled=false"])
    models = {job.model.name for job in jobs}
    assert {claim.model for claim in TRAINED if claim.setting == setting} <= models
    assert all(len(job.seeds) == 5 for job in jobs)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ([CONFIRMED, CONFIRMED], 0),
        ([CONFIRMED, REFUTED, CANNOT_TELL], 1),
        ([CONFIRMED, CANNOT_TELL], 3),
    ],
)
def test_the_exit_code_is_the_worst_verdict(monkeypatch, capsys, words, code):
    fakes = [Exact("a sentence", "a paper", exact.linear_rnn) for _ in words]
    verdicts = iter(Verdict(word, "0.5") for word in words)
    monkeypatch.setattr(verify, "CLAIMS", fakes)
    monkeypatch.setattr(Exact, "judge", lambda _self: next(verdicts))
    assert verify.main([]) == code
    out = capsys.readouterr().out
    assert out.count("a sentence") == len(words)
    assert f"{len(words)} claims: " in out


def trained(setting: str, needs: str) -> Trained:
    return Trained("s", "s", setting, "lstm", lambda score: score > 0.9, claims.test_score, needs=needs)


def test_what_needs_data_is_tried_where_it_is_at_hand(monkeypatch, capsys):
    asked: list[list[str]] = []

    def swept(setting: str, more: list[str], _console: object) -> SimpleNamespace:
        asked.append([setting, *more])
        return sweep([0.99] * 5)

    monkeypatch.setattr(verify, "CLAIMS", (trained("plain", ""), trained("reviews", "--imdb")))
    monkeypatch.setattr(verify, "_swept", swept)
    assert verify.main([]) == 0
    assert "not tried" in (out := capsys.readouterr().out)
    assert "2 claims: 1 confirmed, 0 refuted, 0 cannot tell, 1 not tried" in out
    assert verify.main(["--imdb", "/a/folder"]) == 0
    assert verify.main(["--imdb", "hub"]) == 0
    assert asked == [["plain"], ["plain"], ["reviews", "task.path=/a/folder"], ["plain"], ["reviews"]]
    assert "2 claims: 2 confirmed" in capsys.readouterr().out
