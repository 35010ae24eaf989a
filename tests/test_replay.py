"""States through time: exact against closed forms, an independent unrolling, and finite differences."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from conftest import VARIANTS
from torch import Tensor, nn

from seqbench.batch import Batch, pad
from seqbench.config import NetworkConfig
from seqbench.layers.base import Bidirectional, Encoder
from seqbench.network import Network, answer_loss
from seqbench.probes import jacobian as jacobian_module
from seqbench.probes.base import NotApplicable
from seqbench.probes.jacobian import Jacobian, spaced
from seqbench.probes.state_flow import StateFlow, state_gradients
from seqbench.registry import lookup
from seqbench.replay import (
    batch_axes,
    directions,
    flat,
    keeps_state,
    names,
    output_jacobians,
    state_jacobians,
    steps,
    tensors,
)

STEPS, WIDTH = 24, 8
GAIN, FORGET, UPDATE = 0.9, 0.8, 0.95


def network(model: str, readout: str = "last", **options: Any) -> Network:
    torch.manual_seed(0)
    config = NetworkConfig(embedding_width=WIDTH, readout=readout)
    return Network(lookup("model", model)(**options), config, 5, 3, WIDTH).double()


def linear_rnn() -> Network:
    """An RNN without a nonlinearity whose recurrent matrix is a gain times an orthogonal one."""
    made = network("rnn", nonlinearity="relu")
    layer: Any = made.encoder
    with torch.no_grad():  # positive inputs keep relu linear; a permutation is orthogonal
        layer.recurrent.copy_(GAIN * torch.eye(WIDTH, dtype=torch.float64).roll(1, 0))
        layer.project.weight.copy_(torch.eye(WIDTH))
        layer.project.bias.fill_(10.0)
    return made


def pinned_lstm() -> Network:
    """An LSTM whose forget gate is a constant and whose only path is the cell."""
    made = network("lstm", forget_bias=float(np.log(FORGET / (1 - FORGET))))
    encoder: Any = made.encoder
    with torch.no_grad():
        encoder.lstm.weight_hh_l0.zero_()
        encoder.lstm.weight_ih_l0[: 2 * WIDTH].zero_()
        encoder.lstm.weight_ih_l0[3 * WIDTH :].zero_()
    return made


def pinned_gru() -> Network:
    """A GRU whose update gate is a constant."""
    made = network("gru", update_bias=float(np.log(UPDATE / (1 - UPDATE))))
    layer: Any = made.encoder
    with torch.no_grad():
        layer.recurrent.zero_()
        layer.project.weight[: 2 * WIDTH].zero_()
    return made


ROWS = pad([[2] * STEPS], [1])
PADDED = pad([[2, 3, 4, 1, 2, 3, 1], [4, 3, 2, 4], [3, 1]], [0, 1, 2])
MANY = pad([[2, 3, 4, 1, 2, 3, 1], [4, 3, 2, 4]], [[-1, 0, -1, 1, 2, -1, -1], [-1, 2, 0, -1]])


def by_distance(columns: dict[str, list[Any]], key: str, **wanted: str) -> dict[int, float]:
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return {r["distance"]: r[key] for r in rows if all(r[k] == v for k, v in wanted.items())}


@pytest.mark.parametrize(
    ("made", "state", "kept"),
    [(linear_rnn(), "state", GAIN), (pinned_lstm(), "cell", FORGET), (pinned_gru(), "state", UPDATE)],
    ids=["linear rnn", "pinned lstm", "pinned gru"],
)
def test_the_gradient_at_a_state_falls_exactly_by_what_is_kept(made, state, kept):
    found = by_distance(StateFlow().measure(made, ROWS), "median", state=state)
    assert list(found) == list(range(1, STEPS))
    ratios = [found[d + 1] / found[d] for d in range(1, STEPS - 1)]
    assert ratios == pytest.approx([kept] * len(ratios), rel=1e-7)


def test_a_linear_rnn_has_equal_singular_values_at_every_distance():
    columns = Jacobian().measure(linear_rnn(), ROWS)
    for key in ("largest", "median", "smallest"):
        found = by_distance(columns, key, of="state to state")
        assert found == pytest.approx({d: GAIN**d for d in spaced(STEPS - 1)}, rel=1e-9)
    exponents = by_distance(columns, "lyapunov", of="state to state")
    assert list(exponents.values()) == pytest.approx([np.log(GAIN)] * len(exponents))


@pytest.mark.parametrize(
    ("made", "kept"), [(pinned_lstm(), FORGET), (pinned_gru(), UPDATE)], ids=["lstm", "gru"]
)
def test_a_pinned_gate_is_the_largest_singular_value(made, kept):
    found = by_distance(Jacobian().measure(made, ROWS), "largest", of="state to state")
    assert {d: found[d + 1] / found[d] for d in (1, 2, 3)} == pytest.approx(dict.fromkeys((1, 2, 3), kept))


def stateful(model) -> bool:
    parts = getattr(model, "mixers", [model.name])
    return not {"transformer", "attention", "constant"} & {*parts}


def encoder_of(model) -> Encoder:
    torch.manual_seed(0)
    return Network(model, NetworkConfig(embedding_width=WIDTH), 5, 3, WIDTH).double().encoder


def test_running_step_by_step_gives_the_same_outputs(model):
    encoder = encoder_of(model)
    x_BTD = torch.randn(3, 7, WIDTH, dtype=torch.float64)
    mask_BT = torch.ones(3, 7, dtype=torch.bool)
    for way in directions(encoder, x_BTD, mask_BT):
        assert keeps_state(way.encoder, way.x_BTD) == stateful(model)
        if stateful(model):
            y_BTH, states = steps(way.encoder, way.x_BTD)
            torch.testing.assert_close(y_BTH, way.encoder(way.x_BTD)[0])
            assert len(states) == 7


def test_state_jacobians_equal_finite_differences(model):
    encoder = encoder_of(model)
    if isinstance(encoder, Bidirectional) or not stateful(model):
        pytest.skip("causal encoders with a state")
    x_TD = torch.randn(6, WIDTH, dtype=torch.float64)
    axes = batch_axes(encoder, x_TD[None])
    before = encoder(x_TD[None, :3])[1]

    def last(change: Tensor) -> Tensor:
        parts, left = [], change
        for leaf in tensors(before):
            parts.append(leaf + left[: leaf.numel()].view(leaf.shape))
            left = left[leaf.numel() :]
        after = encoder(x_TD[None, 3:], state=rebuilt(before, parts))[1]
        return flat(tensors(after), axes)[0]

    units = flat(tensors(before), axes).shape[1]
    expected = torch.autograd.functional.jacobian(last, torch.zeros(units, dtype=torch.float64))
    [(distance, found)] = state_jacobians(encoder, x_TD, [3])
    assert distance == 3
    torch.testing.assert_close(found, expected)


def rebuilt(state: Any, parts: list[Tensor]) -> Any:
    """A state of the same shape from other tensors."""
    if isinstance(state, Tensor):
        return parts.pop(0)
    if isinstance(state, list | tuple):
        return type(state)([rebuilt(part, parts) for part in state])
    return state


def test_output_jacobians_equal_torchs(model):
    encoder = encoder_of(model)
    x_TD = torch.randn(5, WIDTH, dtype=torch.float64)

    def last(x: Tensor) -> Tensor:
        return encoder(x[None])[0][0, -1]

    found = dict(output_jacobians(lambda x: encoder(x)[0][:, -1], x_TD, encoder.width_out, [1, 4]))
    if model.name == "constant":
        assert found == {}
        return
    expected = torch.autograd.functional.jacobian(last, x_TD)
    for distance in (1, 4):
        torch.testing.assert_close(found[distance], expected[:, -1 - distance])


def unrolled(made: Network, batch: Batch) -> Tensor:
    """|dL/dh_t| of an Elman network by its definition, with torch's own autograd."""
    asked, layer = batch.tensors(), made.encoder
    x_BTD = made.embed(asked)
    h, states = torch.zeros(len(batch.lengths_B), WIDTH, dtype=torch.float64), []
    for t in range(x_BTD.shape[1]):
        h = torch.tanh(layer.project(x_BTD[:, t]) + h @ layer.recurrent.t())
        h.retain_grad()
        states.append(h)
    answer_loss(*made.read(torch.stack(states, 1), asked), reduction="sum").backward()
    return torch.stack([torch.zeros(len(h)) if s.grad is None else s.grad.norm(dim=1) for s in states], 1)


