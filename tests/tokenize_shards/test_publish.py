"""Publishing shards. The real client, against a stand-in of the Hub (tests/hub_stand_in.py)."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from curation.report.cards.croissant import DescribedFile, Description, render_croissant
from curation.storage import open_storage
from curation.storage.hub import repository, upload
from curation.storage.retries import DEADLINE
from curation.tokenize_shards.shards import publish
from curation.tokenize_shards.shards.rows import SCHEMA
from curation.tokenize_shards.shards.writer import ShardConfig, ShardWriter
from datasets_media import curation, said_by
from hub_stand_in import READ_TOKEN, WRITE_TOKEN, HubStandIn
from shard_samples import FOLDER, FakeLedger, kept_sample

# The Hub's client sends large files by a parameter of its HTTP library that is going out of use.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

URL = "hf://datasets/org/tokens"
CARD = b"---\nlicense: cc0-1.0\n---\n\n# Tokens\n"
UNTRAINED = b"\n> **UNTRAINED stand-in models: captions (captioner). What they say means nothing.**\n"


@pytest.fixture(scope="module")
def finished(small_vocabulary: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 samples in five shards or more."""
    root = tmp_path_factory.mktemp("finished")
    kept = [kept_sample(number, source_id=f"source-{number // 2}") for number in range(40)]
    config = ShardConfig(vocabulary=str(small_vocabulary), shard_bytes=3000, validation_fraction=0.2)
    ShardWriter(config).write(open_storage(str(root)), FOLDER, FakeLedger(kept))
    (root / FOLDER / "README.md").write_bytes(CARD)
    return root / FOLDER


@pytest.fixture
def shards(finished: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished, tmp_path / "shards/demo")


@pytest.fixture
def writer(hub: HubStandIn, monkeypatch: pytest.MonkeyPatch) -> HubStandIn:
    monkeypatch.setenv("HF_TOKEN", WRITE_TOKEN)
    return hub


def files_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")}


def published(hub: HubStandIn, branch: str = "main") -> dict[str, bytes]:
    found = hub.files("org/tokens", branch)
    return {name: data for name, data in found.items() if name != ".gitattributes"}


Said = pytest.CaptureFixture[str]


def test_all_goes_in_one_commit(writer: HubStandIn, shards: Path, capsys: Said) -> None:
    columns = {field.name: field.type for field in SCHEMA}
    described = Description("x", "y", "cc0-1.0", "1", {"train": "train-*.parquet"}, columns)
    listed = json.loads((shards / "manifest.json").read_text())["shards"]
    files = [DescribedFile(shard["name"], shard["size_bytes"], shard["sha256"]) for shard in listed]
    (shards / "croissant.json").write_text(render_croissant(described, files))
    (shards / "LICENSE").write_text("CC0")
    code, said = said_by(capsys, "publish", shards, URL)
    assert (code, published(writer)) == (0, files_in(shards)), said
    data_set = writer.data_sets["org/tokens"]
    assert data_set.messages == ["initial commit", "40 samples in 6 shards"]
    assert f"created: {writer.url}/datasets/org/tokens/commit/{data_set.branches['main']}" in said
    assert "sent 10 files" in said
    assert writer.cards == [CARD.decode()]
    assert not data_set.is_private
    assert WRITE_TOKEN not in said
    assert writer.tokens_elsewhere == []
    # What was published is an input as well.
    assert open_storage(URL).read("manifest.json") == (shards / "manifest.json").read_bytes()


def test_again_sends_what_differs(writer: HubStandIn, shards: Path, capsys: Said) -> None:
    said_by(capsys, "publish", shards, URL)
    writer.uploaded.clear()
    before = writer.data_sets["org/tokens"].branches["main"]
    code, said = said_by(capsys, "publish", shards, URL)
    assert (code, writer.uploaded, writer.data_sets["org/tokens"].branches["main"]) == (0, [], before)
    assert "sent 0 files, 0 bytes; 8 were there" in said
    assert f"published: {writer.url}/datasets/org/tokens/commit/{before}" in said
    (shards / "README.md").write_bytes(CARD + b"more\n")
    code, said = said_by(capsys, "publish", shards, URL)
    assert "sent 1 files" in said
    assert published(writer) == files_in(shards)


