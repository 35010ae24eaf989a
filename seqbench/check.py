"""``python -m seqbench.check``: does a layer do what it must to be compared fairly?

    python -m seqbench.check my_layer.py             every model that the file registers
    python -m seqbench.check my_layer.py mine        one of them
    python -m seqbench.check lstm gru                models by name; without arguments all

Exit codes: 0 every property holds, 1 one does not or the check was interrupted, 2 the command cannot be used.
"""

from __future__ import annotations

import dataclasses
import sys
import time
import traceback
from pathlib import Path

import torch
from rich.columns import Columns
from rich.console import Console
from rich.text import Text

from seqbench import conformance, optional, userfile
from seqbench.conformance import Property
from seqbench.errors import UsageError
from seqbench.models.base import ModelConfig
from seqbench.network import build_encoder
from seqbench.registry import lookup, plugins
from seqbench.schema import check
from seqbench.subject import Finding, Inapplicable, Subject, in_words, seeded, subject_of

EXIT_FINE, EXIT_FAILED, EXIT_USAGE = 0, 1, 2
_WIDTH_IN, _HIDDEN = 6, 8
# Where one of these fails, what those after it find means nothing.
_FIRST: list[Property] = [
    conformance.shape, conformance.finite, conformance.determinism, conformance.mask_optional,
]  # fmt: skip
_THEN: list[Property] = [
    conformance.rows, conformance.causality, conformance.padding_content,
    conformance.padding, conformance.state, conformance.state_axes, conformance.gradient,
    conformance.parameters, conformance.precision, optional.reference, optional.weights, optional.activations,
]  # fmt: skip
_BOTH_WAYS: list[Property] = [
    conformance.shape,
    conformance.rows,
    conformance.padding,
    conformance.parameters,
]
_TICKS = {True: ("✓", "+", "green"), False: ("✗", "X", "bold red"), None: ("·", "-", "dim")}


def main(argv: list[str] | None = None) -> int:
    """Check what the arguments name and say what was found; see the module for arguments and exit codes."""
    args = sys.argv[1:] if argv is None else argv
    console = Console()
    if any(arg in ("-h", "--help") for arg in args):
        console.print(__doc__, highlight=False, markup=False)
        return EXIT_FINE
    torch.set_num_threads(1)
    try:
        failed = [name for name in chosen(args) if not _told(name, console)]
    except UsageError as error:
        print(f"seqbench.check: {' '.join(str(error).split())}", file=sys.stderr)  # noqa: T201
        return EXIT_USAGE
    except KeyboardInterrupt:
        print("seqbench.check: interrupted", file=sys.stderr)  # noqa: T201
        return EXIT_FAILED
    return EXIT_FAILED if failed else EXIT_FINE


def chosen(args: list[str]) -> list[str]:
    """Names of the models that the arguments mean; files among them are loaded.

    Raises:
        UsageError: no such file or model, or a file that cannot be loaded or registers none.
    """
    for arg in args:
        if arg.startswith("-"):
            raise UsageError(f"no flag '{arg}': expected FILE.py or names of models")
    files = [arg for arg in args if arg.endswith(".py")]
    names = [arg for arg in args if not arg.endswith(".py")]
    registered = [name for file in files for name in userfile.models(file)]
    for name in names:
        lookup("model", name)
    return names or registered or list(plugins("model"))


def failures(file: str | Path, *names: str) -> list[str]:
    """What does not hold, one sentence each, for a file's models (or those named): for a test beside it.

    Raises:
        UsageError: see :func:`chosen`.
    """
    return [
        f"{name}: {finding.name}: {finding.sentence}"
        for name in chosen([str(file), *names])
        for finding in findings(_with_defaults(name))
        if finding.passed is False
    ]


def _with_defaults(name: str) -> ModelConfig:
    """A model as it is when nobody chooses anything.

    Raises:
        UsageError: it is no model's settings.
    """
    model = lookup("model", name)()
    if not isinstance(model, ModelConfig):
        raise UsageError(f"model '{name}': expected a class derived from ModelConfig")
    return model


def findings(model: ModelConfig) -> list[Finding]:
    """Every property of the encoders that a model builds."""
    try:
        subject = _subject(model)
    except (Exception, SystemExit) as error:
        return [Finding("builds", False, "an encoder from build(width_in, hidden)", _with_place(error))]
    found = []
    for one in _FIRST:
        found.append(judged(one, subject))
        if not found[-1].passed:
            return found
    found += [judged(one, subject) for one in _THEN]
    if all(finding.passed is not False for finding in found):
        found.append(judged(lambda one: _both_ways(model, one), subject, "both ways"))
    return found


def judged(one: Property, subject: Subject, name: str = "") -> Finding:
    """The finding of a property; what it raises is a finding too."""
    name = name or one.__name__.replace("_", " ")
    try:
        return one(subject)
    except Inapplicable as reason:
        return Finding(name, None, found=str(reason))
    except (Exception, SystemExit) as error:
        return Finding(name, False, "a run without an exception", _with_place(error))


def _with_place(error: BaseException) -> str:
    """An exception, and where in a layer it came from: not where in torch, or in what runs the layer."""
    ours, theirs = Path(__file__).parent, Path(torch.__file__).parent
    frames = traceback.extract_tb(error.__traceback__)
    places = [place for place in frames if theirs not in Path(place.filename).parents]
    inside = places and Path(places[-1].filename).parent != ours
    where = f" ({Path(places[-1].filename).name}:{places[-1].lineno})" if inside else ""
    return f"{in_words(error)}{where}"


def _subject(model: ModelConfig) -> Subject:
    multiple = model.width_multiple
    hidden = -(-_HIDDEN // multiple) * multiple
    with seeded(0, torch.device("cpu")):
        return subject_of(build_encoder(model, _WIDTH_IN, hidden), _WIDTH_IN)


def _both_ways(model: ModelConfig, subject: Subject) -> Finding:
    """``bidirectional=true`` works where the encoder reads left to right and the model allows it."""
    if not subject.encoder.causal:
        raise Inapplicable("it looks ahead by itself")
    double = dataclasses.replace(model, bidirectional=True)
    try:
        check(double)
    except UsageError:
        raise Inapplicable("the model refuses it") from None
    both = _subject(double)
    for one in _BOTH_WAYS:
        finding = judged(one, both)
        if finding.passed is False:
            return dataclasses.replace(finding, name="both ways", found=f"{finding.found} ({finding.name})")
    return Finding("both ways", True)


def _told(name: str, console: Console) -> bool:
    """Check one model, print its ticks and what does not hold."""
    started = time.perf_counter()
    found = findings(_with_defaults(name))
    failed = [finding for finding in found if finding.passed is False]
    applied = sum(finding.passed is not None for finding in found)
    verdict = f"{len(failed)} of {applied} properties FAIL" if failed else f"all {applied} properties hold"
    line = f"{name}: {verdict} ({time.perf_counter() - started:.1f} s)"
    console.print(line, highlight=False, markup=False)
    plain = not console.encoding.startswith("utf")
    console.print(Columns([_tick(finding, plain=plain) for finding in found], padding=(0, 2), equal=True))
    for finding in found:
        if finding.passed is False or (finding.passed and not finding.expected and finding.found):
            console.print(f"  {finding.name}: {finding.sentence}", highlight=False, markup=False)
    return not failed


def _tick(finding: Finding, *, plain: bool) -> Text:
    tick, letter, colour = _TICKS[finding.passed]
    return Text(f"  {letter if plain else tick} ", colour).append(finding.name, "default")


if __name__ == "__main__":
    sys.exit(main())
