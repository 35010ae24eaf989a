"""The network around an encoder: embedding, read-outs and the choice of scored answers."""

from __future__ import annotations

import pytest
import torch

from seqbench.batch import UNSCORED
from seqbench.network import parameter_count
from seqbench.registry import lookup

LENGTHS = [5, 9, 1, 3]


@pytest.mark.parametrize("embedding", ["learned", "onehot"])
def test_padding_embeds_to_zero_and_never_trains(make_network, make_batch, embedding):
    network = make_network(lookup("model", "rnn")(), embedding=embedding)
    batch = make_batch(LENGTHS).tensors()
    vectors = network.embedding(batch.ids_BT)
    assert torch.count_nonzero(vectors[~batch.mask_BT]) == 0
    assert (vectors[batch.mask_BT].abs().sum(1) > 0).all()
    if embedding == "onehot":
        assert parameter_count(network.embedding) == 0
        assert vectors[batch.mask_BT].argmax(1).equal(batch.ids_BT[batch.mask_BT])
        return
    torch.nn.functional.cross_entropy(*network(batch)).backward()
    assert torch.count_nonzero(network.embedding.weight.grad[0]) == 0


@pytest.mark.parametrize(
    ("readout", "summary"),
    [("last", lambda y: y[-1]), ("mean", lambda y: y.mean(0)), ("max", lambda y: y.amax(0))],
)
def test_readouts_summarise_the_valid_tokens(make_network, make_batch, readout, summary):
    network, batch = make_network(lookup("model", "gru")(), readout), make_batch(LENGTHS, extra=2).tensors()
    with torch.no_grad():
        y_BTH, _ = network.encoder(network.embedding(batch.ids_BT))
        expected = network.head(torch.stack([summary(y_BTH[row, :n]) for row, n in enumerate(LENGTHS)]))
        torch.testing.assert_close(network(batch)[0], expected)


def test_many_to_many_answers_every_scored_token_and_no_other(make_network, make_batch):
    network, batch = make_network(lookup("model", "lstm")()), make_batch(LENGTHS, many=True).tensors()
    with torch.no_grad():
        logits, targets = network(batch)
        y_BTH, _ = network.encoder(network.embedding(batch.ids_BT))
    where = [(b, t) for b, n in enumerate(LENGTHS) for t in range(n) if batch.targets[b, t] != UNSCORED]
    assert 4 <= len(where) < sum(LENGTHS)
    expected = network.head(torch.stack([y_BTH[b, t] for b, t in where]))
    torch.testing.assert_close(logits, expected)
    assert targets.tolist() == [int(batch.targets[b, t]) for b, t in where]


def test_a_canary_keeps_its_own_summary_whatever_readout_is_chosen(make_network, make_batch):
    batch = make_batch(LENGTHS).tensors()
    logits = [
        make_network(lookup("model", "bag")(), readout)(batch)[0] for readout in ("last", "mean", "max")
    ]
    assert logits[0].equal(logits[1])
    assert logits[0].equal(logits[2])


def test_the_bag_averages_the_embeddings_of_its_tokens(make_network, make_batch):
    network, batch = make_network(lookup("model", "bag")()), make_batch(LENGTHS).tensors()
    table = network.embedding.weight
    means = torch.stack([table[ids[:n]].mean(0) for ids, n in zip(batch.ids_BT, LENGTHS, strict=True)])
    torch.testing.assert_close(network(batch)[0], network.head(means))


def test_parameters_are_counted_once_and_only_if_trainable():
    module = torch.nn.Linear(3, 4)
    assert parameter_count(module) == 16
    module.bias.requires_grad_(False)
    assert parameter_count(module) == 12
