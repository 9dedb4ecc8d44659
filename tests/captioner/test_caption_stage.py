"""The caption stage, with the stand-in and with a real server on loopback. 12 frames and 20 s are Emu3's."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from captioner.stage import CaptionConfig, CaptionStage
from curation import tables
from curation.errors import CaptionError
from curation.records import Row, Sample, Source
from curation.stage import Media, Setup

SOURCE = Source(source_id="source", uri="file", kind="video", size_bytes=1, etag="1")
IMAGE = Sample(sample_id="image", source_id="source", kind="image")
WINDOW = Sample.of_span("source", 12.5, 25.0, parent_id="the clip")


def media(count: int) -> Media:
    return Media(SOURCE, np.full((count, 32, 48, 3), 100, np.uint8), np.arange(count, dtype=np.float64))


def ready(device: Any = "cpu", **settings: Any) -> CaptionStage:
    stage: CaptionStage = pickle.loads(pickle.dumps(CaptionStage(CaptionConfig(**settings))))  # noqa: S301  its own
    stage.setup(Setup(device, {"captioner": "stand-in"}))
    return stage


def server_stage(chat_server: Any, **settings: Any) -> CaptionStage:
    return ready(engine="openai", model="some-vlm", url=chat_server.url, **settings)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"engine": "openai", "url": "http://127.0.0.1/v1"}, "model is required"),
        ({"engine": "vllm"}, "model is required"),
        ({"engine": "openai", "model": "m"}, "url is required"),
        ({"engine": "openai", "model": "m", "url": "file:///etc/passwd"}, "pattern"),
        ({"engine": "oracle", "model": "m"}, "Input should be 'openai'"),
        ({"engine": "stand-in", "num_frame": 12}, "num_frame"),
        ({"engine": "stand-in", "num_frames": 0}, "num_frames"),
    ],
)
def test_config_is_refused(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        CaptionConfig(**settings)


def test_a_window_is_seen_in_12_frames_of_its_own_span() -> None:
    view = CaptionStage(CaptionConfig(engine="stand-in")).view("clip")
    assert (view.count, view.fps) == (12, None)


def test_long_clips_are_expanded_into_windows() -> None:
    stage = CaptionStage(CaptionConfig(engine="stand-in"))
    clip = Sample.of_span("source", 0.0, 50.0)
    assert [part.parent_id for part in stage.expand(clip)] == [clip.sample_id] * 3
    assert stage.expand(WINDOW) == [WINDOW]
    assert stage.expand(IMAGE) == [IMAGE]


def test_stand_in_rows_fit_the_declared_columns_and_name_the_stand_in() -> None:
    stage = ready(engine="stand-in")
    clip, image = stage.measure([WINDOW, IMAGE], [media(12), media(1)])
    assert clip.keys() == image.keys() == set(CaptionStage.columns)
    tables.rows_to_table([Row("a", clip), Row("b", image)], CaptionStage.columns)
    assert (clip["parent_id"], clip["start_s"], clip["end_s"]) == ("the clip", 12.5, 25.0)
    assert (clip["num_frames"], image["num_frames"]) == (12, 1)
    assert "12.5 seconds of video" in clip["caption"]
    assert image["parent_id"] is None
    assert "stand-in" in clip["model"]
    assert "untrained" in clip["model"]
    (model,) = stage.models()
    assert model.stand_in


def test_server_row(chat_server: Any, chat_reply: Any) -> None:
    chat_server.answers = [(200, chat_reply("\n A dog runs. \n"))]
    (row,) = server_stage(chat_server).measure([WINDOW], [media(12)])
    assert (row["caption"], row["model"]) == ("A dog runs.", "some-vlm")
    assert (row["verdict"], row["finish_reason"]) == ("ok", "stop")
    assert (row["num_prompt_tokens"], row["num_output_tokens"], row["num_frames"]) == (1200, 34, 12)


def test_prompt_tells_frames_and_seconds_of_a_window(chat_server: Any) -> None:
    stage = server_stage(
        chat_server, clip_prompt="{num_frames} over {seconds:.1f} s", image_prompt="One {thing}?"
    )
    stage.measure([WINDOW, IMAGE], [media(12), media(1)])
    contents = [body["messages"][0]["content"] for _, _, body in chat_server.asked]
    assert [content[-1]["text"] for content in contents] == ["12 over 12.5 s", "One {thing}?"]
    assert [len(content) for content in contents] == [13, 2]


def test_answer_that_hits_the_limit_is_truncated(chat_server: Any, chat_reply: Any) -> None:
    chat_server.answers = [(200, chat_reply("A dog runs and", "length"))]
    (row,) = server_stage(chat_server, max_tokens=4).measure([IMAGE], [media(1)])
    assert (row["verdict"], row["caption"]) == ("truncated", "A dog runs and")
    assert chat_server.asked[0][2]["max_tokens"] == 4


@pytest.mark.parametrize("text", ["", "  \n", None])
def test_empty_answer_is_no_caption(chat_server: Any, chat_reply: Any, text: Any) -> None:
    chat_server.answers = [(200, chat_reply(text))]
    with pytest.raises(CaptionError, match="answered with nothing"):
        server_stage(chat_server).measure([IMAGE], [media(1)])


def test_key_comes_from_the_named_variable(chat_server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAPTION_KEY", "from the environment")
    server_stage(chat_server, api_key_env="CAPTION_KEY").measure([IMAGE], [media(1)])
    assert chat_server.asked[0][1]["Authorization"] == "Bearer from the environment"


def test_where_the_server_is_does_not_change_what_is_measured() -> None:
    def settings(**changed: Any) -> dict[str, Any]:
        base = {"engine": "openai", "model": "m", "url": "http://one:1/v1"}
        return CaptionStage(CaptionConfig(**{**base, **changed})).measure_settings()

    assert settings(url="http://two:2/v1", timeout_s=5.0, api_key_env="OTHER") == settings()
    for changed in ({"model": "n"}, {"revision": "r"}, {"clip_prompt": "?"}, {"seed": 1}, {"num_frames": 8}):
        assert settings(**changed) != settings()
