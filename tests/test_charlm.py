"""Characters: exact windows, exact floors, no look at what comes, and texts written by the network itself."""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
import random
import sys
import unicodedata
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import CLASSES, VARIANTS
from scipy import stats

from seqbench import cli
from seqbench.batch import PADDING, UNSCORED, Batch
from seqbench.config import NetworkConfig
from seqbench.errors import UsageError
from seqbench.generate import generate
from seqbench.layers.base import Encoder
from seqbench.models.base import ModelConfig
from seqbench.network import Network
from seqbench.registry import lookup
from seqbench.schema import check
from seqbench.tasks import charlm
from seqbench.tasks.charlm import FIRST, UNKNOWN, Characters, CharLM, encoded, entropies

SHAKESPEARE = Path(__file__).resolve().parents[2] / "shared" / "data" / "tinyshakespeare" / "input.txt"
needs_shakespeare = pytest.mark.skipif(not SHAKESPEARE.is_file(), reason=f"{SHAKESPEARE} is not here")


def written(folder: Path, text: str, name: str = "text.txt") -> Path:
    """A file with exactly this text."""
    file = folder / name
    file.write_bytes(text.encode())
    return file


def task_of(folder: Path, text: str, **settings) -> CharLM:
    return CharLM(path=str(written(folder, text)), **settings)


def opened(folder: Path, text: str, seed: int = 0, **settings) -> Characters:
    task = task_of(folder, text, **settings)
    check(task, "task.")
    return task.open(seed, folder)


def windows(data: Characters, batch: Batch) -> list[tuple[str, str]]:
    """What is read and what is asked for, as text."""
    found = []
    for ids, targets, length in zip(batch.ids_BT, batch.targets, batch.lengths_B, strict=True):
        assert (targets[length:] == UNSCORED).all()
        assert (ids[length:] == PADDING).all()
        found.append((data.spelled(ids[:length]), data.spelled(targets[:length] + UNKNOWN)))
    return found


# Windows

TRAIN, VALID, TEST = "to be or not to be that is the quest", "one that is ", "it is a test"
TEXT = TRAIN + VALID + TEST
FIFTHS = {"window": 4, "valid_share": 0.2, "test_share": 0.2}


def test_held_out_windows_stand_side_by_side_and_ask_for_the_next_character(tmp_path):
    data = opened(tmp_path, TEXT, **FIFTHS)
    [valid], [test] = data.held_out("valid", 99), data.held_out("test", 99)
    assert windows(data, valid) == [("one ", "ne t"), ("that", "hat "), (" is", "is ")]
    assert windows(data, test) == [("it i", "t is"), ("s a ", " a t"), ("tes", "est")]
    for batch in (valid, test):
        assert batch.checked(data.vocabulary_size, data.classes).lengths_B.tolist() == [4, 4, 3]


def test_the_example_of_the_docstring(tmp_path):
    data = opened(tmp_path, "xyz to be or not " + "to be" * 4, window=4, valid_share=0.27, test_share=0.27)
    assert windows(data, data.held_out("test", 1)[0])[0] == ("to b", "o be")


def test_ids_are_padding_then_unknown_then_characters_by_code_point(tmp_path):
    data = opened(tmp_path, "b\u00e9\U0001f600a" * 30, **FIFTHS)
    assert data.characters == "ab\u00e9\U0001f600"
    assert (data.vocabulary_size, data.classes, data.features) == (6, 5, 0)
    batch = data.held_out("test", 99)[0].checked(data.vocabulary_size, data.classes)
    assert set(batch.ids_BT.ravel()) == {PADDING, 2, 3, 4, 5}
    assert set(batch.targets.ravel()) == {UNSCORED, 1, 2, 3, 4}


def counting(characters: int) -> str:
    """A text in which no character occurs twice, in the order of code points: an id tells its place."""
    return "".join(chr(0x4E00 + place) for place in range(characters))


