"""Copy, selective copy, induction, spelling, tagging: plain readers are right, and floors are exact."""

from __future__ import annotations

import itertools
import string
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from seqbench.batch import UNSCORED, Batch
from seqbench.errors import UsageError
from seqbench.floors import most_frequent_share
from seqbench.registry import plugins
from seqbench.schema import check, setting
from seqbench.seeds import stream
from seqbench.tasks import __main__ as cards
from seqbench.tasks.base import Card, GeneratedTask, TaskConfig
from seqbench.tasks.copy import Copy
from seqbench.tasks.induction import Induction
from seqbench.tasks.selective_copy import SelectiveCopy
from seqbench.tasks.spell import STOP, Spell, spelled
from seqbench.tasks.tagging import Tagging, joint

NOWHERE = Path("/nonexistent")  # these tasks cache nothing
Row = tuple[list[int], list[int]]  # valid ids of a sequence, and its target at each of them


def sample(task: GeneratedTask, examples: int, seed: int = 0) -> Batch:
    return task.sample(stream(seed, "train"), examples).checked(task.vocabulary_size, task.classes)


def rows(batch: Batch) -> Iterator[Row]:
    """Each sequence without padding; one answer per sequence stands at its last token."""
    for ids, length, target in zip(batch.ids_BT, batch.lengths_B, batch.targets, strict=True):
        at_each = target[:length] if batch.targets.ndim == 2 else [UNSCORED] * (length - 1) + [target]
        yield ids[:length].tolist(), list(map(int, at_each))


def share(batch: Batch, guess: Callable[[list[int], int], int]) -> tuple[float, float]:
    """The share of all answers that ``guess(ids, position)`` gets right, and its standard error."""
    hits = [
        [guess(ids, place) == target for place, target in enumerate(targets) if target != UNSCORED]
        for ids, targets in rows(batch)
    ]
    right, asked = np.array([sum(row) for row in hits]), np.array([len(row) for row in hits])
    mean = right.sum() / asked.sum()
    return mean, np.std(right - mean * asked) / np.mean(asked) / np.sqrt(len(hits))


def assert_reached(floor: float, batch: Batch, guess: Callable[[list[int], int], int]) -> None:
    """A player reaches the floor: within four standard errors over independent sequences."""
    mean, error = share(batch, guess)
    assert abs(mean - floor) < 4 * error, (mean, floor, error)


def favourite(values: list[int]) -> int:
    return Counter(values).most_common(1)[0][0]


# Readers: plain Python that checks how a sequence is built and says what is asked at each token


def copy_reader(task: Copy, ids: list[int]) -> list[int]:
    blank, delimiter = 9, 10
    waiting = task.blanks[0]
    shown, between, first, asking = ids[:10], ids[10 : 9 + waiting], ids[9 + waiting], ids[10 + waiting :]
    assert all(1 <= symbol <= 8 for symbol in shown)
    assert between == [blank] * (waiting - 1)
    assert first == delimiter
    assert asking == [blank if task.variant == "urnn" else delimiter] * 10
    return [UNSCORED] * (10 + waiting) + [symbol - 1 for symbol in shown]


def selective_copy_reader(task: SelectiveCopy, ids: list[int]) -> list[int]:
    blank, delimiter, query = (task.symbols + extra for extra in (1, 2, 3))
    end = ids.index(delimiter)
    assert end == task.lengths[0]
    kept = [token - 1 for token in ids[:end] if token != blank]
    assert all(0 <= symbol < task.symbols for symbol in kept)
    assert ids[end + 1 :] == [query] * task.items == [query] * len(kept)
    return [UNSCORED] * (end + 1) + kept


def induction_reader(task: Induction, ids: list[int]) -> list[int]:
    trigger = task.symbols + 1
    first, last = (place for place, token in enumerate(ids) if token == trigger)
    assert last == len(ids) - 1
    assert 0 <= first < len(ids) - 2
    return [UNSCORED] * last + [ids[first + 1] - 1]


