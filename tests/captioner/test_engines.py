"""Who answers. The request and reply of a server are those of OpenAI's API reference, chat completions."""

from __future__ import annotations

import base64
import io
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from curation.captioner.engines.base import Answer, AnswerSettings, Question
from curation.captioner.engines.chat import ChatClient, RetryPolicy
from curation.captioner.engines.serve import ServeEngine
from curation.captioner.engines.sidecar import SidecarEngine
from curation.captioner.engines.stand_in import StandInEngine
from curation.captioner.engines.vllm import VLLMEngine, engine_arguments
from curation.captioner.server import KEY, URL
from curation.captioner.settings import CaptionConfig
from curation.captioner.stage import CaptionStage
from curation.errors import CaptionError, EnvironmentFault, MissingDependencyError
from curation.stage import Setup

SWIFT = RetryPolicy(timeout_s=10, total_s=1.0, first_pause_s=0.01, longest_pause_s=0.02)


def plain_frames(count: int, level: int = 128, height: int = 48, width: int = 64) -> NDArray[np.uint8]:
    return np.full((count, height, width, 3), level, np.uint8)


def question(frames: NDArray[np.uint8], prompt: str = "What happens?", **more: Any) -> Question:
    if len(frames) > 1:
        return Question(prompt, frames, "clip", 6.0, **more)
    return Question(prompt, frames, "image", 0.0, **more)


def engine(url: str, api_key: str | None = None, **settings: Any) -> ChatClient:
    return moving_engine(lambda: (url, api_key), **settings)


def moving_engine(locate: Callable[[], tuple[str, str | None] | None], **settings: Any) -> ChatClient:
    sampling = settings.pop("sampling", AnswerSettings(max_tokens=77))
    return ChatClient(locate, "some-vlm", sampling, **{"retry": SWIFT, **settings})


def sidecar(column: str) -> SidecarEngine:
    return SidecarEngine(CaptionConfig(engine="sidecar", column=column))


def stand_in() -> StandInEngine:
    return StandInEngine(CaptionConfig(engine="stand-in"))


def only(answers: list[Answer | CaptionError]) -> Answer:
    (answer,) = answers
    assert isinstance(answer, Answer)
    return answer


def only_error(answers: list[Answer | CaptionError]) -> str:
    (answer,) = answers
    assert isinstance(answer, CaptionError)
    return str(answer)


class TestSidecar:
    def test_hands_on_what_came_with_the_source(self) -> None:
        answer = only(sidecar("alt").answer([question(plain_frames(1), metadata={"alt": "A cat."})]))
        assert (answer.text, answer.finish_reason, answer.num_output_tokens) == ("A cat.", "sidecar", 0)

    def test_names_what_came_instead(self) -> None:
        asked = [question(plain_frames(1), metadata={"text": "A cat.", "license": "cc0"})]
        assert only_error(sidecar("caption").answer(asked)) == (
            "the source came without 'caption'; it came with license, text"
        )


class TestStandIn:
    def test_says_that_no_model_looked(self) -> None:
        answer = only(stand_in().answer([question(plain_frames(12))]))
        assert "stand-in" in answer.text
        assert "no model looked" in answer.text
        assert answer.finish_reason == "stop"

    @pytest.mark.parametrize(("level", "light"), [(20, "dark"), (128, "evenly lit"), (240, "bright")])
    def test_tells_size_and_light(self, level: int, light: str) -> None:
        answer = only(stand_in().answer([question(plain_frames(1, level))]))
        assert "an image, 64 by 48 pixels" in answer.text
        assert answer.text.endswith(f"{light}.")

    def test_answers_in_order(self) -> None:
        answers = stand_in().answer([question(plain_frames(12)), question(plain_frames(1))])
        assert ["6.0 seconds of video" in str(answer) for answer in answers] == [True, False]