def test_training_windows_start_anywhere_and_never_reach_into_validation(tmp_path):
    data = opened(tmp_path, counting(100), window=7, valid_share=0.2, test_share=0.2)
    starts = []
    for batch in itertools.islice(data.train(50), 40):
        batch.checked(data.vocabulary_size, data.classes)
        places_BT = batch.ids_BT - FIRST
        assert (np.diff(places_BT, axis=1) == 1).all()
        assert np.array_equal(batch.targets + UNKNOWN - FIRST, places_BT + 1)
        assert (batch.lengths_B == 7).all()
        starts += places_BT[:, 0].tolist()
    assert set(starts) == set(range(60 - 7))  # 60 characters; the last answer is the last of them
    assert stats.chisquare(np.bincount(starts)).pvalue > 1e-4
    assert data.examples_per_epoch == math.ceil(60 / 7)


def test_each_character_of_a_held_out_part_but_the_first_is_asked_for_once(tmp_path):
    text = "".join(random.Random(0).choices("abcdef", k=1_000))
    data = opened(tmp_path, text, window=6, valid_share=0.1, test_share=0.11)
    for part, expected in (("valid", text[790:890]), ("test", text[890:])):
        pairs = [pair for batch in data.held_out(part, 10_000) for pair in windows(data, batch)]
        assert "".join(read for read, _ in pairs) == expected[:-1]
        assert "".join(asked for _, asked in pairs) == expected[1:]


def test_validation_is_capped_evenly_and_the_test_part_is_read_whole(tmp_path):
    data = opened(tmp_path, counting(300) * 3, window=2, valid_share=1 / 3, test_share=1 / 3)

    def starts(part: str, examples: int) -> np.ndarray:
        return np.concatenate([batch.ids_BT[:, 0] - FIRST for batch in data.held_out(part, examples)])

    assert starts("test", 1).tolist() == starts("valid", 150).tolist() == list(range(0, 300, 2))
    assert starts("valid", 10_000).tolist() == starts("valid", 150).tolist()
    assert starts("valid", 1).tolist() == [0]
    for examples in (2, 7, 149):
        chosen = starts("valid", examples)
        assert (len(chosen), chosen[0], chosen[-1]) == (examples, 0, 298)
        gaps = np.diff(chosen) // 2
        assert gaps.min() >= 1
        assert np.ptp(gaps) <= 1


def test_seeds_share_what_is_held_out_and_differ_in_what_is_drawn(tmp_path):
    one, other, again = (opened(tmp_path, TEXT * 20, seed, **FIFTHS) for seed in (0, 1, 0))

    def digests(data: Characters) -> list[str]:
        return [next(data.train(8)).digest(), data.probe(8).digest()]

    assert digests(one) == digests(again)
    assert len({*digests(one), *digests(other)}) == 4
    for part in ("valid", "test"):
        assert [b.digest() for b in one.held_out(part, 64)] == [b.digest() for b in other.held_out(part, 64)]


def test_probes_look_at_validation(tmp_path):
    known = counting(60)
    data = opened(tmp_path, known + known[::-1] + known, window=5, valid_share=1 / 3, test_share=1 / 3)
    batch = data.probe(500).checked(data.vocabulary_size, data.classes)
    assert (np.diff(batch.ids_BT, axis=1) == -1).all()  # only there the order is reversed
    assert set(batch.ids_BT[:, 0] - FIRST) == set(range(5, 60))


def test_the_first_batch_is_pinned(tmp_path):
    digest = next(opened(tmp_path, TEXT * 20, **FIFTHS).train(16)).digest()
    assert digest == "98db863762fc842badba914e0ebc97721c39c73e9ed1f02f5fadfa9f4cbcaee1"


# Spelling

AWKWARD = {
    "line ends": "one\r\ntwo\rthree\n\n\r\r\n",
    "blanks": "a\tb \t\u00a0\u2003\u200b\u3000 c",
    "other line ends": "a\x0bb\x0cc\x1cd\x85e\u2028f\u2029g",
    "combining": unicodedata.normalize("NFD", "\u00e9\u00f1\u1ec7 Z\u0351\u0343"),
    "composed": "\u00e9\u00f1\u1ec7",
    "astral": "\U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001d11e \U0010ffff \U00020000",
    "right to left": "\u0634\u0643\u0631\u0627 \u202eabc\u202c",
    "marks": "a\ufeffb\ufffdc\x01\x7f\x1b[31m",
    "surrogates' neighbours": "\ud7ff\ue000\uffff",
}


