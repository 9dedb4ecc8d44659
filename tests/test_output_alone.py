"""What an output tells by itself, without the configuration file and without the models."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from curation import __version__
from curation.config import parse_config
from curation.execution.recorded import recorded_config
from curation.execution.run import open_pipeline
from datasets_media import config_data, curation, said_by, write_config

Said = pytest.CaptureFixture[str]
HUB_HEAD = {"weights": "someone/clip", "head": "/models/head.pth", "head_sha256": None, "min_score": 9.9}


@pytest.fixture(scope="module")
def finished(media: Path, vocabulary: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A configuration and the output of a run; its text detector is a file that a test may take away."""
    folder = tmp_path_factory.mktemp("alone")
    config = write_config(folder / "c.yaml", config_data(media, folder / "out", vocabulary))
    curation("run", "-c", config)
    return config, folder / "out"


@pytest.fixture
def output(finished: tuple[Path, Path], tmp_path: Path) -> Path:
    """A copy of the output."""
    return shutil.copytree(finished[1], tmp_path / "out")


def change(output: Path, **facts: Any) -> None:
    """Put other facts into run.json."""
    path = output / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | facts))


@pytest.mark.parametrize("words", [("status",), ("explain", "gray.jpg"), ("table", "--to", "TMP/t.csv")])
def test_output_says_what_its_configuration_says(
    finished: tuple[Path, Path], tmp_path: Path, capsys: Said, words: tuple[str, ...]
) -> None:
    config, output = finished
    words = tuple(word.replace("TMP", str(tmp_path)) for word in words)
    expected = said_by(capsys, *words, "-c", config)
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert said_by(capsys, *words, "--output", output) == expected
    assert expected[0] == 0
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == files


def test_file_and_settings_on_the_command_line_win(
    finished: tuple[Path, Path], output: Path, capsys: Said
) -> None:
    """At 0 every score suffices: the four photos that are not too small come by the first branch."""
    config, _ = finished
    low = "images.aesthetic.min_score=0.0"
    assert " aesthetic                  4\n" in said_by(capsys, "status", "--output", output, "--set", low)[1]
    change(output, config=json.loads((output / "run.json").read_text())["config"] | {"images": None})
    assert "images.color" in said_by(capsys, "status", "-c", config, "--output", output)[1]
    assert "images.color" not in said_by(capsys, "status", "--output", output)[1]
