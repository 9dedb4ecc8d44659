"""Folders as people have them: links, loops, names that are no files, the same folder twice."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from curation.errors import ProbeError, StorageError
from curation.ingest.listing import Listing
from curation.ingest.sources import open_source
from curation.storage.surveys.survey import survey
from datasets_media import List


def put(path: Path, data: bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def below(listing: Listing, folder: Path) -> list[str]:
    return [source.uri.removeprefix(f"{folder}/") for source in listing.sources]


def said(listing: Listing, folder: Path) -> list[str]:
    return [line.replace(f"{folder}/", "").replace(str(folder), "in") for line in listing.leftovers.lines()]


@contextmanager
def inside(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def test_links_are_followed_and_loops_are_cut(listed: List, folder: Path, tmp_path: Path) -> None:
    """The tree of cases/symlink, and what its expected.txt says."""
    for name in ("in/a.jpg", "in/sub/b.jpg", "disk2/c.jpg", "disk2/deep/d.jpg"):
        put(tmp_path / name)
    (folder / "linked").symlink_to("../disk2")
    (folder / "e.jpg").symlink_to("../disk2/c.jpg")
    (folder / "f.jpg").symlink_to("../annex/gone.jpg")
    (folder / "sub/loop").symlink_to("..")
    found = listed()
    names = ["a.jpg", "e.jpg", "f.jpg", "linked/c.jpg", "linked/deep/d.jpg", "sub/b.jpg"]
    assert below(found, folder) == names
    assert said(found, folder) == ["read once: sub/loop is in"]
    (gone,) = (source for source in found.sources if source.uri.endswith("f.jpg"))
    with pytest.raises(ProbeError, match=r"a link to \.\./annex/gone\.jpg, which is not there"):
        open_source(gone).__enter__()


def test_loops_in_linked_folders_end_too(listed: List, folder: Path, tmp_path: Path) -> None:
    put(folder / "a.jpg")
    put(tmp_path / "disk/b.jpg")
    (folder / "one").symlink_to(tmp_path / "disk")
    (tmp_path / "disk/self").symlink_to(tmp_path / "disk")
    (tmp_path / "disk/back").symlink_to(folder)
    (tmp_path / "disk/all").symlink_to(tmp_path)
    found = listed()
    assert below(found, folder) == ["a.jpg", "one/b.jpg"]
    assert said(found, folder) == [
        f"read once: one/all is {tmp_path}, one/back is in, one/self is one".replace(f"{folder}/", "")
    ]


def test_many_ways_to_a_folder_are_one(listed: List, folder: Path) -> None:
    """Twenty levels with two links each are a million paths to one file."""
    for level in range(20):
        (folder / f"level{level}").mkdir()
        for name in "xy":
            (folder / f"level{level}/{name}").symlink_to(f"../level{level + 1}")
    put(folder / "level20/a.jpg")
    assert below(listed(), folder) == ["level20/a.jpg"]


def test_a_link_to_a_file_of_the_inputs_is_a_second_name_and_a_hard_link_is_a_file(
    listed: List, folder: Path
) -> None:
    put(folder / "z/a.jpg")
    (folder / "b.jpg").symlink_to("z/a.jpg")
    os.link(folder / "z/a.jpg", folder / "c.jpg")
    put(folder / "blobs/1234")
    (folder / "d.jpg").symlink_to("blobs/1234")  # the target's own name is not one to read
    found = listed()
    assert below(found, folder) == ["c.jpg", "d.jpg", "z/a.jpg"]
    assert said(found, folder) == ["left out: no suffix 1", "read once: b.jpg is z/a.jpg"]


@pytest.mark.parametrize(
    ("roots", "names", "words"),
    [
        (["in", "./in"], ["in/a.jpg", "in/sub/b.jpg"], ["read once: in, which is named twice"]),
        (["./in/"], ["in/a.jpg", "in/sub/b.jpg"], []),
        (["in//sub"], ["in/sub/b.jpg"], []),
        (["in", "{here}/in"], ["in/a.jpg", "in/sub/b.jpg"], ["read once: {here}/in is in"]),
        (["in/sub", "in"], ["in/a.jpg", "in/sub/b.jpg"], ["read once: in/sub, which is named twice"]),
        (["{here}/in/sub", "in"], ["in/a.jpg", "in/sub/b.jpg"], ["read once: {here}/in/sub is in/sub"]),
        (["link", "in"], ["link/a.jpg", "link/sub/b.jpg"], ["read once: in is link"]),
    ],
)
def test_one_folder_under_two_names_is_read_once(
    listed: List, folder: Path, tmp_path: Path, roots: list[str], names: list[str], words: list[str]
) -> None:
    put(folder / "a.jpg")
    put(folder / "sub/b.jpg")
    (tmp_path / "link").symlink_to("in")
    with inside(tmp_path):
        found = listed(*(root.format(here=tmp_path) for root in roots))
    assert [source.uri for source in found.sources] == names
    assert found.leftovers.lines() == [word.format(here=tmp_path) for word in words]


def test_an_inner_input_that_the_outer_one_does_not_reach_is_read(listed: List, folder: Path) -> None:
    put(folder / "a.jpg")
    put(folder / ".cache/b.jpg")
    found = listed(folder, folder / ".cache")
    assert below(found, folder) == [".cache/b.jpg", "a.jpg"]


def test_what_is_left_out_is_counted_by_suffix(listed: List, folder: Path) -> None:
    for name in ("a.jpg", "b.M2TS", "c.svg", "d.SVG", "e.md", "Makefile", "sub/f.md", "sub/g.md"):
        put(folder / name)
    found = listed()
    assert below(found, folder) == ["a.jpg", "b.M2TS"]
    assert said(found, folder) == ["left out: .md 3, .svg 2, no suffix 1"]
    assert found.leftovers.record()["left_out"] == {".md": 3, ".svg": 2, "no suffix": 1}
    assert found.num_ignored == 6


def test_hidden_files_and_folders_are_counted_and_named(listed: List, folder: Path) -> None:
    for name in ("a.jpg", "._a.jpg", ".DS_Store", ".git/b.jpg", ".git/c.jpg", "sub/.d.jpg"):
        put(folder / name)
    found = listed()
    assert below(found, folder) == ["a.jpg"]
    assert said(found, folder) == ["left out: hidden 4 (.DS_Store, ._a.jpg, .git/, sub/.d.jpg)"]


def test_long_lists_are_cut(listed: List, folder: Path) -> None:
    put(folder / "a.jpg")
    for number in range(14):
        put(folder / f"x.s{number:02}")
    for number in range(7):
        put(folder / f".{number}")
    (line,) = said(listed(), folder)
    assert line.startswith("left out: .s00 1, .s01 1, ")
    assert line.endswith(", .s11 1, 2 other suffixes 2, hidden 7 (.0, .1, .2, .3, .4 and 2 more)")


@pytest.mark.timeout(60)
def test_what_is_no_file_is_named_and_never_opened(listed: List, folder: Path, tmp_path: Path) -> None:
    put(folder / "a.jpg")
    os.mkfifo(folder / "fifo.jpg")
    (folder / "to_fifo.jpg").symlink_to("fifo.jpg")
    (folder / "zero.mp4").symlink_to("/dev/zero")
    (folder / "dir.jpg").mkdir()
    put(folder / "dir.jpg/b.jpg")
    (folder / "nothing").symlink_to("nowhere")
    with socket.socket(socket.AF_UNIX) as ear, inside(folder):
        ear.bind("ear.jpg")
        found = listed()
    assert below(found, folder) == ["a.jpg", "dir.jpg/b.jpg"]
    (line,) = said(found, folder)
    assert line == (
        "no files: dir.jpg (a folder, and read as one), ear.jpg (a socket), fifo.jpg (a FIFO), "
        "nothing (a link to nothing), to_fifo.jpg (a FIFO) and 1 more"
    )
    assert found.leftovers.not_files[f"{folder}/zero.mp4"] == "a device"


@pytest.mark.timeout(60)
def test_a_file_that_became_a_fifo_fails(listed: List, folder: Path) -> None:
    put(folder / "a.jpg")
    (source,) = listed().sources
    (folder / "a.jpg").unlink()
    os.mkfifo(folder / "a.jpg")
    with pytest.raises(ProbeError, match="it is a FIFO, not a file"):
        open_source(source).__enter__()


def test_a_file_without_permission_fails_and_says_so(listed: List, folder: Path) -> None:
    put(folder / "a.jpg").chmod(0)
    (source,) = listed().sources
    with without_root(folder), pytest.raises(ProbeError, match="can't be opened: Permission denied"):
        open_source(source).__enter__()


def test_a_folder_without_permission_stops_the_listing(listed: List, folder: Path) -> None:
    put(folder / "a.jpg")
    put(folder / "closed/b.jpg")
    (folder / "closed").chmod(0)
    with without_root(folder), pytest.raises(StorageError, match=r"in/closed: Permission denied"):
        listed()
    (folder / "closed").chmod(0o755)
    assert below(listed(), folder) == ["a.jpg", "closed/b.jpg"]


@contextmanager
def without_root(folder: Path) -> Iterator[None]:
    """Root may read everything: act as nobody, who may come as far as `folder`."""
    if os.geteuid() != 0:
        yield
        return
    modes = {path: path.stat().st_mode for path in (folder, *folder.parents)}
    for path, mode in modes.items():
        path.chmod(mode | 0o055)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
        for path, mode in modes.items():
            path.chmod(mode)


def test_files_that_vanish_while_they_are_listed_are_not_there(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder is read, then a file is removed, then the file is asked for its size."""
    put(folder / "a.jpg")
    put(folder / "b.jpg")
    real = os.scandir

    class Removing:
        def __init__(self, path: str) -> None:
            self._entries = real(path)

        def __enter__(self) -> Iterator[os.DirEntry[str]]:
            return self._all()

        def __exit__(self, *_: object) -> None:
            self._entries.close()

        def _all(self) -> Iterator[os.DirEntry[str]]:
            entries = list(self._entries)
            (folder / "b.jpg").unlink()
            yield from entries

    monkeypatch.setattr(os, "scandir", Removing)
    (found,) = survey([str(folder)], lambda name: True)
    assert found.files["key"].to_pylist() == [b"a.jpg"]


