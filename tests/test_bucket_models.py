"""Models, vocabularies, prompts and configurations in buckets of a real S3 server."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import provider_stand_ins
from buckets import S3Server, upload
from curation.captioner.prompt import load_prompts
from curation.config.settings_file import read_settings
from curation.errors import ConfigError, StorageError
from curation.pipeline.models import check_reachable, fetch, resolve_revision
from curation.stage import ModelRef
from curation.storage import open_storage
from curation.storage.buckets.bucket import BucketStorage
from datasets_media import ROOT

WEIGHTS = b"weights" * 1000


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/curation"


@pytest.fixture
def model(bucket: str, s3_server: S3Server, cache: Path, tmp_path: Path) -> str:
    """A folder as the tests of local models have it."""
    (tmp_path / "model/deep").mkdir(parents=True)
    (tmp_path / "model/config.json").write_bytes(b"{}")
    (tmp_path / "model/deep/weights.bin").write_bytes(WEIGHTS)
    upload(s3_server, tmp_path / "model", f"{bucket}/model")
    return f"{bucket}/model"


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Objects that were opened."""
    found: list[str] = []
    whole = BucketStorage.open

    def noted(self: BucketStorage, key: str, etag: str | None = None) -> object:
        found.append(key)
        return whole(self, key, etag)

    monkeypatch.setattr(BucketStorage, "open", noted)
    return found


def test_a_file_is_known_by_its_sha256_and_fetched_once(model: str, opened: list[str]) -> None:
    ref = ModelRef("head", f"{model}/deep/weights.bin")
    assert resolve_revision(ref) == sha256(WEIGHTS)
    path = fetch(ref, sha256(WEIGHTS))
    assert (path.name, path.read_bytes()) == ("weights.bin", WEIGHTS)
    assert resolve_revision(ref) == sha256(WEIGHTS)
    assert opened == ["weights.bin"]


def test_a_folder_has_the_revision_of_the_same_folder_here(model: str, tmp_path: Path) -> None:
    ref = ModelRef("tokenizer", f"{model}/")
    here = ModelRef("tokenizer", str(tmp_path / "model"))
    assert resolve_revision(ref) == resolve_revision(here)
    folder = fetch(ref, resolve_revision(ref))
    assert (folder / "deep/weights.bin").read_bytes() == WEIGHTS
    assert {item.name for item in folder.iterdir()} == {"config.json", "deep"}


def test_one_file_of_a_folder(model: str, opened: list[str]) -> None:
    ref = ModelRef("aesthetic", model, file="deep/weights.bin")
    assert fetch(ref, resolve_revision(ref)).read_bytes() == WEIGHTS
    assert opened == ["deep/weights.bin"]
    with pytest.raises(ConfigError, match=f"aesthetic: there is no file or folder {model}/none.bin"):
        resolve_revision(replace(ref, file="none.bin"))