@pytest.mark.parametrize("to", ["", "/tree/"], ids=["all", "listings"])
def test_a_hub_that_falls_silent(
    writer: HubStandIn, shards: Path, capsys: Said, monkeypatch: pytest.MonkeyPatch, to: str
) -> None:
    for module in (repository, upload):
        monkeypatch.setattr(module, "REPLY_TIMEOUT_S", 0.3)
    monkeypatch.setenv(DEADLINE, "1")
    writer.push("org/tokens", {"README.md": CARD})
    with writer.silent(to):
        code, said = said_by(capsys, "publish", shards, URL)
    assert (code, "the Hub is out of reach" in said) == (3, True)


def test_goes_on_where_it_was_stopped(writer: HubStandIn, shards: Path, capsys: Said) -> None:
    writer.fails_at_commit = True
    code, _ = said_by(capsys, "publish", shards, URL)
    assert (code, published(writer)) == (3, {})
    assert len(writer.uploaded) == 6
    writer.fails_at_commit = False
    assert said_by(capsys, "publish", shards, URL)[0] == 0
    assert published(writer) == files_in(shards)
    assert len(writer.uploaded) == 6  # not one of them twice


def test_an_upload_that_is_refused(writer: HubStandIn, shards: Path, capsys: Said) -> None:
    writer.fails_at_upload = True
    code, said = said_by(capsys, "publish", shards, URL)
    assert (code, len(said.splitlines())) == (3, 1)
    assert f"{URL}: the Hub refuses this to the token in HF_TOKEN" in said


def test_many_files_take_several_commits(
    writer: HubStandIn, shards: Path, capsys: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload, "COMMIT_FILES", 3)
    assert said_by(capsys, "publish", shards, URL, "--message", "Here")[0] == 0
    assert published(writer) == files_in(shards)
    messages = writer.data_sets["org/tokens"].messages
    assert messages[1:] == ["Here (1 of 3)", "Here (2 of 3)", "Here (3 of 3)"]


def test_shards_of_before_go(writer: HubStandIn, shards: Path, capsys: Said) -> None:
    writer.push(
        "org/tokens", {"train-00000-of-00001.parquet": b"old", "notes.md": b"mine", "x.parquet": b"x"}
    )
    assert said_by(capsys, "publish", shards, URL)[0] == 0
    assert published(writer) == files_in(shards) | {"notes.md": b"mine", "x.parquet": b"x"}


def test_a_branch(writer: HubStandIn, shards: Path, capsys: Said) -> None:
    assert said_by(capsys, "publish", shards, URL, "--revision", "v2")[0] == 0
    assert published(writer, "v2") == files_in(shards)
    assert published(writer) == {}
    assert said_by(capsys, "publish", shards, f"{URL}@v3")[0] == 0
    assert published(writer, "v3") == files_in(shards)


def test_private(writer: HubStandIn, shards: Path, capsys: Said) -> None:
    assert said_by(capsys, "publish", shards, URL, "--private")[0] == 0
    assert writer.data_sets["org/tokens"].is_private
    assert said_by(capsys, "publish", shards, URL, "--private")[0] == 0
    writer.push("org/open", {})
    code, said = said_by(capsys, "publish", shards, "hf://datasets/org/open", "--private")
    assert (code, writer.files("org/open")) == (2, {})
    assert "is there already, and public" in said


def test_from_a_bucket(writer: HubStandIn, shards: Path, bucket: str, capsys: Said) -> None:
    storage = open_storage(f"{bucket}/out/shards/demo")
    for name, data in files_in(shards).items():
        storage.write(name, data)
    assert said_by(capsys, "publish", f"{bucket}/out/shards/demo", URL)[0] == 0
    assert published(writer) == files_in(shards)


def test_shards_that_the_hub_takes_for_small_files(
    writer: HubStandIn, shards: Path, bucket: str, capsys: Said
) -> None:
    writer.large_suffixes = ()
    storage = open_storage(f"{bucket}/out/shards/demo")
    for name, data in files_in(shards).items():
        storage.write(name, data)
    assert said_by(capsys, "publish", f"{bucket}/out/shards/demo", URL)[0] == 0
    assert (published(writer), writer.uploaded) == (files_in(shards), [])


def test_somebody_else_who_commits_meanwhile_loses_nothing(
    writer: HubStandIn, shards: Path, capsys: Said
) -> None:
    theirs = {"train-00000-of-00001.parquet": b"theirs"}
    writer.before_commit = lambda: writer.push("org/tokens", theirs)
    code, said = said_by(capsys, "publish", shards, URL)
    assert (code, published(writer)) == (3, theirs)
    assert "somebody else has committed since" in said


