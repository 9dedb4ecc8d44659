"""What an output tells by itself, without the configuration file and without the models."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest

from curation import __version__
from curation.config import parse_config
from curation.errors import ConfigError, DamagedFileError
from curation.execution.record.recorded import recorded_config
from curation.pipeline import build_pipeline
from curation.storage import open_storage
from datasets_media import config_data, said_by, write_config, write_vocabulary
from random_ledgers import random_ledger, write_record

Said = pytest.CaptureFixture[str]
COMMIT = "1" * 40
LOW = ("--set", "images.aesthetic.min_score=0.0")


def measured(folder: Path) -> Path:
    """A configuration in `folder`, and its output, as a run would have left it that was stopped anywhere.

    Of its models one is on the Hub and one is a file, `head.pth`.
    """
    vocabulary = write_vocabulary(folder / "vocabulary.tiktoken")
    head = folder / "head.pth"
    head.write_bytes(b"weights")
    (folder / "media").mkdir()
    data = config_data(folder / "media", folder / "out", vocabulary)
    data["images"]["aesthetic"] |= {"weights": "someone/clip", "head": str(head)}
    known = [{"name": "someone/clip", "asked": None, "role": "clip", "revision": COMMIT}]
    pipeline = build_pipeline(parse_config(data), known)
    write_record(random_ledger(pipeline, folder / "out", 7), pipeline)
    return write_config(folder / "c.yaml", data)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The configuration of an output beside it; read-only."""
    return measured(tmp_path_factory.mktemp("alone"))


@pytest.fixture
def output(finished: Path, tmp_path: Path) -> Path:
    """A copy of the output, without the file of the model."""
    return shutil.copytree(finished.parent / "out", tmp_path / "out")


def change(output: Path, **facts: Any) -> None:
    """Put other facts into run.json."""
    path = output / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | facts))


READING = [("status",), ("explain", "0-1"), ("table", "--to", "TMP/t.csv"), ("report",)]


@pytest.mark.parametrize("words", READING, ids=lambda words: words[0])
def test_output_says_what_its_configuration_says(
    finished: Path, tmp_path: Path, capsys: Said, words: tuple[str, ...]
) -> None:
    words = tuple(word.replace("TMP", str(tmp_path)) for word in words)
    expected = said_by(capsys, *words, "-c", finished)
    table = [path.read_bytes() for path in tmp_path.iterdir()]
    assert expected[0] == 0, expected
    assert said_by(capsys, *words, "--output", finished.parent / "out") == expected
    assert [path.read_bytes() for path in tmp_path.iterdir()] == table


