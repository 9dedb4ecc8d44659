"""The documentation: the site builds without a network, and what it shows is understood."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import click
import numpy as np
import pytest
import yaml

from curation.cli.app import cli
from curation.config import parse_config
from curation.errors import ConfigError, DecodeError, PoisonSource, StorageError
from curation.records import Sample, Source
from curation.stage import Media
from curation.storage import open_storage
from datasets_media import ROOT

PAGES = sorted(path for path in (ROOT / "docs").rglob("*.md") if path.name != "decisions.md")


def blocks(path: Path, language: str) -> list[str]:
    """Code of one language in a page, without its indent."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^\1```", path.read_text(), flags=re.S | re.M)
    return [re.sub(f"^{indent}", "", text, flags=re.M) for indent, text in found]


def commands() -> Iterator[tuple[str, str]]:
    for path in [ROOT / "README.md", *PAGES]:
        for block in blocks(path, "sh"):
            for line in block.replace("\\\n", " ").splitlines():
                if line.startswith("curation "):
                    yield path.name, line.partition(" #")[0].partition(" > ")[0].removesuffix("&")


COMMANDS = sorted(set(commands()))


@pytest.mark.parametrize(("page", "line"), COMMANDS)
def test_commands_are_understood(page: str, line: str) -> None:
    """Every option and argument is one that the command has; nothing is executed."""
    group: click.Command = cli
    context = click.Context(group, info_name="curation")
    words = shlex.split(line)[1:]
    while isinstance(group, click.Group):
        _, found, words = group.resolve_command(context, words)
        assert found is not None
        group = found
    assert group.make_context("curation", words, parent=context)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_configurations_are_accepted(path: Path) -> None:
    for text in blocks(path, "yaml"):
        data = yaml.safe_load(text)
        if "name" in data and "stages" not in data:  # others are parts, or name a package of the reader's
            assert parse_config(data, path.name).general.name == data["name"]


def test_shown_filter_measures_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Columns of 0 and 200 in turn differ by 200 from their neighbors, and a plain picture by nothing."""
    page = ROOT / "docs/recipes/own-filter.md"
    (code,) = blocks(page, "python")
    (tmp_path / "shown_sharpness.py").write_text(code)  # other tests have a `sharpness`
    monkeypatch.syspath_prepend(tmp_path)
    (text,) = blocks(page, "yaml")
    parsed = parse_config(yaml.safe_load(text.replace('"sharpness:', '"shown_sharpness:')), page.name)
    assert parsed.images is not None
    stage = parsed.images.stages["images.sharpness"].build()
    source = Source(source_id="s", uri="s.png", kind="image", size_bytes=1, etag="e", width=6, height=4)
    stripes = np.zeros((1, 4, 6, 3), np.uint8)
    stripes[:, :, ::2] = 200
    for pixels, sharpness in ((stripes, 200.0), (np.full_like(stripes, 90), 0.0)):
        (row,) = stage.measure([Sample.of_image(source)], [Media(source, pixels, np.zeros(1))])
        assert row == {"sharpness": sharpness}
        assert stage.reject_reason(row) == (None if sharpness else "sharpness_below_min")


def test_reference_of_the_configuration_is_that_of_the_code() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import docs_pages; print(docs_pages.configuration_page(), end='')"],
        cwd=ROOT / "tools",
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == (ROOT / "docs/reference/configuration.md").read_text()


def test_questions_name_messages_as_they_are_printed(tmp_path: Path) -> None:
    """Of a misspelt key, of a second run, and errors by their types; other questions quote nothing."""
    images = {"filters": ["aesthetic"], "aesthetic": {"min_scor": 5.0}}
    data = {"name": "few", "input": ["in"], "output": "out", "images": images}
    with pytest.raises(ConfigError) as misspelt:
        parse_config(data)
    storage = open_storage(str(tmp_path))
    with storage.exclusive(print), pytest.raises(StorageError) as second, storage.exclusive(print):
        pass
    printed = [str(misspelt.value), str(second.value), DecodeError.__name__, PoisonSource.__name__]
    titles = re.findall(r"^## (.*)$", (ROOT / "docs/faq.md").read_text(), re.MULTILINE)
    for quoted in re.findall(r"`(.+?)`", " ".join(titles)):
        assert any(quoted in text for text in printed), quoted


class Loaded(HTMLParser):
    """What a page has the browser load."""

    def __init__(self) -> None:
        super().__init__()
        self.urls: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag in ("script", "img", "iframe"):
            self.urls.append(values.get("src") or "")
        if tag == "link" and values.get("rel") in ("stylesheet", "icon", "preload", "preconnect"):
            self.urls.append(values.get("href") or "")


def test_site_is_built_whole_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    named = {path.relative_to(ROOT / "docs").with_suffix(".html").as_posix() for path in PAGES}
    assert named <= {path.relative_to(tmp_path / "site").as_posix() for path in pages}
    for page in pages:
        loaded = Loaded()
        loaded.feed(page.read_text())
        assert not [url for url in loaded.urls if "://" in url or url.startswith("//")], page.name
    reference = (tmp_path / "site/reference/configuration.html").read_text()
    assert "min_clip_s" in reference
    assert "aesthetic_score" in reference
    assert "--retry-failed" in (tmp_path / "site/reference/cli.html").read_text()
    assert "open_output" in (tmp_path / "site/reference/python.html").read_text()
