"""The JSON schema of a configuration against the loader: what one takes, the other takes; typos, neither."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from curation.config import parse_config
from curation.config.settings_file import parse_overrides
from curation.errors import ConfigError
from datasets_media import ROOT, said_by

CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
SCHEMA = json.loads((ROOT / "configs/schema.json").read_text())
MODELINE = re.compile(r"# yaml-language-server: \$schema=(\S+)\n")


def complaints(data: dict[str, Any]) -> list[str]:
    """What the schema says against settings."""
    return [error.message for error in jsonschema.Draft202012Validator(SCHEMA).iter_errors(data)]


def changed(*overrides: str) -> dict[str, Any]:
    """The demo's settings with changes."""
    return parse_overrides(overrides, yaml.safe_load((ROOT / "configs/demo.yaml").read_text()))


def test_schema_that_is_checked_in_is_the_one_that_the_classes_make(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, said = said_by(capsys, "schema")
    assert code == 0
    assert (ROOT / "configs/schema.json").read_text() == said, "curation schema > configs/schema.json"
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_configurations_name_the_schema_and_fit_it(path: Path) -> None:
    begin = MODELINE.match(path.read_text())
    assert begin is not None
    assert (path.parent / begin[1]).samefile(ROOT / "configs/schema.json")
    assert complaints(yaml.safe_load(path.read_text())) == []


@pytest.mark.parametrize(
    "overrides",
    [
        ["run.workers=3"],
        ["run.workers={min: 2}"],
        ["run.workers=null"],
        ["tokens.area=[4096, 65536]"],
        ["images.color={}"],
        ["images.thumbnail=null"],
        ["captions.engine=openai", "captions.model=m", "captions.url=$CAPTION_SERVER/v1"],
        ["captions.serve.port=8123", "captions.lengths={long: 1}"],
        ["stages={mine: 'fault_stages:CountingColor'}", "images.filters=[mine, resolution]"]
        + [f"images.{name}=null" for name in ("aesthetic", "color", "text")],
        ["prices.cpu_hour=1", "shards.shard_bytes=1000000"],
        ["images.text.max_text_coverage=null", "images.aesthetic.min_score=5"],
    ],
    ids=lambda overrides: overrides[0],
)
def test_what_the_loader_takes_fits(overrides: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAPTION_SERVER", "http://127.0.0.1:1")
    data = changed(*overrides)
    parse_config(data)
    assert complaints(data) == []


@pytest.mark.parametrize(
    "overrides",
    [
        ["images.asthetic={}"],
        ["images.aesthetic.min_scroe=5.2"],
        ["images.aesthetic.min_score=high"],
        ["images.filters=[resolution, sharpnes]"],
        ["images.filters=[{any_off: [resolution]}]"],
        ["images.filters=[{any_of: []}]"],
        ["images.scenes={}"],
        ["videos.scenes.min_clip_s=[1]"],
        ["tokens.precision=foo"],
        ["captions.serve.prot=1"],
        ["captions.gate.foo=1"],
        ["run.workers=0"],
        ["run.unit_images=1.5"],
        ["shards.vocabulary=3"],
        ["prices.gpu_hour=-1"],
        ["name=a/b"],
        ["input=[]"],
        ["output=null"],
        ["audio={}"],
        ["images=null", "videos=null"],
    ],
    ids=lambda overrides: overrides[0],
)
def test_misuse_is_refused_by_both(overrides: list[str]) -> None:
    data = changed(*overrides)
    with pytest.raises(ConfigError):
        parse_config(data)
    assert complaints(data)


def properties(schema: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting in a schema."""
    for key, value in schema.get("properties", {}).items():
        yield f"{name}.{key}", value


def test_every_setting_says_what_it_is() -> None:
    """A section is described by its class, which it refers to."""
    settings = [*properties(SCHEMA)]
    for name, definition in SCHEMA["$defs"].items():
        settings += properties(definition, name)
    assert len(settings) > 150
    described = [
        "description" in value or "$ref" in value or "anyOf" in value or "properties" in value
        for _, value in settings
    ]
    assert all(described)
    assert SCHEMA["$defs"]["ColorConfig"]["properties"]["min_colorfulness"]["description"]
    assert "title" not in json.dumps(SCHEMA["$defs"]["ColorConfig"])
