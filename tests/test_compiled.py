"""The compiled scans equal those of torch, and there is a way without them."""

from __future__ import annotations

import stat

import pytest
import torch
from torch import nn

from seqbench import native
from seqbench.errors import UsageError
from seqbench.layers import compiled
from seqbench.layers.recurrent import ElmanLayer, GRULayer
from seqbench.models.recurrent import GRU, RNN

needs_compiler = pytest.mark.skipif(native.library() is None, reason="no C compiler on this machine")
CLOSE = {"rtol": 2e-5, "atol": 2e-6}
SHAPES = [
    (1, 1, 1, 1),
    (3, 7, 4, 5),
    (5, 33, 17, 19),
    (2, 40, 64, 128),
    (64, 9, 8, 16),
    (13, 6, 3, 71),
]  # B, T, D, H


def layer(kind: str, width_in: int, hidden: int, kernel: str) -> ElmanLayer | GRULayer:
    torch.manual_seed(3)
    if kind == "gru":
        return GRULayer(width_in, hidden, None, kernel)
    return ElmanLayer(width_in, hidden, kind, "default", kernel)


def outputs_and_gradients(kind: str, kernel: str, shape: tuple[int, int, int, int], dtype=torch.float32):
    batch, steps, width_in, hidden = shape
    one = layer(kind, width_in, hidden, kernel).to(dtype)
    torch.manual_seed(5)
    x = torch.randn(batch, steps, width_in).to(dtype).requires_grad_()
    h0 = torch.randn(batch, hidden).to(dtype).requires_grad_()
    y, last = one(x, state=h0)
    torch.testing.assert_close(last, y[:, -1], rtol=0, atol=0)
    weights = torch.randn(y.shape).to(dtype)
    return [y, *torch.autograd.grad((y * weights).sum(), (x, h0, *one.parameters()))]


@needs_compiler
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", ["tanh", "relu", "gru"])
def test_outputs_and_every_gradient_equal_those_of_the_scan_in_float64(kind, shape):
    before = compiled.calls.total()
    found = outputs_and_gradients(kind, "compiled", shape)
    assert compiled.calls.total() == before + 2  # it ran, forwards and backwards
    expected = outputs_and_gradients(kind, "torch", shape, torch.float64)
    assert compiled.calls.total() == before + 2
    for ours, theirs in zip(found, expected, strict=True):
        scale = float(theirs.detach().abs().max())
        torch.testing.assert_close(ours.double(), theirs, rtol=2e-5, atol=3e-6 * max(1.0, scale))


@needs_compiler
@pytest.mark.parametrize("kind", ["tanh", "gru"])
def test_padding_on_the_right_changes_no_bit_of_what_stands_before_it(kind):
    one = layer(kind, 4, 6, "compiled")
    x = torch.randn(3, 9, 4)
    longer = torch.cat([x, torch.full((3, 4, 4), 7.0)], dim=1)
    assert torch.equal(one(longer)[0][:, :9], one(x)[0])


@needs_compiler
def test_inputs_that_do_not_lie_in_one_piece_are_read_right():
    one = layer("gru", 4, 6, "compiled")
    wide = torch.randn(3, 9, 8)
    torch.testing.assert_close(one(wide[..., ::2])[0], one(wide[..., ::2].contiguous())[0], rtol=0, atol=0)


@needs_compiler
@pytest.mark.parametrize("size", [1e-30, 1e-12, 1e-6, 1e-3, 0.05, 0.3, 1.0, 5.0, 9.0, 40.0, 1e38])
def test_tanh_is_accurate_at_every_size(size):
    """Also of tiny numbers, relative to themselves: a false floor would hide how states vanish."""
    one = ElmanLayer(1, 64, "tanh", "default", "compiled")
    with torch.no_grad():
        one.project.weight.copy_(torch.linspace(-size, size, 64)[:, None])
        one.project.bias.zero_()
        one.recurrent.zero_()
        found = one(torch.ones(1, 1, 1))[0].double().flatten()
    exact = torch.linspace(-size, size, 64).double().tanh()
    torch.testing.assert_close(found, exact, rtol=3e-7, atol=0)


