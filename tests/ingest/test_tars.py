"""WebDataset tars, written by Python's tarfile and by GNU tar."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from curation.errors import ChangedError, ProbeError
from curation.ingest.containers import tars
from curation.ingest.sources import open_source
from curation.ledger.schemas import sources_to_table
from curation.records import Source
from curation.storage.parquet import to_bytes
from datasets_media import List


def write_tar(path: Path, files: Mapping[str, bytes], pax: bool = False) -> Path:
    form = tarfile.PAX_FORMAT if pax else tarfile.GNU_FORMAT
    with tarfile.open(path, "w", format=form) as archive:
        for name, data in files.items():
            header = tarfile.TarInfo(name)
            header.size = len(data)
            archive.addfile(header, io.BytesIO(data))
    return path


def content(source: Source) -> bytes:
    with open_source(source) as path:
        return path.read_bytes()


def names(sources: list[Source]) -> list[str]:
    return [source.uri.partition("#")[2] for source in sources]


@pytest.mark.parametrize("pax", [False, True])
def test_members_are_sources_with_their_own_bytes(
    listed: List, folder: Path, photos: list[bytes], pax: bool
) -> None:
    long = "deep/" * 30 + "name-äöü.jpg"  # longer than the 100 bytes of a plain header
    files = {"0001.jpg": photos[0], "0002.jpg": photos[1], long: photos[2]}
    path = write_tar(folder / "a.tar", files, pax)
    found = listed()
    assert [source.uri for source in found.sources] == [f"tar://{path}#{name}" for name in files]
    assert [source.size_bytes for source in found.sources] == [len(data) for data in photos]
    assert [content(source) for source in found.sources] == photos
    assert found.num_ignored == 0


def test_second_names_are_read_and_what_is_no_file_is_counted(
    listed: List, folder: Path, photos: list[bytes], tmp_path: Path
) -> None:
    """As `tar` packs hard links: each further name of a file refers to the first."""
    made = tmp_path / "made"
    made.mkdir()
    (made / "a.jpg").write_bytes(photos[0])
    (made / "a.txt").write_text("one text for both")
    (made / "b.jpg").hardlink_to(made / "a.jpg")
    (made / "b.txt").hardlink_to(made / "a.txt")
    (made / "c.jpg").symlink_to("a.jpg")
    os.mkfifo(made / "d.jpg")
    (made / ".hidden.jpg").write_bytes(photos[1])
    with tarfile.open(folder / "a.tar", "w") as archive:
        for name in ("a.jpg", "a.txt", "b.jpg", "b.txt", "c.jpg", "d.jpg", ".hidden.jpg"):
            archive.add(made / name, name)
        lost = tarfile.TarInfo("e.jpg")
        lost.type, lost.linkname = tarfile.LNKTYPE, "not_there.jpg"
        archive.addfile(lost)
    found = listed()
    assert names(found.sources) == ["a.jpg", "b.jpg"]
    assert [content(source) for source in found.sources] == [photos[0]] * 2
    assert [source.metadata for source in found.sources] == [{"caption": "one text for both"}] * 2
    assert found.num_ignored == 0
    assert found.leftovers.metadata == {
        "link in a tar": 2,
        "device or FIFO in a tar": 1,
        "hidden file in a tar": 1,
    }


def test_text_and_json_of_a_key_are_carried(listed: List, folder: Path) -> None:
    """Keys end at the first dot, as WebDataset has them; the longer name goes first."""
    files = {
        "0001.jpg": b"x",
        "0001.txt": b"a red house",
        "0001.json": b'{"caption": "other", "similarity": 0.25, "exif": {"a": 1}}',
        "0002.json": b'{"key": "0002"}',
        "0002.seg.png": b"x",
        "0002.png": b"x",
        "sub.dir/0003.webp": b"x",
        "sub.dir/0003.txt": b"three",
        "0004.cls": b"7",
    }
    write_tar(folder / "a.tar", files)
    found = listed()
    assert {
        name: source.metadata for name, source in zip(names(found.sources), found.sources, strict=True)
    } == {
        "0001.jpg": {"caption": "a red house", "similarity": 0.25},
        "0002.seg.png": {"key": "0002"},
        "0002.png": {"key": "0002"},
        "sub.dir/0003.webp": {"caption": "three"},
    }
    assert found.num_ignored == 1


def test_what_gnu_tar_packs_is_read(listed: List, folder: Path, photos: list[bytes], tmp_path: Path) -> None:
    tar = shutil.which("tar")
    assert tar is not None
    subprocess.run([tar, "-C", tmp_path, "-cf", folder / "a.tar", "./0.jpg", "./1.jpg"], check=True)
    sources = listed().sources
    assert names(sources) == ["./0.jpg", "./1.jpg"]
    assert [content(source) for source in sources] == photos[:2]


def test_of_two_members_of_one_name_the_last_counts(listed: List, folder: Path, photos: list[bytes]) -> None:
    path = write_tar(folder / "a.tar", {"a.jpg": photos[0], "b.jpg": photos[1]})
    with tarfile.open(path, "a") as archive:
        header = tarfile.TarInfo("a.jpg")
        header.size = len(photos[2])
        archive.addfile(header, io.BytesIO(photos[2]))
    found = listed()
    assert {
        name: content(source) for name, source in zip(names(found.sources), found.sources, strict=True)
    } == {
        "a.jpg": photos[2],
        "b.jpg": photos[1],
    }
    assert found.num_ignored == 1


def test_links_folders_and_hidden_files_are_no_sources(listed: List, folder: Path) -> None:
    with tarfile.open(folder / "a.tar", "w") as archive:
        for name, kind in (
            ("dir.jpg", tarfile.DIRTYPE),
            ("link.jpg", tarfile.SYMTYPE),
            ("._a.jpg", tarfile.REGTYPE),
        ):
            header = tarfile.TarInfo(name)
            header.type, header.linkname = kind, "a.jpg"
            archive.addfile(header)
        archive.addfile(tarfile.TarInfo("a.jpg"))
    assert names(listed().sources) == ["a.jpg"]


BLOCK = tarfile.BLOCKSIZE


def damaged(path: Path, how: str) -> None:
    data = path.read_bytes()
    with tarfile.open(path) as archive:
        members = archive.getmembers()
        end = archive.offset
    if how == "cut in a member":
        data = data[: members[2].offset_data + 10]
    elif how == "cut between members":
        data = data[: members[2].offset]
    elif how == "cut before the end mark":
        data = data[:end]
    elif how == "a header overwritten":
        at = members[2].offset
        data = data[:at] + b"\x55" * BLOCK + data[at + BLOCK :]
    elif how == "joined":
        data = data + data
    elif how == "no tar at all":
        data = b"this is no tar" * 100
    elif how == "empty":
        data = b""
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("how", "num_found", "said"),
    [
        ("cut in a member", 3, "damaged after 3 files"),
        ("cut between members", 2, "damaged after 2 files: it breaks off"),
        ("cut before the end mark", 3, "it breaks off"),
        ("a header overwritten", 2, "damaged after 2 files: a header can't be read"),
        ("joined", 3, "more follows behind its end"),
        ("no tar at all", 0, "damaged after 0 files"),
        ("empty", 0, "damaged after 0 files: empty file"),
    ],
)
def test_a_damaged_tar_is_a_failed_source_and_the_rest_is_there(
    listed: List, folder: Path, photos: list[bytes], how: str, num_found: int, said: str
) -> None:
    (folder / "plain.jpg").write_bytes(photos[0])
    path = write_tar(folder / "a.tar", {f"{number}.jpg": data for number, data in enumerate(photos)})
    damaged(path, how)
    (plain, whole, *members) = listed().sources
    assert plain.uri == f"{folder}/plain.jpg"
    assert (whole.uri, whole.kind, whole.error_type) == (f"tar://{path}", "container", "ProbeError")
    assert said in (whole.error or "")
    assert len(members) == num_found
    assert [content(member) for member in members[:2]] == photos[: min(2, num_found)]


def test_a_member_that_is_cut_off_fails(listed: List, folder: Path, photos: list[bytes]) -> None:
    damaged(write_tar(folder / "a.tar", {f"{n}.jpg": d for n, d in enumerate(photos)}), "cut in a member")
    with pytest.raises(ProbeError, match=f"ends {len(photos[2]) - 10} bytes before"):
        content(listed().sources[-1])


def test_a_compressed_tar_is_refused_with_a_word(listed: List, folder: Path) -> None:
    with tarfile.open(folder / "a.tar.gz", "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("a.jpg"))
    (source,) = listed().sources
    assert "unpack it, or repack it as .tar" in (source.error or "")


def test_a_tar_that_changes_after_listing_is_not_read_at_old_positions(
    listed: List, folder: Path, photos: list[bytes]
) -> None:
    path = write_tar(folder / "a.tar", {"0.jpg": photos[0], "1.jpg": photos[1]})
    (_, second) = listed().sources
    write_tar(path, {"1.jpg": photos[1]})
    with pytest.raises(ChangedError, match="was changed since it was listed"):
        content(second)
    path.unlink()
    with pytest.raises(ProbeError, match="is not there any more"):
        content(second)


def test_a_tar_without_media_is_ignored(listed: List, folder: Path) -> None:
    (folder / "plain.jpg").write_bytes(b"x")
    write_tar(folder / "a.tar", {"code.py": b"x", "readme.txt": b"y"})
    found = listed()
    assert (len(found.sources), found.num_ignored) == (1, 2)


def raw_header(name: bytes, size: int, kind: bytes = b"0", magic: bytes = b"ustar  \0") -> bytes:
    """A GNU header by the format's own layout; a size that octal digits can't say is a base-256 number."""
    if 0 <= size < 8**11:
        field = b"%011o\0" % size
    else:
        field = (b"\xff" if size < 0 else b"\x80") + (size % 256**11).to_bytes(11, "big")
    head = name.ljust(100, b"\0") + b"0000644\0" + b"0000000\0" * 2 + field + b"00000000000\0"
    tail = (kind + bytes(100) + magic).ljust(512 - len(head) - 8, b"\0")
    total = sum(head) + sum(tail) + 8 * ord(" ")
    return head + b"%06o\0 " % total + tail


def blocks(data: bytes) -> bytes:
    return data.ljust(-(-len(data) // BLOCK) * BLOCK, b"\0")


END = bytes(2 * BLOCK)


def hostile(what: str) -> bytes:
    """What stands behind two good members."""
    if what == "negative size":
        return raw_header(b"x.jpg", -512) + END
    if what == "size beyond the file":
        return raw_header(b"x.jpg", 1 << 40) + END
    if what == "size beyond 64 bits":
        return raw_header(b"x.jpg", 1 << 70) + END
    if what == "negative size by a PAX record":
        pax = b"14 size=-1024\n"
        return raw_header(b"pax", len(pax), b"x") + blocks(pax) + raw_header(b"x.jpg", 0) + END
    if what == "PAX header of a gigabyte":
        return raw_header(b"pax", 1 << 30, b"x") + END
    if what == "long name without end":
        return raw_header(b"././@LongLink", 1 << 30, b"L") + b"n" * 200_000
    if what == "long names in a row":
        return (raw_header(b"././@LongLink", 2, b"L") + blocks(b"n")) * 5000 + raw_header(b"x.jpg", 0) + END
    if what == "sparse map without end":
        pax = b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n"
        data = raw_header(b"pax", len(pax), b"x") + blocks(pax) + raw_header(b"x.jpg", 512)
        return data + blocks(b"99999999\n" + b"1\n" * 200)
    if what == "sparse headers without end":
        header = bytearray(raw_header(b"x.jpg", 0, b"S"))
        header[482] = 1  # more of the map follows
        header[148:156] = b"%06o\0 " % (sum(header[:148]) + sum(header[156:]) + 8 * ord(" "))
        return bytes(header)
    raise ValueError(what)


HOSTILE = (
    "negative size",
    "size beyond the file",
    "size beyond 64 bits",
    "negative size by a PAX record",
    "PAX header of a gigabyte",
    "long name without end",
    "long names in a row",
    "sparse map without end",
    "sparse headers without end",
)


LONG = ("PAX header of a gigabyte", "long name without end", "long names in a row")


@pytest.mark.timeout(60)
@pytest.mark.parametrize("what", HOSTILE)
def test_headers_made_to_do_damage_are_refused_and_what_came_before_is_there(
    listed: List, folder: Path, photos: list[bytes], what: str
) -> None:
    good = b"".join(raw_header(b"%d.jpg" % n, len(photos[n])) + blocks(photos[n]) for n in range(2))
    with (folder / "a.tar").open("wb") as file:
        file.write(good + hostile(what))
        if what in LONG:
            file.truncate(2 << 30)  # holes: what the header claims is there
    whole, *members = listed().sources
    assert (whole.kind, whole.error_type) == ("container", "ProbeError")
    assert (whole.error or "").startswith("damaged after 2 files: ")
    assert ("a header is not of 0 to 65536 bytes" in (whole.error or "")) == (what in LONG)
    assert [content(member) for member in members] == photos[:2]


@pytest.mark.timeout(60)
def test_the_shared_tar_with_a_negative_size_is_refused(listed: List, shared_data: Path) -> None:
    whole, *members = listed(shared_data / "cases/negative_tar_member").sources
    assert (whole.kind, whole.error_type) == ("container", "ProbeError")
    assert (whole.error or "").startswith(f"damaged after {len(members)} files: ")


def test_a_sparse_picture_is_named_and_the_rest_is_there(
    listed: List, folder: Path, photos: list[bytes], tmp_path: Path
) -> None:
    tar = shutil.which("tar")
    assert tar is not None
    with (tmp_path / "hole.jpg").open("wb") as file:
        file.truncate(1 << 20)
    names_of = ["hole.jpg", "0.jpg"]
    subprocess.run([tar, "--sparse", "-C", tmp_path, "-cf", folder / "a.tar", *names_of], check=True)
    whole, member = listed().sources
    assert whole.error == "1 pictures or videos in it are stored as sparse files, which are not read"
    assert content(member) == photos[0]


def test_more_members_than_the_limit_fail_the_tar_and_the_first_are_there(
    listed: List, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tars, "MAX_ENTRIES", 3)
    write_tar(folder / "a.tar", {f"{number}.jpg": b"x" for number in range(5)})
    whole, *members = listed().sources
    assert (len(members), whole.kind) == (3, "container")
    assert "pack it as several" in (whole.error or "")


def test_sidecars_in_any_case_and_what_is_no_text_is_named(listed: List, folder: Path) -> None:
    files = {
        "IMG.JPG": b"x",
        "IMG.TXT": b"upper",
        "b.jpg": b"x",
        "b.TXT": b"not this",
        "b.txt": b"this",
        "c.jpg": b"x",
        "c.txt": "it\u2019s a café".encode("cp1252"),
        "d.jpg": b"x",
        "d.json": b'{"caption": "lone \\ud800", "license": "x"}',
    }
    write_tar(folder / "a.tar", files)
    found = {source.uri.partition("#")[2]: source.metadata for source in listed().sources}
    assert (found["IMG.JPG"], found["b.jpg"]) == ({"caption": "upper"}, {"caption": "this"})
    assert list(found["c.jpg"]) == ["carried_error"]
    assert found["d.jpg"]["license"] == "x"
    assert sorted(found["d.jpg"]) == ["carried_error", "license"]


def test_names_that_are_not_utf8_are_listed_and_can_be_opened(
    listed: List, folder: Path, photos: list[bytes]
) -> None:
    tar = raw_header(b"a\xff.jpg", len(photos[0])) + blocks(photos[0]) + END
    path = os.fsencode(folder) + b"/100%-\xfe\xe9.tar"
    with open(path, "wb") as file:  # noqa: PTH123  a Path can't be bytes
        file.write(tar)
    (source,) = listed().sources
    assert source.uri == f"tar://{folder}/100%25-%FE%E9.tar#a\\xff.jpg"
    assert content(source) == photos[0]
    assert to_bytes(sources_to_table([source]))
    with open(path, "wb") as file:  # noqa: PTH123
        file.write(b"no tar")
    (failed,) = listed().sources
    assert (failed.uri, failed.kind) == (f"tar://{folder}/100%25-%FE%E9.tar", "container")