def tagging_reader(task: Tagging, ids: list[int]) -> list[int]:
    opening, closing = task.words + 1, task.words + 2
    stack: list[int] = []
    tags = []
    for token in ids:
        if token == opening:
            stack.append(token)
        elif token == closing:
            stack.pop()
        assert len(stack) <= task.depth
        tags.append(len(stack))
    return tags


READERS = {
    Copy: copy_reader,
    SelectiveCopy: selective_copy_reader,
    Induction: induction_reader,
    Tagging: tagging_reader,
}
SETTINGS = [
    *(Copy(variant=variant, blanks=[waiting]) for variant in ("urnn", "tcn") for waiting in (1, 20, 50)),
    SelectiveCopy(),
    SelectiveCopy(lengths=[5], items=5, symbols=2),
    SelectiveCopy(lengths=[64], items=1, symbols=30),
    Induction(),
    Induction(lengths=[3], symbols=2),
    Induction(lengths=[100], symbols=5),
    Tagging(),
    Tagging(lengths=[4], depth=1, words=1),
    Tagging(lengths=[60], depth=9, words=2),
]


def label(task: TaskConfig) -> str:
    settings = vars(task).items()
    return task.name + "".join(f"-{value}" for key, value in settings if key not in ("name", "solved_at"))


@pytest.mark.parametrize("task", SETTINGS, ids=label)
def test_a_plain_reader_and_the_oracle_are_always_right(task):
    check(task, "task.")
    for seed in (0, 1):
        batch = sample(task, 500, seed)
        scored = batch.targets != UNSCORED
        assert np.array_equal(task.oracle(batch)[scored], batch.targets[scored])
        for ids, targets in rows(batch):
            assert targets == READERS[type(task)](task, ids)


@pytest.mark.parametrize("task", [Induction(lengths=[8]), Tagging(lengths=[8])], ids=label)
def test_slices_have_exactly_their_length(task):
    assert task.slice_values() == [8, 16, 32, 64]
    for value in task.slice_values():
        assert set(task.sample_slice(stream(0, "slice", value), 200, value).lengths_B) == {value}


def test_lengths_of_tagging_fill_their_range():
    assert set(sample(Tagging(lengths=[32]), 2_000).lengths_B) == set(range(24, 33))


@pytest.mark.parametrize("task", [SelectiveCopy(lengths=[9], items=3), Induction(lengths=[9])], ids=label)
def test_every_place_is_as_likely_as_another(task):
    ids = sample(task, 9_000).ids_BT
    marked = ids[:, :9] <= task.symbols if task.name == "selective_copy" else ids[:, :7] == task.symbols + 1
    expected = marked.sum() / marked.shape[1]
    assert abs(marked.sum(0) - expected).max() < 4 * np.sqrt(expected)


# Numbers are comparable only while the definition stands; a changed hash is a changed task.
FIRST_BATCHES = {
    "copy-urnn": (Copy(), "1b5a5376274ec440ee4613ce69fa4a5cba838f537e03326895d1dca46aee68c4"),
    "copy-tcn": (Copy(variant="tcn"), "645d5e6e650f39c57b5268dd0441d7206a75dd8437d1e73620db8183416f104f"),
    "selective_copy": (SelectiveCopy(), "56f3ce5fb323b4ab7f28a7685a2ba9cac0500ecbebcbf1263f9b96bd67d2ea65"),
    "induction-answer": (Induction(), "4fcd3be3900dd70e2c348f14c6d959941f7f58ea2f14d638f9efce724fa2c001"),
    "induction-all": (
        Induction(protocol="all"),
        "c0e9eb56950040c0c31be909cfb591410b420428f3e67b92704b376f5ad3fd4c",
    ),
    "spell": (Spell(), "cad7cc08e96f749db2b9a80f041a7e37d0d7bdb599c772596e3de598cdd7caee"),
    "tagging": (Tagging(), "d5a02b5b5325baa556c0f0df926b8ba25bf38088377bd0f0745274f2a5ff10fd"),
}


@pytest.mark.parametrize("name", FIRST_BATCHES)
def test_the_first_batch_of_seed_0_is_pinned(name):
    task, pinned = FIRST_BATCHES[name]
    assert next(task.rungs()[0].open(0, NOWHERE).train(32)).digest() == pinned


