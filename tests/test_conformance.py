"""Each planted fault is found by exactly the property that it breaks, with numbers; sound layers pass."""

from __future__ import annotations

import re
import sys
import time
from dataclasses import dataclass

import planted
import pytest
import torch

from seqbench import check, registry
from seqbench.errors import UsageError
from seqbench.layers.base import Encoder
from seqbench.subject import Finding

MOST_SECONDS = 2.0


def failed(layer: type, **options: object) -> list[Finding]:
    model = planted.Planted(layer=layer, **options)
    return [finding for finding in check.findings(model) if finding.passed is False]


def number(words: str) -> float:
    """The first number in a text."""
    return float(re.search(r"-?\d+(\.\d+)?(e[+-]?\d+)?|inf", words)[0])


# The property that breaks, what must be expected, and what must be found.
FAULTS = {
    planted.Leak: ("causality", "change by 0 when only later", r"\d[\d.e+]* at step \d+ of 12"),
    planted.ReadsPadding: (  # 2 y against y (1 + 1/12)
        "padding", "equal the same row alone", r"a difference of 0.46 \(length 1, 11 columns of padding\)",
    ),
    planted.ReadsPaddingContent: ("padding content", "change by 0 when only padding", r"\d[\d.e+]*"),
    planted.BatchNorm: ("rows", "change by 0 when only other rows", r"\d[\d.e+]* in training mode"),
    planted.Dead: ("parameters", "each of 4 parameter tensors", r"none for 1: 'unused' \(5,\)"),
    planted.LateState: ("state", "joined by the state", r"a difference of \d[\d.]*"),
    planted.SharedState: ("state axes", "size B = 3", r"\(3, 8\), \(1,\)"),
    planted.WrongWidth: ("shape", r"= \(3, 12, 9\)", r"\(3, 12, 8\)"),
    planted.Noisy: ("determinism", "difference of 0", r"0\.\d+"),
    planted.WrongGradient: ("gradient", "finite difference", r"-?\d[\d.]* \(autograd\)"),
    planted.WrongReference: ("reference", "forward to equal reference", "a difference of 1"),
    planted.LogSpace: ("float32", "finite float32 outputs at T = 1024", r"\d+ of 16384 not finite"),
    planted.SingleOnly: ("float32", "a run in float64", "RuntimeError: .*same dtype.*"),
    planted.NoNumberAtOne: ("finite", "finite outputs at T = 1, 12 and 1024", "16 of 16 not finite at T = 1"),
    planted.NeedsMask: ("mask optional", "without an exception", r"AttributeError: .* \(planted.py:\d+\)"),
    planted.WrongWeights: ("weights", "0 on padding", "0.083 on a key that cannot be seen"),
    planted.TimeMajor: ("activations", r"\(B, T\) = \(3, 12\)", r"'state' of shape \(12, 3, 8\)"),
}  # fmt: skip


@pytest.mark.parametrize("layer", FAULTS, ids=lambda layer: layer.__name__)
def test_a_planted_fault_is_found_by_its_property_alone(layer):
    name, expected, found = FAULTS[layer]
    [finding] = failed(layer)
    assert finding.name == name
    assert re.search(expected, finding.expected), finding.expected
    assert re.fullmatch(found, finding.found), finding.found
    assert finding.sentence.startswith(f"expected {finding.expected}, found {finding.found}")
    assert "\n" not in finding.sentence


@pytest.mark.parametrize(
    "layer", [planted.Leak, planted.ReadsPaddingContent, planted.BatchNorm, planted.LateState, planted.Noisy]
)
def test_the_number_that_is_found_is_a_large_one(layer):
    [finding] = failed(layer)
    assert number(finding.found.removeprefix("a difference of ")) > 0.01


def test_a_wrong_slope_is_told_beside_the_right_one():
    [finding] = failed(planted.WrongGradient)
    assert number(finding.found) == pytest.approx(
        2 * number(finding.expected.removeprefix("a slope of ")), rel=1e-3
    )
    assert "usual cause: a hand-written backward pass" in finding.sentence


SOUND = [
    planted.Sound, planted.Ahead, planted.OnlySaysSo, planted.ZeroGate, planted.LateParameter,
    planted.DeadUnits, planted.WithDropout,
]  # fmt: skip


@pytest.mark.parametrize("layer", SOUND, ids=lambda layer: layer.__name__)
def test_what_only_looks_like_a_fault_passes(layer):
    assert failed(layer) == []


def remarks(layer: type) -> list[str]:
    found = check.findings(planted.Planted(layer=layer))
    return [finding.found for finding in found if finding.passed and not finding.expected and finding.found]


def test_what_is_odd_but_allowed_is_a_remark():
    assert remarks(planted.OnlySaysSo) == ["it declares causal = False and never looks ahead"]
    assert remarks(planted.WithDropout) == ["random numbers are drawn in training mode"]
    assert remarks(planted.Sound) == []


