"""Sweeps whose every text is hostile, and what must hold for the page that is made of them."""

from __future__ import annotations

import base64
import csv
import hashlib
import html.parser
import io
import itertools
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from faults.payloads import PAYLOADS
from seqbench import records, report
from seqbench.records import Run

_TEMPLATES = Path(report.__file__).parent / "templates"
_PAGE_TAG = re.compile(
    "html|head|meta|title|style|body|main|header|p|span|h1|h2|h3|div|strong|ul|li|section|table|caption|thead|"
    "tbody|tr|th|td|figure|figcaption|details|summary|dl|dt|dd|article|pre|code|a|svg|script|br"
)
_SVG_TAG = re.compile("svg|g|path|line|circle|text|tspan|defs|clippath|use|rect|title|desc|polyline|polygon")
_ATTRIBUTE = re.compile(
    "lang|charset|http-equiv|content|name|class|id|scope|colspan|tabindex|role|aria-label|aria-labelledby|"
    "aria-hidden|data-key|href|download|viewbox|stroke|stroke-width|stroke-dasharray|stroke-linejoin|"
    "stroke-linecap|stroke-dashoffset|stroke-opacity|fill|fill-opacity|fill-rule|opacity|d|x|y|x1|x2|y1|y2|cx|"
    "cy|r|transform|text-anchor|font-size|font-weight|clip-path|width|height|points|rx|ry"
)
_VOID = ("meta", "br")
_CLASSES = "[a-z_ -]*"


class Fields:
    """Hands out hostile texts in turn, starting anywhere, and counts them."""

    def __init__(self, start: int) -> None:
        self.count = 0
        self._texts: Iterator[str] = itertools.cycle(PAYLOADS[start:] + PAYLOADS[:start])

    def __call__(self) -> str:
        self.count += 1
        return next(self._texts)

    def name(self) -> str:
        """A text that can be the name of a column."""
        return self().encode("utf-8", "replace").decode() or "empty"


def write_sweep(folder: Path, text: Fields) -> Path:
    """A sweep with valid checksums and hostile texts: done, failed, timed and pending runs."""
    folder.mkdir(parents=True)
    entries = []
    task, models = text(), [text(), text()]
    for number, kind in enumerate(["train", "train", "train", "speed", "train", "train"]):
        status = "failed" if number == 2 else "damaged" if number == 4 else "done"
        run = _run(text, kind, status, task, models[number % 2], number)
        if number < 5:
            place = folder / f"run-{number}"
            place.mkdir()
            (place / "log.txt").write_text("\n".join(text() for _ in range(9)), "utf-8", "replace")
            records.write_run(place, run, _tables(text, kind) if status == "done" else {})
        kept = ("kind", "identity", "task", "rung", "model", "seed", "config", "label")
        described = {key: getattr(run, key) for key in kept}
        entries.append({"folder": f"run-{number}", **described, "companion": number == 1, text(): text()})
    plan = {"sweep": text(), "commands": [[text() for _ in range(9)], [text()]], "program": [text(), text()]}
    plan |= {
        "models": [*models, text()],
        "reference": models[0],
        text(): text(),
        "environment": {text(): text()},
    }
    records.write_plan(folder, {**plan, "runs": [*entries, {text(): text()}, text()]})
    return folder