# Worked examples: the docstring's two lines are what the task draws


def legend(task: TaskConfig) -> list[str]:
    """How the docstring writes each token id; padding is written as nothing."""
    letters = string.ascii_lowercase
    if isinstance(task, Copy):
        return ["", *letters[:8], ".", "|"]
    if isinstance(task, SelectiveCopy):
        return ["", *letters[: task.symbols], ".", "|", "?"]
    if isinstance(task, Induction):
        return ["", *letters[: task.symbols], "$"]
    if isinstance(task, Spell):
        return ["", *map(str, range(task.largest + 1)), ">"]
    return ["", *letters[: task.words], "(", ")"]


def told(task: TaskConfig, row: Row) -> list[str]:
    """A row of data, written the way of the docstring."""
    ids, targets = row
    asked = legend(task)[1:]
    if isinstance(task, Spell):
        asked = [character or "$" for character in task.alphabet]
    if isinstance(task, Tagging):
        asked = list("0123")
    nothing = "." if isinstance(task, Spell) else "-"
    answers = [nothing if target == UNSCORED else asked[target] for target in targets]
    return ["reads " + " ".join(legend(task)[token] for token in ids), "answers " + " ".join(answers)]


EXAMPLES = [
    Copy(blanks=[4]),
    SelectiveCopy(lengths=[12]),
    Induction(lengths=[12]),
    Tagging(lengths=[16]),
    Spell(),
]


@pytest.mark.parametrize("task", EXAMPLES, ids=label)
def test_the_worked_example_is_a_row_of_the_task(task):
    if isinstance(task, Spell):
        batch = task.open(0, NOWHERE).splits["train"].take(np.array([42]))
    else:
        batch = sample(task, 1)
    lines = [" ".join(line.split()) for line in cards.example(type(task)).splitlines()[-2:]]
    assert lines == told(task, next(rows(batch)))


# Floors


@pytest.mark.parametrize(("draws", "boxes"), [(1, 5), (3, 2), (4, 3), (5, 4), (2, 30)])
def test_most_frequent_share_equals_counting_every_case(draws, boxes):
    cases = list(itertools.product(range(boxes), repeat=draws))
    counted = sum(max(Counter(case).values()) for case in cases) / (draws * len(cases))
    assert most_frequent_share(draws, boxes) == pytest.approx(counted, rel=1e-9)


def test_most_frequent_share_of_many_draws_is_quick_and_tends_to_an_equal_share():
    shares = [most_frequent_share(draws, 14) for draws in (100, 1_000, 4_094)]
    assert shares == sorted(shares, reverse=True)
    assert shares[-1] == pytest.approx(1 / 14, abs=0.01)


@pytest.mark.parametrize("task", SETTINGS, ids=label)
def test_floors_are_shares_lowest_first(task):
    values = list(task.card().floors.values())
    assert values == sorted(values)
    assert all(0 < value <= 1 for value in values)
    assert task.card().floors["chance"] == 1 / task.classes


@pytest.mark.parametrize("task", [Copy(), SelectiveCopy(), SelectiveCopy(items=12, symbols=3)], ids=label)
def test_a_bag_that_answers_the_most_frequent_symbol_reaches_its_floor(task):
    def bag(ids: list[int], place: int) -> int:
        symbols = 8 if isinstance(task, Copy) else task.symbols
        return favourite([token for token in ids if token <= symbols]) - 1

    assert_reached(task.card().floors["bag of symbols"], sample(task, 5_000), bag)


@pytest.mark.parametrize("task", [Induction(), Induction(lengths=[9], symbols=4)], ids=label)
def test_a_bag_that_answers_the_most_frequent_token_reaches_its_floor(task):
    def bag(ids: list[int], place: int) -> int:
        return favourite([token for token in ids if token <= task.symbols]) - 1

    assert_reached(task.card().floors["bag of tokens"], sample(task, 5_000), bag)
    assert_reached(task.card().floors["chance"], sample(task, 5_000), lambda ids, place: 0)