@pytest.mark.timeout(30)
def test_every_model_of_ours_has_every_property_in_time(model):
    started = time.process_time()
    found = check.findings(model)
    assert [finding for finding in found if finding.passed is False] == []
    assert sum(finding.passed is True for finding in found) >= 8
    assert time.process_time() - started < MOST_SECONDS


def test_what_cannot_be_built_is_a_finding_too():
    class Wrong(planted.Planted):
        def build(self, width_in, hidden):
            return torch.nn.Linear(width_in, hidden)

    [finding] = check.findings(Wrong())
    assert finding.name == "builds"
    assert "TypeError: model 'planted': build() returned Linear, expected an Encoder" in finding.found


class Odd(planted.Sound):
    """What forward gives, made into something else; ``kind`` says what."""

    kind = ""

    def forward(self, x_BTD, *, mask_BT=None, state=None):
        y_BTH, state = super().forward(x_BTD, mask_BT=mask_BT, state=state)
        if self.kind == "exit":
            sys.exit(0)
        if self.kind == "single":
            assert x_BTD.dtype == torch.float32, "float32 only"
        odd = {
            "none": None, "tensor": y_BTH, "three": (y_BTH, state, state), "list": (y_BTH.tolist(), state),
            "integers": (y_BTH.long(), state), "complex": (y_BTH + 0j, state),
        }  # fmt: skip
        return odd.get(self.kind, (y_BTH, state))


@pytest.mark.parametrize(
    ("kind", "name", "told"),
    [
        ("none", "shape", r"TypeError: forward gave None, expected the pair \(outputs, state\)"),
        ("tensor", "shape", r"TypeError: forward gave a Tensor, expected the pair \(outputs, state\)"),
        ("three", "shape", "TypeError: forward gave a tuple of 3, expected the pair .*"),
        ("list", "shape", "TypeError: forward gave a list of 3 as outputs, expected a tensor"),
        ("integers", "shape", "TypeError: forward gave outputs of torch.int64, expected real numbers"),
        ("complex", "shape", "TypeError: forward gave outputs of torch.complex64, expected real numbers"),
        ("exit", "builds", r"SystemExit: 0 \(test_conformance.py:\d+\)"),
        ("single", "float32", "AssertionError: float32 only.*"),
    ],
)
def test_what_forward_should_not_do_is_told_in_words(kind, name, told):
    [finding] = failed(type("Layer", (Odd,), {"kind": kind}))
    assert finding.name == name
    assert re.fullmatch(told, finding.found), finding.found


class Turning(Encoder):
    """A recurrence with complex factors in closed form, its state as two real tensors."""

    def __init__(self, width_in: int, hidden: int) -> None:
        super().__init__()
        self.width_out = hidden
        self.enter = torch.nn.Linear(width_in, hidden)
        angles_H = torch.linspace(0.1, 1.0, hidden)
        self.factor = torch.nn.Parameter(torch.polar(torch.full((hidden,), 0.9), angles_H))

    def forward(self, x_BTD, *, mask_BT=None, state=None):
        steps = torch.arange(x_BTD.shape[1])
        apart_TT = (steps[:, None] - steps).clamp(min=0)
        weight_TTH = self.factor ** apart_TT[..., None] * (steps[:, None] >= steps)[..., None]
        y_BTH = torch.einsum("tsh,bsh->bth", weight_TTH, self.enter(x_BTD).to(self.factor.dtype))
        if state is not None:
            y_BTH = y_BTH + self.factor ** (steps + 1)[:, None] * torch.complex(*state)[:, None]
        return y_BTH.real, (y_BTH[:, -1].real, y_BTH[:, -1].imag)


def test_complex_parameters_are_checked_in_double_precision(recwarn):
    with torch.random.fork_rng([]):
        subject = check.subject_of(Turning(3, 4), 3, long=64)
    assert not subject.refusal
    for one in (*check._FIRST, *check._THEN):
        assert check.judged(one, subject).passed is not False, check.judged(one, subject).sentence
    assert not recwarn.list


class Counting(planted.Sound):
    """Hands on how many steps it has read, as an integer; ``lost`` of them are forgotten."""

    lost = 0

    def forward(self, x_BTD, *, mask_BT=None, state=None):
        read = 0 if state is None else int(state)
        steps_T = read + torch.arange(x_BTD.shape[1], device=x_BTD.device)
        y_BTH = self.enter(x_BTD) / (1 + steps_T[:, None])
        return y_BTH, torch.tensor(read + x_BTD.shape[1] - self.lost)


def test_a_state_of_integers_is_checked_too():
    class Entry(planted.Planted):
        def build(self, width_in, hidden):
            layer = Counting(width_in, hidden)
            layer.enter = torch.nn.Linear(width_in, layer.width_out)
            layer.lost = self.lost
            return layer

    found = {}
    for lost in (0, 1):
        Entry.lost = lost
        found[lost] = {finding.name: finding.passed for finding in check.findings(Entry())}
    assert (found[0]["state"], found[1]["state"]) == (True, False)


