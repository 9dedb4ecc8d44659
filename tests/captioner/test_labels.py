"""Clips for a captioner's training: drawn, described, corrected, exported as its trainers' docs say."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from curation.captioner.engines.base import Answer, Question
from curation.captioner.labels import (
    Label,
    ask,
    draw,
    drawn,
    export,
    read_labels,
    take_corrections,
    write_labels,
)
from curation.cli.app import cli
from curation.errors import CaptionError, ConfigError
from datasets_media import command, config_data, environment, worked, write_config

PLACES = [f"frames/{{}}/{number}.jpg" for number in range(8)]


class Echo:
    """Says of a clip how bright its first and last frames are; refuses what it is told to."""

    varies = True
    busy_s = 0.0

    def __init__(self, refuses: int = 0) -> None:
        self.asked: list[Question] = []
        self._refuses = refuses

    def answer(self, questions: Any) -> list[Answer | CaptionError]:
        self.asked += questions
        means = [f"{item.frames[0].mean():.0f} to {item.frames[-1].mean():.0f}" for item in questions]
        said: list[Answer | CaptionError] = [Answer(text, "stop") for text in means]
        said[: self._refuses] = [CaptionError("refused")] * self._refuses
        return said


@pytest.fixture(scope="module")
def data(media: Path, vocabulary: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The small dataset, filtered and captioned: two clips of 3 s and one of 21 s."""
    data = config_data(media, tmp_path_factory.mktemp("run") / "out", vocabulary)
    del data["tokens"], data["shards"]
    worked(data)
    return data


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three labels, of which a model has described two."""
    place = tmp_path / "labels"
    base = Label("a", "v.mp4", 0.0, 3.0, "0-5 s", [name.format("a") for name in PLACES], "Describe.")
    wrote = [{"by": "teacher", "at": "2026-01-01T00:00:00+00:00", "did": "wrote", "caption": "A dog."}]
    done = replace(base, caption="A dog.", model="teacher", history=wrote)
    write_labels(place, [done, replace(done, sample_id="b"), replace(base, sample_id="c")])
    return place


def test_draw_takes_as_many_of_each_stratum_as_come_to_it_in_turn() -> None:
    strata = {
        f"{name}{number}": name for name, size in (("x", 90), ("y", 9), ("z", 1)) for number in range(size)
    }
    counts = Counter(name[0] for name in drawn(strata, 21, seed=0))
    assert counts == {"z": 1, "y": 9, "x": 11}
    assert set(drawn(strata, 10, seed=0)) < set(drawn(strata, 21, seed=0))
    assert drawn(strata, 21, seed=0) == drawn(dict(reversed(strata.items())), 21, seed=0)
    assert drawn(strata, 21, seed=0) != drawn(strata, 21, seed=1)
    assert len(drawn(strata, 1000, seed=0)) == 100


def test_drawn_clips_have_8_frames_of_their_own_span_and_say_their_stratum(
    data: dict[str, Any], tmp_path: Path
) -> None:
    runner, config = CliRunner(), write_config(tmp_path / "c.yaml", data)
    place = tmp_path / "labels"
    done = runner.invoke(
        cli, ["label", "draw", str(place), "-c", str(config), "--num", "5", "--short-side", "48"]
    )
    assert done.exit_code == 0, done.output
    assert "3 clips in" in done.output
    labels = read_labels(place)
    spans = sorted((label.start_s, label.end_s, label.stratum.partition(",")[0]) for label in labels)
    assert spans == [(0.0, 3.0, "0-5 s"), (0.0, 21.0, "20 s and more"), (3.0, 6.0, "0-5 s")]
    assert all("looks unknown" in label.stratum for label in labels)  # no aesthetic filter on videos here
    colors = []
    for label in labels:
        assert label.frames == [name.format(label.sample_id) for name in PLACES]
        pictures = [np.asarray(Image.open(place / name)) for name in label.frames]
        assert {picture.shape for picture in pictures} == {(48, 96, 3)}
        colors.append(tuple(int(value) // 40 for value in pictures[4].mean((0, 1))))
        assert (
            f"8 frames of a video in the order of time, over {label.end_s - label.start_s:.1f}"
            in label.prompt
        )
    assert len(set(colors)) == 3  # each scene has a color of its own


def test_draw_again_keeps_what_was_written(data: dict[str, Any], tmp_path: Path) -> None:
    pipeline, ledger, _ = worked(data)

    def again(number: int) -> list[Label]:
        return draw(ledger, pipeline, tmp_path, number=number, seed=3, num_frames=2, short_side=48)

    (first,) = again(1)
    write_labels(tmp_path, [replace(first, caption="A dog.")])
    labels = again(3)
    assert len(labels) == 3
    assert labels[0].caption == "A dog."
    assert again(3) == labels


def test_draw_needs_filtered_clips(data: dict[str, Any], tmp_path: Path) -> None:
    pipeline, ledger, _ = worked(
        data | {"videos": data["videos"] | {"flow": {"min_score": 9.0, "max_score": None}}}
    )
    with pytest.raises(ConfigError, match="no clip has passed the filters yet"):
        draw(ledger, pipeline, tmp_path, number=1, seed=0, num_frames=8, short_side=48)


def test_a_model_is_asked_for_what_is_missing_and_only_that(data: dict[str, Any], tmp_path: Path) -> None:
    pipeline, ledger, _ = worked(data)
    draw(ledger, pipeline, tmp_path, number=3, seed=0, num_frames=8, short_side=48)
    said: list[str] = []
    assert ask(tmp_path, Echo(refuses=1), "teacher", said.append, batch=2) == 1
    assert len(said) == 3  # that it asks, then the first of each batch, which was refused
    engine = Echo()
    assert ask(tmp_path, engine, "teacher", said.append) == 2
    assert len(engine.asked) == 2
    labels = read_labels(tmp_path)
    assert all(label.caption and " to " in label.caption and not label.reviewed for label in labels)
    assert {(label.model, label.history[0]["by"], label.history[0]["did"]) for label in labels} == {
        ("teacher", "teacher", "wrote")
    }


@pytest.mark.slow
def test_ctrl_c_ends_asking_a_server_that_is_away(data: dict[str, Any], tmp_path: Path) -> None:
    pipeline, ledger, _ = worked(data)
    draw(ledger, pipeline, tmp_path, number=3, seed=0, num_frames=8, short_side=48)
    asking = command("label", "ask", str(tmp_path), "--url", "http://127.0.0.1:9/v1", "--model", "teacher")
    with subprocess.Popen(asking, env=environment(), stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "asking teacher for 3 captions\n"
        time.sleep(2)  # until it waits to ask again
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 130


def test_corrections_come_back_with_who_and_when(folder: Path, tmp_path: Path) -> None:
    lines = (folder / "labels.jsonl").read_text().splitlines()
    first, second, third = (json.loads(line) for line in lines)
    edited = [{**first, "caption": "A brown dog."}, second, {**third, "accept": False}]
    corrected = tmp_path / "edited.jsonl"
    corrected.write_text("\n".join(json.dumps(item) for item in edited) + "\n\n")
    at = datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC)
    assert take_corrections(folder, corrected, "mika", at) == {"corrected": 1, "confirmed": 1, "rejected": 1}
    a, b, c = read_labels(folder)
    assert (a.caption, b.caption, c.accept) == ("A brown dog.", "A dog.", False)
    assert a.history == [
        *first["history"],
        {"by": "mika", "at": "2026-05-04T03:02:01+00:00", "did": "corrected", "caption": "A brown dog."},
    ]
    assert [label.history[-1]["did"] for label in (b, c)] == ["confirmed", "rejected"]
    assert all(label.reviewed for label in (a, b, c))


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"sample_id": "nobody", "caption": "x"}', "edited.jsonl:1: 'nobody' is no clip of"),
        ('{"sample_id": "a", "caption": " "}', "edited.jsonl:1: needs a caption, or accept: false"),
        ("{", "edited.jsonl:1 is no JSON"),
        ("[]", "edited.jsonl:1 is no JSON object"),
    ],
)
def test_wrong_lines_are_named_and_nothing_is_taken(
    folder: Path, tmp_path: Path, line: str, problem: str
) -> None:
    before = (folder / "labels.jsonl").read_bytes()
    (tmp_path / "edited.jsonl").write_text(line)
    with pytest.raises(ConfigError, match=problem):
        take_corrections(folder, tmp_path / "edited.jsonl", "mika")
    assert (folder / "labels.jsonl").read_bytes() == before


def test_only_what_people_accepted_is_exported(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "train.json"
    with pytest.raises(ConfigError, match="no reviewed and accepted caption"):
        export(folder, target, "qwen")
    assert export(folder, target, "qwen", unreviewed=True) == 2
    edited = tmp_path / "edited.jsonl"
    edited.write_text('{"sample_id": "a", "caption": "A brown dog."}\n{"sample_id": "b", "accept": false}\n')
    take_corrections(folder, edited, "mika")
    assert export(folder, target, "qwen") == 1
    (item,) = json.loads(target.read_text())
    frames = [str(folder / name.format("a")) for name in PLACES]
    assert item == {
        "image": frames,
        "conversations": [
            {"from": "human", "value": "<image>\n" * 8 + "Describe."},
            {"from": "gpt", "value": "A brown dog."},
        ],
    }
    assert export(folder, tmp_path / "factory/clips.json", "llamafactory") == 1
    (item,) = json.loads((tmp_path / "factory/clips.json").read_text())
    assert item == {
        "messages": [
            {"role": "user", "content": "<image>" * 8 + "Describe."},
            {"role": "assistant", "content": "A brown dog."},
        ],
        "images": frames,
    }
    info = json.loads((tmp_path / "factory/dataset_info.json").read_text())
    assert info["clips"]["file_name"] == "clips.json"
    assert info["clips"]["columns"] == {"messages": "messages", "images": "images"}


def test_commands_ask_correct_and_export(
    data: dict[str, Any], tmp_path: Path, chat_server: Any, chat_reply: Any
) -> None:
    chat_server.answers = [(200, chat_reply("A color drifts to the right."))]
    config, place, runner = write_config(tmp_path / "c.yaml", data), tmp_path / "labels", CliRunner()
    asked = ["ask", str(place), "--url", chat_server.url, "--model", "strong"]
    for arguments in (
        ["draw", str(place), "-c", str(config)],
        asked,
        ["correct", str(place), str(place / "labels.jsonl"), "--by", "mika"],
        ["export", str(place), "--to", str(tmp_path / "train.json")],
    ):
        done = runner.invoke(cli, ["label", *arguments], catch_exceptions=False)
        assert done.exit_code == 0, done.output
    assert done.output == f"{tmp_path}/train.json: 3 clips\n"
    content = chat_server.asked[0][2]["messages"][0]["content"]
    assert [part["type"] for part in content] == ["image_url"] * 8 + ["text"]
    assert len(chat_server.asked) == 3
    assert "0 captions written" in runner.invoke(cli, ["label", *asked]).output
