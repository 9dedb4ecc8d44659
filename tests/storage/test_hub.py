"""Data sets on the Hub as inputs. The real client, against a stand-in of the Hub (tests/hub_stand_in.py)."""

from __future__ import annotations

import hashlib
import os
import pickle
import time
from collections.abc import Callable
from typing import Any

import pytest

from curation.errors import ConfigError, StorageError, WriteConflict
from curation.storage import Listed, open_storage
from curation.storage.hub import place, repository
from curation.storage.retries import DEADLINE
from hub_stand_in import READ_TOKEN, HubStandIn, git_hash

LARGE = os.urandom(3_000_000)
FILES = {
    "README.md": b"# Photos",
    "train/a.jpg": LARGE,
    "train/b/c.txt": b"a cat",
    "train/empty.txt": b"",
    "training/d.jpg": b"a dog",
}
URL = "hf://datasets/org/photos"
ODD = ("a b.jpg", "a#b.jpg", "a?b.txt", "a%20b.jpg", "ü.txt", "日本.jpg", "a+b&c=d.jpg", "a@b.txt", "{x}.jpg")


@pytest.fixture
def photos(hub: HubStandIn, monkeypatch: pytest.MonkeyPatch) -> HubStandIn:
    monkeypatch.setenv(DEADLINE, "2")
    hub.push("org/photos", FILES)
    return hub


def test_lists_below_a_folder_by_version(photos: HubStandIn) -> None:
    assert open_storage(f"{URL}/train").list("") == [
        Listed("a.jpg", 3_000_000, hashlib.sha256(LARGE).hexdigest()),
        Listed("b/c.txt", 5, git_hash(b"a cat")),
        # As `git hash-object /dev/null` has it.
        Listed("empty.txt", 0, "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"),
    ]
    assert [item.key for item in open_storage(URL).list("train/b")] == ["train/b/c.txt"]
    assert [item.key for item in open_storage(URL).list("")] == list(FILES)  # several pages of them
    assert open_storage(URL).list("nothing") == []


def test_finds_one(photos: HubStandIn) -> None:
    storage = open_storage(f"{URL}/train")
    assert storage.find("a.jpg") == storage.list("")[0]
    assert storage.find("b") is None
    assert storage.find("none.jpg") is None


@pytest.mark.parametrize("key", list(FILES))
def test_reads_whole_and_in_parts(photos: HubStandIn, key: str) -> None:
    storage = open_storage(URL)
    assert storage.read(key) == FILES[key]
    assert storage.read_versioned(key)[1] == next(item.etag for item in storage.list("") if item.key == key)
    with storage.open(key) as file:
        file.seek(1)
        assert file.read(3) == FILES[key][1:4]
        file.seek(-2, os.SEEK_END) if FILES[key] else None
        assert file.read() == FILES[key][-2:]
        file.seek(0)
        assert file.read() == FILES[key]
    with storage.local_path(key) as path:
        assert path.read_bytes() == FILES[key]


def test_parts_of_a_large_file_are_fetched_alone(photos: HubStandIn) -> None:
    with open_storage(URL).open("train/a.jpg") as file:
        file.seek(2_900_000)
        file.read(10)
    spans = [asked.rpartition("=")[2].split("-") for asked in photos.asked if "bytes=" in asked]
    assert sum(int(last) + 1 - int(first) for first, last in spans) < 1_000_000


def test_what_is_not_there(photos: HubStandIn) -> None:
    storage = open_storage(URL)
    assert storage.read_versioned("none.txt") == (None, "")
    with pytest.raises(StorageError, match=r"none.txt") as caught:
        storage.open("none.txt")
    assert isinstance(caught.value.__cause__, FileNotFoundError)


@pytest.mark.parametrize("name", ODD)
def test_odd_names(photos: HubStandIn, name: str) -> None:
    photos.push("org/odd", {f"a/{name}": name.encode()})
    storage = open_storage("hf://datasets/org/odd/a")
    assert [item.key for item in storage.list("")] == [name]
    assert storage.read(name) == name.encode()
    assert storage.find(name) is not None


def test_all_is_read_at_one_commit(photos: HubStandIn) -> None:
    storage = open_storage(URL)
    first = storage.list("")
    photos.push("org/photos", FILES | {"train/b/c.txt": b"another cat"})
    assert open_storage(URL).list("") == first
    assert open_storage(f"{URL}/train/b").read("c.txt") == b"a cat"
    # As in a worker, which is told.
    known = place.pinned()
    place._PINNED.clear()
    place.pin(known)
    assert open_storage(URL).read("train/b/c.txt") == b"a cat"


def test_the_next_run_reads_the_latest_commit(photos: HubStandIn) -> None:
    before = {item.key: item.etag for item in open_storage(URL).list("")}
    commit = photos.push("org/photos", FILES | {"train/b/c.txt": b"another cat"})
    assert place.pin_latest([f"{URL}/train"]) == {URL: commit}
    after = {item.key: item.etag for item in open_storage(URL).list("")}
    assert {key for key in after if after[key] != before[key]} == {"train/b/c.txt"}
    with open_storage(URL).open("train/b/c.txt", after["train/b/c.txt"]) as file:
        assert file.read() == b"another cat"
    with pytest.raises(WriteConflict):
        open_storage(URL).open("train/b/c.txt", before["train/b/c.txt"]).read()