@pytest.mark.parametrize("task", [Tagging(), Tagging(lengths=[9], depth=5, words=2)], ids=label)
def test_players_of_tagging_who_see_little_reach_their_floors(task):
    longest, exact = task.lengths[0], task.card().floors
    kinds_and_tags = joint(longest, task.depth)
    batch = sample(task, 5_000)
    weights = np.array([(batch.lengths_B > place).mean() for place in range(longest)])
    whole = (kinds_and_tags * weights[:, None, None]).sum(0)

    def kind(token: int) -> int:
        return max(0, token - task.words)

    assert_reached(exact["majority class"], batch, lambda ids, place: int(whole.sum(0).argmax()))
    assert_reached(
        exact["majority per token"], batch, lambda ids, place: int(whole[kind(ids[place])].argmax())
    )
    assert_reached(
        exact["majority per token and position"],
        batch,
        lambda ids, place: int(kinds_and_tags[place, kind(ids[place])].argmax()),
    )


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_the_tag_probabilities_equal_counting_every_sequence(depth):
    length = 5
    counted = np.zeros((length, 3, depth + 1))
    for kinds in itertools.product(range(3), repeat=length):  # word, open, close
        tags, chance = [0], 1.0
        for kind in kinds:
            opens = 1.0 if tags[-1] == 0 else 0.0 if tags[-1] == depth else 0.5
            chance *= (0.5, opens / 2, (1 - opens) / 2)[kind]
            tags.append(tags[-1] + (0, 1, -1)[kind])
        if chance:
            for place, (kind, tag) in enumerate(zip(kinds, tags[1:], strict=True)):
                counted[place, kind, tag] += chance
    assert joint(length, depth) == pytest.approx(counted)


# Induction with a fixed set


@pytest.fixture
def fixed() -> Induction:
    return Induction(protocol="all", lengths=[9], symbols=5, examples=70, held_out_examples=40)


def test_training_on_all_asks_for_the_next_token_everywhere_and_at_last_for_the_answer(fixed):
    data = fixed.open(0, NOWHERE)
    assert data.examples_per_epoch == 70
    epoch = list(itertools.islice(data.train(32), 3))
    assert sorted(len(batch.lengths_B) for batch in epoch) == [6, 32, 32]
    for batch in epoch:
        for ids, targets in rows(batch.checked(data.vocabulary_size, data.classes)):
            assert targets[:-1] == [token - 1 for token in ids[1:]]
            assert targets[-1] == induction_reader(fixed, ids)[-1]


def test_held_out_sets_of_all_ask_for_the_answer_alone(fixed):
    data = fixed.open(0, NOWHERE)
    for batch in [*data.held_out("valid", 1), *data.held_out("test", 1), data.probe(7)]:
        for ids, targets in rows(batch.checked(data.vocabulary_size, data.classes)):
            assert targets == induction_reader(fixed, ids)
    assert sum(len(batch.lengths_B) for batch in data.held_out("test", 1)) == 40


def test_the_fixed_set_returns_each_epoch_and_differs_by_seed_and_split(fixed):
    def read(batches: list[Batch]) -> set[tuple[int, ...]]:
        return {tuple(ids) for batch in batches for ids, _ in rows(batch)}

    stream_of_batches = fixed.open(0, NOWHERE).train(35)
    first, second = ([next(stream_of_batches) for _ in range(2)] for _ in range(2))
    assert read(first) == read(second)
    assert first[0].digest() != second[0].digest()
    data = fixed.open(0, NOWHERE)
    sets = [read(first), read(data.held_out("valid", 1)), read(data.held_out("test", 1))]
    sets.append(read([next(fixed.open(1, NOWHERE).train(70))]))
    assert all(not one & other for one, other in itertools.combinations(sets, 2))


def test_the_protocol_is_part_of_the_id_and_of_the_floors():
    answer, everything = Induction().card(), Induction(protocol="all").card()
    assert (answer.id, everything.id) == ("induction/answer/18tokens", "induction/all/18tokens-5000examples")
    assert answer.floors["chance"] == everything.floors["ordinary tokens"] == 1 / 18
    assert everything.floors["chance"] == 1 / 19
    assert (answer.slice_axis, everything.slice_axis) == ("length", "")
    assert Induction(protocol="all").slice_values() == []