class TestServer:
    def test_gets_the_frames_as_jpeg_then_the_prompt(self, chat_server: Any) -> None:
        levels = list(range(0, 240, 20))
        frames = np.concatenate([plain_frames(1, level) for level in levels])
        engine(chat_server.url).answer([question(frames, "Twelve frames?", temperature=0.5, seed=5)])
        ((path, headers, body),) = chat_server.asked
        assert path == "/v1/chat/completions"
        assert headers["Content-Type"] == "application/json"
        assert body.keys() == {"model", "messages", "max_tokens", "temperature", "seed"}
        assert [body[name] for name in ("model", "max_tokens", "temperature", "seed")] == [
            "some-vlm",
            77,
            0.5,
            5,
        ]
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

    def test_gets_exact_pixels_as_png(self, chat_server: Any) -> None:
        frames = np.random.default_rng(0).integers(0, 256, (1, 48, 64, 3)).astype(np.uint8)
        engine(chat_server.url, image_format="png").answer([question(frames)])
        head, _, data = chat_server.asked[0][2]["messages"][0]["content"][0]["image_url"]["url"].partition(
            ","
        )
        assert head == "data:image/png;base64"
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))), frames[0])

    def test_gets_a_clip_as_one_video_with_its_rate(self, chat_server: Any) -> None:
        sampling = AnswerSettings(max_tokens=9, frames_as="video")
        engine(chat_server.url, sampling=sampling).answer([question(plain_frames(12))])
        body = chat_server.asked[0][2]
        video, _ = body["messages"][0]["content"]
        head, *frames = video["video_url"]["url"].split(",")
        assert (video["type"], head, len(frames)) == ("video_url", "data:video/jpeg;base64", 12)
        # 12 frames over 6 s. -1 tells vLLM to keep them all.
        assert body["media_io_kwargs"] == {"video": {"num_frames": -1, "fps": 2.0}}

    def test_gets_the_schema_as_the_api_reference_has_it(self, chat_server: Any) -> None:
        schema = {"type": "object", "properties": {"subject": {"type": "string"}}}
        engine(chat_server.url, sampling=AnswerSettings(max_tokens=9, schema=schema)).answer(
            [question(plain_frames(1))]
        )
        wanted = chat_server.asked[0][2]["response_format"]
        assert wanted["type"] == "json_schema"
        assert wanted["json_schema"]["schema"] == schema
        assert wanted["json_schema"]["strict"] is True

    def test_reply_becomes_an_answer(self, chat_server: Any, chat_reply: Any) -> None:
        chat_server.answers = [(200, chat_reply("A cat sits.", "length"))]
        answer = only(engine(chat_server.url).answer([question(plain_frames(1))]))
        assert (answer.text, answer.finish_reason) == ("A cat sits.", "length")
        assert (answer.num_prompt_tokens, answer.num_output_tokens) == (1200, 34)

    def test_each_question_gets_its_own_answer_whoever_is_first(self, chat_server: Any) -> None:
        chat_server.echoes = True
        prompts = [f"question {number}" for number in range(20)]
        answers = engine(chat_server.url, concurrency=7).answer(
            [question(plain_frames(1), prompt) for prompt in prompts]
        )
        assert [only([answer]).text for answer in answers] == prompts

    def test_as_many_requests_are_under_way_as_are_allowed(self, chat_server: Any) -> None:
        # The server answers when four are there at once: with fewer this would time out.
        chat_server.barrier = threading.Barrier(4, timeout=10)
        answers = engine(chat_server.url, concurrency=4).answer([question(plain_frames(1))] * 8)
        assert [only([answer]).text for answer in answers] == ["A caption."] * 8
        assert chat_server.most_at_once == 4

    def test_key_is_sent_only_where_there_is_one(self, chat_server: Any) -> None:
        engine(chat_server.url, "secret").answer([question(plain_frames(1))])
        engine(chat_server.url).answer([question(plain_frames(1))])
        assert [headers.get("Authorization") for _, headers, _ in chat_server.asked] == [
            "Bearer secret",
            None,
        ]

    @pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
    def test_busy_server_is_asked_again(self, chat_server: Any, chat_reply: Any, status: int) -> None:
        chat_server.answers = [(status, b"busy"), (status, b"busy"), (200, chat_reply("At last."))]
        answer = only(engine(chat_server.url).answer([question(plain_frames(12))]))
        assert answer.text == "At last."
        assert len(chat_server.asked) == 3
        assert chat_server.asked[0] == chat_server.asked[2]

    def test_server_that_stays_busy_stops_the_run_and_blames_nobody(self, chat_server: Any) -> None:
        chat_server.answers = [(503, b"loading")]
        with pytest.raises(EnvironmentFault, match=r"no answer .* for 1 s: 503: loading"):
            engine(chat_server.url).answer([question(plain_frames(1))] * 3)
        assert len(chat_server.asked) > 10

    def test_server_that_fails_at_one_question_again_and_again_fails_that_question(
        self, chat_server: Any
    ) -> None:
        chat_server.answers = [(500, b"illegal memory access")]
        said = only_error(engine(chat_server.url).answer([question(plain_frames(1))]))
        assert said == "the server failed 4 times: 500: illegal memory access"
        assert len(chat_server.asked) == 4

    def test_pauses_grow_and_are_kept(self, chat_server: Any, chat_reply: Any) -> None:
        chat_server.answers = [(503, b""), (503, b""), (200, chat_reply("x"))]
        started = time.perf_counter()
        engine(chat_server.url, retry=RetryPolicy(10, 10, 0.2, 5.0)).answer([question(plain_frames(1))])
        # At least half of 0.2 and of 0.4 s.
        assert time.perf_counter() - started >= 0.3

    def test_pause_that_the_server_asks_for_is_kept(self, chat_server: Any, chat_reply: Any) -> None:
        chat_server.answers = [(429, b""), (200, chat_reply("x"))]
        chat_server.headers = {"Retry-After": "1"}
        started = time.perf_counter()
        engine(chat_server.url, retry=RetryPolicy(10, 10, 0.01, 0.01)).answer([question(plain_frames(1))])
        assert time.perf_counter() - started >= 1

    @pytest.mark.parametrize("status", [401, 403, 404])
    def test_refusal_of_everything_stops_the_run(self, chat_server: Any, status: int) -> None:
        chat_server.answers = [(status, b'{"error": "no such key"}')]
        with pytest.raises(EnvironmentFault, match=f"{status}.*no such key"):
            engine(chat_server.url).answer([question(plain_frames(1))])
        assert len(chat_server.asked) == 1

    @pytest.mark.parametrize("status", [400, 413, 422])
    def test_refusal_concerns_the_sample(self, chat_server: Any, chat_reply: Any, status: int) -> None:
        chat_server.answers = [(status, b'{"error": "too many images"}'), (200, chat_reply("fine"))]
        refused, fine = engine(chat_server.url, concurrency=1).answer([question(plain_frames(12))] * 2)
        assert only_error([refused]) == f'the server refused: {status}: {{"error": "too many images"}}'
        assert only([fine]).text == "fine"

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
        assert "no caption" in only_error(engine(chat_server.url).answer([question(plain_frames(1))]))

    @pytest.mark.parametrize("body", [b"<html>gateway</html>", b"\xff\xfe\x00", b""])
    def test_reply_that_is_no_json_is_asked_for_again(
        self, chat_server: Any, chat_reply: Any, body: bytes
    ) -> None:
        chat_server.answers = [(200, body), (200, chat_reply("Now it is."))]
        assert only(engine(chat_server.url).answer([question(plain_frames(1))])).text == "Now it is."

    def test_reply_that_breaks_off_is_asked_for_again(self, chat_server: Any) -> None:
        chat_server.missing_bytes = 100
        said = only_error(engine(chat_server.url).answer([question(plain_frames(1))]))
        assert "the server failed 4 times: the connection broke off" in said
        assert len(chat_server.asked) == 4

    def test_server_that_is_away_for_a_while_is_waited_for(self, chat_server: Any) -> None:
        port = int(chat_server.url.rpartition(":")[2].partition("/")[0])
        chat_server.stop()
        answers: list[Any] = []
        patient = engine(chat_server.url, retry=RetryPolicy(10, 30, 0.05, 0.05))
        asking = threading.Thread(target=lambda: answers.extend(patient.answer([question(plain_frames(1))])))
        asking.start()
        time.sleep(0.3)
        assert not answers
        chat_server.start_again(port)
        asking.join(30)
        assert only(answers).text == "A caption."

    def test_server_that_is_not_there_stops_the_run(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
        with pytest.raises(EnvironmentFault, match=f"127.0.0.1:{port}/v1/chat/completions for 1 s"):
            engine(f"http://127.0.0.1:{port}/v1/").answer([question(plain_frames(1))])

    def test_silent_server_stops_the_run(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            url = f"http://127.0.0.1:{silent.getsockname()[1]}/v1"
            with pytest.raises(EnvironmentFault, match="timed out"):
                engine(url, retry=RetryPolicy(0.2, 0.5, 0.01, 0.01)).answer([question(plain_frames(1))])


def test_vllm_that_is_missing_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)  # as if it were not installed, wherever this runs
    with pytest.raises(MissingDependencyError, match=r"pip install 'curation\[caption\]'"):
        VLLMEngine(CaptionConfig(engine="vllm", model="m")).setup(
            Setup("cpu", {}), AnswerSettings(max_tokens=1)
        )


def test_server_that_moves_is_asked_where_it_is_now(chat_server: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    found = [(f"http://127.0.0.1:{port}/v1", "old"), None, (chat_server.url, "new")]
    asked = moving_engine(lambda: found.pop(0) if len(found) > 1 else found[0])
    assert only(asked.answer([question(plain_frames(1))])).text == "A caption."
    assert found == [(chat_server.url, "new")]
    ((_, headers, _),) = chat_server.asked
    assert headers["Authorization"] == "Bearer new"


def test_run_s_own_server_may_be_away_when_a_worker_starts(chat_server: Any) -> None:
    services: dict[str, str] = {}
    asked = ServeEngine(CaptionConfig(engine="serve", model="some-vlm"))
    asked.setup(Setup("cpu", {}, services), AnswerSettings(max_tokens=7))
    services |= {URL: chat_server.url, KEY: "secret"}
    assert only(asked.answer([question(plain_frames(1))])).text == "A caption."
    ((_, headers, _),) = chat_server.asked
    assert headers["Authorization"] == "Bearer secret"


def test_server_that_never_comes_back_is_told() -> None:
    with pytest.raises(EnvironmentFault, match="no answer from the caption server for 1 s: it is starting"):
        moving_engine(lambda: None).answer([question(plain_frames(1))])


class TestWhereVLLMRuns:
    """Names of arguments and variables are those of vLLM 0.32."""

    def arguments(self, setup: Setup, **settings: Any) -> dict[str, Any]:
        config = CaptionConfig(engine="vllm", model="m", **settings)
        return engine_arguments(config, Path("/weights"), setup)

    def test_whole_card_is_filled_as_far_as_vllm_itself_does(self) -> None:
        for setup in (Setup("cpu", {}), Setup("cuda", {})):
            found = self.arguments(setup)
            assert {"gpu_memory_utilization", "distributed_executor_backend"}.isdisjoint(found)

    def test_shared_card_is_filled_in_part(self) -> None:
        setup = Setup("cuda", {}, gpu_fraction=0.75)
        assert self.arguments(setup)["gpu_memory_utilization"] == 0.69  # of the 0.92 that vLLM takes
        given = {"gpu_memory_utilization": 0.5}
        assert self.arguments(setup, engine_args=given)["gpu_memory_utilization"] == 0.5

    @pytest.mark.parametrize(("in_group", "executor"), [(False, "mp"), (True, "ray")])
    def test_model_on_several_cards_knows_who_starts_its_processes(
        self, in_group: bool, executor: str
    ) -> None:
        setup = Setup("cuda", {}, in_placement_group=in_group)
        found = self.arguments(setup, tensor_parallel_size=4)
        assert (found["tensor_parallel_size"], found["distributed_executor_backend"]) == (4, executor)

    def test_worker_without_a_card_of_its_own_does_not_hide_those_of_its_group(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "vllm", None)  # not installed: it gets no further
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # as Ray leaves it
        monkeypatch.setenv("VLLM_RAY_PER_WORKER_GPUS", "1")
        setup = Setup("cuda", {}, gpu_fraction=0.75, in_placement_group=True)
        with pytest.raises(MissingDependencyError):
            VLLMEngine(CaptionConfig(engine="vllm", model="m")).setup(setup, AnswerSettings(max_tokens=1))
        assert "CUDA_VISIBLE_DEVICES" not in os.environ
        assert os.environ["VLLM_RAY_PER_WORKER_GPUS"] == "0.75"

    def test_number_of_engines_is_a_matter_of_placement(self) -> None:
        data: dict[str, Any] = {"engine": "vllm", "model": "m", "tensor_parallel_size": 2}
        plain, three = (
            CaptionStage(CaptionConfig(**data, **more)) for more in ({}, {"vllm": {"num_engines": 3}})
        )
        assert (plain.resources().max_workers, three.resources().max_workers) == (None, 3)
        assert three.resources().whole_gpus == 2
        assert plain.measure_settings() == three.measure_settings()