@pytest.mark.parametrize("text", AWKWARD.values(), ids=AWKWARD.keys())
def test_a_text_comes_back_character_by_character(tmp_path, text):
    whole = text * 30
    data = opened(tmp_path, whole, window=2, valid_share=0.2, test_share=0.2)
    parts = [data._cached[part] for part in ("train", "valid", "test")]
    assert "".join(map(data.spelled, parts)) == whole
    assert not any((part == UNKNOWN).any() for part in parts)
    assert data.characters == "".join(sorted(set(text)))


def test_a_byte_order_mark_at_the_start_is_no_character(tmp_path):
    data = opened(tmp_path, "\ufeff" + "ab" * 30, **FIFTHS)
    assert data.characters == "ab"


def test_characters_that_training_does_not_hold_are_one_id(tmp_path):
    text = "ab" * 40 + "a\u00e9" * 5 + "b\u00e9\U0001f600a" * 3
    data = opened(tmp_path, text, window=2, valid_share=10 / 102, test_share=12 / 102)
    assert data.characters == "ab"
    assert data.spelled(data._cached["test"]) == "b\ufffd\ufffda" * 3
    assert data.notes == {
        "characters in the train part": 80, "characters in the valid part": 10,
        "characters in the test part": 12, "different characters": 2,
        "test characters that training does not hold": 6,
    }  # fmt: skip
    [test] = data.held_out("test", 99)
    assert test.checked(4, 3).targets[0].tolist() == [0, 0]  # the first class
    assert data.spelled(np.array([0, 1, 2, 3])) == "\ufffd\ufffdab"


def test_ids_below_between_and_above_the_known_ones_are_unknown():
    known = np.array([10, 20, 30], np.uint32)
    points = np.array([10, 20, 30, 9, 11, 25, 31, 0x10FFFF], np.uint32)
    assert encoded(points, known).tolist() == [2, 3, 4, 1, 1, 1, 1, 1]


# Floors


def slow_entropies(train: str, test: str) -> dict[str, float]:
    """Bits per character, from the definition: counts of the training part, with one added to each."""
    alphabet = {*train, "unknown"}
    train_list = list(train)
    test_list = [c if c in alphabet else "unknown" for c in test]
    once, pairs = Counter(train_list), Counter(itertools.pairwise(train_list))
    follows = Counter(train_list[:-1])
    single = [(once[c] + 1) / (len(train_list) + len(alphabet)) for c in test_list[1:]]
    double = [(pairs[b, c] + 1) / (follows[b] + len(alphabet)) for b, c in itertools.pairwise(test_list)]
    return {
        "unigram": -sum(map(math.log2, single)) / len(single),
        "bigram": -sum(map(math.log2, double)) / len(double),
    }


def markov(characters: int, seed: int, alphabet: str = "abcde \n\u00e9") -> str:
    """A text in which each character depends on the one before."""
    rng, text = random.Random(seed), "a"
    follow = {c: rng.choices(alphabet, k=3) for c in alphabet}
    while len(text) < characters:
        text += rng.choice(follow[text[-1]])
    return text


@pytest.mark.parametrize("seed", range(3))
def test_floors_equal_a_slow_count(tmp_path, seed):
    train, valid = markov(800, seed), markov(100, seed)
    test = markov(90, seed) + "xyx\u00e9x" + markov(5, seed)
    data = opened(tmp_path, train + valid + test, window=8, valid_share=0.1, test_share=0.1)
    assert data.floors == pytest.approx(slow_entropies(train, test), rel=1e-12)
    assert data.floors["bigram"] < data.floors["unigram"]