def test_an_elman_network_equals_its_definition():
    made = network("rnn")
    [found] = state_gradients(made, PADDED)
    expected = unrolled(made, PADDED).numpy()
    for row, anchor in enumerate(found.anchors_B):
        np.testing.assert_allclose(found.norms_BT[row, :anchor], expected[row, :anchor], rtol=1e-10)
        assert not found.norms_BT[row, anchor:].any()  # nothing after the answer reaches it


@pytest.mark.parametrize("batch", [PADDED, MANY], ids=["many-to-one", "many-to-many"])
def test_padding_changes_no_state_gradient(model, batch):
    made = Network(model, NetworkConfig(embedding_width=WIDTH), 5, 3, 8)
    if model.name == "constant":
        with pytest.raises(NotApplicable, match="no state and has no stacked blocks"):
            StateFlow().measure(made, batch)
        return
    whole = state_gradients(made, batch)
    for row in range(len(batch.lengths_B)):
        length = int(batch.lengths_B[row])
        targets = batch.targets[row : row + 1]
        targets = targets[:, :length] if targets.ndim == 2 else targets
        alone = Batch(batch.ids_BT[row : row + 1, :length], batch.lengths_B[row : row + 1], targets)
        for found, one in zip(whole, state_gradients(made, alone), strict=True):
            assert (found.name, found.anchors_B[row]) == (one.name, one.anchors_B[0])
            np.testing.assert_allclose(found.norms_BT[row, :length], one.norms_BT[0], rtol=1e-7, atol=1e-14)


