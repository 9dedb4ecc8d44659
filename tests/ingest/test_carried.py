"""What comes along: encodings, text that is none, several texts of one name, and which of them counts."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from curation.ingest.metadata import (
    drawn_text,
    from_sidecar,
    kept,
    merged,
    metadata_json,
    metadata_jsons,
)
from curation.ledger.schemas import sources_to_table
from curation.records import stable_id
from curation.storage.parquet import to_bytes
from datasets_media import List

TEXT = "it\u2019s a caf\u00e9 \u2603 \U0001f600"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("suffix", [".txt", ".json"])
def test_text_is_read_by_its_mark(suffix: str, encoding: str) -> None:
    mark = {"utf-16-le": b"\xff\xfe", "utf-16-be": b"\xfe\xff"}.get(encoding, b"")
    text = TEXT if suffix == ".txt" else json.dumps({"caption": TEXT}, ensure_ascii=False)
    assert from_sidecar(suffix, mark + text.encode(encoding)) == {"caption": TEXT}


@pytest.mark.parametrize(
    "data", [TEXT.encode("cp1252", "ignore"), b"a\xff", b"\xff\xfe\x00\xd8", b"\xc3", b"\x80abc"]
)
@pytest.mark.parametrize("suffix", [".txt", ".json"])
def test_other_bytes_are_no_caption_and_named(suffix: str, data: bytes) -> None:
    said = from_sidecar(suffix, data)
    assert said == {
        "carried_error": f"the {suffix} file beside it is not UTF-8, nor UTF-16 or UTF-32 with a mark"
    }


@pytest.mark.parametrize("where", ["value", "list", "key"])
def test_half_a_surrogate_pair_is_left_out_by_name_and_the_rest_is_kept(
    listed: List, folder: Path, where: str
) -> None:
    values: dict[str, Any] = {"license": "x"}
    bad = "lone \ud800 surrogate"
    values |= {"value": {"caption": bad}, "list": {"captions": ["fine", bad]}, "key": {bad: "y"}}[where]
    (folder / "a.jpg").write_bytes(b"x")
    (folder / "a.json").write_text(json.dumps(values))
    (source,) = listed().sources
    assert (source.metadata["license"], len(source.metadata)) == ("x", 2)
    named = {"value": "caption: ", "list": "captions: ", "key": r"lone \ud800 surrogate: "}[where]
    assert str(source.metadata["carried_error"]).startswith(named)
    assert to_bytes(sources_to_table([source]))


def test_lists_of_texts_are_kept_and_what_is_too_long_is_named() -> None:
    assert kept({"captions": ["a", "b"], "mixed": ["a", 1], "empty": [], "deep": [["a"]]}) == {
        "captions": ["a", "b"]
    }
    long = kept({"caption": "x" * (2**20 + 1), "n": 1})
    assert long == {"n": 1, "carried_error": "caption: 1048577 characters are too many for one value"}


@pytest.mark.parametrize("text", ["plain", "}, {", '"}, {"', "\\", "caf\u00e9 \ud800", ""])
def test_json_of_many_at_once_is_that_of_each(text: str) -> None:
    several = [{"a": text, "b": [text, "x"]}, {}, {text: 1.5}, {"z": True, "a": 2**70}, {}]
    assert metadata_jsons(several) == [metadata_json(one) for one in several]
    assert metadata_jsons([]) == []
    assert metadata_jsons([{}]) == [None]


def test_texts_that_differ_are_all_kept_and_of_numbers_the_first() -> None:
    first = {"caption": "a", "score": 1.0, "license": "CC0"}
    both = merged(first, {"caption": ["b", "a"], "score": 2.0, "license": "CC0", "w": 3})
    assert both == {
        "caption": ["a", "b"],
        "score": 1.0,
        "license": "CC0",
        "w": 3,
        "carried_error": "score: it came with 1.0 and with 2.0; the first counts",
    }
    assert merged(both, {"score": 2.0})["carried_error"] == both["carried_error"]


def test_the_draw_follows_from_sample_and_seed_and_reaches_all_texts() -> None:
    texts = ["one", "two", "three"]
    drawn = {name: drawn_text(texts, name, 7) for name in (stable_id(number) for number in range(3000))}
    assert drawn == {name: drawn_text(texts[::-1], name, 7) for name in drawn}
    counts = Counter(drawn.values())
    # Binomial(3000, 1/3): 1000 with a standard deviation of 26.
    assert all(abs(counts[text] - 1000) < 130 for text in texts)
    other = [drawn_text(texts, name, 8) for name in drawn]
    assert 0.2 < sum(a == b for a, b in zip(drawn.values(), other, strict=True)) / 3000 < 0.5
    assert drawn_text(None, "a") is None
    assert drawn_text("only", "a", 3) == "only"


@pytest.mark.parametrize(
    ("names", "caption"),
    [
        (["IMG.JPG", "IMG.TXT"], "IMG.TXT"),
        (["a.jpg", "a.Txt"], "a.Txt"),
        (["a.jpg", "a.TXT", "a.txt"], "a.txt"),
        (["a.jpg", "A.txt"], None),
        (["a.jpg", "a.JSON"], "a.JSON"),
    ],
)
def test_suffixes_of_sidecars_in_any_case(
    listed: List, folder: Path, names: list[str], caption: str | None
) -> None:
    for name in names:
        said = json.dumps({"caption": name}) if name.lower().endswith("json") else name
        (folder / name).write_text(said)
    (source,) = listed().sources
    assert source.metadata.get("caption") == caption