# Copy


def test_the_two_copies_differ_in_the_last_ten_tokens_alone():
    urnn, tcn = (sample(Copy(variant=variant), 50) for variant in ("urnn", "tcn"))
    assert np.array_equal(urnn.ids_BT[:, :-10], tcn.ids_BT[:, :-10])
    assert np.array_equal(urnn.targets, tcn.targets)
    assert set(urnn.ids_BT[:, -10:].flat) == {9}
    assert set(tcn.ids_BT[:, -10:].flat) == {10}
    assert urnn.ids_BT.shape == (50, 40)


def test_copy_names_the_published_floor_beside_its_own():
    card = Copy(blanks=[1000]).rungs()[0].card()
    assert card.id == "copy/urnn/answers"
    assert "= 0.02039: not comparable" in card.definition  # 10 ln 8 / 1020
    assert "ln 8 = 2.079" in card.definition


# Spelling

NAMES = {
    0: "zero", 9: "nine", 12: "twelve", 13: "thirteen", 20: "twenty", 40: "forty", 42: "forty-two",
    99: "ninety-nine", 100: "one hundred", 105: "one hundred five", 115: "one hundred fifteen",
    340: "three hundred forty", 999: "nine hundred ninety-nine",
}  # fmt: skip


def test_numbers_are_spelled_as_in_english():
    assert {number: spelled(number) for number in NAMES} == NAMES
    assert len({spelled(number) for number in range(1000)}) == 1000


ONES = "one two three four five six seven eight nine ten eleven twelve"
STEMS = "thir four fif six seven eigh nine"
WORDS = (
    {"zero": 0, "twenty": 20, "forty": 40, "eighteen": 18, "eighty": 80}
    | {word: 1 + i for i, word in enumerate(ONES.split())}
    | {f"{word}teen": 13 + i for i, word in enumerate(STEMS.split())}
    | {f"{word}ty": 30 + 10 * i for i, word in enumerate(STEMS.split()) if word != "four"}
)


def read_out(name: str) -> int:
    """The number that a name says, read word by word."""
    value = 0
    for word in name.replace("-", " ").split():
        value = 100 * value if word == "hundred" else value + WORDS[word]
    return value


@pytest.mark.parametrize("largest", [1, 99, 999])
def test_each_number_asks_for_its_name_then_stop_and_every_split_holds_all_of_them(largest):
    task = Spell(largest=largest)
    data, alphabet = task.open(0, NOWHERE), task.alphabet
    steps = max(len(spelled(number)) for number in range(largest + 1)) + 1
    for split in ("train", "valid", "test"):
        batches = data.held_out(split, 1)
        seen = []
        for batch in batches:
            batch.checked(data.vocabulary_size, data.classes)
            assert np.array_equal(task.oracle(batch), batch.targets)
            for ids, targets in rows(batch):
                assert len(ids) == steps
                assert ids[1:] == [largest + 2] * (steps - 1)
                characters = [alphabet[target] for target in targets if target != UNSCORED]
                assert characters.pop() == STOP
                assert targets[len(characters) + 1 :] == [UNSCORED] * (steps - len(characters) - 1)
                assert read_out("".join(characters)) == ids[0] - 1
                seen.append(ids[0] - 1)
        assert sorted(seen) == list(range(largest + 1))


def test_floors_of_spelling_are_reached_by_players_who_do_not_read_the_number():
    task = Spell()
    batches = task.open(0, NOWHERE).held_out("test", 1)
    assert len(batches) == 1
    names = [spelled(number) + "$" for number in range(100)]
    by_step = [
        favourite([name[step] for name in names if len(name) > step]) for step in range(max(map(len, names)))
    ]
    overall = favourite(list("".join(names)))
    for floor, player in (
        ("majority class", lambda ids, place: overall),
        ("majority per step", lambda ids, place: by_step[place]),
    ):

        def guess(ids: list[int], place: int, player: Callable[[list[int], int], str] = player) -> int:
            return task.alphabet.index(player(ids, place).replace("$", STOP))

        assert share(batches[0], guess)[0] == pytest.approx(task.card().floors[floor])
    assert task.card().floors["chance"] == 1 / len(set("".join(names)))