def _run(text: Fields, kind: str, status: str, task: str, model: str, seed: int) -> Run:
    metrics: dict[str, Any] = {
        "test_accuracy": 0.4, "test_loss": 1.0, "test_answers": 200, "solved": False, "steps": 100,
        "train_cpu_s": 1.0, "width": 8, "parameters": 1010, "matched_parameters": 1000, "causal": True,
        "canary": False, "kernel": text(), "readout": text(), "first_batch_sha256": text(),
        "data_sha256": text(), "solved_step": text(),
        "sample": f"{text()}\n{text()}", "sample_prompt": text(), "oracle_score": 0.5,
        "gradient_flow_failed": text(), f"{text()}_not_applicable": text(), text(): text(), text(): 1.0,
    }  # fmt: skip
    error = {key: text() for key in ("type", "message", "place")}
    card = {key: text() for key in ("id", "tests", "definition", "source", "answers", "rung_symbol")}
    levels = {name: {text(): 0.2, text(): 0.7} for name in ("floors", "reference_points", "notes")}
    levels |= {"slice_axis": text(), "trained_to": 20, "metric": text() if seed == 1 else "accuracy"}
    config = {
        "task": {"name": text(), "solved_at": 0.9, "lengths": [16], text(): text()},
        "model": {"name": text(), "init": text(), text(): text()},
        "train": {"lr": text() if seed == 1 else 0.01, "steps": 100, "schedule": text(), "tuned": text()},
        "network": {"readout": text(), text(): [text(), {text(): text()}]},
        "match": {"by": "params", "target": text() if seed == 1 else 1000},
    }
    return Run(
        kind=kind, identity=f"{seed:064x}", status=status, task=task, rung=16 if kind == "train" else None,
        model=model, seed=0 if kind == "speed" else seed, config=config, label=text(),
        card={**card, **levels, text(): text()},
        environment={text(): text(), "cpu": text(), "versions": {text(): text(), "torch": text()}},
        metrics=metrics, error=None if status == "done" else error,
    )  # fmt: skip


def _tables(text: Fields, kind: str) -> dict[str, dict[str, list[Any]]]:
    steps, odd = [20, 40, 60], [text.name()] * 3
    learned = {"step": steps, "loss": steps, "accuracy": [0.2, 0.3, 0.4]}
    if kind == "speed":
        modes = ["train", "forward", text.name(), text.name()]
        numbers = {
            "rung": [16] * 4,
            "step_s": [1e-3] * 4,
            "valid_tokens": [64] * 4,
            "memory_bytes": [5e6] * 4,
        }
        return {"speed": {**numbers, "mode": modes, text.name(): [text.name()] * 4}}
    flow = {"distance": [0, 1, 2, 3] * 3, "median": [1.0, 0.5, 0.2, 0.1] * 3, "sequences": [4] * 12}
    moments = ["init"] * 4 + ["step 10"] * 4 + ["final"] * 3 + [text.name()]
    return {
        **_probes(text),
        "slices": {"value": [10, 20, 40], "loss": [1.0] * 3, "accuracy": [0.5] * 3, text.name(): odd},
        "updates": {"step": steps, text.name(): [1e-3] * 3},
        "evaluations": {**learned, "train_cpu_s": odd, text.name(): odd},
        "steps": {"step": steps, "loss": [1.0] * 3, "gradient_norm": odd},
        "parameters": {
            "step": [1, 40, 60],
            **{text.name(): [0.3] * 3 for _ in range(5)},
            **{f"{text.name()}.blocks.{layer}.{text.name()}": [0.3] * 3 for layer in range(3)},
        },
        "gradient_flow": {**flow, "moment": moments, text.name(): [text.name()] * 12},
    }  # fmt: skip


def _probes(text: Fields) -> dict[str, dict[str, list[Any]]]:
    """Tables of the probes, with a hostile text wherever a text can stand."""
    moments = ["init", "final"] * 4
    numbers = [1.0, 0.5, 0.2, 0.1, 0.9, 0.4, 0.3, 0.2]
    ends = {"moment": moments, "distance": [1, 1, 2, 2, 4, 4, 8, 8]}
    names = [text.name(), text.name()]
    shares = dict.fromkeys(("low_share", "high_share", "mean", "median", "largest"), numbers)
    spans = dict.fromkeys(("time_scale_steps", "longest_time_scale_steps"), numbers)
    places = {
        name: [1, 1, 2, 2, 1, 1, 2, 2] for name in ("layer", "head", "sequence", "query", "key", "token")
    }
    kinds = ["map", "map", "entropy", "entropy", "distance", "distance", "uniform map", text.name()]
    return {
        "state_flow": {**ends, "state": names * 4, "median": numbers, "sequences": [4] * 8},
        "jacobian": {
            **ends, "of": ["state to state"] * 7 + [text.name()], "direction": names * 4,
            **dict.fromkeys(("largest", "median", "smallest", "lyapunov"), numbers),
        },
        "gates": {
            "moment": moments, "layer": names * 4, "gate": [True] * 8, **shares, **spans,
            "activation": ["forget gate", "update gate", "candidate", "state"] + [text.name()] * 4,
        },
        "attention": {"moment": moments, "kind": kinds, **places, "value": numbers, "relevant": numbers},
    }  # fmt: skip