@needs_compiler
def test_gates_are_accurate_far_out_and_give_no_infinity():
    one = GRULayer(1, 4, None, "compiled")
    with torch.no_grad():
        for parameter in one.parameters():
            parameter.zero_()
        one.project.bias[4:8] = torch.tensor([-80.0, -20.0, 20.0, 3e38])  # the update gate keeps the state
        found = one(torch.zeros(1, 1, 1), state=torch.ones(1, 4))[0].flatten().double()
    exact = torch.tensor([-80.0, -20.0, 20.0, 3e38]).double().sigmoid()
    torch.testing.assert_close(found, exact, rtol=3e-7, atol=1e-38)


@needs_compiler
def test_numbers_that_are_none_stay_none():
    one = layer("gru", 2, 3, "compiled")
    y = one(torch.full((1, 2, 2), float("nan")))[0]
    assert y.isnan().all()


@needs_compiler
def test_the_smallest_numbers_are_still_there_after_loading_the_library():
    assert native.library() is not None
    assert float(torch.tensor(1e-39) * 1.0) > 0


def test_float64_and_the_meta_device_take_the_scan_of_torch():
    one = layer("gru", 2, 3, "auto")
    assert not compiled.usable(torch.ones(1, dtype=torch.float64))
    assert one.to("meta")(torch.ones(1, 2, 2, device="meta"))[0].shape == (1, 2, 3)


def test_without_a_compiler_layers_run_on_torch_and_say_so(monkeypatch):
    monkeypatch.setattr(compiled, "_functions", lambda: None)
    one = layer("tanh", 2, 3, "auto")
    assert one.kernel == "time-major scan (torch)"
    y = one(torch.randn(2, 5, 2))[0]
    assert y.shape == (2, 5, 3)


@needs_compiler
def test_the_kernel_is_named():
    assert layer("gru", 2, 3, "auto").kernel == "time-major scan (compiled)"
    assert layer("gru", 2, 3, "torch").kernel == "time-major scan (torch)"


@pytest.mark.parametrize("cls", [RNN, GRU])
def test_asking_for_it_without_a_compiler_is_refused(monkeypatch, cls):
    monkeypatch.setattr(native, "fingerprint", lambda: None)
    cls(kernel="auto").check()
    with pytest.raises(UsageError, match=r"model.kernel=compiled: no C compiler"):
        cls(kernel="compiled").check()


@needs_compiler
def test_a_library_that_others_may_write_is_not_loaded(tmp_path):
    path = tmp_path / "scan.so"
    path.write_bytes(b"")
    assert native._is_ours(path)
    path.chmod(path.stat().st_mode | stat.S_IWOTH)
    assert not native._is_ours(path)


@needs_compiler
@pytest.mark.parametrize(("name", "code"), [("missing", None), ("false", "#!/bin/sh\nexit 1\n")])
def test_a_compiler_that_fails_is_no_compiler(tmp_path, monkeypatch, name, code):
    tool = tmp_path / name
    if code is not None:
        tool.write_text(code)
        tool.chmod(0o755)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(native, "compiler", lambda: str(tool))
    assert native.library.__wrapped__() is None
    assert not list((tmp_path / "cache").rglob("*.so"))


@needs_compiler
def test_it_is_compiled_once(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert native.library.__wrapped__() is not None
    [made] = tmp_path.rglob("*.so")
    about = made.stat()
    assert native.library.__wrapped__() is not None
    assert made.stat().st_mtime_ns == about.st_mtime_ns


@needs_compiler
def test_a_layer_equals_nn_gru_in_float32():
    ours, reference = GRULayer(8, 16, None, "compiled"), nn.GRU(8, 16, batch_first=True)
    names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    mine = (ours.project.weight, ours.recurrent, ours.project.bias, ours.recurrent_bias)
    with torch.no_grad():
        for parameter, name in zip(mine, names, strict=True):
            parameter.copy_(getattr(reference, name))
    x = torch.randn(4, 30, 8)
    torch.testing.assert_close(ours(x)[0], reference(x)[0], **CLOSE)