def test_floors_of_a_text_that_only_alternates():
    train = np.array([2, 3] * 500)
    found = entropies(train, np.array([2, 3] * 50), 4)
    assert found["unigram"] == pytest.approx(-math.log2(501 / 1003))
    assert found["bigram"] == pytest.approx(-(50 * math.log2(501 / 503) + 49 * math.log2(500 / 502)) / 99)


def test_every_answer_of_the_floors_is_possible_and_all_add_up_to_one():
    train, size = np.array([2, 2, 3, 4, 2, 3]), 6  # id 5 never occurs
    for before in range(UNKNOWN, size):
        single, double = 0.0, 0.0
        for after in range(UNKNOWN, size):
            found = entropies(train, np.array([before, after]), size)
            single, double = single + 2 ** -found["unigram"], double + 2 ** -found["bigram"]
        assert (single, double) == pytest.approx((1, 1), rel=1e-12)


def test_a_network_that_knows_the_pairs_scores_the_bigram_floor(tmp_path):
    """The floor is on the answers that the network is asked for, no others."""
    from seqbench.evaluate import evaluate

    data = opened(tmp_path, markov(1_500, 0), window=6, valid_share=0.2, test_share=0.2)
    train = data._cached["train"].astype(int)
    table = np.ones((data.vocabulary_size, data.classes))
    np.add.at(table, (train[:-1], train[1:] - UNKNOWN), 1)
    network = identity(data.vocabulary_size, data.classes, np.log(table / table.sum(1, keepdims=True)))
    score = evaluate(network, [batch.tensors() for batch in data.held_out("test", 1)])
    assert score.loss / math.log(2) == pytest.approx(data.floors["bigram"], rel=1e-5)
    assert score.answers == 299


@needs_shakespeare
def test_shakespeare_is_read_whole_and_its_floors_equal_a_slow_count(tmp_path):
    text = SHAKESPEARE.read_bytes().decode()
    data = CharLM(path=str(SHAKESPEARE)).open(0, tmp_path)
    assert "".join(data.spelled(data._cached[part]) for part in ("train", "valid", "test")) == text
    assert (len(data.characters), data.vocabulary_size, data.classes) == (65, 67, 66)
    test, valid = (data.notes[f"characters in the {part} part"] for part in ("test", "valid"))
    assert test == valid == round(0.05 * len(text))
    expected = slow_entropies(text[: -test - valid], text[-test:])
    assert data.floors == pytest.approx(expected, rel=1e-9)
    assert 4.7 < expected["unigram"] < 4.9
    assert 3.4 < expected["bigram"] < 3.6


# What cannot be used


def refusal(folder: Path, *, at_once: bool = False, **settings) -> str:
    """The one line with which a text is refused (``at_once``: before it is prepared), without the folder."""
    task = CharLM(**{"window": 4, **settings})
    with pytest.raises(UsageError) as refused:
        check(task, "task.")
        if not at_once:
            task.prepare(folder)
    line = str(refused.value)
    assert "\n" not in line
    assert not (folder / "charlm").exists()  # nothing is cached of what is refused
    return line.replace(f"{folder}/", "")


UNUSABLE = {
    "empty": (b"", "task.path=FILE: the file is empty: give one with text"),
    "latin-1": (
        b"ab\n" * 9 + "caf\u00e9".encode("latin-1"),
        "FILE:10: not UTF-8 (byte 0xe9 in column 4): save the file as UTF-8",
    ),
    "utf-16": ("ab\n".encode("utf-16") * 20, "FILE:1: UTF-16, expected UTF-8: save the file as UTF-8"),
    "utf-16 without mark": (
        "ab\n".encode("utf-16-be") * 20,
        "FILE:1: a NUL character: save the file as text in UTF-8",
    ),
    "NUL": (b"ab\n" * 20 + b"a\0b", "FILE:21: a NUL character: save the file as text in UTF-8"),
    "half a character": (
        b"ab\n" * 20 + b"\xed\xa0\x80",
        "FILE:21: not UTF-8 (byte 0xed in column 1): save the file as UTF-8",
    ),
    "no training": (
        b"abcdefgh",
        "FILE: the train part has 8 characters, needs 9: give more text, or a smaller task.window",
    ),
    "no validation": (
        b"a" * 100,
        "FILE: the valid part has 5 characters, needs 9: give more text, or a smaller task.window",
    ),
}