class _Strict(html.parser.HTMLParser):
    """Everything about a page that must not be."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=False)
        self.wrong: list[str] = []
        self.open: list[str] = []
        self.order: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.order.append(tag if dict(attrs).get("http-equiv") is None else "policy")
        allowed = _SVG_TAG if "svg" in self.open else _PAGE_TAG
        if not allowed.fullmatch(tag):
            self.wrong.append(f"element <{tag}> inside {self.open[-3:]}")
        for name, value in attrs:
            self._attribute(tag, name, value or "")
        if tag not in _VOID:
            self.open.append(tag)

    def _attribute(self, tag: str, name: str, value: str) -> None:
        if not _ATTRIBUTE.fullmatch(name):
            self.wrong.append(f"attribute {name}={value[:40]!r} of <{tag}>")
        if name == "href" and not (
            value.startswith("#") or (tag == "a" and value.startswith("data:text/csv;"))
        ):
            self.wrong.append(f"address {value[:60]!r}")
        if name == "class" and not re.fullmatch(_CLASSES, value):
            self.wrong.append(f"class {value[:40]!r}")
        if name in ("fill", "stroke", "clip-path") and not re.fullmatch(
            r"none|currentColor|#[0-9a-f]{6}|url\(#[\w-]+\)", value
        ):
            self.wrong.append(f"{name} {value[:40]!r}")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(f"</{tag}> closes nothing")

    def handle_comment(self, data: str) -> None:
        self.wrong.append(f"comment {data[:40]!r}")

    def handle_decl(self, decl: str) -> None:
        if decl != "doctype html":
            self.wrong.append(f"declaration {decl[:40]!r}")

    def unknown_decl(self, data: str) -> None:
        self.wrong.append(f"declaration {data[:40]!r}")

    def handle_pi(self, data: str) -> None:
        self.wrong.append(f"instruction {data[:40]!r}")


def wrong_with_page(text: str) -> list[str]:
    """What is wrong with a page; it must be what our templates make, whatever stands in the records."""
    page = _Strict()
    page.feed(text)
    page.close()
    wrong = page.wrong + ([f"left open: {page.open[:3]}"] if page.open else [])
    if page.order[:4] != ["html", "head", "meta", "policy"]:
        wrong.append(f"the policy is not first: {page.order[:5]}")
    for tag, file in (("style", "page.css"), ("script", "page.js")):
        content = (_TEMPLATES / file).read_text(encoding="utf-8")
        if page.order.count(tag) != 1 or text.count(f"<{tag}>{content}</{tag}>") != 1:
            wrong.append(f"not exactly our one <{tag}>")
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        if f"{tag}-src &#39;sha256-{digest}&#39;" not in text:
            wrong.append(f"the policy has no hash of <{tag}>")
    if "default-src &#39;none&#39;" not in text:
        wrong.append("the policy allows more than ours")
    if len(text.encode()) > 2_000_000:
        wrong.append(f"{len(text.encode())} bytes")
    wrong += [f"character {c!r}" for c in set(text) if _unprintable(c)]
    return wrong + _wrong_with_table(text)


def _unprintable(character: str) -> bool:
    return character not in "\n\t" and unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp")


def _wrong_with_table(text: str) -> list[str]:
    """No cell of the table to download may act as a formula."""
    link = re.search(r'href="data:text/csv;charset=utf-8;base64,([^"]*)"', text)
    if link is None:
        return ["no table to download"]
    rows = csv.reader(io.StringIO(base64.b64decode(link[1]).decode()))
    cells = {cell for row in rows for cell in row if cell[:1] in tuple("=+-@\t\r")}
    return [f"cell {cell[:40]!r}" for cell in cells if not re.fullmatch(r"[-+][\d.]+(e[-+]?\d+)?", cell)]
