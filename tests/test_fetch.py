"""`curation fetch`: all models of a configuration come to this machine, and a run then needs no network."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from curation.config import parse_config
from curation.errors import MissingDependencyError
from curation.pipeline.downloads import download
from curation.pipeline.models import Checklist, resolve_revision
from curation.stage import ModelRef
from datasets_media import command, environment
from loopback import LoopbackServer, QuietHandler

COMMIT = "0123456789abcdef0123456789abcdef01234567"
HEAD = bytes(range(256)) * 40
MODELS = {"org/tokenizer": {"config.json": b"{}", "model.safetensors": b"weights" * 9}}


class ModelHub(LoopbackServer):
    """Serves files by their paths, parts of them too, and models as the Hub does to its own client.

    Attributes:
        asked: Method, path and range of every request.
        most_bytes: What an answer brings before it breaks off.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.most_bytes: int | None = None
        server = self

        class Handler(QuietHandler):
            def do_HEAD(self) -> None:
                self.serve()

            def do_GET(self) -> None:
                self.serve()

            def serve(self) -> None:
                span = self.headers["Range"] or ""
                server.asked.append(f"{self.command} {self.path} {span}".strip())
                info = re.fullmatch(r"/api/models/(.*)/revision/(.*)", self.path)
                tree = re.fullmatch(r"/api/models/(.*)/tree/[^?]*\?.*", self.path)
                if tree is not None and tree[1] in MODELS:
                    entries = [
                        {"type": "file", "path": name, "size": len(data), "oid": "0" * 40}
                        for name, data in MODELS[tree[1]].items()
                    ]
                    self.send(200, json.dumps(entries).encode())
                    return
                file = re.fullmatch(r"/(org/[^/]*)/resolve/[^/]*/(.*)", self.path)
                if info is not None and info[1] in MODELS:
                    names = [{"rfilename": name} for name in MODELS[info[1]]]
                    self.send(200, json.dumps({"id": info[1], "sha": COMMIT, "siblings": names}).encode())
                    return
                data = MODELS[file[1]].get(file[2]) if file is not None else server.files.get(self.path)
                if data is None:
                    self.send(404, b"{}")
                    return
                said = {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": COMMIT}  # noqa: S324
                start = int(re.findall(r"\d+", span)[0]) if span else 0
                if span and start >= len(data):
                    self.send(416, b"")
                    return
                sent = b"" if self.command == "HEAD" else data[start:][: server.most_bytes]
                missing = len(data) - start - len(sent)
                self.send(206 if span else 200, sent, missing_bytes=missing, **said)

        super().__init__(Handler)


@pytest.fixture
def hub() -> Iterator[ModelHub]:
    server = ModelHub()
    yield server
    server.stop()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def configuration(tmp_path: Path, vocabulary: Path, url: str, head: bytes = HEAD) -> Path:
    (tmp_path / "in").mkdir()
    aesthetic = {"weights": str(vocabulary), "head": f"{url}/head.pth", "head_sha256": sha256(head)}
    data = {
        "name": "fetched",
        "input": [str(tmp_path / "in")],
        "output": str(tmp_path / "out"),
        "stand_ins": "allow",
        "images": {"filters": ["resolution", "aesthetic"], "aesthetic": aesthetic},
        "captions": {"engine": "stand-in"},
        "tokens": {"weights": "org/tokenizer", "area": 4096, "fps": 1, "max_frames": 8},
        "shards": {"vocabulary": str(vocabulary)},
    }
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


def fetched(tmp_path: Path, config: Path, *, code: int = 0, **env: str) -> str:
    """What the command says, in a process of its own: the hub's client reads its settings at its start."""
    places = {"HF_HOME": str(tmp_path / "hf"), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    around = {name: value for name, value in environment().items() if not name.startswith("HF_")}
    done = subprocess.run(
        command("fetch", "-c", config),
        env={**around, **places, "no_proxy": "127.0.0.1", "HF_HUB_DISABLE_XET": "1", **env},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + (done.stderr if code else "")


def offline(tmp_path: Path, config: Path) -> Any:
    """The models as a run finds them without a network, and where their files are."""
    script = (
        "import json, sys\n"
        "from curation.config import load_config\n"
        "from curation.pipeline import Readiness, build_pipeline\n"
        "from curation.pipeline.models import Checklist, fetch\n"
        "config = load_config(sys.argv[1])\n"
        "checklist = Checklist()\n"
        "pipeline = build_pipeline(config, readiness=Readiness(checklist, packages=False))\n"
        "checklist.finish()\n"
        "refs = [ref for choice in config.choices() for ref in choice.build().models() if not ref.stand_in]\n"
        "found = {model.role: model.revision for model in pipeline.models}\n"
        "print(json.dumps({ref.role: [found[ref.role], str(fetch(ref, found[ref.role]))] for ref in refs}))\n"
    )
    places = {"HF_HOME": str(tmp_path / "hf"), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    around = {name: value for name, value in environment().items() if not name.startswith("HF_")}
    done = subprocess.run(
        [sys.executable, "-c", script, str(config)],
        env={**around, **places, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_models_are_fetched_once_and_found_without_a_network(
    hub: ModelHub, tmp_path: Path, vocabulary: Path
) -> None:
    hub.files["/head.pth"] = HEAD
    config = configuration(tmp_path, vocabulary, hub.url)
    said = fetched(tmp_path, config, HF_ENDPOINT=hub.url)
    snapshot = tmp_path / f"hf/hub/models--org--tokenizer/snapshots/{COMMIT}"
    head = tmp_path / "cache/curation" / sha256(HEAD)
    assert f"tokens: tokenizer: org/tokenizer at {COMMIT[:12]}, 0.0 MB, fetched\n  {snapshot}\n" in said
    assert (
        f"images.aesthetic: head: {hub.url}/head.pth at {sha256(HEAD)[:12]}, 0.0 MB, fetched\n  {head}"
        in said
    )
    assert f"shards: vocabulary: {vocabulary} at {sha256(vocabulary.read_bytes())[:12]}" in said
    assert said.endswith("4 models are on this machine\n")
    assert head.read_bytes() == HEAD
    assert {path.name for path in snapshot.iterdir()} == set(MODELS["org/tokenizer"])

    hub.asked.clear()
    again = fetched(tmp_path, config, HF_ENDPOINT=hub.url)
    assert again.count("was here") == 4
    assert not [asked for asked in hub.asked if asked.startswith("GET") and "/api/" not in asked]

    hub.asked.clear()
    found = offline(tmp_path, config)
    assert found.pop("clip")[1] == str(vocabulary)
    assert found == {"tokenizer": [COMMIT, str(snapshot)], "head": [sha256(HEAD), str(head)]}
    assert hub.asked == []


def test_what_cannot_be_fetched_is_named_at_once_and_the_rest_is_there(
    hub: ModelHub, tmp_path: Path, vocabulary: Path
) -> None:
    config = configuration(tmp_path, vocabulary, hub.url)
    text = config.read_text().replace("org/tokenizer", "org/nothing")
    config.write_text(text)
    said = fetched(tmp_path, config, code=3, HF_ENDPOINT=hub.url)
    assert "2 things are missing" in said
    assert f"cannot download {hub.url}/head.pth: HTTP Error 404" in said
    assert "tokenizer: cannot download org/nothing@main" in said
    assert f"shards: vocabulary: {vocabulary}" in said


def test_download_goes_on_where_it_broke_off(
    hub: ModelHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    hub.files["/head.pth"], hub.most_bytes = HEAD, 4000
    came: list[int] = []
    for start in (0, 4000):
        with pytest.raises(MissingDependencyError, match=f"{len(HEAD) - start - 4000} bytes never came"):
            download(f"{hub.url}/head.pth", sha256(HEAD), came.append)
    assert download(f"{hub.url}/head.pth", sha256(HEAD), came.append).read_bytes() == HEAD
    assert sum(came) == len(HEAD)
    assert hub.asked == ["GET /head.pth", "GET /head.pth bytes=4000-", "GET /head.pth bytes=8000-"]
    hub.asked.clear()
    download(f"{hub.url}/head.pth", sha256(HEAD), came.append)
    assert hub.asked == []


def test_package_that_several_roles_want_is_named_once() -> None:
    checklist = Checklist()
    for place in ("images.text", "videos.text"):
        for role in ("detector", "recognizer"):
            ref = ModelRef(role, f"package:no_such_package/{role}.onnx")
            checklist.attempt(place, lambda ref=ref: resolve_revision(ref))
    with pytest.raises(MissingDependencyError) as caught:
        checklist.finish()
    assert str(caught.value) == (
        "images.text, videos.text: detector, recognizer: the package no_such_package is not installed; "
        "fetch it by: pip install --no-deps no_such_package"
    )


def test_stand_ins_need_no_files(tmp_path: Path, vocabulary: Path) -> None:
    data = {
        "name": "none",
        "input": [str(tmp_path)],
        "output": str(tmp_path / "out"),
        "images": {"filters": ["resolution"]},
    }
    parse_config(data)
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(data))
    assert fetched(tmp_path, path) == "the configuration names no model\n"