@pytest.mark.parametrize(("content", "line"), UNUSABLE.values(), ids=UNUSABLE.keys())
def test_what_is_no_text_is_refused_in_one_line(tmp_path, content, line):
    file = tmp_path / "text.txt"
    file.write_bytes(content)
    assert refusal(tmp_path, path=str(file)) == line.replace("FILE", "text.txt")


def test_blanks_alone_are_no_text(tmp_path):
    file = written(tmp_path, " \n\t" * 100)
    assert "the text is empty" in refusal(tmp_path, path=str(file))


def test_places_that_are_no_file_are_refused_in_one_line(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("nowhere")
    for name, line in {
        "missing": "task.path=missing: No such file or directory: give a text file that is there",
        "link": "task.path=link: No such file or directory: give a text file that is there",
        "folder": "task.path=folder: a folder, expected a text file: give one",
        "fifo": "fifo: a pipe, expected a file: copy what it gives into one",
        "a\0b": "task.path=a\0b: embedded null byte: give a text file that is there",
    }.items():
        assert refusal(tmp_path, at_once=True, path=str(tmp_path / name)) == line
    line = "/dev/zero: a device, expected a file: copy what it gives into one"
    assert refusal(tmp_path, at_once=True, path="/dev/zero") == line


def test_paths_that_say_nothing_are_refused_in_one_line(tmp_path, monkeypatch):
    written(tmp_path, TEXT, "text")
    monkeypatch.chdir(tmp_path)  # a file called "text" lies here, and nobody asked for it
    assert refusal(tmp_path, path=None) == (
        "task.path is missing: task=charlm reads a text file: add task.path=FILE"
    )
    assert refusal(tmp_path, path="") == "task.path=: expected a text file: give one"
    line = refusal(tmp_path, path="~nobody-of-that-name/text")
    assert line.startswith("task.path=~nobody-of-that-name/text: ")
    assert line.endswith(": write the path out")


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"window": 1}, "task.window=1: must be at least 2"),
        ({"valid_share": 0.0}, "task.valid_share=0.0: must be at least 0.001"),
        ({"test_share": 0.5}, "task.test_share=0.5: must be at most 0.4"),
        ({"solved_at": -1.0}, "task.solved_at=-1.0: must be at least 0"),
        ({"solved_at": math.nan}, "task.solved_at=nan: must be a finite number"),
    ],
)
def test_settings_that_cannot_work_are_refused_in_one_line(tmp_path, settings, line):
    assert refusal(tmp_path, path=str(written(tmp_path, TEXT * 9)), **settings) == line


def test_a_level_of_bits_may_be_more_than_one(tmp_path):
    check(task_of(tmp_path, TEXT * 9, solved_at=2.5), "task.")


def test_the_shortest_text_that_gives_two_windows_of_each_part_is_read(tmp_path):
    shares = {"window": 4, "valid_share": 0.3, "test_share": 0.3}
    data = opened(tmp_path, "ab" * 15, **shares)
    assert [len(data._cached[part]) for part in ("train", "valid", "test")] == [12, 9, 9]
    line = refusal(tmp_path / "elsewhere", path=str(written(tmp_path, "ab" * 14)), **shares)
    assert line.endswith("the valid part has 8 characters, needs 9: give more text, or a smaller task.window")


def test_more_characters_than_any_script_has_are_no_text(tmp_path):
    most = "".join(map(chr, range(0x20000, 0x20000 + 20_000)))
    settings = {"window": 2, "valid_share": 0.001, "test_share": 0.001}
    held_out = "a" * 40
    assert opened(tmp_path, most + held_out, **settings).vocabulary_size == 20_002
    (tmp_path / "one more").mkdir()
    file = written(tmp_path / "one more", "a" + most + held_out)
    assert refusal(tmp_path / "one more", path=str(file), **settings) == (
        "text.txt: 20,001 different characters, more than 20,000: is it a text?"
    )