def test_a_shard_that_changes_meanwhile(
    writer: HubStandIn, shards: Path, capsys: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = min(shards.glob("train-*"))
    open_target = publish.open_target

    def change_and_open(*args: Any, **options: Any) -> upload.Target:
        first.write_bytes(first.read_bytes()[:-1] + b"x")
        return open_target(*args, **options)

    monkeypatch.setattr(publish, "open_target", change_and_open)
    code, said = said_by(capsys, "publish", shards, URL)
    assert (code, published(writer)) == (3, {})
    assert f"{first.name} was changed while it was published" in said


def test_damaged_and_unfinished_shards_stay(writer: HubStandIn, shards: Path, capsys: Said) -> None:
    first = json.loads((shards / "manifest.json").read_text())["shards"][0]["name"]
    whole = (shards / first).read_bytes()
    (shards / first).write_bytes(whole[:-1] + b"x")
    code, said = said_by(capsys, "publish", shards, URL)
    assert (code, writer.data_sets) == (1, {})
    assert first in said
    assert "nothing was published" in said
    (shards / first).write_bytes(whole)
    (shards / "manifest.json").unlink()
    code, said = said_by(capsys, "publish", shards, URL)
    assert (code, writer.data_sets) == (2, {})
    assert "the shards are not finished" in said


def test_stand_ins_need_leave(writer: HubStandIn, shards: Path, capsys: Said) -> None:
    (shards / "README.md").write_bytes(CARD + UNTRAINED)
    code, said = said_by(capsys, "publish", shards, URL)
    assert (code, writer.data_sets) == (2, {})
    assert "--allow-stand-ins" in said
    assert said_by(capsys, "publish", shards, URL, "--allow-stand-ins")[0] == 0


@pytest.mark.parametrize("card", [b"# No header\n", None])
def test_a_card_is_needed(writer: HubStandIn, shards: Path, capsys: Said, card: bytes | None) -> None:
    (shards / "README.md").unlink()
    if card:
        (shards / "README.md").write_bytes(card)
    code, said = said_by(capsys, "publish", shards, URL)
    assert (code, writer.data_sets) == (2, {})
    assert "README.md" in said


@pytest.mark.parametrize("header", [b"license: unknown", b"license: other\nlicense_name: unknown"])
def test_an_unknown_license_is_said(writer: HubStandIn, shards: Path, capsys: Said, header: bytes) -> None:
    (shards / "README.md").write_bytes(b"---\n" + header + b"\n---\n\n# Tokens\n")
    code, said = said_by(capsys, "publish", shards, URL)
    assert (code, "the license is unknown" in said) == (0, True)


def test_tokens(hub: HubStandIn, shards: Path, capsys: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    code, said = said_by(capsys, "publish", shards, URL)
    assert (code, hub.asked) == (3, [])
    assert "the Hub wants a token that may write there; put it into HF_TOKEN" in said
    monkeypatch.setenv("HF_TOKEN", READ_TOKEN)
    for name in ("none", "tokens"):
        code, said = said_by(capsys, "publish", shards, f"hf://datasets/org/{name}")
        assert (code, len(said.splitlines())) == (3, 1)
        assert "may it do this? (403)" in said
        hub.push("org/tokens", {})


@pytest.mark.parametrize(
    ("url", "options", "why"),
    [
        (f"{URL}/folder", (), "leave /folder away"),
        ("s3://bucket/x", (), "names no data set of the Hub"),
        (f"{URL}@v1", ("--revision", "v2"), "leave one of them away"),
    ],
)
def test_places(
    writer: HubStandIn, shards: Path, capsys: Said, url: str, options: tuple[str, ...], why: str
) -> None:
    code, said = said_by(capsys, "publish", shards, url, *options)
    assert (code, why in said, writer.asked) == (2, True, [])


def test_as_a_command(writer: HubStandIn, shards: Path) -> None:
    said = curation("publish", shards, URL)
    first = json.loads((shards / "manifest.json").read_text())["shards"][0]
    assert f"uploaded {first['name']} (1 of 6, {first['size_bytes']} bytes)" in said
    assert hashlib.sha256(published(writer)[first["name"]]).hexdigest() == first["sha256"]