def test_both_directions_are_tried():
    class OneWay(planted.Planted):
        def build(self, width_in, hidden):
            if self.bidirectional:
                raise ValueError("one way only")
            return planted.Sound(width_in, hidden)

    [finding] = [finding for finding in check.findings(OneWay()) if finding.passed is False]
    assert finding.name == "both ways"
    assert "ValueError: one way only" in finding.found


def test_checking_leaves_the_random_numbers_and_the_layer_alone():
    layer = planted.BatchNorm(4, 3)
    before, state = torch.get_rng_state(), {name: x.clone() for name, x in layer.state_dict().items()}
    check.findings(planted.Planted(layer=planted.BatchNorm))
    subject = check.subject_of(layer, 4)
    for one in (*check._FIRST, *check._THEN):
        check.judged(one, subject)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(state[name], x) for name, x in layer.state_dict().items())
    assert layer.training


FILE = """
from dataclasses import dataclass
from planted import {layer}
from seqbench.cli import main
from seqbench.models.base import ModelConfig
from seqbench.registry import register

@register("model")
@dataclass
class Mine(ModelConfig):
    name: str = "{name}"

    def build(self, width_in, hidden):
        return {layer}(width_in, hidden)

main()
"""


@pytest.fixture
def check_command(run_python, tmp_path):
    def run(*args: str):
        return run_python("-m", "seqbench.check", *args, PYTHONPATH=planted.__file__.rpartition("/")[0])

    for name, layer in (("good", "Sound"), ("bad", "Leak")):
        (tmp_path / f"{name}.py").write_text(FILE.format(layer=layer, name=name))
    (tmp_path / "empty.py").write_text("x = 1\n")
    (tmp_path / "broken.py").write_text("x = (\n")
    (tmp_path / "lstm.py").write_text(FILE.format(layer="Sound", name="lstm"))
    (tmp_path / "json.py").write_text("open('mark', 'w').close()\n")
    return run


def test_a_sound_file_passes_whose_main_does_nothing(check_command, tmp_path):
    result = check_command("good.py")
    assert result.returncode == 0, result.stdout + result.stderr
    assert re.match(r"good: all \d+ properties hold \(\d\.\d s\)\n", result.stdout)
    assert "✓ causality" in result.stdout
    assert not (tmp_path / "runs").exists()


def test_a_faulty_file_fails_with_the_sentence(check_command):
    result = check_command("bad.py", "good.py")
    assert result.returncode == 1, result.stdout + result.stderr
    assert "bad: 1 of" in result.stdout
    assert "✗ causality" in result.stdout
    assert re.search(r"causality: expected earlier outputs to change by 0 .*, found \d", result.stdout)
    assert "good: all" in result.stdout


def test_names_choose(check_command):
    result = check_command("bad.py", "gru")
    assert result.returncode == 0
    assert result.stdout.startswith("gru: all")
    assert "bad" not in result.stdout


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("nowhere.py", "nowhere.py: no such file"),
        ("empty.py", "empty.py: no model there: decorate a ModelConfig"),
        ("broken.py", "broken.py: SyntaxError: '(' was never closed"),
        ("lstm.py", "lstm.py: model 'lstm' is already taken by seqbench.models.recurrent.LSTM"),
        ("json.py", "json.py: 'json' is also the name of another module: rename the file"),
        ("lstn", "no model 'lstn'; did you mean 'lstm'?"),
        ("--fast", "no flag '--fast'"),
    ],
)
def test_a_slip_gets_one_line(check_command, tmp_path, word, line):
    result = check_command(word)
    assert result.returncode == 2
    assert result.stderr.startswith(f"seqbench.check: {line}")
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "mark").exists()


def test_an_interrupted_check_says_so_in_one_line(capsys, monkeypatch):
    def interrupted(_model):
        raise KeyboardInterrupt

    monkeypatch.setattr(check, "findings", interrupted)
    assert check.main(["lstm"]) == check.EXIT_FAILED
    assert capsys.readouterr().err == "seqbench.check: interrupted\n"


def test_what_is_no_models_settings_is_told_in_one_line(capsys, monkeypatch):
    classes = {group: dict(found) for group, found in registry._registered.items()}
    monkeypatch.setattr(registry, "_registered", classes)
    registry.register("model")(dataclass(type("Plain", (), {"name": "plain"})))
    assert check.main(["plain"]) == check.EXIT_USAGE
    line = "seqbench.check: model 'plain': expected a class derived from ModelConfig\n"
    assert capsys.readouterr().err == line


def test_a_test_beside_a_file_can_ask_for_its_failures(tmp_path, monkeypatch):
    file = tmp_path / "beside.py"
    file.write_text(FILE.format(layer="Dead", name="beside"))
    known = {group: dict(classes) for group, classes in registry._registered.items()}
    monkeypatch.setattr(registry, "_registered", known)  # no other test may see the model
    [line] = check.failures(file)
    assert line.startswith(
        "beside: parameters: expected a gradient for each of 4 parameter tensors, found none for 1"
    )
    with pytest.raises(UsageError, match="no model 'besides'; did you mean 'beside'"):
        check.failures(file, "besides")