# The cache


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize(
    "damage", [cut, flipped, lambda _: b"", lambda _: b"text"], ids=["cut", "flipped", "empty", "text"]
)
def test_a_damaged_cache_is_built_again(tmp_path, damage):
    first = next(opened(tmp_path, TEXT * 20, **FIFTHS).train(32)).digest()
    [file] = (tmp_path / "charlm").iterdir()
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    assert next(opened(tmp_path, TEXT * 20, **FIFTHS).train(32)).digest() == first
    assert file.read_bytes() == whole


def test_a_sound_cache_is_read_and_not_built_again(tmp_path, monkeypatch):
    task = task_of(tmp_path, TEXT * 100)
    task.prepare(tmp_path)
    monkeypatch.setattr(CharLM, "_built", lambda _: pytest.fail("built again"))
    assert task.open(1, tmp_path).characters == "".join(sorted(set(TEXT)))
    Path(task.path).rename(tmp_path / "renamed")
    CharLM(path=str(tmp_path / "renamed")).prepare(tmp_path)  # the content counts, not the name


def test_what_changes_the_arrays_changes_the_cache_and_what_the_run_stands_on(tmp_path):
    task = task_of(tmp_path, TEXT * 100)
    others = [
        dataclasses.replace(task, window=64),
        dataclasses.replace(task, valid_share=0.06),
        dataclasses.replace(task, test_share=0.06),
        CharLM(path=str(written(tmp_path, TEXT * 100 + "!", "other.txt"))),
    ]
    assert len({one._cached(tmp_path) for one in (task, *others)}) == 5
    assert task.fingerprint() != others[-1].fingerprint()
    assert CharLM().fingerprint() == []


def test_a_text_that_changes_while_it_is_read_is_refused(tmp_path, monkeypatch):
    task = task_of(tmp_path, TEXT * 100)

    def meanwhile(file: Path, label: str):
        written(tmp_path, TEXT * 100 + "?")
        return read(file, label)

    read = charlm.read_txt
    monkeypatch.setattr(charlm, "read_txt", meanwhile)
    with pytest.raises(UsageError) as refused:
        task.prepare(tmp_path)
    assert str(refused.value) == f"{task.path}: the text changed while it was read: start again"
    assert not (tmp_path / "charlm").exists()


def test_the_card_names_file_window_and_shares(tmp_path):
    task = task_of(tmp_path, TEXT, window=9, valid_share=0.002, test_share=0.125)
    card = task.card()
    assert card.id == "charlm/9@text.txt"
    assert "in order, 87.3% training, 0.2% validation and 12.5% test" in card.definition
    assert "training windows of 9 characters" in card.definition
    assert (card.answers, card.metric, task.cost()) == ("many-to-many", "bits per character", 9)
    Path(task.path).unlink()
    assert task.card() == card  # a card can be made when the text is gone


# No look at what comes


@pytest.fixture
def compose(monkeypatch, tmp_path):
    """Compose in this process, without a server that imports torch and without waiting for other sweeps."""
    monkeypatch.setattr(sys, "argv", ["seqbench"])
    monkeypatch.setattr("seqbench.isolate.warm_server", lambda: None)
    monkeypatch.setenv("SEQBENCH_LOCKS", str(tmp_path))
    file = written(tmp_path, TEXT * 100)
    return lambda *words: cli.compose([*words, "task=charlm", f"task.path={file}"])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("bilstm", []),
        ("gru", ["model.bidirectional=true"]),
        ("transformer", ["model.causal=false"]),
    ],
)
def test_a_model_that_reads_ahead_is_refused_at_composition(compose, name, words):
    with pytest.raises(UsageError) as refused:
        compose(f"model={name}", *words)
    assert str(refused.value) == (
        f"task=charlm model={name}: the answer at each position is the next input, which a model that reads "
        "ahead sees: take one that reads left to right"
    )