@pytest.mark.parametrize("with_file", [False, True])
@pytest.mark.parametrize("words", READING[:3], ids=lambda words: words[0])
def test_models_need_not_be_there(
    tmp_path: Path, capsys: Said, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], with_file: bool
) -> None:
    """Neither the file nor the Hub, which is not even asked."""
    config = measured(tmp_path)
    words = tuple(word.replace("TMP", str(tmp_path)) for word in words)
    expected = said_by(capsys, *words, "-c", config)
    (tmp_path / "head.pth").unlink()

    def refuse(*_: object) -> None:
        raise AssertionError("something is asked over the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    named = ("-c", config) if with_file else ("--output", tmp_path / "out")
    assert said_by(capsys, *words, *named) == expected
    assert expected[0] == 0


def test_settings_on_the_command_line_go_on_top(finished: Path, capsys: Said) -> None:
    output = finished.parent / "out"
    plain = said_by(capsys, "status", "--output", output)
    low = said_by(capsys, "status", "--output", output, *LOW)
    assert low == said_by(capsys, "status", "-c", finished, *LOW)
    assert low != plain


def test_file_wins_over_what_the_output_says(finished: Path, output: Path, capsys: Said) -> None:
    config = json.loads((output / "run.json").read_text())["config"]
    change(output, config={key: value for key, value in config.items() if key != "videos"})
    assert "videos.flow" in said_by(capsys, "status", "-c", finished, "--output", output)[1]
    assert "videos.flow" not in said_by(capsys, "status", "--output", output)[1]


def test_output_may_be_in_a_bucket(bucket: str, finished: Path, capsys: Said) -> None:
    copied = open_storage(f"{bucket}/moved")
    local = open_storage(str(finished.parent / "out"))
    for item in local.list(""):
        copied.write(item.key, local.read(item.key) or b"")
    expected = said_by(capsys, "status", "--output", finished.parent / "out")
    assert said_by(capsys, "status", "--output", f"{bucket}/moved") == expected
    assert expected[0] == 0
    code, said = said_by(capsys, "status", "--output", f"{bucket}/none")
    assert (code, said) == (
        2,
        f"ConfigError: {bucket}/none is no output of a run; `curation run` would make it one\n",
    )


def test_says_what_to_name(capsys: Said, tmp_path: Path) -> None:
    for words in (["status"], ["run"], ["compact"], ["explain", "x"]):
        code, said = said_by(capsys, *words)
        assert code == 2
        assert "name a configuration by --config FILE, or an output that has been made by --output" in said


@pytest.mark.parametrize(
    ("facts", "problem"),
    [
        ({"config": None}, "run.json is damaged: config: Input should be a valid dictionary"),
        ({"config": [1]}, "run.json is damaged: config: Input should be a valid dictionary"),
        ({"models": 3}, "run.json is damaged: models: Input should be a valid list"),
        (
            {"curation": "9.8", "config": {"name": "x", "input": ["in"], "output": "o", "audio": {}}},
            f"run.json, of curation 9.8 (this is {__version__}): ",
        ),
    ],
)
def test_run_record_that_tells_nothing_is_named(
    output: Path, capsys: Said, facts: dict[str, Any], problem: str
) -> None:
    change(output, **facts)
    code, said = said_by(capsys, "status", "--output", output)
    assert problem in said
    assert code in (ConfigError.exit_code, DamagedFileError.exit_code)


@pytest.mark.parametrize("content", [None, "{}"], ids=["none", "empty"])
def test_output_without_run_record_wants_the_file(output: Path, capsys: Said, content: str | None) -> None:
    """An empty one stands where a damaged one was removed."""
    (output / "run.json").unlink()
    if content is not None:
        (output / "run.json").write_text(content)
    code, said = said_by(capsys, "status", "--output", output)
    assert (code, "run.json tells no configuration; name the configuration by --config" in said) == (2, True)


def test_places_mean_the_same_on_another_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what is written with `~`, `$NAME` or `$$` the record has what it stood for, also when read again."""
    data = config_data(tmp_path, tmp_path / "out", tmp_path / "v")
    data["input"], data["shards"]["vocabulary"] = ["$RAW/in", "a$$b"], "~/v.tiktoken"
    monkeypatch.setenv("RAW", "/mnt/$raw")
    monkeypatch.setenv("HOME", "/home/someone")
    config = parse_config(data)
    monkeypatch.delenv("RAW")
    monkeypatch.setenv("HOME", "/home/another")
    again = parse_config(config.resolved)
    assert again.general.input == config.general.input == ["/mnt/$raw/in", "a$b"]
    assert again.shards.vocabulary == "/home/someone/v.tiktoken"
    assert again.resolved == config.resolved


def test_secrets_that_were_hidden_forbid_to_measure(output: Path) -> None:
    config = json.loads((output / "run.json").read_text())["config"]
    config["images"]["aesthetic"]["head"] = "https://***@models.example/head.pth"
    change(output, config=config)
    recorded_config(str(output))
    with pytest.raises(ConfigError, match=r"hides the secrets of images\.aesthetic\.head; name the config"):
        recorded_config(str(output), to_measure=True)
    mended = recorded_config(
        str(output), ["images.aesthetic.head=https://models.example/head.pth"], to_measure=True
    )
    assert mended.general.output == str(output)
