"""Inputs in buckets: the same survey as of a folder, and what only buckets have."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest

from benchmarks.key_server import KeyServer
from buckets import S3Server, upload
from curation.errors import StorageError
from curation.storage.buckets.unreadable import WHY_UNREADABLE
from curation.storage.survey import survey
from curation.storage.surveyed import READ_AS_FOLDER, Survey

_BUCKETS = count(1)


def is_read(name: str) -> bool:
    return name.endswith((".jpg", ".tar"))


def put(folder: Path, *names: str, data: bytes = b"x") -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def keys(found: Survey) -> list[str]:
    names: list[bytes] = found.files["key"].to_pylist()
    return [name.decode() for name in names]


def shown(found: Survey) -> tuple[list[tuple[bytes, int]], list[str], dict[str, str]]:
    """What a folder and a bucket have in common."""
    files = list(zip(found.files["key"].to_pylist(), found.files["size_bytes"].to_pylist(), strict=True))
    return files, sorted(found.hidden), dict(sorted(found.not_files.items()))


@contextmanager
def served(
    monkeypatch: pytest.MonkeyPatch, sizes_bytes: Mapping[str, int]
) -> Iterator[tuple[KeyServer, str]]:
    """A server that keeps any key, and the URL of a bucket there that no other test has used."""
    with KeyServer(sizes_bytes) as server, monkeypatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        yield server, f"s3://keys-{next(_BUCKETS):04d}"


def surveyed(monkeypatch: pytest.MonkeyPatch, *names: str, below: str = "") -> Survey:
    with served(monkeypatch, {name: 0 if name.endswith("/") else 3 for name in names}) as (_, url):
        (found,) = survey([f"{url}/{below}"], is_read)
    return found


TREE = (
    "a.jpg", "sub/b.jpg", "sub/b.txt", "ord/a/1.jpg", "ord/a-b.jpg", "ord/a.jpg", "end.", "dir.jpg/c.jpg",
    "dir.jpg/deep.tar/x", "with.dots/no_suffix", ".hidden", ".git/a.jpg", ".git/deep/b", "sub/.d.jpg",
    "x/y/.z/a/.b", "a b.jpg", "#.jpg", "?.jpg", "100%.jpg", "%20.jpg", "a+b&c=d.jpg", "\u00e9.jpg",
    "e\u0301.jpg", "日本/語.jpg", "😀.jpg", f"{'long/' * 40}{'n' * 200}.jpg", "out/run.json", "README",
)  # fmt: skip


def test_a_bucket_is_what_the_folder_is(bucket: str, s3_server: S3Server, tmp_path: Path) -> None:
    """Written by another client; SeaweedFS lists `ord/a/1.jpg` before `ord/a-b.jpg`, AWS after it."""
    put(tmp_path / "in", *TREE)
    put(tmp_path / "in", "empty.jpg", "sub/empty", "empty.md", data=b"")
    upload(s3_server, tmp_path / "in", f"{bucket}/in #1%")
    folder, below = survey([str(tmp_path / "in"), f"{bucket}/in #1%"], is_read)
    (alone,) = survey([bucket], is_read)
    assert shown(below) == shown(folder)
    assert len(keys(below)) > 20
    assert keys(alone) == [f"in #1%/{key}" for key in keys(folder)]


def test_random_trees(bucket: str, s3_server: S3Server, tmp_path: Path) -> None:
    draw = random.Random(5)
    parts = ("a", "b", "a-", "a.jpg", ".c", "é", "a b", "z#", "%41")
    for _ in range(60):
        name = "/".join(draw.choices(parts, k=draw.randint(1, 4)))
        if (
            not any(parent.is_file() for parent in (tmp_path / name).parents)
            and not (tmp_path / name).is_dir()
        ):
            put(tmp_path, name, data=b"" if draw.random() < 0.2 else b"xy")
    upload(s3_server, tmp_path, f"{bucket}/in")
    folder, below = survey([str(tmp_path), f"{bucket}/in/"], is_read)
    assert shown(below) == shown(folder)


def test_marks_of_folders_are_no_files(bucket: str, s3_server: S3Server, tmp_path: Path) -> None:
    """Consoles put empty objects `a/` there; on a disk there are folders."""
    put(tmp_path / "in", "sub/a.jpg")
    (tmp_path / "in/nothing").mkdir()
    (tmp_path / "in/photos.jpg").mkdir()
    upload(s3_server, tmp_path / "in", f"{bucket}/in")
    for name in ("", "sub/", "nothing/", "photos.jpg/"):
        s3_server.files().create_dir(f"{bucket.removeprefix('s3://')}/in/{name}")
    folder, below = survey([str(tmp_path / "in"), f"{bucket}/in"], is_read)
    assert shown(below) == shown(folder)
    assert below.not_files == {"photos.jpg": READ_AS_FOLDER}


def test_marks_beside_objects_of_the_same_name(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("in/", "in/a.jpg", "in/a.jpg/", "in/b.jpg/", "in/b.jpg/c.jpg", "in/d/", "in/d/e/", "in/f.jpg/")
    found = surveyed(monkeypatch, *names, below="in")
    assert keys(found) == ["a.jpg", "b.jpg/c.jpg"]
    assert found.not_files == {"b.jpg": READ_AS_FOLDER, "f.jpg": READ_AS_FOLDER}


GOOD = ["a b.jpg", "a/-.jpg", "a/z.jpg", "b.jpg", "lead.jpg", "x/y.jpg", "é.jpg"]


@pytest.mark.parametrize("below", ["", "in"])
@pytest.mark.parametrize(
    ("bad", "named"),
    [
        (["a//b.jpg", "a//c/d.jpg"], ["a//"]),
        (["a/../b.jpg", "../b.jpg"], ["a/../", "../"]),
        (["a/./b.jpg", "a/."], ["a/./", "a/."]),
        (["a/tab\there.jpg", "x\n/y.jpg"], ["a/tab\there.jpg", "x\n/"]),
        (["a//"], ["a//"]),
        (["/lead.jpg", "/other/b.jpg"], ["/"]),
    ],
)
def test_keys_that_can_not_be_read_are_named_and_hide_no_other(
    monkeypatch: pytest.MonkeyPatch, below: str, bad: list[str], named: list[str]
) -> None:
    """AWS keeps such keys. What obstore makes of `/lead.jpg` at the root of a bucket is `lead.jpg`."""
    start = f"{below}/" if below else ""
    found = surveyed(monkeypatch, *(f"{start}{name}" for name in [*GOOD, *bad]), below=below)
    assert keys(found) == GOOD
    assert found.files["etag"].to_pylist() == ['"0123456789abcdef0123456789abcdef"'] * len(GOOD)
    assert found.not_files == dict.fromkeys(named, WHY_UNREADABLE)


def test_a_key_that_can_not_be_read_costs_the_pages_around_it(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"a/{number:05d}.jpg" for number in range(6500)]
    sizes_bytes = dict.fromkeys([*names, "a/01500//x.jpg", "a/04200/../x.jpg"], 3)
    with served(monkeypatch, sizes_bytes) as (server, url):
        (found,) = survey([f"{url}/a"], is_read)
    assert keys(found) == [name.removeprefix("a/") for name in names]
    assert found.not_files == dict.fromkeys(["01500//", "04200/../"], WHY_UNREADABLE)
    asked = [request for request in server.requests if request.startswith("HEAD")]
    # Pages of 1000 keys break off at the keys 1500 and 4200.
    assert len(asked) <= 2 * 1000
    assert len(asked) == len(set(asked))


def test_where_nobody_else_can_be_asked_the_key_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("curation.storage.buckets.unreadable.connect_arrow", lambda place: None)
    with pytest.raises(StorageError, match=r"the key 'in/a//b\.jpg' can't be read; rename that object"):
        surveyed(monkeypatch, "in/a.jpg", "in/a//b.jpg", below="in")


@pytest.mark.parametrize(
    ("names", "max_requests"),
    [
        ([f"{name:05d}.jpg" for name in range(4500)], 6),
        ([f"{folder}/{name:05d}.jpg" for folder in range(5) for name in range(2500)], 24),
        ([f"{folder:04d}/{name}.jpg" for folder in range(2500) for name in range(2)], 6),
        ([f"a/b/c/{folder}/{name}.jpg" for folder in range(4) for name in range(1200)], 20),
        (
            [f"a/{folder}/{name}.jpg" for folder in range(4) for name in range(1100)] + ["a/z.jpg", "b.jpg"],
            20,
        ),
    ],
    ids=["flat", "large folders", "small folders", "deep", "mixed"],
)
def test_all_is_there_once_however_it_is_spread(
    monkeypatch: pytest.MonkeyPatch, names: list[str], max_requests: int
) -> None:
    with served(monkeypatch, {f"in/{name}": 3 for name in [*names, ".git/x"]}) as (server, url):
        (found,) = survey([f"{url}/in"], is_read)
    assert keys(found) == sorted(names, key=str.encode)
    assert found.hidden == [".git/"]
    assert len(server.requests) <= max_requests
    assert len(set(server.requests)) == len(server.requests)


def test_large_folders_are_listed_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twelve folders of three pages: far fewer rounds than pages, if each waits for its own."""
    names = {f"in/{folder:02d}/{name:04d}.jpg": 3 for folder in range(12) for name in range(3000)}
    with served(monkeypatch, names) as (server, url):
        server.delay_s = 0.05
        (found,) = survey([f"{url}/in"], is_read)
    assert found.files.num_rows == len(names)
    assert server.max_at_once >= 6