def test_models_that_read_left_to_right_compose(compose):
    models = ["rnn", "lstm", "gru", "transformer", "bag", "constant"]
    jobs = compose("-m", f"model={','.join(models)}")
    assert [job.model.name for job in jobs] == models
    assert {job.task.window for job in jobs} == {128}


class Peek(Encoder):
    """Every output is the next input."""

    def __init__(self, width_in: int, honest: bool) -> None:
        super().__init__()
        self.width_out, self.causal = width_in, not honest

    def forward(self, x_BTD, *, mask_BT=None, state=None):
        return torch.cat([x_BTD[:, 1:], torch.zeros_like(x_BTD[:, :1])], dim=1), None


@dataclass
class PeekConfig(ModelConfig):
    """A user's layer, of which the settings do not say that it reads ahead."""

    name: str = "peek"
    honest: bool = True

    def build(self, width_in: int, hidden: int) -> Encoder:
        return Peek(width_in, self.honest)


def recorded(folder: Path, job):
    from seqbench.plan import plan
    from seqbench.recorder import Recorder

    [unit] = [unit for unit in plan([job], folder / "runs") if unit.kind == "train"]
    return Recorder(unit, allocator=False).run()


@pytest.mark.parametrize(
    ("honest", "kind", "line"),
    [
        (
            True,
            "UsageError",
            "'peek' reads ahead (causal = False), and the answers of 'charlm' are later inputs: take a model "
            "that reads left to right",
        ),
        (False, "ContractBroken", "when only later inputs change"),
    ],
    ids=["says so", "does not say so"],
)
def test_a_users_layer_that_reads_ahead_is_stopped_before_training(tmp_path, make_job, honest, kind, line):
    job = make_job(
        "rnn", "charlm", task_options={"path": str(written(tmp_path, TEXT * 100)), "window": 8}, seeds=[0],
        cache_dir=str(tmp_path), speed={"enabled": False}, probes=[],
    )  # fmt: skip
    run = recorded(tmp_path, dataclasses.replace(job, model=PeekConfig(honest=honest)))
    assert (run.status, run.error["type"]) == ("failed", kind)
    assert run.error["message"] == line if honest else line in run.error["message"]
    assert "train_cpu_s" not in run.metrics


# Writing


class Identity(Encoder):
    """Every output is its input; remembers what it was given."""

    def __init__(self, width_in: int) -> None:
        super().__init__()
        self.width_out, self.seen = width_in, []

    def forward(self, x_BTD, *, mask_BT=None, state=None):
        self.seen.append(x_BTD.argmax(2))
        return x_BTD, None


def identity(vocabulary: int, classes: int, logits_VC: np.ndarray) -> Network:
    """A network whose logits are a row of a table, by the last id."""
    model = SimpleNamespace(name="identity", bidirectional=False, build=lambda width, _: Identity(width))
    network = Network(model, NetworkConfig(embedding="onehot"), vocabulary, classes, 1)
    with torch.no_grad():
        network.head.weight.copy_(torch.from_numpy(np.asarray(logits_VC, np.float32).T))
        network.head.bias.zero_()
    return network


def following(answer: int) -> int:
    return answer + UNKNOWN


PROMPT = np.array([3, 1, 4])


def write(network: Network, tokens: int, seed: int = 0, window: int = 8) -> list[int]:
    ids = generate(network, PROMPT, tokens, window, following, seed)
    assert ids.dtype == np.int64
    return ids.tolist()


def test_writing_depends_on_its_seed_alone_and_touches_no_global_state(make_network):
    network = make_network(lookup("model", "gru")(), dropout=0.5)
    first = write(network, 40)
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    torch.manual_seed(99)
    again, other = write(network, 40), write(network, 40, seed=1)
    assert first == again != other
    torch.set_rng_state(states[2])
    write(network, 3)
    assert random.getstate() == states[0]
    assert all(np.array_equal(a, b) for a, b in zip(np.random.get_state(), states[1], strict=True))
    assert torch.get_rng_state().equal(states[2])
    assert PROMPT.tolist() == [3, 1, 4]