@pytest.mark.parametrize("revision", ["v1", "refs/pr/7", "refs/convert/parquet"])
def test_revisions(photos: HubStandIn, revision: str) -> None:
    commit = photos.push("org/photos", {"old/x.txt": b"old"}, branch=revision)
    for name in (revision, commit):
        storage = open_storage(f"{URL}@{name}/old")
        assert [item.key for item in storage.list("")] == ["x.txt"]
        assert storage.read("x.txt") == b"old"
        assert storage.root == f"{URL}@{name}/old"


def test_tokens(photos: HubStandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    photos.data_sets["org/photos"].is_private = True
    with pytest.raises(StorageError, match="has no such data set, or it wants a token in HF_TOKEN"):
        open_storage(URL).list("")
    monkeypatch.setenv("HF_TOKEN", READ_TOKEN)
    storage = open_storage(URL)
    assert storage.read("train/a.jpg") == LARGE
    assert photos.tokens_elsewhere == []  # large files lie with somebody else
    assert READ_TOKEN.encode() not in pickle.dumps(storage)


GATED = "the data set is gated; ask for access"
ABSENT = "the Hub has no such data set, or"


@pytest.mark.parametrize("token", [None, READ_TOKEN])
@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("hf://datasets/org/none", ABSENT),
        (f"{URL}@v9", "has no such revision"),
        (f"{URL}@{'0' * 40}", "has no such revision"),
        ("hf://datasets/org/gated", GATED),
    ],
)
def test_refusals_are_one_sentence(
    photos: HubStandIn, monkeypatch: pytest.MonkeyPatch, token: str | None, url: str, why: str
) -> None:
    photos.push("org/gated", FILES)
    photos.data_sets["org/gated"].is_gated = True
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(StorageError, match=why) as caught:
        open_storage(url).list("")
    message = str(caught.value)
    assert message.startswith(f"{url}: ")
    assert "\n" not in message
    assert READ_TOKEN not in message


def test_a_token_that_the_hub_does_not_know(photos: HubStandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_expired")
    with pytest.raises(StorageError, match=r"refuses this to the token in HF_TOKEN.* \(401\)"):
        open_storage(URL).list("")


def test_offline_mode(photos: HubStandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(StorageError, match="HF_HUB_OFFLINE forbids"):
        open_storage(URL).list("")
    assert photos.asked == []


ASKED: list[Callable[[Any], Any]] = [
    lambda storage: storage.read("README.md"),
    lambda storage: storage.find("README.md"),
    lambda storage: storage.open("train/a.jpg").read(),
    lambda storage: storage.list(""),
]


@pytest.mark.parametrize("ask", ASKED)
def test_a_hub_without_time_is_asked_again(photos: HubStandIn, ask: Callable[[Any], Any]) -> None:
    storage = open_storage(URL)
    expected = ask(storage)
    place._PINNED.clear()
    photos.fails_with = [503, 429]
    assert ask(storage) == expected
    photos.fails_with = [500, 502, 503, 504] * 1000
    with pytest.raises(StorageError, match="the Hub answered 50"):
        ask(storage)


@pytest.mark.parametrize("ask", ASKED)
def test_a_hub_that_is_away_costs_the_time_that_it_is_away(
    photos: HubStandIn, monkeypatch: pytest.MonkeyPatch, ask: Callable[[Any], Any]
) -> None:
    monkeypatch.setenv(DEADLINE, "60")
    storage = open_storage(URL)
    expected = ask(storage)
    waiting = photos.away_for(8)
    started = time.monotonic()
    assert ask(storage) == expected
    waited_s = time.monotonic() - started
    waiting.join()
    assert 7 < waited_s < 8 + 3.5, "the cap of the back-off is 3 s"


def test_a_hub_that_falls_silent_while_it_lists(photos: HubStandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes requests, and answers none."""
    monkeypatch.setattr(repository, "REPLY_TIMEOUT_S", 0.3)
    storage = open_storage(URL)
    storage.list("")
    started = time.monotonic()
    with photos.silent(), pytest.raises(StorageError, match="the Hub is out of reach"):
        storage.list("")
    assert time.monotonic() - started < 2 + 4, "the limit, and slow machines"


def test_a_hub_that_asks_for_time_gets_it(photos: HubStandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = open_storage(URL)
    storage.list("")
    monkeypatch.setenv(DEADLINE, "0.5")
    photos.fails_with, photos.retry_after_s = [429], 2
    started = time.monotonic()
    assert storage.read("README.md") == FILES["README.md"]
    assert time.monotonic() - started >= 2


def test_the_size_of_a_file_costs_no_download(photos: HubStandIn) -> None:
    """A video is asked for its size before it is read in ranges."""
    storage = open_storage(URL)
    version = hashlib.sha256(LARGE).hexdigest()
    assert storage.open("train/a.jpg", version).seek(0, os.SEEK_END) == len(LARGE)
    assert photos.num_sent < 1000


def test_a_hub_out_of_reach(hub: HubStandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(StorageError, match="the Hub is out of reach"):
        open_storage(URL).list("")


def test_can_be_no_output(photos: HubStandIn) -> None:
    storage = open_storage(URL)
    for write in (lambda: storage.write("a", b"x"), lambda: storage.delete("a"), storage.exclusive):
        with pytest.raises(ConfigError, match=r"can't be an output; .*curation publish"):
            write()
    assert photos.asked == []


@pytest.mark.parametrize(
    "url", ["hf://org/photos", "hf://datasets/photos", "hf://datasets", "hf://spaces/org/photos", f"{URL}@/x"]
)
def test_what_names_no_data_set(url: str) -> None:
    with pytest.raises(ConfigError, match=r"names no data set of the Hub; write hf://datasets/ORG/NAME"):
        open_storage(url)