def test_deep_folders_are_read(listed: List, folder: Path) -> None:
    deep = folder
    for _ in range(1200):
        deep /= "d"
        deep.mkdir()
    put(deep / "a.jpg")
    try:
        assert below(listed(), folder) == [f"{'d/' * 1200}a.jpg"]
    finally:
        (deep / "a.jpg").unlink()
        os.removedirs(deep)


def test_many_folders_are_read_at_a_time_and_all_is_there_in_order(folder: Path, tmp_path: Path) -> None:
    draw = random.Random(0)
    for _ in range(300):
        put(folder / "/".join(draw.choices("abc-é", k=draw.randint(1, 6))) / f"{draw.random()}.jpg")
    (tmp_path / "more").symlink_to(folder)
    first, second = survey([str(folder), str(tmp_path / "more")], lambda name: True)
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert first.files["key"].to_pylist() == sorted(os.fsencode(path.relative_to(folder)) for path in files)
    assert first.files["size_bytes"].to_pylist() == [1] * 300
    assert (second.files.num_rows, second.repeated) == (0, {"": str(folder)})


def test_hidden_files_in_outputs_are_not_left_over(listed: List, folder: Path) -> None:
    for name in ("a.jpg", "out/run.json", "out/sources/unit-000000.parquet", "out/.lock"):
        put(folder / name)
    assert said(listed(), folder) == ["left out: outputs of runs 2"]


def test_the_record_names_more_than_the_line_says(listed: List, folder: Path) -> None:
    put(folder / "a.jpg")
    for number in range(9):
        os.mkfifo(folder / f"{number}\n.jpg")
    found = listed(folder).leftovers
    (line,) = found.lines()
    assert line.endswith(" and 4 more")
    assert "\n" not in line
    assert len(found.record()["not_files"]) == 9