def test_the_answers_of_a_number_do_not_depend_on_the_seed():
    first, second = (Spell().open(seed, NOWHERE).held_out("test", 1)[0] for seed in (0, 1))
    assert first.digest() == second.digest()


# What cannot work


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (SelectiveCopy(lengths=[3]), "task.lengths=3: has no room for task.items=4; raise it"),
        (Copy(variant="urn"), "task.variant=urn: not allowed; did you mean 'urnn'? choices: tcn, urnn"),
        (Copy(blanks=[0]), "task.blanks=0: must be at least 1"),
        (Induction(protocol="al"), "task.protocol=al: not allowed; did you mean 'all'?"),
        (Induction(lengths=[2]), "task.lengths=2: must be at least 3"),
        (Spell(largest=1000), "task.largest=1000: must be at most 999"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_said_in_one_line(task, message):
    with pytest.raises(UsageError) as refused:
        check(task, "task.")
    assert str(refused.value).startswith(message)


# python -m seqbench.tasks


def shown(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert cards.main(list(words)) == 0
    return capsys.readouterr().out


def test_every_task_has_its_card_printed_with_all_that_defines_it(capsys):
    text = " ".join(shown(capsys).split())
    for name, cls in plugins("task").items():
        for task, chosen in cards.variants(cls):
            card = task.card()
            run = " ".join(["python -m seqbench", f"task={name}", *chosen])
            for part in (card.id, run, card.tests, card.definition, card.source, card.answers, card.loss):
                assert " ".join(part.split()) in text
            assert all(f"{floor} {value:.4f}" in text for floor, value in card.floors.items())
        assert " ".join(cards.example(cls).split()) in text
        assert cards.example(cls), name


def test_one_task_is_printed_alone_with_each_of_its_variants(capsys):
    text = shown(capsys, "copy")
    ids = [line for line in text.splitlines() if line and not line.startswith(" ")]
    assert ids == ["copy/urnn/answers", "copy/tcn/answers"]
    assert "task=copy task.variant=tcn" in text
    assert "fresh: every example is drawn anew" in text
    assert "T=20, T=50 (task.blanks)" in text


def test_the_cards_say_what_is_fixed_and_what_is_tested_elsewhere(capsys):
    text = shown(capsys, "induction")
    assert "fixed: 5,000 training examples" in text
    assert "tested at length 32, 64, 128, 256 too; trained to 32" in text
    assert "fixed: a data set, read and cached before the first run" in shown(capsys, "imdb")


def test_a_card_that_does_not_exist_gets_one_line_with_the_nearest_match(capsys):
    assert cards.main(["copi"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("seqbench.tasks: no task 'copi'; did you mean 'copy'? choices: ")
    assert err.count("\n") == 1


def test_choices_that_do_not_change_the_id_or_do_not_go_together_are_not_printed_twice():
    @dataclass
    class Two(TaskConfig):
        name: str = "two"
        form: str = setting("b", "", choices=("a", "b", "broken"))
        colour: str = setting("red", "", choices=("blue", "red"))

        def check(self) -> None:
            if self.form == "broken":
                raise UsageError("no")

        def card(self) -> Card:
            return Card(f"two/{self.form}", "", "", "", {})

    found = [(task.card().id, words) for task, words in cards.variants(Two)]
    assert found == [
        ("two/b", ["task.form=b", "task.colour=red"]),
        ("two/a", ["task.form=a", "task.colour=red"]),
    ]


def test_the_cards_import_nothing_heavy(run_python):
    code = (
        "import sys; from seqbench.tasks.__main__ import main; main([]);"
        "print(sorted({'torch', 'pandas', 'datasets', 'scipy', 'hydra', 'matplotlib'} & set(sys.modules)))"
    )
    done = run_python("-W", "error", "-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
    once = run_python("-W", "error", "-m", "seqbench.tasks", "spell")
    assert (once.returncode, once.stderr) == (0, "")
    assert once.stdout.startswith("spell/0-99\n")
