"""What every model promises: declared causality, independent rows, no idle parameters, seeded weights."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from seqbench.errors import UsageError
from seqbench.models.base import ModelConfig
from seqbench.network import Network, build_encoder
from seqbench.registry import lookup, plugins
from seqbench.schema import check

D, H, B, T = 6, 8, 3, 11


def encoder_of(model: ModelConfig):
    torch.manual_seed(0)
    return build_encoder(model, D, H).double().eval()


def outputs(encoder, x: Tensor) -> Tensor:
    with torch.no_grad():
        return encoder(x, mask_BT=torch.ones(x.shape[:2], dtype=torch.bool))[0]


def test_encoder_keeps_the_declared_shape(model):
    encoder = encoder_of(model)
    assert outputs(encoder, torch.randn(B, T, D).double()).shape == (B, T, encoder.width_out)
    assert encoder.kernel != "unnamed"


@pytest.mark.parametrize("cut", [1, 4, 7, 10])
def test_the_future_is_visible_exactly_when_declared(model, cut):
    encoder = encoder_of(model)
    x = torch.randn(B, T, D, generator=torch.Generator().manual_seed(1)).double()
    changed = x.clone()
    changed[:, cut:] = 100 * torch.randn(B, T - cut, D, generator=torch.Generator().manual_seed(2))
    effect = (outputs(encoder, x) - outputs(encoder, changed))[:, :cut].abs().max()
    if encoder.causal:
        assert effect <= 1e-12
    elif model.name != "constant":  # reads nothing in either direction
        assert effect > 1e-4


def test_rows_of_a_batch_are_independent(model):
    encoder = encoder_of(model)
    x = torch.randn(B, T, D).double().requires_grad_()
    y = encoder(x, mask_BT=torch.ones(B, T, dtype=torch.bool))[0][0]
    if model.name == "constant":
        assert not y.requires_grad
        return
    (gradient,) = torch.autograd.grad(y.square().sum(), x)
    assert torch.count_nonzero(gradient[0]) > 0
    assert torch.count_nonzero(gradient[1:]) == 0


@pytest.mark.parametrize("many", [False, True], ids=["many-to-one", "many-to-many"])
def test_every_parameter_receives_a_gradient(make_network, make_batch, model, many):
    network = make_network(model).train()
    F.cross_entropy(*network(make_batch([5, 9, 3, 7], many=many).tensors())).backward()
    idle = {
        name
        for name, parameter in network.named_parameters()
        if parameter.grad is None or not parameter.grad.any()
    }
    assert idle == ({"embedding.weight"} if model.name == "constant" else set())


def test_without_dropout_training_mode_changes_nothing(make_network, make_batch, model):
    network, batch = make_network(model), make_batch([5, 9, 3]).tensors()
    with torch.no_grad():
        assert torch.equal(network.train()(batch)[0], network.eval()(batch)[0])


def test_dropout_works_in_training_only(make_network, make_batch):
    network, batch = make_network(lookup("model", "gru")(), dropout=0.5), make_batch([5, 9, 3]).tensors()
    with torch.no_grad():
        assert not torch.equal(network.train()(batch)[0], network(batch)[0])
        assert torch.equal(network.eval()(batch)[0], network(batch)[0])


def test_weights_depend_on_the_seed_alone(make_network, model):
    def weights(seed: int) -> list[Tensor]:
        return list(make_network(model, seed=seed).state_dict().values())

    assert all(torch.equal(a, b) for a, b in zip(weights(0), weights(0), strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(weights(0), weights(1), strict=True))


@pytest.mark.parametrize("group", ["model", "task"])
def test_plugins_document_themselves(group):
    for name, cls in plugins(group).items():
        assert cls().name == name
        assert dataclasses.is_dataclass(cls)
        assert (cls.__doc__ or "").splitlines()[0].strip(), f"{name} needs a first line for the help"
        for field in dataclasses.fields(cls):
            if field.name != "name":
                assert field.metadata["doc"], f"{name}.{field.name}"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden": 9}, "must be a multiple of 4"),
        ({"bidirectional": True}, "causal=false"),
        ({"norm": "mid"}, "choices: none, post, pre"),
        ({"layers": 0}, "must be at least 1"),
    ],
)
def test_impossible_transformers_are_refused_in_one_line(options, message):
    with pytest.raises(UsageError, match=message) as caught:
        check(lookup("model", "transformer")(**options))
    assert "\n" not in str(caught.value)


def test_a_model_that_builds_something_else_is_named():
    class Wrong(ModelConfig):
        def build(self, width_in: int, hidden: int):
            return torch.nn.Linear(width_in, hidden)

    with pytest.raises(TypeError, match=r"build\(\) returned Linear, expected an Encoder"):
        build_encoder(Wrong(name="wrong"), D, H)


def test_the_same_embedding_and_head_surround_every_encoder(make_network, model):
    network: Network = make_network(model)
    assert network.embedding.weight.shape == (13, 6)
    assert isinstance(network.head, torch.nn.Linear)
    assert network.head.in_features == network.encoder.width_out
