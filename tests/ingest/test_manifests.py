"""Lists of files: metadata.jsonl and metadata.csv as Hugging Face's imagefolder has them, other JSONL."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from curation.errors import ProbeError
from curation.ingest.sources import open_source
from datasets_media import List


@pytest.fixture
def three(folder: Path) -> Path:
    """Pictures a.jpg, b.jpg and sub/c.jpg, which nobody opens."""
    (folder / "sub").mkdir()
    for name in ("a.jpg", "b.jpg", "sub/c.jpg"):
        (folder / name).write_bytes(b"x")
    return folder


def write_jsonl(path: Path, rows: list[Any]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def carried(listed: List, folder: Path) -> dict[str, Any]:
    return {source.uri.partition(f"{folder}/")[2]: source.metadata for source in listed().sources}


def test_a_line_adds_to_what_its_file_carries_relative_to_the_list(listed: List, three: Path) -> None:
    write_jsonl(
        three / "metadata.jsonl", [{"file_name": "a.jpg", "text": "red"}, {"file_name": "sub/c.jpg", "n": 1}]
    )
    write_jsonl(three / "sub/metadata.jsonl", [{"file_name": "c.jpg", "text": "blue", "nested": {"a": 1}}])
    (three / "metadata.csv").write_text('file_name,label\na.jpg,"x, y"\nb.jpg,z\n')
    assert carried(listed, three) == {
        "a.jpg": {"text": "red", "label": "x, y"},
        "b.jpg": {"label": "z"},
        "sub/c.jpg": {"n": 1, "text": "blue"},
    }
    assert listed().num_ignored == 0


def test_text_of_several_lines_and_of_sidecars_is_all_kept_the_sidecars_first(
    listed: List, three: Path
) -> None:
    lines = [{"file_name": "a.jpg", "caption": text} for text in ("one", "two", "beside")]
    write_jsonl(three / "metadata.jsonl", lines)
    (three / "a.txt").write_text("beside")
    assert carried(listed, three)["a.jpg"] == {"caption": ["beside", "one", "two"]}


@pytest.mark.parametrize(
    "rows",
    [
        [{"image": "a.jpg", "text": "t"}],
        [{"path": "a.jpg", "text": "t"}],
        [{"images": ["a.jpg"], "text": "t"}],
        [{"file_names": ["a.jpg", "b.jpg"], "text": "t"}],
        [{"first_file_name": "a.jpg", "other_file_name": "b.jpg", "text": "t"}],
    ],
)
def test_other_lists_by_their_columns_of_paths(listed: List, three: Path, rows: list[Any]) -> None:
    write_jsonl(three / "train.jsonl", rows)
    found = carried(listed, three)
    named = [name for name in ("a.jpg", "b.jpg") if name in json.dumps(rows)]
    assert {name for name, values in found.items() if values == {"text": "t"}} == set(named)
    assert len(found) == 3


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("missing.jpg", "it names 'missing.jpg', which is no file of the input"),
        ("../outside.jpg", "which is no file of the input"),
        ("/dev/zero", "which is no file of the input"),
        ("/etc/a.jpg", "which is no file of the input"),
        ("lone \ud800.jpg", r"lone \\ud800.jpg', which is no file of the input"),
        (None, "it holds no media and names no file"),
    ],
)
def test_a_line_whose_file_is_not_there_is_a_failed_source_that_says_so(
    listed: List, three: Path, path: str | None, said: str
) -> None:
    (three.parent / "outside.jpg").write_bytes(b"secret")
    write_jsonl(three / "m.jsonl", [{"file_name": "a.jpg"}, {"file_name": path, "text": "t"}])
    (failed,) = [source for source in listed().sources if not source.ok]
    assert (failed.uri, failed.error_type, failed.metadata["text"]) == (
        f"lines://{three}/m.jsonl#2",
        "ProbeError",
        "t",
    )
    assert said in (failed.error or "")
    assert path is None or "jpg" not in path or "jpg" in str(failed.metadata["file_name"])
    with pytest.raises(ProbeError, match=re.escape(failed.error or "")), open_source(failed):
        pass


def test_bad_lines_are_counted_and_the_others_are_read(listed: List, three: Path) -> None:
    lines = [
        b'{"file_name": "a.jpg", "text": "t"}',
        b"no json",
        b"[1]",
        b'{"file_name": "b.jpg", "text": "caf\xe9", "n": 1}',
        b'{"x": "' + b"y" * (3 << 20) + b'"}',
        b'{"file_name": "sub/c.jpg", "text": "u"}',
    ]
    (three / "metadata.jsonl").write_bytes(b"\n".join(lines))
    found = listed()
    assert found.leftovers.metadata == {"line of a list that can't be read": 3}
    said = carried(listed, three)
    assert (said["a.jpg"], said["sub/c.jpg"]) == ({"text": "t"}, {"text": "u"})
    assert said["b.jpg"]["n"] == 1
    assert said["b.jpg"]["carried_error"].startswith("text: ")


def test_a_comma_without_quotes_is_a_bad_line_and_no_half_caption(listed: List, three: Path) -> None:
    (three / "metadata.csv").write_text("file_name,text\na.jpg,red, and square\nb.jpg,blue\n")
    found = listed()
    assert carried(listed, three) == {"a.jpg": {}, "b.jpg": {"text": "blue"}, "sub/c.jpg": {}}
    assert found.leftovers.metadata.total() == 1


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_lists_are_read_by_their_mark(listed: List, three: Path, encoding: str) -> None:
    (three / "metadata.csv").write_text("file_name,text\na.jpg,caf\u00e9\n", encoding=encoding)
    (three / "m.jsonl").write_text('{"file_name": "b.jpg", "text": "caf\u00e9"}\n', encoding=encoding)
    said = carried(listed, three)
    assert (said["a.jpg"], said["b.jpg"]) == ({"text": "caf\u00e9"}, {"text": "caf\u00e9"})


@pytest.mark.parametrize(
    "text", ['{"messages": []}\n', '{"url": "https://a/b.jpg"}\n', "", "no json\n" * 500]
)
def test_other_jsonl_is_no_list_of_files(listed: List, three: Path, text: str) -> None:
    (three / "labels.jsonl").write_text(text)
    found = listed()
    assert (len(found.sources), found.num_ignored, found.leftovers.metadata.total()) == (3, 1, 0)


def test_the_shared_case_arrives(listed: List, shared_data: Path) -> None:
    (source,) = listed(shared_data / "cases/jsonl/in").sources
    assert source.metadata == {"text": ["red", "a red square"]}
