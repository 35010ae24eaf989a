"""The peers' table: ratios, goals, words, the gate in the loop, and no figure for a layer that is wrong."""

from __future__ import annotations

import json
import os
import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from peers import __main__ as program
from peers import equality, matmul, ours, table
from peers.contest import Player, Result, Stopped, Turn, contest
from peers.contestants import BY_NAME, EVERY, KERAS, NAIVE, OURS, PACKED, PEAK, Contestant
from peers.gate import Finished, Gate
from peers.goals import FLOOR, GOALS, Goal, best_keras, nearest_peer, over_floor, ratio, verdicts
from peers.torch_nets import Classifier, collate, dataset
from peers.work import BATCH, LENGTHS, MODELS, PRODUCT_FLOPS, VOCABULARY, Cell, forward_flops
from torch.utils.data import DataLoader

from seqbench.batch import pad
from seqbench.config import Job
from seqbench.cost import forward_flops as counted_flops
from seqbench.network import Network

LSTM = Cell("lstm", 32)


def result(*cpu_s: float, problem: str = "") -> Result:
    return Result(list(cpu_s), list(cpu_s), steps=1, loss=0.7, problem=problem)


def of_cell(**times: Result) -> dict[str, Result]:
    return {name.replace("_", "-"): one for name, one in times.items()}


@pytest.fixture(scope="module")
def jobs() -> dict[str, Job]:
    return {model: ours.composed(model) for model in MODELS}


@pytest.fixture(scope="module")
def networks(jobs) -> dict[str, Network]:
    data = ours.dataset(LSTM)
    torch.manual_seed(0)
    return {model: ours.build(jobs[model], data) for model in MODELS}


# The work


@pytest.mark.parametrize("length", LENGTHS)
def test_all_processes_get_the_same_sequences_of_the_announced_lengths(length):
    one, other = Cell("lstm", length), Cell("gru", length)
    assert all(np.array_equal(a, b) for a, b in zip(one.sequences, other.sequences, strict=True))
    assert one.lengths.min() >= length // 4
    assert one.lengths.max() <= length
    assert all(row.min() > 0 and row.max() < VOCABULARY for row in one.sequences)
    assert abs(one.tokens_per_step / BATCH - 0.625 * length) < 0.03 * length


def test_padding_keeps_every_token_and_adds_zeros_alone():
    padded = LSTM.padded()
    assert padded.shape == (len(LSTM.sequences), 32)
    assert ((padded != 0).sum(1) == LSTM.lengths).all()
    assert np.array_equal(padded[padded != 0], np.concatenate(LSTM.sequences))


@pytest.mark.parametrize("name", MODELS)
def test_operations_are_those_that_torch_counts(name, jobs):
    with torch.device("meta"):
        network = ours.build(jobs[name], ours.dataset(LSTM))
    batch = pad([np.ones(24, dtype=np.int64)], [0]).tensors("meta")
    assert forward_flops(name, 24) == counted_flops(network, batch)