@pytest.mark.parametrize("label", [label for label, config in VARIANTS.items() if not config.looks_ahead])
def test_every_model_that_reads_left_to_right_can_write_and_never_writes_padding(make_network, label):
    ids = write(make_network(VARIANTS[label]), 12, window=5)
    assert len(ids) == 12
    assert set(ids) <= set(range(1, CLASSES + 1))


def test_what_the_network_is_sure_of_is_written(make_network):
    network = make_network(lookup("model", "lstm")())
    with torch.no_grad():
        network.head.weight.zero_()
        network.head.bias.fill_(-1e4)
        network.head.bias[2] = 1e4
    assert write(network, 10) == [3] * 10


def test_characters_are_drawn_as_often_as_the_network_predicts():
    shares = np.array([0.5, 0.3, 0.15, 0.05])
    network = identity(5, 4, np.log(np.tile(shares, (5, 1))))
    counts = np.bincount(write(network, 2_000, window=2), minlength=5)
    assert counts[PADDING] == 0
    assert stats.chisquare(counts[1:], 2_000 * shares).pvalue > 1e-4


def test_each_character_follows_the_one_before_it():
    logits_VC = np.full((5, 4), -1e4)
    for before in range(1, 5):
        logits_VC[before, before % 4] = 0  # 1 2 3 4 1 2 ...
    assert write(identity(5, 4, logits_VC), 9) == [1, 2, 3, 4, 1, 2, 3, 4, 1]


def test_the_last_window_of_ids_is_read_anew_for_each_character():
    network = identity(5, 4, np.zeros((5, 4)))
    ids = [*PROMPT, *write(network, 6, window=4)]
    read = [ids_1T[0].tolist() for ids_1T in network.encoder.seen]
    assert read == [ids[max(0, end - 4) : end] for end in range(3, 9)]


@pytest.mark.parametrize("training", [True, False])
def test_writing_restores_the_mode_and_trains_nothing(make_network, training):
    network = make_network(lookup("model", "gru")(), dropout=0.5).train(training)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    write(network, 3)
    assert all(module.training == training for module in network.modules())
    assert all(value.equal(before[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


def test_the_writer_goes_on_from_the_first_characters_of_validation(tmp_path):
    data = opened(tmp_path, TEXT, **FIFTHS)
    writer = data.writer()
    assert writer.spelled(writer.prompt_T) == "on"
    assert writer.window == 4
    assert [writer.next_id(answer) for answer in (0, 1)] == [UNKNOWN, FIRST]
    classes = [writer.next_id(answer) for answer in range(data.classes)]
    assert writer.spelled(np.array(classes)) == "\ufffd" + data.characters
    assert len(opened(tmp_path, TEXT, **FIFTHS | {"window": 2}).writer().prompt_T) == 1


# The whole way


def test_a_few_steps_bring_a_network_below_the_unigram_floor_and_it_writes(tmp_path, make_job):
    text = "the cat sat on the mat.\n" * 200
    job = make_job(
        "gru", "charlm", task_options={"path": str(written(tmp_path, text)), "window": 24}, seeds=[0],
        cache_dir=str(tmp_path), speed={"enabled": False}, probes=["gradient_flow"],
        train={"steps": 40, "eval_every": 20, "lr": 0.03, "batch_size": 16}, match={"target": 5_000},
    )  # fmt: skip
    run = recorded(tmp_path, job)
    assert run.status == "done", run.error
    bits, floors = run.metrics["test_loss"] / math.log(2), run.card["floors"]
    assert list(floors) == ["unigram", "bigram"]
    assert 0 < bits < floors["unigram"]
    assert run.metrics["best_valid_score"] < floors["unigram"]
    assert run.metrics["test_answers"] == 239
    assert run.card["notes"]["different characters"] == len(set(text))
    assert run.metrics["sample_prompt"] == text[4_320:4_332]
    assert len(run.metrics["sample"]) == 240
    assert set(run.metrics["sample"]) <= {*text, "\ufffd"}
    assert "gradient_flow_failed" not in run.metrics