@pytest.mark.parametrize(
    ("roots", "counts", "repeated"),
    [
        (["{}", "{}/in"], [4, 0], ["", "{}/in"]),
        (["{}/in/sub", "{}/in"], [0, 3], ["{}/in/sub", ""]),
        (["{}/in", "{}/in/"], [3, 0], ["", "{}/in"]),
        (["{}/in", "{}/in2"], [3, 1], ["", ""]),
        (["{}/in", "{}/in/.cache"], [3, 1], ["", ""]),
        (["{}/in/.cache/deep", "{}/in/.cache"], [0, 1], ["{}/in/.cache/deep", ""]),
        (["{}/in", "{}/in/absent", "{}/in/su"], [3, 0, 0], ["", "", ""]),
        (["{}/in/.cache/deep", "{}"], [1, 4], ["", ""]),
        (["{}/in", "{}"], [0, 4], ["{}/in", ""]),
    ],
)
def test_one_bucket_inside_another_is_read_once(
    monkeypatch: pytest.MonkeyPatch, roots: list[str], counts: list[int], repeated: list[str]
) -> None:
    names = ("in/a.jpg", "in/sub/b.jpg", "in/z.jpg", "in/.cache/deep/c.jpg", "in2/d.jpg")
    with served(monkeypatch, dict.fromkeys(names, 3)) as (_, url):
        found = survey([root.format(url) for root in roots], is_read)
    assert [one.files.num_rows for one in found] == counts
    assert [one.repeated.get("", "") for one in found] == [name.format(url) for name in repeated]


def test_folders_and_buckets_in_any_order(bucket: str, s3_server: S3Server, tmp_path: Path) -> None:
    put(tmp_path, "one/a.jpg", "two/b.jpg")
    upload(s3_server, tmp_path / "two", f"{bucket}/two")
    roots = [f"{bucket}/two", str(tmp_path / "one"), str(tmp_path / "absent"), f"{bucket}/absent"]
    assert [keys(one) for one in survey(roots, is_read)] == [["b.jpg"], ["a.jpg"], [], []]


def test_no_such_bucket_is_said_and_is_no_empty_input(bucket: str) -> None:
    assert bucket
    with pytest.raises(StorageError, match="no-such-bucket"):
        survey(["s3://no-such-bucket/in"], is_read)
