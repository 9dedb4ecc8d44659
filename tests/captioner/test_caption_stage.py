"""The caption stage, with the stand-in and with a real server on loopback. 12 frames and 20 s are Emu3's."""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from curation.captioner.engines.serve import ServeEngine
from curation.captioner.engines.stand_in import StandInEngine
from curation.captioner.settings import CaptionConfig
from curation.captioner.stage import CaptionStage
from curation.errors import CaptionError
from curation.ledger import schemas
from curation.records import Row, Sample, Source
from curation.stage import Media, Setup

SOURCE = Source(source_id="source", uri="file", kind="video", size_bytes=1, etag="1")
IMAGE = Sample(sample_id="image", source_id="source", kind="image")
WINDOW = Sample.of_span("source", 12.5, 25.0, parent_id="the clip")


def media(count: int) -> Media:
    return Media(SOURCE, np.full((count, 32, 48, 3), 100, np.uint8), np.arange(count, dtype=np.float64))


def ready(device: Any = "cpu", **settings: Any) -> CaptionStage:
    stage: CaptionStage = pickle.loads(pickle.dumps(CaptionStage(CaptionConfig(**settings))))
    stage.setup(Setup(device, {"captioner": "stand-in"}))
    return stage


def rows(measured: Sequence[Any]) -> list[dict[str, Any]]:
    """What was measured, if nothing failed."""
    assert [row for row in measured if isinstance(row, Exception)] == []
    return list(measured)