def test_seqbench_trains_on_every_sequence_once_per_epoch():
    data = ours.dataset(LSTM)
    batches = data.train(BATCH)
    seen = [next(batches) for _ in range(len(LSTM.sequences) // BATCH)]
    rows = sorted(tuple(ids[:n]) for b in seen for ids, n in zip(b.ids_BT.tolist(), b.lengths_B, strict=True))
    assert rows == sorted(tuple(row.tolist()) for row in LSTM.sequences)


def test_the_settings_are_the_standard_work(networks, jobs):
    job = jobs["transformer"]
    assert (job.model.hidden, job.network.embedding_width, job.train.batch_size) == (128, 64, BATCH)
    assert (job.model.layers, job.model.heads, job.model.causal) == (2, 4, False)
    assert job.train.log_every == 10
    assert networks["bilstm"].encoder.width_out == 256


@pytest.mark.parametrize("packed", [False, True])
def test_the_packed_network_ignores_padding_and_equals_the_padded_one_where_that_is_right(packed):
    torch.manual_seed(0)
    network = Classifier("lstm", packed=packed)
    plain = Classifier("lstm")
    plain.load_state_dict(network.state_dict())
    ids_BT, lengths_B, _ = next(iter(DataLoader(dataset(LSTM), batch_size=5, collate_fn=collate)))
    torch.testing.assert_close(network(ids_BT, lengths_B), plain(ids_BT, lengths_B))


# Correctness before speed


@pytest.mark.parametrize("name", MODELS)
def test_seqbenchs_layers_equal_torchs_modules(name, networks):
    equality.check(Cell(name, 32), networks[name].encoder)


@pytest.mark.parametrize("wrong", ["scaled outputs", "one wrong gradient", "padding seen", "not a number"])
def test_a_planted_wrong_layer_gets_no_figure(wrong, networks, monkeypatch):
    encoder, cell = networks["gru"].encoder, Cell("gru", 32)
    right = type(encoder).forward

    def forward(self, x_BTD, *, mask_BT=None, state=None):
        if wrong == "padding seen":  # its state at the last column instead of the last token
            y_BTH, after = right(self, x_BTD, mask_BT=mask_BT, state=state)
            return y_BTH + 0.01 * y_BTH[:, -1:], after
        if wrong == "one wrong gradient":
            x_BTD = x_BTD.detach() + 0.99 * (x_BTD - x_BTD.detach())
        y_BTH, after = right(self, x_BTD, mask_BT=mask_BT, state=state)
        return y_BTH * {"scaled outputs": 1.001, "not a number": float("nan")}.get(wrong, 1.0), after

    monkeypatch.setattr(type(encoder), "forward", forward)
    with pytest.raises(equality.Unequal, match="equality test failed: .* of gru differ from torch's"):
        equality.check(cell, encoder)


def test_an_unequal_layer_stands_in_the_table_without_a_figure_and_fails_the_command():
    reason = "Unequal: equality test failed: outputs of lstm differ from torch's by 0.1 at T=32"
    results = {LSTM: of_cell(seqbench=result(problem=reason), naive=result(1.0), matmul=result(0.01))}
    [row] = [row for row in next(table.grids(results)).rows if row[1] == "seqbench"]
    assert row[2:] == ["-", "-", "equality test failed", "-"]
    assert table.failures(results) == 1
    assert verdicts(results)[0].met is None
    assert reason in table.problems(results)[0]


# Ratios and goals


def test_a_ratio_is_the_median_of_ratios_in_the_same_round():
    found = ratio(result(1.0, 4.0, 3.0), result(2.0, 4.0, 4.0))
    assert (found.median, found.low, found.high) == (0.75, 0.625, 0.875)
    assert ratio(result(1.0, 9.0), result(2.0)).median == 0.5  # the slower one took part in fewer rounds
    assert ratio(result(problem="it broke"), result(2.0)) is None


def test_time_over_floor_uses_the_peak_of_the_same_round():
    floor_s = LSTM.step_flops / (PRODUCT_FLOPS / 0.02)
    results = of_cell(seqbench=result(3 * floor_s, 6 * floor_s), matmul=result(0.02, 0.04))
    assert over_floor(LSTM, results, OURS).median == pytest.approx(3.0)
    assert over_floor(LSTM, of_cell(seqbench=result(1.0)), OURS) is None


def test_goals_are_met_or_missed_or_have_no_figure():
    results = {
        LSTM: of_cell(seqbench=result(0.64), naive=result(1.0)),
        Cell("gru", 128): of_cell(seqbench=result(0.6), naive=result(1.0), packed=result(problem="it broke")),
    }
    by_goal = {(v.goal.model, v.goal.length, v.goal.against): v for v in verdicts(results)}
    assert by_goal["lstm", 32, NAIVE].met is True
    assert by_goal["gru", 128, NAIVE].met is False
    missing = by_goal["gru", 128, PACKED]
    assert (missing.met, missing.why) == (None, "packed: it broke")
    assert by_goal["gru", 128, FLOOR].why == "matmul: not asked for"


def test_the_goals_are_those_that_were_set():
    first = [(g.model, g.length, g.against, g.at_most) for g in GOALS[:6]]
    assert first == [
        ("lstm", 32, NAIVE, 0.65), ("lstm", 128, NAIVE, 0.55), ("gru", 128, NAIVE, 0.5),
        ("bilstm", 128, PACKED, 0.2), ("bilstm", 512, PACKED, 0.05), ("transformer", 512, NAIVE, 0.5),
    ]  # fmt: skip
    assert len({g.words for g in GOALS}) >= len(GOALS) - 2  # two are asked for with different bounds
    assert Goal("rnn", 128, FLOOR, 2.4) in GOALS


def test_the_best_back_end_of_keras_and_the_fastest_peer():
    results = of_cell(
        seqbench=result(0.5), naive=result(1.0), keras_torch=result(3.0), keras_jax=result(0.4),
        keras_tensorflow=result(problem="not installed (keras)"), matmul=result(0.001),
    )  # fmt: skip
    assert best_keras(results) == "keras-jax"
    name, found = nearest_peer(results)
    assert (name, found.median) == ("keras-jax", 1.25)
    assert best_keras(of_cell(seqbench=result(1.0))) is None


# Words


def full_results() -> dict[Cell, dict[str, Result]]:
    names = [one.name for one in EVERY]
    return {
        Cell(model, length): {
            **{name: result(1.0 + i, 1.1 + i) for i, name in enumerate(names)},
            PEAK: result(0.02, 0.02),
        }
        for model in MODELS
        for length in (32, 128)
    }


def test_every_contestant_stands_in_the_table_of_every_model():
    drawn = list(table.grids(full_results()))
    assert len(drawn) == len(MODELS) + 2
    for grid in drawn[: len(MODELS)]:
        assert [row[1] for row in grid.rows] == [one.title for one in EVERY] * 2
        assert all(len(row) == len(grid.head) for row in grid.rows)
    assert all(row[-1] == "yes" for row in drawn[-2].rows)


def test_what_is_not_installed_is_named_and_is_no_failure():
    results = {
        LSTM: of_cell(seqbench=result(1.0), naive=result(2.0), flax=result(problem="not installed (jax)"))
    }
    text = table.markdown(results, ["a machine"])
    assert "| 32 | JAX (flax nnx, optax) | - | - | not installed | - |" in text
    assert "JAX (flax nnx, optax): not installed (jax)" in text
    assert table.failures(results) == 0


def test_json_holds_raw_values_and_verdicts():
    plain = json.loads(json.dumps(table.plain(full_results(), {"cpu": "x"})))
    assert plain["cells"][0]["contestants"][OURS]["cpu_s"] == [1.0, 1.1]
    assert {goal["met"] for goal in plain["goals"] if goal["against"] == NAIVE} == {True, False}


def test_the_terminal_shows_quartiles_in_brackets(capsys):
    facts = {
        "cpu": "x",
        "core": 0,
        "rounds": 2,
        "peak_flops_per_s": 1e11,
        "products": "",
        "versions": {"torch": "2"},
    }
    program.show(full_results(), facts, program.Console(width=120))
    shown = capsys.readouterr().out
    assert "median [quartiles]" in shown
    assert "0.51 [" in shown
    assert "Keras 3 (tensorflow)" in shown


def test_all_ways_to_multiply_give_the_same_product():
    products = [way() for way in matmul.ways().values()]
    assert len(products) == 1 + torch.backends.mkldnn.is_available()
    for product in products[1:]:
        torch.testing.assert_close(product.to_dense(), products[0], rtol=1e-3, atol=1e-3)


# The gate and the processes


def test_the_gate_answers_after_as_many_steps_as_were_asked_for_and_then_ends():
    orders, answers = iter([{"steps": 3}, {"end": True}]), []
    gate = Gate(lambda: next(orders), answers.append)
    taken = 0
    with pytest.raises(Finished):
        while True:
            taken += 1
            gate.tick(lambda: 0.5)
    assert taken == 4
    assert [answer["steps"] for answer in answers] == [1, 3]
    assert all(answer["wall_s"] >= 0 and answer["loss"] == 0.5 for answer in answers)


def test_a_loss_that_is_no_number_is_a_failure():
    gate = Gate(lambda: {"end": True}, lambda _: None)
    with pytest.raises(ArithmeticError, match="nan"):
        gate.tick(lambda: float("nan"))


class Scripted(Player):
    """A player whose answers are made up: seconds per step, and perhaps a step at which it breaks."""

    def __init__(self, contestant: Contestant, step_s: float, breaks_after: int = 1_000) -> None:
        super().__init__(contestant, Path(sys.executable), set())
        self.step_s, self.left, self.orders = step_s, breaks_after, []

    def ask(self, order, patience_s=0.0):
        self.orders.append(order)
        self.left -= 1
        if self.left < 0:
            raise Stopped("ValueError: it broke")
        if "end" in order:
            return {"ended": True}
        steps = order.get("steps", self.contestant.at_once)
        return {
            "steps": steps,
            "loss": 0.7,
            "kernel": "",
            "cpu_s": steps * self.step_s,
            "wall_s": steps * self.step_s,
        }


def test_rounds_have_whole_epochs_of_seqbench_and_about_the_asked_seconds():
    player = Scripted(BY_NAME[OURS], 0.007)
    found = contest(LSTM, [player], seconds=2.0, rounds=4, rng=random.Random(0))[OURS]
    assert found.steps == 70  # half a second, in epochs of ten
    assert found.cpu_s == pytest.approx([0.007] * 4)
    assert player.orders[-1] == {"end": True}


def test_a_slow_contestant_takes_part_in_fewer_rounds_and_its_first_step_counts():
    turn = Turn(Scripted(BY_NAME[PACKED], 20.0), 2.0, 6)
    turn.prepare(LSTM)
    assert turn.result.cpu_s == [20.0]
    for _ in range(6):
        turn.play()
    assert turn.result.cpu_s == [20.0, 20.0]


def test_a_contestant_that_breaks_is_told_with_its_reason_and_the_others_go_on():
    every = [Scripted(BY_NAME[NAIVE], 0.01), Scripted(BY_NAME["lightning"], 0.01, breaks_after=3)]
    found = contest(LSTM, every, seconds=1.0, rounds=3, rng=random.Random(0))
    assert found["lightning"].problem == "ValueError: it broke"
    assert len(found[NAIVE].cpu_s) == 3
    assert table.failures({LSTM: found}) == 1
    assert table.problem(found["lightning"].problem) == "failed"


def test_packed_takes_no_part_with_a_transformer():
    found = contest(
        Cell("transformer", 32), [Scripted(BY_NAME[PACKED], 1.0)], seconds=1, rounds=2, rng=random.Random(0)
    )
    assert found == {}


def test_without_the_peers_environment_they_are_not_installed(tmp_path):
    player = Player(BY_NAME[KERAS[0]], tmp_path / "no" / "python", {0})
    with pytest.raises(Stopped, match="not installed .no environment"):
        player.ask({"cell": ["lstm", 32]})


def test_a_missing_package_is_named_by_the_contestants_own_process():
    player = Player(BY_NAME["keras-tensorflow"], Path(sys.executable), os.sched_getaffinity(0))
    with pytest.raises(Stopped, match=r"not installed \(keras, tensorflow\)"):  # no pin of ours has them
        player.ask({"cell": ["lstm", 32]})


def test_a_process_that_dies_or_says_nothing_is_a_failure_with_its_last_words(tmp_path):
    dies, hangs = (tmp_path / name for name in ("dies", "hangs"))
    dies.write_text("#!/bin/sh\necho no memory >&2\nexit 3\n")
    hangs.write_text("#!/bin/sh\nexec sleep 60\n")
    for script in (dies, hangs):
        script.chmod(0o755)
    with pytest.raises(Stopped, match="ended with 3: no memory"):
        Player(BY_NAME[NAIVE], dies, os.sched_getaffinity(0)).ask({"cell": ["lstm", 32]})
    with pytest.raises(Stopped, match="no answer in 0 s"):
        Player(BY_NAME[NAIVE], hangs, os.sched_getaffinity(0)).ask({"cell": ["lstm", 32]}, patience_s=0.2)


@pytest.mark.parametrize(
    "words", [["--models", "lstn"], ["--rounds", "1"], ["--lengths", "2"], ["--core", "-1"]]
)
def test_what_cannot_be_asked_for_ends_with_2(words, capsys):
    with pytest.raises(SystemExit) as ended:
        program.main(words)
    assert ended.value.code == 2
    assert words[0] in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_whole_way_with_the_contestants_of_this_environment(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SEQBENCH_LOCKS", str(tmp_path))
    words = ["--models", "rnn", "--lengths", "8", "--peers", "seqbench,naive,flax", "--rounds", "2"]
    words += ["--seconds", "0.1", "--python", str(tmp_path / "python"), "--json", str(tmp_path / "x.json")]
    assert program.main(words) == 0
    shown = capsys.readouterr().out
    assert "not installed" in shown
    [cell] = json.loads((tmp_path / "x.json").read_text())["cells"]
    assert f"rnn: {cell['contestants']['seqbench']['kernel']}" in shown
    assert "scan" in cell["contestants"]["seqbench"]["kernel"]
    for name in ("seqbench", "naive", PEAK):
        assert not cell["contestants"][name]["problem"]
        assert len(cell["contestants"][name]["cpu_s"]) == 2
        assert cell["contestants"][name]["cpu_s"][0] > 0
