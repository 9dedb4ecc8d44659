"""A real vLLM server that a run starts, on loopback, with a tiny model; vLLM lives in its own environment."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pyarrow.parquet as pq
import pytest

from curation.captioner import structure
from curation.captioner.engines.base import Answer, AnswerSettings, Question
from curation.captioner.engines.chat import ChatClient
from curation.captioner.engines.vllm import engine_arguments
from curation.captioner.server import KEY, URL, CaptionServer, ServeConfig
from curation.captioner.settings import CaptionConfig
from curation.errors import CaptionError, EnvironmentFault
from curation.stage import Setup
from datasets_media import TESTS, command, config_data, curation, environment, write_config

pytestmark = pytest.mark.slow
OFFLINE = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def captions(model: Path, args: dict[str, Any], **settings: Any) -> dict[str, Any]:
    return {
        "model": str(model),
        "dtype": "float32",
        "image_format": "png",  # exact pixels, as the engine in process gets them
        "gate": {"refuse": ["empty"]},
        "engine_args": args,
        **settings,
    }


def clip(seed: int) -> Question:
    small = np.random.default_rng(seed).integers(0, 256, (10, 16, 3)).astype(np.uint8)
    texture = small.repeat(12, 0).repeat(10, 1)
    frames = np.stack([np.roll(texture, 7 * step, axis=1) for step in range(12)])
    return Question("What happens?", frames, "clip", 6.0)


@pytest.fixture(scope="class")
def service(tiny_model: Path, engine_args: dict[str, Any], vllm_python: Path) -> Iterator[dict[str, str]]:
    serve = {"python": str(vllm_python), "environment": OFFLINE}
    settings = captions(tiny_model, engine_args, frames_as="video", structured=True, serve=serve)
    config = CaptionConfig(engine="serve", **settings)

    def arguments(setup: Setup) -> dict[str, Any]:
        limits = {"image": 12, "video": 1}
        return engine_arguments(config, tiny_model, setup) | {"limit_mm_per_prompt": limits}

    server = CaptionServer(config, config.own(ServeConfig), arguments)
    yield server.start(Setup("cpu", {}), "127.0.0.1")
    server.stop()


class TestRequests:
    """Forms that a request can take, at one server."""

    def engine(self, service: dict[str, str], model: Path, key: str | None = None, **more: Any) -> ChatClient:
        return ChatClient(
            lambda: (service[URL], key or service[KEY]),
            str(model),
            AnswerSettings(**{"max_tokens": 24, **more}),
            is_own=True,
        )

    def test_clip_as_images_or_as_one_video(self, service: dict[str, str], tiny_model: Path) -> None:
        images, video = (
            self.engine(service, tiny_model, frames_as=form).answer([clip(1), clip(2)])
            for form in ("images", "video")
        )
        answers = [answer for answer in (*images, *video) if isinstance(answer, Answer)]
        assert [answer.num_output_tokens for answer in answers] == [24] * 4
        assert len({answer.text for answer in answers}) == 4
        assert answers[2].num_prompt_tokens < answers[0].num_prompt_tokens

    def test_structured(self, service: dict[str, str], tiny_model: Path) -> None:
        engine = self.engine(service, tiny_model, schema=structure.schema(), max_tokens=600)
        answers = [
            answer
            for answer in engine.answer([clip(seed) for seed in range(6)])
            if isinstance(answer, Answer)
        ]
        whole = [answer.text for answer in answers if answer.finish_reason == "stop"]
        assert whole
        assert all(structure.parse(text) and json.loads(text) for text in whole)

    def test_what_the_server_refuses_fails_alone(self, service: dict[str, str], tiny_model: Path) -> None:
        many = clip(1)
        many = Question("?", np.concatenate([many.frames, many.frames]), "clip", 6.0)
        refused, fine = self.engine(service, tiny_model).answer([many, clip(1)])
        assert isinstance(refused, CaptionError)
        assert "At most 12 image" in str(refused)
        assert isinstance(fine, Answer)

    def test_strangers_are_refused(self, service: dict[str, str], tiny_model: Path) -> None:
        with pytest.raises(EnvironmentFault, match="401"):
            self.engine(service, tiny_model, key="guessed").answer([clip(1)])


def table(config: Path, target: Path) -> dict[str, dict[str, Any]]:
    curation("table", "-c", config, "--to", target)
    return {row["sample_id"]: row for row in pq.read_table(target).to_pylist() if row["caption"]}


def server_process(model: Path) -> tuple[int, str]:
    """The id and the URL of the server that runs this model; not of the supervisor, which has its command."""
    while True:
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                words = (folder / "cmdline").read_bytes().decode().split("\0")
            except OSError:
                continue
            if str(model) in words and "-m" in words[:3]:
                (port,) = (word.removeprefix("--port=") for word in words if word.startswith("--port="))
                return int(folder.name), f"http://127.0.0.1:{port}"
        time.sleep(0.1)


def wait_until_asked(url: str) -> None:
    while True:
        try:
            lines = httpx2.get(f"{url}/metrics", trust_env=False).text.splitlines()
        except httpx2.TransportError:
            lines = []
        running = [line for line in lines if line.startswith("vllm:num_requests_running")]
        if running and float(running[0].split()[-1]) > 0:
            return
        time.sleep(0.02)


def test_killed_server_costs_nothing_and_texts_are_those_of_the_engine_in_process(
    media: Path, tmp_path: Path, tiny_model: Path, engine_args: dict[str, Any], vllm_python: Path
) -> None:
    serve = {"python": str(vllm_python), "environment": OFFLINE}
    shared = captions(tiny_model, engine_args, max_tokens=800)
    configs = {}
    for engine in ("vllm", "serve"):
        data = config_data(media, tmp_path / engine, tmp_path / "none", captions={**shared, "engine": engine})
        del data["tokens"], data["shards"]
        data["run"]["workers"] = 1
        data["captions"]["serve"] = serve
        configs[engine] = write_config(tmp_path / f"{engine}.yaml", data)

    process = subprocess.Popen(
        command("run", "-c", configs["serve"]),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    pid, url = server_process(tiny_model)
    wait_until_asked(url)
    os.kill(pid, signal.SIGKILL)
    said, _ = process.communicate(timeout=400)
    assert process.returncode == 0, said
    rows = table(configs["serve"], tmp_path / "serve.parquet")
    assert len(rows) == 7  # three images, two scenes, two windows: nothing is lost
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(url, trust_env=False)

    in_process = subprocess.run(
        [vllm_python, "-m", "curation", "run", "-c", configs["vllm"]],
        env=environment() | OFFLINE | {"PYTHONPATH": f"{TESTS.parent}{os.pathsep}{TESTS}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert in_process.returncode == 0, in_process.stdout + in_process.stderr
    expected = table(configs["vllm"], tmp_path / "vllm.parquet")
    columns = ("caption", "finish_reason", "num_prompt_tokens", "num_output_tokens", "num_frames", "verdict")
    assert {name: [row[column] for column in columns] for name, row in rows.items()} == {
        name: [row[column] for column in columns] for name, row in expected.items()
    }
    assert len({row["caption"] for row in rows.values()}) == 7