@pytest.fixture
def google(monkeypatch: pytest.MonkeyPatch) -> Iterator[provider_stand_ins.ProviderStandIn]:
    server, variables = provider_stand_ins.google()
    for name, value in {**variables, "no_proxy": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    yield server
    server.stop()


def test_marks_of_folders_are_no_files(google: provider_stand_ins.ProviderStandIn, cache: Path) -> None:
    url = f"gs://{provider_stand_ins.BUCKET}/model"
    files = {"model/config.json": b"{}", "model/deep/weights.bin": WEIGHTS, "model/deep/empty": b""}
    google.objects |= {key: (data, number) for number, (key, data) in enumerate(files.items(), 1)}
    before = resolve_revision(ModelRef("tokenizer", url))
    google.objects["model/deep"] = (b"", 9)  # so obstore shows the mark of a folder
    assert resolve_revision(ModelRef("tokenizer", url)) == before


def test_known_sha256_needs_no_fetching_before_the_work(model: str, opened: list[str]) -> None:
    ref = ModelRef("head", f"{model}/deep/weights.bin", sha256=sha256(WEIGHTS))
    assert resolve_revision(ref) == sha256(WEIGHTS)
    check_reachable(ref, sha256(WEIGHTS))
    assert opened == []
    other = replace(ref, sha256="0" * 64)
    with pytest.raises(ConfigError, match="differs from the one"):
        fetch(other, resolve_revision(other))
    with pytest.raises(ConfigError, match=f"{sha256(WEIGHTS)}.*{'0' * 64}"):
        resolve_revision(other)  # by now it is here, and known


def test_one_that_was_replaced_is_another(model: str) -> None:
    ref = ModelRef("head", f"{model}/deep/weights.bin")
    planned = resolve_revision(ref)
    open_storage(model).write("deep/weights.bin", WEIGHTS[::-1])
    with pytest.raises(ConfigError, match="differs from the one that this run was planned with"):
        fetch(ref, planned)
    assert resolve_revision(ref) == sha256(WEIGHTS[::-1])
    open_storage(model).write("deep/weights.bin", WEIGHTS)
    assert fetch(ref, planned).read_bytes() == WEIGHTS


def test_what_is_not_there(bucket: str, cache: Path) -> None:
    ref = ModelRef("head", f"{bucket}/none.pth")
    for ask in (resolve_revision, lambda ref: check_reachable(ref, "0" * 64)):
        with pytest.raises(ConfigError, match=f"head: there is no file or folder {bucket}/none.pth"):
            ask(ref)
    with pytest.raises(StorageError, match="no-such-bucket"):
        resolve_revision(ModelRef("head", "s3://no-such-bucket/head.pth"))
    assert not cache.exists()


def test_goes_on_where_fetching_was_cut(
    model: str, opened: list[str], monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    ref = ModelRef("tokenizer", model)
    whole = BucketStorage.open

    def cut(self: BucketStorage, key: str, etag: str | None = None) -> object:
        if key.endswith("weights.bin"):
            raise StorageError("cut")
        return whole(self, key, etag)

    monkeypatch.setattr(BucketStorage, "open", cut)
    with pytest.raises(StorageError, match="cut"):
        resolve_revision(ref)
    monkeypatch.setattr(BucketStorage, "open", whole)
    assert fetch(ref, resolve_revision(ref)).is_dir()
    assert opened == ["config.json", "deep/weights.bin"]
    assert not list(cache.rglob(".fetching-*"))


FETCH = """
import sys, time
from pathlib import Path
from curation.pipeline.models import fetch, resolve_revision
from curation.stage import ModelRef
from curation.storage.buckets.bucket import BucketStorage
whole = BucketStorage.open
def noted(self, key, etag=None):
    print("fetched", flush=True)
    time.sleep(1)  # for the others to come
    return whole(self, key, etag)
BucketStorage.open = noted
ready = Path(sys.argv[2])
(ready / sys.argv[3]).touch()
while len(list(ready.iterdir())) < 3:
    time.sleep(0.01)
ref = ModelRef("head", sys.argv[1])
print(len(fetch(ref, resolve_revision(ref)).read_bytes()))
"""


def test_processes_of_a_machine_fetch_it_once(bucket: str, cache: Path, tmp_path: Path) -> None:
    open_storage(bucket).write("head.pth", WEIGHTS)
    (tmp_path / "ready").mkdir()
    words = [sys.executable, "-c", FETCH, f"{bucket}/head.pth", str(tmp_path / "ready")]
    running = [
        subprocess.Popen([*words, str(number)], stdout=subprocess.PIPE, text=True, cwd=ROOT)
        for number in range(3)
    ]
    said = [one.communicate(timeout=120)[0].split() for one in running]
    assert [words[-1] for words in said] == [str(len(WEIGHTS))] * 3
    assert sum(words.count("fetched") for words in said) == 1


def test_prompts(bucket: str, s3_server: S3Server, tmp_path: Path) -> None:
    upload(s3_server, ROOT / "captioner/prompts", f"{bucket}/prompts")
    ours = load_prompts(None, {"short": 1.0, "long": 1.0}, structured=True)
    assert load_prompts(f"{bucket}/prompts", {"short": 1.0, "long": 1.0}, structured=True) == ours
    open_storage(f"{bucket}/prompts").delete("clip-long.txt")
    with pytest.raises(ConfigError, match=f"cannot read the prompt {bucket}/prompts/clip-long.txt"):
        load_prompts(f"{bucket}/prompts", {"long": 1.0}, structured=False)


def test_configuration(bucket: str) -> None:
    open_storage(bucket).write("c/run.yaml", "name: ü\nimages: {}\n".encode())
    assert read_settings(f"{bucket}/c/run.yaml", ["a.b=1"]) == {"name": "ü", "images": {}, "a": {"b": 1}}
    with pytest.raises(ConfigError, match=f"cannot read the configuration {bucket}/none.yaml"):
        read_settings(f"{bucket}/none.yaml")
