"""Sweeps of made-up records for whole pages: every figure and table at once, and sweeps at the edges."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from faults import markup
from made import Work, card, small, tables, timing, training, usual, write_sweep
from test_hops import table as hops
from test_report_attention import by_hand
from test_report_gradients import falling, joined, learned, maps, stacked
from test_report_tuning import trial

# Right to left, Chinese, Devanagari, an emoji of several characters, one long word, combining marks.
FOREIGN = (
    "\u0634\u0628\u0643\u0629_\u0639\u0635\u0628\u064a\u0629",
    "\u05e8\u05e9\u05ea 12",
    "\u5faa\u73af\u795e\u7ecf\u7f51\u7edc",
    "\u0924\u0902\u0924\u094d\u0930\u093f\u0915\u093e",
    "\U0001f469\u200d\U0001f52c",
    "x" * 90,
    "e\u0301\u0302\u0303t\u0338",
)
THREE = {"rnn": 0.12, "lstm": 0.66, "transformer": 0.998}
BROKE = {"type": "RuntimeError", "message": "it broke", "place": "model.py:1"}


def gates() -> dict[str, list[Any]]:
    """A forget gate and a candidate, before and after training."""
    moments = ["init", "final"] * 2
    spans = {name: [2.0, 30.0] * 2 for name in ("time_scale_steps", "longest_time_scale_steps")}
    shares = {"low_share": [0.1, 0.3, 0.0, 0.2], "high_share": [0.0, 0.4, 0.1, 0.5]}
    values = {name: [0.5] * 4 for name in ("mean", "median", "largest")}
    places = {"layer": [1] * 4, "gate": [True, True, False, False]}
    activations = ["forget gate"] * 2 + ["candidate"] * 2
    return {"moment": moments, "activation": activations, **places, **shares, **values, **spans}


def probed(decay: float) -> dict[str, dict[str, list[Any]]]:
    """Every table that a run may have, with a gradient that falls by ``decay`` per step."""
    states = [
        falling(d, moment, state=state)
        for state in ("state", "cell")
        for moment, d in (("init", decay), ("final", 0.9))
    ]
    return {
        **tables(0.5, decay),
        **learned(decay, decay, 0.9),
        **stacked([0.1, 0.2, 1.0]),
        "state_flow": joined(*states),
        "jacobian": maps({"init": decay, "final": 0.9}),
        "gates": gates(),
        "hops": hops({"init": decay, "final": 0.5}, hops=4),
        "slices": {"value": [20, 40, 160], "accuracy": [1.0, 0.9, 0.5], "loss": [0.1] * 3},
        "updates": {"step": [20, 40, 60], "encoder.recurrent": [1e-3] * 3},
    }


def full() -> list[Work]:
    """All figures and tables: a ladder, probes, tuning, samples, canaries, and a failed run."""
    described = card(slice_axis="length", trained_to=40, reference_points={"a paper": 0.9})
    written = {"sample": "to be or\nnot to be", "sample_prompt": "whether"}
    work: list[Work] = []
    for (run, _), decay in zip(usual(THREE, seeds=2), [0.5, 0.7, 0.9] * 10, strict=False):
        if run.kind == "speed":
            work.append(timing(run.model))
            continue
        told = dataclasses.replace(run, card=described, metrics={**run.metrics, **written})
        work.append((told, probed(decay)))
    looked = {"attention": by_hand([0.02, 0.93, 0.03, 0.02], deciding=(1,))}
    work = [
        (r, {**c, **looked}) if r.model == "transformer" and r.kind == "train" else (r, c) for r, c in work
    ]
    work += [
        trial(m, lr, 0.5 + lr, seed=s) for m in THREE for lr in (0.001, 0.01, 0.03) for s in (1000, 1001)
    ]
    work.append((training("bag", 16, 0, 0.3, metrics={"canary": True}), {}))
    work.append(
        (dataclasses.replace(training("rnn", 16, 7, 0.0, status="failed", error=BROKE), metrics={}), {})
    )
    return work


def failed() -> list[Work]:
    runs = [training(m, 16, s, 0.0, status="failed", error=BROKE) for m in ("rnn", "gru") for s in range(2)]
    return [(dataclasses.replace(run, metrics={}), {}) for run in runs]


def many(count: int, *, drawn: bool) -> list[Work]:
    """Models whose steps to solve are 9, 10, 11, ..., with figures of learning and speed or none."""
    columns = small({"any": 1.0})[0][1] if drawn else {}
    names = [f"model{number + 1}" for number in range(count)]
    work = [(training(m, 16, 0, 0.998, metrics={"solved_step": 9 + n}), columns) for n, m in enumerate(names)]
    return work + ([timing(name) for name in names] if drawn else [])


def foreign() -> list[Work]:
    """Names in other scripts and of any length."""
    scores = {name: 0.5 + 0.05 * number for number, name in enumerate(FOREIGN)}
    return [*small(scores, seeds=2), timing(FOREIGN[0])]


def made(work: Callable[[], list[Work]], **plan: Any) -> Callable[[Path], Path]:
    return lambda folder: write_sweep(folder, work(), **plan)


SWEEPS: dict[str, Callable[[Path], Path]] = {
    "full": made(full),
    "no models": made(list),
    "one model, one seed": made(lambda: small({"gru": 0.998})),
    "two models": made(lambda: small({"rnn": 0.12, "gru": 0.998}, seeds=3)),
    "half a sweep": made(lambda: usual(THREE, seeds=1), pending=5),
    "all failed": made(failed),
    "12 models": made(lambda: many(12, drawn=True)),
    "60 models": made(lambda: many(60, drawn=False)),
    "foreign names": made(foreign),
    "hostile names": lambda folder: markup.write_sweep(folder, markup.Fields(0)),
}