def test_both_directions_have_their_own_distance():
    made = network("bilstm")
    found = {one.name: one for one in state_gradients(made, PADDED)}
    assert set(found) == {f"{s} {d}" for s in ("state", "cell") for d in ("forwards", "backwards")}
    assert (
        found["cell backwards"].anchors_B.tolist() == found["cell forwards"].anchors_B.tolist() == [6, 3, 1]
    )
    many = {one.name: one for one in state_gradients(made, MANY)}
    assert many["cell forwards"].anchors_B.tolist() == [4, 2]
    assert many["cell backwards"].anchors_B.tolist() == [2, 1]


def test_states_are_named_after_their_layer():
    made = network("lstm", layers=2)
    _, states = steps(made.encoder, torch.zeros(1, 2, WIDTH, dtype=torch.float64))
    assert names(states[0], made.encoder) == ["1 state", "1 cell", "2 state", "2 cell"]


def test_blocks_of_a_transformer_are_read_and_the_last_only_at_the_answer():
    found = state_gradients(network("transformer"), ROWS)
    assert [one.name for one in found] == ["block 1", "block 2"]
    assert (found[0].norms_BT > 0).all()
    assert not found[1].norms_BT[0, :-1].any()
    assert found[1].norms_BT[0, -1] > 0


class Counter(Encoder):
    """A user's layer whose state is a dictionary with something in it that is no number."""

    kernel = "loop"

    def __init__(self) -> None:
        super().__init__()
        self.width_out = WIDTH
        self.mix = nn.Linear(WIDTH, WIDTH)

    def forward(self, x_BTD, *, mask_BT=None, state=None):
        h, count = (state["h"], state["n"]) if state else (torch.zeros_like(x_BTD[:, 0]), 0)
        outputs = []
        for x in x_BTD.unbind(1):
            h, count = torch.tanh(self.mix(h) + x), count + 1
            outputs.append(h)
        return torch.stack(outputs, 1), {"h": h, "n": count, "name": "counter"}


def test_a_users_layer_gets_both_probes_without_any_code_of_its_own():
    made = network("rnn")
    made.encoder = Counter().double()
    flow = StateFlow().measure(made, ROWS)
    assert set(flow["state"]) == {"state"}
    assert len(flow["distance"]) == STEPS - 1
    assert "state to state" in Jacobian().measure(made, ROWS)["of"]


@pytest.mark.parametrize("probe", [StateFlow, Jacobian])
def test_a_probe_leaves_the_network_as_it_was(probe):
    made = Network(VARIANTS["gru"], NetworkConfig(embedding_width=WIDTH), 5, 3, 8).train()
    before = {name: value.clone() for name, value in made.state_dict().items()}
    probe().measure(made, PADDED)
    assert made.training
    assert all(torch.equal(before[name], value) for name, value in made.state_dict().items())
    assert all(parameter.grad is None for parameter in made.parameters())


def test_a_constant_has_no_map_and_says_so():
    made = Network(VARIANTS["constant"], NetworkConfig(embedding_width=WIDTH), 5, 3, 8)
    with pytest.raises(NotApplicable, match="does not depend on the input"):
        Jacobian().measure(made, PADDED)


def test_a_state_too_large_for_a_whole_jacobian_is_asked_for_its_outputs(
    make_network, make_batch, monkeypatch
):
    network, batch = make_network(VARIANTS["rnn"]).double(), make_batch([9])
    assert set(Jacobian().measure(network, batch)["of"]) == {"state to state"}
    monkeypatch.setattr(jacobian_module, "_MOST_UNITS", 7)  # it has eight
    assert set(Jacobian().measure(network, batch)["of"]) == {"input to output"}
