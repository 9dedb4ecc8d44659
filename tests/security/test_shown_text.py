"""Names, captions and errors are shown as text: never as markup, header, formula, template or command."""

from __future__ import annotations

import base64
import csv
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml

from curation.execution.run import write_report
from datasets_media import Bench, said_by, write_config, write_photo

NAMES = (
    "<script>alert(1)<.jpg",
    '"><img src=x onerror=alert(1)>.jpg',
    "{{ 7 * 191 }}{% raw %}.jpg",
    "---\nlicense: mit\n---.jpg",
    "!!python|object.jpg",
    "=cmd|' -C calc'!A0.jpg",
    "[a](javascript:alert(1)).jpg",
    "\x1b[31mred.jpg",
)
TAGS = frozenset({"script", "iframe", "object", "embed", "form", "a", "link"})


class Reader(HTMLParser):
    """What a browser would make of a page: its tags, its text, and what in it runs something."""

    def __init__(self) -> None:
        super().__init__()
        self.scripts: list[str] = []
        self.in_script = False
        self.policy = ""
        self.tags: set[str] = set()
        self.handlers: list[str] = []
        self.sources: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.handlers += [name for name, _ in attrs if name.startswith("on")]
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]
        if ("http-equiv", "Content-Security-Policy") in attrs:
            self.policy = dict(attrs)["content"] or ""
        self.in_script = tag == "script" and dict(attrs).get("type") != "application/json"
        if self.in_script:
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self.in_script = False

    def handle_data(self, data: str) -> None:
        if self.in_script:
            self.scripts[-1] += data
        else:
            self.text += data


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bench, Path]:
    """An output over files with such names, captions and errors, and its configuration."""
    folder = tmp_path_factory.mktemp("odd")
    (folder / "in").mkdir()
    for seed, name in enumerate(NAMES):
        write_photo(folder / "in" / name, seed)
        (folder / "in" / name).with_suffix(".txt").write_text(f"a caption {name}")
    broken = folder / "in" / "<script>alert(2)<.png"
    broken.write_bytes(b"<script>alert(3)</script>")
    data: dict[str, Any] = {
        "name": "odd",
        "input": [str(folder / "in")],
        "output": str(folder / "out"),
        "images": {"filters": ["resolution", "thumbnail"], "resolution": {"min_width": 16, "min_height": 16}},
    }
    bench = Bench(data)
    bench.run()
    return bench, write_config(folder / "c.yaml", data)


def test_the_report_shows_names_and_runs_its_own_scripts_alone(
    odd: tuple[Bench, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("curation.report.gallery.samples.EACH_OUTCOME", len(NAMES))  # all of them
    bench, _ = odd
    _, place = write_report(bench.pipeline, bench.ledger)
    text = Path(place).read_text()
    page = Reader()
    page.feed(text)
    assert not page.tags & (TAGS - {"script", "a"})
    assert page.handlers == []
    assert all(source.startswith(("data:image/", "#")) for source in page.sources)
    digests = [hashlib.sha256(script.encode()).digest() for script in page.scripts]
    hashes = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
    assert page.policy.endswith(f"script-src {hashes}")  # nothing else runs, whatever a name smuggles in
    assert "<script>alert(1)<.jpg" in page.text
    assert "{{ 7 * 191 }}{% raw %}.jpg" in page.text
    assert not re.search(r"\b1337\b", page.text)
    assert page.policy.startswith("default-src 'none'; style-src 'unsafe-inline'; img-src data:")


def test_a_csv_holds_what_the_data_hold(odd: tuple[Bench, Path], capsys: Any, tmp_path: Path) -> None:
    """The page says so: a spreadsheet takes `=` for a formula, and a prefix would change every caption."""
    code, _ = said_by(capsys, "table", "-c", odd[1], "--to", tmp_path / "t.csv")
    assert code == 0
    with (tmp_path / "t.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = {row["uri"].rpartition("/")[2] for row in rows}
    assert {"=cmd|' -C calc'!A0.jpg", "<script>alert(1)<.jpg"} <= names


def test_the_console_gets_no_escapes(odd: tuple[Bench, Path], capsys: Any) -> None:
    for words in (("status",), ("explain", "\x1b[31mred.jpg")):
        code, said = said_by(capsys, *words, "-c", odd[1])
        assert code == 0
        assert "\x1b" not in said


def test_the_card_has_the_header_that_we_wrote(tmp_path: Path) -> None:
    """What is written there comes from the configuration; a license with line breaks stays one value."""
    from curation.report.cards.header import license_fields

    said = yaml.safe_load(yaml.safe_dump(license_fields("other\n---\n!!python/object/apply:os.system [id]")))
    assert said["license"] == "other"
    assert re.fullmatch(r"[a-z0-9._-]+", said["license_name"])


@pytest.mark.parametrize(
    "text",
    ["!!python/object/apply:os.system ['touch TMP/hit']", "x: !!python/name:os.system", "a: &a [*a, *a]"],
)
def test_a_configuration_runs_no_code(tmp_path: Path, capsys: Any, text: str) -> None:
    """It is trusted, and still only data."""
    path = tmp_path / "c.yaml"
    path.write_text(text.replace("TMP", str(tmp_path)))
    code, said = said_by(capsys, "status", "-c", path)
    assert (code, said.startswith("ConfigError: ")) == (2, True), said
    assert not (tmp_path / "hit").exists()
