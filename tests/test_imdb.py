"""The IMDb task: the published reviews and nothing else, from the hub or a local copy, as words or bytes."""

from __future__ import annotations

import http.server
import json
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_source import write_csv, write_folders, write_parquet

from seqbench import source_hub
from seqbench.cache import Cached
from seqbench.errors import UsageError
from seqbench.schema import check
from seqbench.source import find_files, fingerprint, read_files
from seqbench.source_hub import HubDataset, newest_commit
from seqbench.source_rows import Columns
from seqbench.tasks import imdb
from seqbench.tasks.imdb import IMDb
from seqbench.tasks.text import Text

ROOT = Path(__file__).resolve().parent.parent
REAL = ROOT.parent / "shared" / "hub" / "stanfordnlp" / "imdb"
COMMIT = "0123456789abcdef0123456789abcdef01234567"

TRAIN = [(f"train{n} film {n % 7}", n % 2) for n in range(40)]
TEST = [(f"test{n} film {n % 7}", n % 2) for n in range(10)]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in the layout of the hub, taken for the published data set."""
    plain = tmp_path / "data" / "imdb" / "plain_text"
    write_parquet(plain / "train-00000-of-00001.parquet", TRAIN)
    write_parquet(plain / "test-00000-of-00001.parquet", TEST)
    write_parquet(plain / "unsupervised-00000-of-00001.parquet", [("never read", -1)])
    root = tmp_path / "data" / "imdb"
    monkeypatch.setattr(imdb, "PUBLISHED", tuple(fingerprint(find_files(root))))
    return root


def refusal(task: IMDb | Text, where: Path) -> str:
    """The one line with which a source is refused, with paths cut to their names."""
    with pytest.raises(UsageError) as error:
        check(task, "task.")
        task.prepare(where / "cache")
    text = str(error.value)
    assert "\n" not in text
    assert not (where / "cache").exists()  # nothing is cached from a source that is refused
    return text.replace(f"{where}/", "")


def digests(task: IMDb | Text, where: Path) -> list[str]:
    data = task.open(0, where)
    return [batch.digest() for part in ("train", "valid", "test") for batch in data.held_out(part, 1)]


# A local copy


def test_a_local_copy_is_read_by_its_splits(folder, tmp_path):
    task = IMDb(path=str(folder))
    check(task, "task.")
    task.prepare(tmp_path)
    data = task.open(0, tmp_path)
    assert Cached(task.cache_file(tmp_path)).facts["rows"] == {"train": 36, "valid": 4, "test": 10}
    assert (data.classes, data.examples_per_epoch) == (2, 36)
    assert data.notes["texts of class '0'"] == data.notes["texts of class '1'"] == 25


def test_reviews_can_be_read_as_bytes(folder, tmp_path):
    task = IMDb(path=str(folder), tokens="byte", max_tokens=6)
    check(task, "task.")
    task.prepare(tmp_path)
    (batch,) = task.open(0, tmp_path).held_out("test", 1)
    assert {bytes((ids - 1).tolist()).decode() for ids in batch.ids_BT} == {f"film {n}" for n in range(7)}


OTHER = (
    "not the two files of stanfordnlp/imdb at e628166: "
    "copy them again, or for texts of your own use task=text"
)
ROWS = b"good,1\nbad,0\n" * 10
# What is in a file, and how its refusal begins; tests/faults reads this table too.
BAD_FILES: dict[str, tuple[bytes, str]] = {
    "own.csv": (b"text,label\n" + ROWS, f"task.path=own.csv: {OTHER} task.path=own.csv"),
    "empty.csv": (b"", f"task.path=empty.csv: {OTHER} task.path=empty.csv"),
    "train.parquet": (b"PAR1", f"task.path=train.parquet: {OTHER} task.path=train.parquet"),
    "note.txt": (
        b"good",
        "task.path=note.txt: not a .csv, .tsv, .jsonl or .parquet file: put .txt files into",
    ),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_other_texts_are_refused_with_the_task_that_reads_them(tmp_path, name):
    content, expected = BAD_FILES[name]
    (tmp_path / name).write_bytes(content)
    assert refusal(IMDb(path=str(tmp_path / name)), tmp_path).startswith(expected)


def test_a_copy_in_which_one_review_differs_is_refused(folder, tmp_path):
    write_parquet(folder / "plain_text" / "test-00000-of-00001.parquet", [("changed", 0), *TEST[1:]])
    assert refusal(IMDb(path=str(folder)), tmp_path) == f"task.path=data/imdb: {OTHER} task.path=data/imdb"
    write_folders(tmp_path / "aclImdb" / "train", [("good", "pos"), ("bad", "neg")])
    assert "use task=text task.path=aclImdb" in refusal(IMDb(path=str(tmp_path / "aclImdb")), tmp_path)


def test_without_a_copy_at_the_path_the_check_alone_refuses():
    with pytest.raises(UsageError, match=r"^task.path=/no/where: No such file or directory: give a file"):
        check(IMDb(path="/no/where"), "task.")


def test_a_copy_without_a_training_split_is_refused(tmp_path):
    write_csv(tmp_path / "c" / "reviews.csv", TRAIN)
    assert refusal(IMDb(path=str(tmp_path / "c")), tmp_path).startswith(
        "task.path=c: no split 'train' (there: reviews.csv): "
    )


# The hub


HUB_LINE = (
    "stanfordnlp/imdb: the hub cannot be reached, and the data set is not cached here: "
    "put the data set into a folder and add task.path=FOLDER"
)


@pytest.mark.parametrize("known", [True, False], ids=["HF_HUB_OFFLINE", "nobody answers"])
def test_without_the_hub_nothing_is_tried_again_and_the_local_path_is_named(run_python, tmp_path, known):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{unused.getsockname()[1]}"  # bound, never listening
        variables = {"HF_HOME": str(tmp_path / "hf"), "HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": "01"[known]}
        code = (
            "import pathlib, sys\n"
            "from seqbench.tasks.imdb import IMDb\n"
            "assert 'huggingface_hub' not in sys.modules\n"
            "try: IMDb().prepare(pathlib.Path('cache'))\n"
            "except Exception as error: print(type(error).__name__, error)\n"
            "print(sys.modules['huggingface_hub'].constants.HF_HUB_OFFLINE)\n"  # else it tries again for 24 s
        )
        done = run_python("-c", code, **variables)
    assert done.stdout.splitlines()[-2:] == [f"UsageError {HUB_LINE}", "True"], done.stderr


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, object]:
    """A hub that answers with what a test puts into this: splits by name, or an error."""
    import datasets

    answer: dict[str, object] = {"calls": []}

    original = datasets.load_dataset

    def load(*words: object, **options: object) -> object:
        if words == ("parquet",):
            return original(*words, **options)
        answer["calls"].append((*words, options))
        if "error" in answer:
            raise answer["error"]
        return datasets.DatasetDict(
            {
                split: datasets.Dataset.from_dict(
                    {"text": [t for t, _ in rows], "label": [n for _, n in rows]}
                )
                for split, rows in answer["splits"].items()
            }
        )

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(source_hub, "reachable", lambda: True)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(datasets, "load_dataset", load)
    return answer


def test_the_hub_gives_the_same_data_as_the_files(hub, folder, tmp_path):
    hub["splits"] = {"train": TRAIN, "test": TEST, "unsupervised": [("never read", -1)]}
    remote, local = IMDb(), IMDb(path=str(folder))
    check(remote, "task.")
    for task in (remote, local):
        task.prepare(tmp_path)
    assert hub["calls"] == [("stanfordnlp/imdb", None, {"revision": imdb.HUB.revision})]
    assert digests(remote, tmp_path) == digests(local, tmp_path)
    assert remote.card().id == local.card().id == "imdb/word-20000-256"
    assert remote.card().reference_points == local.card().reference_points
    assert remote.card().floors == {"chance": 0.5}


def test_a_missing_split_of_the_hub_is_named(hub, tmp_path):
    hub["splits"] = {"train": TRAIN, "tests": TEST}
    assert refusal(IMDb(), tmp_path) == (
        "stanfordnlp/imdb: no split 'test'; did you mean 'tests'? choices: tests, train: "
        "put the data set into a folder and add task.path=FOLDER"
    )


def test_any_data_set_of_the_hub_is_read_at_its_commit(hub, tmp_path):
    hub["splits"] = {"train": TRAIN, "validation": TRAIN[:4], "test": TEST, "extra": TEST}
    task = Text(hub="some/texts", revision=COMMIT, subset="en")
    check(task, "task.")
    task.prepare(tmp_path)
    assert hub["calls"] == [("some/texts", "en", {"revision": COMMIT})]
    assert Cached(task.cache_file(tmp_path)).facts["rows"] == {"train": 40, "valid": 4, "test": 10}
    hub["splits"] = {"train": TRAIN}
    task = Text(hub="other/texts", revision=COMMIT)
    task.prepare(tmp_path)
    assert Cached(task.cache_file(tmp_path)).facts["rows"] == {"train": 28, "valid": 4, "test": 8}


@pytest.mark.parametrize(
    ("splits", "expected"),
    [
        (
            {"all": TRAIN},
            "some/texts: no split 'train'; choices: all: put the data set into a folder and add "
            "task.path=FOLDER",
        ),
        (
            {"train": [("a", 0.5), ("b", 1.0)]},
            "some/texts/train:1: 'label' is 0.5 (float), expected a whole number or "
            "a name: write whole numbers or names, or set task.label_column",
        ),
        (
            {"train": TRAIN, "test": [("a", 1), (None, 0)]},
            "some/texts/test:2: 'text' is missing, expected a text: mend the row, or set task.text_column",
        ),
        (
            {"train": TRAIN, "test": [("a", -1)]},
            "some/texts/test:1: class '-1' is in the test split and not in the "
            "training split: add rows of it there, or take this one out",
        ),
    ],
)
def test_unusable_data_of_the_hub_is_refused(hub, tmp_path, splits, expected):
    hub["splits"] = splits
    assert refusal(Text(hub="some/texts", revision=COMMIT), tmp_path) == expected


def test_a_column_that_the_hub_does_not_have_is_named(hub, tmp_path):
    hub["splits"] = {"train": TRAIN}
    said = refusal(Text(hub="some/texts", revision=COMMIT, label_column="labels"), tmp_path)
    assert said == (
        "some/texts/train: no column 'labels'; did you mean 'label'? choices: label, text: "
        "set task.label_column"
    )


def test_what_the_hub_itself_refuses_is_passed_on_in_one_line(hub, tmp_path):
    hub["error"] = ValueError(
        "Config name is missing.\nPlease pick one among the available configs: ['a', 'b']"
    )
    assert refusal(Text(hub="some/texts", revision=COMMIT), tmp_path) == (
        "some/texts: Config name is missing. Please pick one among the available configs: ['a', 'b']: check "
        "task.hub, task.revision and task.subset, or put the data set into a folder and add task.path=FOLDER"
    )


def test_what_was_cached_from_another_commit_is_never_taken_for_this_one(hub, folder, tmp_path, monkeypatch):
    """Without the hub, ``datasets`` reads what it cached last, whatever commit was asked for."""
    import datasets

    for commit, right in ((COMMIT, False), (imdb.HUB.revision, True)):
        place = tmp_path / "hf" / "stanfordnlp___imdb" / "plain_text" / "0.0.0" / commit
        tables = {}
        for split, rows in (("train", TRAIN), ("test", TEST)):
            columns = {"text": [t for t, _ in rows], "label": [n for _, n in rows]}
            datasets.Dataset.from_dict(columns).save_to_disk(place / split)
            tables[split] = datasets.load_from_disk(place / split)
        monkeypatch.setattr(datasets, "load_dataset", lambda *_, t=tables, **__: datasets.DatasetDict(t))
        if right:
            IMDb().prepare(tmp_path / "cache")
        else:
            assert refusal(IMDb(), tmp_path).startswith(
                "stanfordnlp/imdb: the hub cannot be reached, and only another commit is cached here ("
            )


def test_a_folder_of_the_same_name_is_never_taken_for_the_hub(tmp_path, monkeypatch):
    """``datasets`` would read it and say nothing."""
    (tmp_path / "stanfordnlp" / "imdb").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert refusal(IMDb(), tmp_path) == (
        "stanfordnlp/imdb: there is a folder of that name here: to read it add task.path=stanfordnlp/imdb, "
        "to read from the hub start in another folder"
    )


class Api(http.server.BaseHTTPRequestHandler):
    """What the hub says about a data set."""

    def do_GET(self) -> None:
        known = self.path.startswith("/api/datasets/some/texts")
        body = json.dumps({"id": "some/texts", "sha": COMMIT} if known else {"error": "no"}).encode()
        self.send_response(200 if known else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Api) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "HF_HUB_OFFLINE"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        yield
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("revision", [None, "main", COMMIT[:7], COMMIT.upper(), f"{COMMIT}0"])
def test_a_commit_is_asked_for_and_the_newest_one_named(api, revision):
    with pytest.raises(UsageError) as error:
        check(Text(hub="some/texts", revision=revision), "task.")
    assert str(error.value) == (
        "task.hub=some/texts: data on the hub can change, so name a commit: "
        f"add task.revision={COMMIT} (the newest)"
    )


@pytest.mark.parametrize("offline", [True, False])
def test_where_the_hub_does_not_say_it_the_page_is_named(api, monkeypatch, offline):
    if offline:
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert newest_commit("no/texts") is None
    with pytest.raises(UsageError) as error:
        check(Text(hub="no/texts"), "task.")
    assert str(error.value) == (
        "task.hub=no/texts: data on the hub can change, so name a commit: "
        "add task.revision=the 40 digits from https://huggingface.co/datasets/no/texts/commits/main"
    )


@pytest.mark.parametrize(
    "name", ["imdb", "", "a/b/c", "../x", "https://huggingface.co/datasets/a/b", "a/", "csv"]
)
def test_a_name_that_is_none_of_the_hub_is_refused(name):
    with pytest.raises(UsageError, match=r"^task.hub=.*: expected owner/name, as on https://hugg"):
        HubDataset(name, COMMIT).check()


def test_reachable_asks_the_proxy_where_there_is_one(monkeypatch):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        address = f"127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setenv("HF_ENDPOINT", f"http://{address}")
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.delenv(name, raising=False)
        assert source_hub.reachable()
        monkeypatch.setenv("HF_ENDPOINT", "http://hub.invalid")
        monkeypatch.setenv("http_proxy", address)
        assert source_hub.reachable()


# The card, and the real data


def test_the_card_comes_from_the_settings_alone():
    card = IMDb(vocabulary=5_000, max_tokens=100).card()
    assert card.id == "imdb/word-5000-100"
    assert card.floors == {"chance": 0.5}
    assert card.answers == "many-to-one"
    assert all(0.85 < score < 0.88 for score in card.reference_points.values())
    assert "4,998 most frequent words" in card.definition
    assert "10% of the training split is cut off as the validation part" in card.definition
    assert IMDb(tokens="byte").card().id == "imdb/byte-1024"
    assert "bytes of the text in UTF-8" in IMDb(tokens="byte").card().definition


def test_the_real_reviews_are_the_published_ones_complete_and_balanced():
    if not REAL.is_dir():
        pytest.skip(f"the data set is not at {REAL}")
    check(IMDb(path=str(REAL)), "task.")
    files = find_files(REAL).splits
    assert list(files) == ["train", "test"]
    for split, expected in (("train", 25_000), ("test", 25_000)):
        labels = [int(row.label) for row in read_files(files[split], Columns("text", "label"))]
        assert (len(labels), sum(labels)) == (expected, expected / 2)
    assert all(re.fullmatch(r"(train|test) \.parquet [0-9a-f]{64}", line) for line in imdb.PUBLISHED)