def server_stage(chat_server: Any, **settings: Any) -> CaptionStage:
    return ready(engine="openai", model="some-vlm", url=chat_server.url, retry_for_s=1.0, **settings)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"engine": "openai", "url": "http://127.0.0.1/v1"}, "model is required"),
        ({"engine": "vllm"}, "model is required"),
        ({"engine": "openai", "model": "m"}, "url is required"),
        ({"engine": "openai", "model": "m", "url": "file:///etc/passwd"}, "pattern"),
        (
            {"engine": "oracle", "model": "m"},
            "there is no caption engine 'oracle'; known are vllm, serve, openai",
        ),
        ({"engine": "serve"}, "model is required for engine: serve"),
        ({"engine": "stand-in", "language": "Klingon"}, "'Klingon' is not one of Arabic, Chinese"),
        ({"engine": "stand-in", "lengths": {"tiny": 1.0}}, "short"),
        ({"engine": "stand-in", "lengths": {}}, "at least 1 item"),
        ({"engine": "stand-in", "lengths": {"long": 0.0}}, "a weight above 0"),
        ({"engine": "stand-in", "prompts": "/nowhere"}, "cannot read the prompt /nowhere"),
        (
            {"engine": "vllm", "model": "m", "engine_args": {"dtype": "x"}},
            "engine_args.dtype is set by dtype",
        ),
        ({"engine": "vllm", "model": "m", "engine_args": {"trust_remote_code": True}}, "run code"),
        ({"engine": "stand-in", "gate": {"refuse": ["ugly"]}}, "empty"),
        ({"engine": "stand-in", "num_frame": 12}, "num_frame"),
        ({"engine": "stand-in", "num_frames": 0}, "num_frames"),
    ],
)
def test_config_is_refused(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        CaptionConfig(**settings)


def test_a_window_is_seen_in_12_frames_of_its_own_span() -> None:
    view = CaptionStage(CaptionConfig(engine="stand-in")).view("clip")
    assert view is not None
    assert (view.count, view.fps) == (12, None)


def test_long_clips_are_expanded_into_windows() -> None:
    stage = CaptionStage(CaptionConfig(engine="stand-in"))
    clip = Sample.of_span("source", 0.0, 50.0)
    assert [part.parent_id for part in stage.expand(clip)] == [clip.sample_id] * 3
    assert stage.expand(WINDOW) == [WINDOW]
    assert stage.expand(IMAGE) == [IMAGE]


@pytest.mark.parametrize(("kind", "count"), [("image", None), ("clip", 12)])
def test_an_image_is_one_frame(kind: Any, count: int | None) -> None:
    view = CaptionStage(CaptionConfig(engine="stand-in")).view(kind)
    assert view is not None
    assert view.count == count


def test_stand_in_rows_fit_the_declared_columns_and_name_the_stand_in() -> None:
    stage = ready(engine="stand-in")
    clip, image = rows(stage.measure([WINDOW, IMAGE], [media(12), media(1)]))
    assert clip.keys() == image.keys() == set(CaptionStage.columns)
    schemas.rows_to_table([Row("a", clip), Row("b", image)], CaptionStage.columns)
    assert (clip["parent_id"], clip["start_s"], clip["end_s"]) == ("the clip", 12.5, 25.0)
    assert (clip["num_frames"], image["num_frames"]) == (12, 1)
    assert "12.5 seconds of video" in clip["caption"]
    assert image["parent_id"] is None
    assert "stand-in" in clip["model"]
    assert "untrained" in clip["model"]
    assert clip["length"] is None  # nothing was asked
    (model,) = stage.models()
    assert model.stand_in


def test_server_row(chat_server: Any, chat_reply: Any) -> None:
    chat_server.answers = [(200, chat_reply("\n A dog runs over a meadow. \n"))]
    (row,) = rows(server_stage(chat_server, lengths={"medium": 1}).measure([WINDOW], [media(12)]))
    assert (row["caption"], row["model"]) == ("A dog runs over a meadow.", "some-vlm")
    assert (row["verdict"], row["verdicts"], row["finish_reason"]) == ("ok", ["ok"], "stop")
    assert (row["num_prompt_tokens"], row["num_output_tokens"], row["num_frames"]) == (1200, 34, 12)
    assert (row["length"], row["language"], row["subject"]) == ("medium", "English", None)


def test_prompt_tells_frames_and_seconds_of_a_window(chat_server: Any) -> None:
    stage = server_stage(chat_server, lengths={"long": 1.0}, language="French", max_attempts=1)
    stage.measure([WINDOW, IMAGE], [media(12), media(1)])
    contents = [body["messages"][0]["content"] for _, _, body in chat_server.asked]
    clip, image = sorted(contents, key=len, reverse=True)
    assert "12 frames of a video in the order of time, over 12.5 seconds" in clip[-1]["text"]
    assert "Describe this image in French in detail" in image[-1]["text"]
    assert [len(clip), len(image)] == [13, 2]


def test_what_is_no_caption_is_asked_for_again_with_another_seed(chat_server: Any, chat_reply: Any) -> None:
    answers = [
        ("!!!!!!!!!!!!!!!!!!!!", "length"),
        ("A dog runs and", "length"),
        ("A dog runs far away.", "stop"),
    ]
    chat_server.answers = [(200, chat_reply(*answer)) for answer in answers]
    (row,) = rows(server_stage(chat_server, max_tokens=4).measure([IMAGE], [media(1)]))
    assert (row["caption"], row["verdict"]) == ("A dog runs far away.", "ok")
    assert row["verdicts"] == ["degenerate", "cut_off", "ok"]
    bodies = [body for _, _, body in chat_server.asked]
    assert [body["temperature"] for body in bodies] == [0.0, 0.7, 0.7]
    assert len({body["seed"] for body in bodies}) == 3
    assert {body["max_tokens"] for body in bodies} == {4}


def test_only_what_failed_is_asked_again(chat_server: Any, chat_reply: Any) -> None:
    refusal = "I'm sorry, I can't help with that."
    chat_server.answers = [(200, chat_reply(text)) for text in (refusal, "A dog runs far away.")]
    stage = server_stage(chat_server, concurrency=1)
    first, second = rows(stage.measure([WINDOW, IMAGE], [media(12), media(1)]))
    assert (first["verdicts"], second["verdicts"]) == (["refused", "ok"], ["ok"])
    assert len(chat_server.asked) == 3


def test_sample_that_never_gets_a_caption_fails_with_the_last_text(chat_server: Any, chat_reply: Any) -> None:
    chat_server.answers = [(200, chat_reply("")), (200, chat_reply("A dog runs and", "length"))]
    (error,) = server_stage(chat_server, max_attempts=3).measure([IMAGE], [media(1)])
    assert isinstance(error, CaptionError)
    assert str(error) == "empty, cut_off, cut_off; the last answer: 'A dog runs and'"
    assert len(chat_server.asked) == 3


def test_gate_can_let_verdicts_pass_and_notes_them(chat_server: Any, chat_reply: Any) -> None:
    chat_server.answers = [(200, chat_reply("A dog runs and", "length"))]
    stage = server_stage(chat_server, gate={"refuse": ["empty"]})
    (row,) = rows(stage.measure([IMAGE], [media(1)]))
    assert (row["verdict"], row["caption"]) == ("cut_off", "A dog runs and")


def test_structured_answers_become_columns_and_a_caption(chat_server: Any, chat_reply: Any) -> None:
    parts = {"subject": "A dog", "motion": "It runs to the left.", "camera": "Static", "style": "VideoPass"}
    chat_server.answers = [(200, chat_reply("A dog.")), (200, chat_reply(json.dumps(parts)))]
    (row,) = rows(server_stage(chat_server, structured=True).measure([WINDOW], [media(12)]))
    assert row["caption"] == "A dog. It runs to the left. Static. VideoPass."
    assert {name: row[name] for name in parts} == parts
    assert row["verdicts"] == ["malformed", "ok"]
    assert chat_server.asked[0][2]["response_format"]["type"] == "json_schema"


def test_sidecar_takes_what_came_with_the_source_and_decodes_nothing() -> None:
    stage = ready(engine="sidecar", column="alt")
    assert (stage.view("clip"), stage.view("image")) == (None, None)
    came = replace(SOURCE, metadata={"alt": "A dog runs over a meadow."})
    empty = np.empty((0, 0, 0, 3), np.uint8)
    (row, error) = stage.measure(
        [WINDOW, IMAGE], [Media(came, empty, np.empty(0)), Media(SOURCE, empty, np.empty(0))]
    )
    assert isinstance(row, dict)
    assert (row["caption"], row["model"], row["verdict"]) == (
        "A dog runs over a meadow.",
        "sidecar: alt",
        "ok",
    )
    assert isinstance(error, CaptionError)
    assert str(error) == "the source came without 'alt'; it came with nothing"


def test_usage_and_counts_add_up(chat_server: Any, chat_reply: Any) -> None:
    chat_server.answers = [(200, chat_reply("")), (200, chat_reply("A dog runs far away."))]
    stage = server_stage(chat_server, lengths={"long": 1.0})
    (row,) = rows(stage.measure([IMAGE], [media(1)]))
    used = dict(stage.usage())
    assert used.pop("engine_s") > 0
    assert used == {"answers": 2, "prompt_tokens": 2400, "output_tokens": 68}  # 1200 and 34 each
    assert stage.usage()["engine_s"] == 0

    def counted(*found: Row) -> list[tuple[str, str, int]]:
        return list(stage.counts(schemas.rows_to_table(found, stage.columns)))

    assert counted(Row("a", row)) == [
        ("verdict", "ok", 1),
        ("finish reason", "some-vlm: stop", 1),
        ("attempts", "empty", 1),
        ("attempts", "ok", 1),
        ("length", "long", 1),
        ("tokens", "some-vlm: prompt", 1200),
        ("tokens", "some-vlm: output", 34),
    ]
    failed = Row("b", {}, "CaptionError", "empty, refused; the last answer: 'x'")
    assert counted(failed) == [("attempts", "empty", 1), ("attempts", "refused", 1)]
    other = row | {"model": "other-vlm", "length": None, "verdict": "too_long", "verdicts": ["too_long"]}
    undecoded = Row("d", {}, "DecodeError", "empty, refused; the last answer: 'x'")
    assert counted(Row("a", row), failed, Row("c", other), undecoded, Row("e", row)) == [
        ("verdict", "ok", 2),
        ("verdict", "too_long", 1),
        ("finish reason", "some-vlm: stop", 2),
        ("finish reason", "other-vlm: stop", 1),
        ("attempts", "empty", 3),
        ("attempts", "ok", 2),
        ("attempts", "too_long", 1),
        ("attempts", "refused", 1),
        ("length", "long", 2),
        ("tokens", "some-vlm: prompt", 2400),
        ("tokens", "other-vlm: prompt", 1200),
        ("tokens", "some-vlm: output", 68),
        ("tokens", "other-vlm: output", 34),
    ]


def test_key_comes_from_the_named_variable(chat_server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAPTION_KEY", "from the environment")
    server_stage(chat_server, api_key_env="CAPTION_KEY").measure([IMAGE], [media(1)])
    assert chat_server.asked[0][1]["Authorization"] == "Bearer from the environment"


def test_where_the_server_is_does_not_change_what_is_measured() -> None:
    def settings(**changed: Any) -> dict[str, Any]:
        base = {"engine": "openai", "model": "m", "url": "http://one:1/v1"}
        return CaptionStage(CaptionConfig(**{**base, **changed})).measure_settings()

    moved = {"url": "http://two:2/v1", "timeout_s": 5.0, "api_key_env": "OTHER", "concurrency": 3}
    assert settings(**moved, engine_args={"max_num_seqs": 4}, serve={"port": 1}) == settings()
    for changed in (
        {"model": "n"},
        {"revision": "r"},
        {"language": "Greek"},
        {"lengths": {"short": 1.0}},
        {"structured": True},
        {"seed": 1},
        {"num_frames": 8},
        {"gate": {"min_words": 2}},
    ):
        assert settings(**changed) != settings()


class TestSections:
    """Settings that only one engine has stand below its name."""

    def test_chosen_engine_gets_its_own_and_others_may_stay(self) -> None:
        serve = {"serve": {"port": 8001}}
        stage: Any = CaptionStage(CaptionConfig(engine="serve", model="m", **serve))
        assert pickle.loads(pickle.dumps(stage)).engine.own.port == 8001
        other: Any = CaptionStage(CaptionConfig(engine="vllm", model="m", **serve))
        assert not hasattr(other.engine.own, "port")
        assert CaptionConfig.model_validate(stage.config) == stage.config

    def test_every_problem_is_told_at_once(self) -> None:
        with pytest.raises(ValidationError) as caught:
            CaptionConfig(engine="serve", num_frames=0, serve={"port": -1, "prot": 1}, vllm={"dtype": "x"})
        assert {error["loc"] for error in caught.value.errors()} == {
            ("num_frames",),
            ("serve", "port"),
            ("serve", "prot"),
            ("vllm", "dtype"),
        }

    def test_engine_holds_its_own_settings_against_the_others(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The check sees the section as it stands, not its defaults."""
        seen = []
        monkeypatch.setattr(ServeEngine, "check", lambda engine: seen.append(engine.own.port))
        CaptionConfig(engine="serve", model="m", serve={"port": 8001})
        assert seen == [8001]

    def test_only_what_changes_captions_is_part_of_the_fingerprint(self) -> None:
        plain = CaptionStage(CaptionConfig(engine="serve", model="m")).measure_settings()
        moved = CaptionStage(CaptionConfig(engine="serve", model="m", serve={"port": 1})).measure_settings()
        assert moved == plain
        own = CaptionStage(CaptionConfig(engine="stand-in")).measure_settings()
        assert "stand-in" not in own

    def test_new_version_of_an_engine_captions_anew(self, monkeypatch: pytest.MonkeyPatch) -> None:
        before = CaptionStage(CaptionConfig(engine="stand-in")).measure_settings()
        monkeypatch.setattr(StandInEngine, "version", 2)
        assert CaptionStage(CaptionConfig(engine="stand-in")).measure_settings() != before

    def test_own_settings_that_change_captions_do(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ServeEngine, "placement_settings", classmethod(lambda cls: {"port"}))
        config = CaptionConfig(engine="serve", model="m", serve={"host": "h", "port": 1})
        own = CaptionStage(config).measure_settings()["serve"]
        assert own["host"] == "h"
        assert "port" not in own
