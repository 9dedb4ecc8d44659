"""Who answers. The request and reply of a server are those of OpenAI's API reference, chat completions."""

from __future__ import annotations

import base64
import io
import socket
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from captioner.engines import OpenAIEngine, Question, StandInEngine, VLLMEngine
from curation.errors import CaptionError, EnvironmentFault, MissingDependencyError, WorkerError


def plain_frames(count: int, level: int = 128, height: int = 48, width: int = 64) -> NDArray[np.uint8]:
    return np.full((count, height, width, 3), level, np.uint8)


def question(frames: NDArray[np.uint8], prompt: str = "What happens?") -> Question:
    return Question(prompt, frames, "clip" if len(frames) > 1 else "image", 6.0 if len(frames) > 1 else 0.0)


def engine(url: str, api_key: str | None = None) -> OpenAIEngine:
    return OpenAIEngine(
        url, "some-vlm", api_key, max_tokens=77, seed=5, timeout_s=10, pauses_s=(0.01, 0.01, 0.01)
    )


class TestStandIn:
    def test_says_that_no_model_looked(self) -> None:
        (answer,) = StandInEngine().answer([question(plain_frames(12))])
        assert "stand-in" in answer.text
        assert "no model looked" in answer.text
        assert answer.finish_reason == "stop"

    @pytest.mark.parametrize(("level", "light"), [(20, "dark"), (128, "evenly lit"), (240, "bright")])
    def test_tells_size_and_light(self, level: int, light: str) -> None:
        (answer,) = StandInEngine().answer([question(plain_frames(1, level))])
        assert "an image, 64 by 48 pixels" in answer.text
        assert answer.text.endswith(f"{light}.")

    def test_answers_in_order(self) -> None:
        texts = [
            answer.text
            for answer in StandInEngine().answer([question(plain_frames(12)), question(plain_frames(1))])
        ]
        assert "6.0 seconds of video" in texts[0]
        assert "an image" in texts[1]


