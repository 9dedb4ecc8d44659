"""What a configuration needs and this machine lacks is said at once, with the command that fetches it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from curation.config import parse_config
from curation.errors import ConfigError, MissingDependencyError
from curation.execution.record.recorder import Recorder
from curation.execution.run import write_report
from curation.execution.worker.worker import UnitWorker
from curation.pipeline import Readiness, build_pipeline
from curation.pipeline.models import Checklist, check_package
from datasets_media import ROOT, Bench, built, command, config_data, contents, environment

HEAD = "http://127.0.0.1:1/head.pth"


def test_emu3_names_everything_that_it_lacks_with_the_command_that_fetches_it(
    media: Path, tmp_path: Path
) -> None:
    """On a machine without a network, without a cache, and with the base install alone."""
    arguments = ["-c", ROOT / "configs/emu3.yaml", "--input", media, "--output", tmp_path / "out"]
    for kind in ("images", "videos"):
        arguments += ["--set", f"{kind}.aesthetic.head={HEAD}"]
    arguments += ["--set", "images.text.detector=package:no_such_detector/a.onnx"]
    arguments += ["--set", "videos.text.detector=package:no_such_detector/a.onnx"]
    cache = {"HF_HOME": str(tmp_path / "hub"), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = subprocess.run(
        command("run", *arguments), env=environment() | cache, capture_output=True, text=True, check=False
    )
    assert done.returncode == 3, done.stderr
    digest = "21dd590f3ccdc646f0d53120778b296013b096a035a2718c9cb0d511bff0f1e0"
    lines = done.stderr.splitlines()
    for start, end in (
        (
            "  images.aesthetic, videos.aesthetic: clip: timm/vit_large_patch14_clip_224.openai is no file",
            "by: hf download timm/vit_large_patch14_clip_224.openai open_clip_model.safetensors",
        ),
        (
            f"  images.aesthetic, videos.aesthetic: head: cannot reach {HEAD}: ",
            f"by: curl -fL --create-dirs -o {tmp_path}/cache/curation/{digest} {HEAD}",
        ),
        (
            "  images.text, videos.text: detector: the package no_such_detector is not installed",
            "by: pip install --no-deps no_such_detector",
        ),
        (
            "  captions: captioner: Qwen/Qwen2.5-VL-7B-Instruct is no file",
            "by: hf download Qwen/Qwen2.5-VL-7B-Instruct",
        ),
        ("  captions: the package vllm is not installed", "by: pip install 'curation[caption]'"),
        (
            "  tokens: tokenizer: BAAI/Emu3-VisionTokenizer is no file",
            "by: hf download BAAI/Emu3-VisionTokenizer",
        ),
        (
            "  shards: vocabulary: the package dashscope is not installed",
            "by: pip install --no-deps dashscope==2.0.2",
        ),
    ):
        assert [line for line in lines if line.startswith(start) and line.endswith(end)], (start, done.stderr)
    assert lines[0] == "MissingDependencyError: 7 things are missing"
    assert len(lines) == 8
    assert not (tmp_path / "out").exists()


def test_same_fault_in_two_places_is_one_line() -> None:
    checklist = Checklist()
    for place in ("images.text", "videos.text"):
        assert checklist.attempt(place, lambda: check_package("no_such_package", "paddle")) is None
    with pytest.raises(MissingDependencyError) as caught:
        checklist.finish()
    assert str(caught.value).startswith("images.text, videos.text: the package no_such_package is not")


def test_wrong_names_alone_are_a_fault_of_the_configuration() -> None:
    checklist = Checklist()

    def wrong() -> None:
        raise ConfigError("there is no file x")

    checklist.attempt("a", wrong)
    with pytest.raises(ConfigError, match=r"^a: there is no file x$"):
        checklist.finish()
    checklist.attempt("b", lambda: check_package("no_such_package", "paddle"))
    with pytest.raises(MissingDependencyError, match=r"2 things are missing\n  a: there.*\n  b: the package"):
        checklist.finish()


def text_by(backend: str, detector: Path) -> dict[str, Any]:
    return {"filters": ["text"], "text": {"backend": backend, "detector": str(detector)}}


def test_what_an_output_has_been_measured_with_is_not_asked_for_again(
    media: Path, vocabulary: Path, tmp_path: Path
) -> None:
    """Thresholds are moved on a machine that can measure nothing."""
    detector = tmp_path / "model"
    detector.mkdir()
    data = config_data(media, tmp_path / "out", vocabulary, images=text_by("paddleocr", detector))
    config = parse_config(data)
    pipeline = build_pipeline(config)
    recorded = [vars(model) for model in pipeline.models]
    checklist = Checklist()
    build_pipeline(config, readiness=Readiness(checklist, packages=True))
    with pytest.raises(MissingDependencyError, match=r"images\.text: .*curation\[paddle\]"):
        checklist.finish()
    # On a cluster, the packages are the workers'.
    for known, packages in (([], False), (recorded, True)):
        checklist = Checklist()
        build_pipeline(config, known, readiness=Readiness(checklist, packages=packages))
        checklist.finish()


def test_url_that_can_be_reached_or_is_here_already_is_ready(
    media: Path, vocabulary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    weights = tmp_path / "clip.safetensors"
    weights.write_bytes(b"")
    digest = "0" * 64
    images = {
        "filters": ["aesthetic"],
        "aesthetic": {"weights": str(weights), "head": HEAD, "head_sha256": digest},
    }
    config = parse_config(config_data(media, tmp_path / "out", vocabulary, images=images))
    checklist = Checklist()
    build_pipeline(config, readiness=Readiness(checklist, packages=True))
    with pytest.raises(MissingDependencyError, match=r"images\.aesthetic: head: cannot reach"):
        checklist.finish()
    (tmp_path / "curation").mkdir()
    (tmp_path / "curation" / digest).write_bytes(b"")
    checklist = Checklist()
    build_pipeline(config, readiness=Readiness(checklist, packages=True))
    checklist.finish()


def test_password_changes_no_fingerprint_and_is_in_no_record(
    media: Path, vocabulary: Path, tmp_path: Path
) -> None:
    pipelines = []
    for login in ("me:secret1@", "me:secret2@"):
        weights = tmp_path / "clip.safetensors"
        weights.write_bytes(b"")
        images = {
            "filters": ["aesthetic"],
            "aesthetic": {
                "weights": str(weights),
                "head": f"https://{login}host/head.pth?sig={login[:-1]}",
                "head_sha256": "0" * 64,
            },
        }
        pipelines.append(built(config_data(media, tmp_path / "out", vocabulary, images=images))[1])
    first, second = ([step.fingerprint for step in pipeline.steps()] for pipeline in pipelines)
    assert first == second
    assert "secret" not in repr(pipelines[0].models)
    assert "https://***@host/head.pth?sig=***" in repr(pipelines[0].models)
    # The worker, which fetches it, has the whole of it.
    step = pipelines[0].step_of("images.aesthetic")
    assert step is not None
    assert "me:secret1@host" in step.stage.models()[1].name


def test_secrets_are_in_no_file_of_the_output(media: Path, vocabulary: Path, tmp_path: Path) -> None:
    captions = {
        "engine": "openai",
        "model": "m",
        "url": "http://me:hush@127.0.0.1:1/v1?key=hush",
        "serve": {"environment": {"SOME_TOKEN": "hush", "CUDA_VISIBLE_DEVICES": "0"}},
    }
    data = config_data(media, tmp_path / "out", vocabulary, captions=captions)
    del data["shards"]
    bench = Bench(data)
    for phase in ("probe", "filter"):
        for task in bench.tasks(phase):
            UnitWorker(bench.pipeline).work(task)
    recorder = Recorder(bench.ledger.storage, None)
    recorder.begin(bench.pipeline, None, {"new": 0, "gone": 0})
    write_report(bench.pipeline, bench.ledger)
    written = contents(tmp_path / "out")
    assert {"run.json", "report/index.html"} <= set(written)
    assert not [name for name, data in written.items() if b"hush" in data]
    record = json.loads(written["run.json"])
    assert record["config"]["captions"]["url"] == "http://***@127.0.0.1:1/v1?key=***"
    assert record["config"]["captions"]["serve"]["environment"] == {
        "SOME_TOKEN": "***",
        "CUDA_VISIBLE_DEVICES": "0",
    }