class TestServer:
    def test_gets_the_frames_as_jpeg_then_the_prompt(self, chat_server: Any) -> None:
        levels = list(range(0, 240, 20))
        frames = np.concatenate([plain_frames(1, level) for level in levels])
        engine(chat_server.url).answer([question(frames, "Twelve frames?")])
        ((path, headers, body),) = chat_server.asked
        assert path == "/v1/chat/completions"
        assert headers["Content-Type"] == "application/json"
        assert body.keys() == {"model", "messages", "max_tokens", "temperature", "seed"}
        assert (body["model"], body["max_tokens"], body["temperature"], body["seed"]) == (
            "some-vlm",
            77,
            0,
            5,
        )
        (message,) = body["messages"]
        assert message["role"] == "user"
        *images, text = message["content"]
        assert text == {"type": "text", "text": "Twelve frames?"}
        assert len(images) == 12
        decoded = []
        for part in images:
            assert part.keys() == {"type", "image_url"}
            assert part["type"] == "image_url"
            head, _, data = part["image_url"]["url"].partition(",")
            assert head == "data:image/jpeg;base64"
            picture = Image.open(io.BytesIO(base64.b64decode(data, validate=True)))
            assert (picture.format, picture.mode, picture.size) == ("JPEG", "RGB", (64, 48))
            decoded.append(float(np.asarray(picture).mean()))
        assert decoded == pytest.approx(levels, abs=2)  # JPEG of a plain frame; in the order of time

    def test_reply_becomes_an_answer(self, chat_server: Any, chat_reply: Any) -> None:
        chat_server.answers = [(200, chat_reply("A cat sits.", "length"))]
        (answer,) = engine(chat_server.url).answer([question(plain_frames(1))])
        assert (answer.text, answer.finish_reason) == ("A cat sits.", "length")
        assert (answer.num_prompt_tokens, answer.num_output_tokens) == (1200, 34)

    def test_each_question_gets_its_own_answer(self, chat_server: Any, chat_reply: Any) -> None:
        chat_server.answers = [(200, chat_reply("first")), (200, chat_reply("second"))]
        questions = [question(plain_frames(1), "one"), question(plain_frames(1), "two")]
        assert [answer.text for answer in engine(chat_server.url).answer(questions)] == ["first", "second"]
        assert [body["messages"][0]["content"][-1]["text"] for _, _, body in chat_server.asked] == [
            "one",
            "two",
        ]

    def test_key_is_sent_only_where_there_is_one(self, chat_server: Any) -> None:
        engine(chat_server.url, "secret").answer([question(plain_frames(1))])
        engine(chat_server.url).answer([question(plain_frames(1))])
        assert [headers.get("Authorization") for _, headers, _ in chat_server.asked] == [
            "Bearer secret",
            None,
        ]

    @pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
    def test_busy_server_is_asked_again(self, chat_server: Any, chat_reply: Any, status: int) -> None:
        chat_server.answers = [(status, b"busy"), (status, b"busy"), (200, chat_reply("At last."))]
        (answer,) = engine(chat_server.url).answer([question(plain_frames(12))])
        assert answer.text == "At last."
        assert len(chat_server.asked) == 3
        assert chat_server.asked[0] == chat_server.asked[2]

    def test_server_that_stays_busy_is_broken(self, chat_server: Any) -> None:
        chat_server.answers = [(503, b"out of memory")]
        with pytest.raises(WorkerError, match="503: out of memory"):
            engine(chat_server.url).answer([question(plain_frames(1))])
        assert len(chat_server.asked) == 4  # the first attempt, and one after each of three pauses

    def test_pauses_are_kept(self, chat_server: Any, chat_reply: Any) -> None:
        chat_server.answers = [(503, b""), (503, b""), (200, chat_reply("x"))]
        patient = OpenAIEngine(
            chat_server.url, "m", None, max_tokens=1, seed=0, timeout_s=10, pauses_s=(0.1, 0.3)
        )
        started = time.perf_counter()
        patient.answer([question(plain_frames(1))])
        assert time.perf_counter() - started >= 0.4

    @pytest.mark.parametrize("status", [401, 403, 404])
    def test_refusal_of_everything_stops_the_run(self, chat_server: Any, status: int) -> None:
        chat_server.answers = [(status, b'{"error": "no such key"}')]
        with pytest.raises(EnvironmentFault, match=f"{status}.*no such key"):
            engine(chat_server.url).answer([question(plain_frames(1))])
        assert len(chat_server.asked) == 1

    @pytest.mark.parametrize("status", [400, 413, 422])
    def test_refusal_concerns_the_sample(self, chat_server: Any, status: int) -> None:
        chat_server.answers = [(status, b'{"error": "too many images"}')]
        with pytest.raises(CaptionError, match=f"{status}.*too many images"):
            engine(chat_server.url).answer([question(plain_frames(12))])
        assert len(chat_server.asked) == 1

    @pytest.mark.parametrize(
        "body",
        [
            b"{}",
            b"[]",
            b"null",
            b'"text"',
            b'{"choices": []}',
            b'{"choices": [{"message": null}]}',
            b'{"choices": [{"message": {}}]}',
            b'{"choices": [{"message": {"content": 5}}]}',
            b'{"choices": [{"message": {"content": "half a pair \\ud83d"}}]}',
            b'{"choices": [{"message": {"content": "x"}}], "usage": [1]}',
            b'{"choices": [{"message": {"content": "x"}}], "usage": {"prompt_tokens": "many"}}',
        ],
    )
    def test_reply_without_a_caption_concerns_the_sample(self, chat_server: Any, body: bytes) -> None:
        chat_server.answers = [(200, body)]
        with pytest.raises(CaptionError, match="no caption"):
            engine(chat_server.url).answer([question(plain_frames(1))])

    @pytest.mark.parametrize("body", [b"<html>gateway</html>", b"\xff\xfe\x00", b""])
    def test_reply_that_is_no_json_is_asked_for_again(
        self, chat_server: Any, chat_reply: Any, body: bytes
    ) -> None:
        chat_server.answers = [(200, body), (200, chat_reply("Now it is."))]
        (answer,) = engine(chat_server.url).answer([question(plain_frames(1))])
        assert answer.text == "Now it is."

    def test_reply_that_breaks_off_is_asked_for_again(self, chat_server: Any) -> None:
        chat_server.missing_bytes = 100
        with pytest.raises(WorkerError, match="no answer from"):
            engine(chat_server.url).answer([question(plain_frames(1))])
        assert len(chat_server.asked) == 4

    def test_unreachable_server_is_broken(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
        with pytest.raises(WorkerError, match=f"127.0.0.1:{port}/v1/chat/completions"):
            engine(f"http://127.0.0.1:{port}/v1/").answer([question(plain_frames(1))])

    def test_silent_server_is_broken(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            url = f"http://127.0.0.1:{silent.getsockname()[1]}/v1"
            hasty = OpenAIEngine(url, "m", None, max_tokens=1, seed=0, timeout_s=0.2, pauses_s=())
            with pytest.raises(WorkerError, match="timed out"):
                hasty.answer([question(plain_frames(1))])


def test_vllm_that_is_missing_names_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)  # as if it were not installed, wherever this runs
    with pytest.raises(MissingDependencyError, match=r"pip install 'curation\[caption\]'"):
        VLLMEngine(tmp_path, device="cpu", max_tokens=8, seed=0, max_frames=12)
