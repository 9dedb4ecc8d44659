"""`curation retract`: nothing is left of a source, nothing else changes, and an interruption does no harm."""

from __future__ import annotations

import json
import os
import shutil
import tarfile
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation.config import parse_config
from curation.errors import ConfigError, LedgerError
from curation.execution.record.recorder import Recorder
from curation.execution.run import open_pipeline, write_report
from curation.execution.takedown.lineage import Lineage, windows_of
from curation.execution.takedown.request import find_asked
from curation.execution.takedown.retraction import (
    PENDING,
    RECORDS,
    Retraction,
    carry_out,
    finish_pending,
    pending_retraction,
    plan_retraction,
)
from curation.ingest.listing import list_inputs
from curation.ingest.tombstones import TOMBSTONES, read_tombstones
from curation.ledger import Ledger
from curation.ledger.selection import Selection
from curation.records import Sample, Source, stable_id
from curation.report.summary.summary import summarize
from curation.storage import Storage, open_storage
from curation.storage.local import LocalStorage
from curation.tokenize_shards.shards.verify import verify
from curation.tokenize_shards.shards.writer import ShardWriter
from datasets_media import Bench, contents, said_by, write_config, write_photo, write_video

WHEN = datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC)
PRIVATE = "words that nobody may see"


def write_inputs(folder: Path) -> Path:
    """Photos, one with a sidecar, two named by a list, two of the same bytes; a tar; videos with windows."""
    folder.mkdir(parents=True)
    for seed in range(6):
        write_photo(folder / f"photo{seed}.jpg", seed)
    (folder / "photo0.txt").write_text(f"{PRIVATE} 0")
    shutil.copy(folder / "photo1.jpg", folder / "same_as_1.jpg")
    (folder / "metadata.csv").write_text(f"file_name,caption\nphoto2.jpg,{PRIVATE} 2\nphoto3.jpg,a cat\n")
    with tarfile.open(folder / "some.tar", "w") as archive:
        for number in (6, 7):
            write_photo(folder / "member.jpg", number)
            (folder / "member.txt").write_text(f"{PRIVATE} {number}")
            for suffix in ("jpg", "txt"):
                archive.add(folder / f"member.{suffix}", f"member{number}.{suffix}")
                (folder / f"member.{suffix}").unlink()
    write_video(folder / "a.mp4", [(30, 1), (10, 2)])
    write_video(folder / "b.mp4", [(30, 3), (10, 4)])
    return folder


def data_of(media: Path, output: str | Path, vocabulary: Path, **changes: Any) -> dict[str, Any]:
    color = {"min_untinted_colorfulness": None}
    data: dict[str, Any] = {
        "name": "small",
        "input": [str(media)],
        "output": str(output),
        "stand_ins": "allow",
        "stages": {"quick_tokens": "fault_stages:QuickTokens"},
        "images": {"filters": ["color"], "color": color},
        "videos": {"filters": ["color"], "color": color, "scenes": {"min_clip_s": 0.5}},
        "captions": {"engine": "stand-in", "split_from_s": 1.5, "max_window_s": 1.0},
        "quick_tokens": {"weights": "stand-in", "area": 4096, "fps": 4, "max_frames": 8},
        "shards": {"vocabulary": str(vocabulary)},
        "run": {"unit_images": 4, "unit_videos": 2, "report_samples": 0},
    }
    return data | changes


def made(data: dict[str, Any]) -> Bench:
    """All that a run leaves, without Ray."""
    bench = Bench(data)
    storage, config = bench.ledger.storage, bench.config
    recorder = Recorder(storage, "curation run")
    recorder.begin(bench.pipeline, None, {"new": 0, "gone": 0})
    recorder.working()
    metrics = bench.run()
    recorder.end(bench.pipeline, summarize(bench.ledger, bench.pipeline).outcome_totals(), metrics, 1.0)
    write_shards(bench)
    storage.write(f"{config.shards_folder}/README.md", b"---\nlicense: cc0-1.0\n---\nphoto0.jpg is nice\n")
    write_report(bench.pipeline, bench.ledger)
    return bench


def write_shards(bench: Bench) -> None:
    writer = ShardWriter(bench.config.shards)
    writer.write(bench.ledger.storage, bench.config.shards_folder, Selection(bench.ledger, bench.pipeline))


@pytest.fixture(scope="module")
def made_once(tmp_path_factory: pytest.TempPathFactory, vocabulary: Path) -> Path:
    """A folder with inputs and the output of two configurations, whose shards have two names."""
    folder = tmp_path_factory.mktemp("retract")
    media = write_inputs(folder / "in")
    older = data_of(media, folder / "out", vocabulary, name="older")
    older["captions"] = {**older["captions"], "seed": 7, "max_window_s": 2.0}
    older["shards"] = {**older["shards"], "shard_bytes": 2000}
    made(older)
    made(data_of(media, folder / "out", vocabulary))
    return folder


@pytest.fixture
def place(made_once: Path, tmp_path: Path) -> Path:
    """A copy of the output, whose inputs stay where they are."""
    shutil.copytree(made_once / "out", tmp_path / "out")
    return tmp_path / "out"


def bench_of(made_once: Path, place: Path, vocabulary: Path) -> Bench:
    return Bench(data_of(made_once / "in", place, vocabulary))


def planned(storage: Storage, data: dict[str, Any], *texts: str) -> Retraction:
    asked = find_asked(storage, texts)
    retraction = plan_retraction(
        storage, asked, command="test", windows=windows_of(parse_config(data)), when=WHEN
    )
    assert not asked.missing
    return retraction


def retract(storage: Storage, data: dict[str, Any], *texts: str) -> Retraction:
    retraction = planned(storage, data, *texts)
    carry_out(storage, retraction, windows=windows_of(parse_config(data)))
    return retraction


def ids_of(bench: Bench, *names: str) -> set[str]:
    """Ids of sources of these names, of their samples and of windows by every setting."""
    found = set()
    for unit in bench.ledger.units():
        for source in bench.ledger.sources(unit):
            if source.uri.endswith(names):
                found |= {source.source_id, Sample.of_image(source).sample_id}
                found |= set(ids_of_clips(bench, unit, source))
    return found


def ids_of_clips(bench: Bench, unit: int, source: Source) -> Iterator[str]:
    for stage, fingerprint in bench.ledger.known_steps:
        for row in bench.ledger.rows(stage, fingerprint, unit) if stage == "scenes" else ():
            if row.values["source_id"] == source.source_id:
                start_s, end_s = row.values["start_s"], row.values["end_s"]
                for number in range(1, 5):  # halves, thirds and so on: windows are equal parts of clips
                    edges = [start_s + (end_s - start_s) * part / number for part in range(number)] + [end_s]
                    for start, end in pairwise(edges):
                        yield Sample.of_span(source.source_id, start, end).sample_id


def everything(folder: Path) -> dict[str, str]:
    """Every file as text: of Parquet all values of all row groups."""
    found = {}
    for name, data in contents(folder).items():
        if name.endswith(".parquet"):
            file = pq.ParquetFile(pa.BufferReader(data))
            metadata = str(file.schema_arrow.metadata)
            tables = [file.read_row_group(number).to_pylist() for number in range(file.num_row_groups)]
            found[name] = metadata + json.dumps(tables, default=repr)
        else:
            found[name] = data.decode(errors="replace")
    return found


def traces(folder: Path, words: set[str]) -> dict[str, list[str]]:
    """Files in which one of these words is, but for the folder of tombstones."""
    found = {
        name: [word for word in words if word in text]
        for name, text in everything(folder).items()
        if not name.startswith("retracted/")
    }
    return {name: words for name, words in found.items() if words}


@pytest.mark.parametrize("is_compact", [False, True], ids=["unit files", "compact files"])
@pytest.mark.parametrize(
    ("asked", "gone", "words"),
    [
        ("photo0.jpg", ("photo0.jpg",), {f"{PRIVATE} 0", "photo0"}),
        ("photo2.jpg", ("photo2.jpg",), {f"{PRIVATE} 2", "photo2"}),
        ("a.mp4", ("a.mp4",), {"a.mp4"}),
        (
            "some.tar",
            ("some.tar#member6.jpg", "some.tar#member7.jpg"),
            {"member6", f"{PRIVATE} 6", "some.tar"},
        ),
        ("tar:some.tar#member6.jpg", ("some.tar#member6.jpg",), {"member6", f"{PRIVATE} 6"}),
    ],
)
def test_nothing_is_left_of_a_source_and_all_is_left_of_the_others(
    made_once: Path,
    place: Path,
    vocabulary: Path,
    asked: str,
    gone: tuple[str, ...],
    words: set[str],
    is_compact: bool,
) -> None:
    data = data_of(made_once / "in", place, vocabulary)
    bench = Bench(data)
    if is_compact:
        bench.ledger.compact(bench.ledger.known_steps)
        # A unit's own file counts before the compact one, which still holds the rows.
        bench.run()
        (step,) = (step for step in bench.pipeline.steps() if step.key == "images.color")
        for unit in bench.ledger.measured_units(step.name, step.fingerprint):
            bench.ledger.remove_rows(step.name, step.fingerprint, unit, [])
    ids, before = ids_of(bench, *gone), bench.outcomes()
    assert traces(place, ids)
    uri = f"{made_once / 'in'}/{asked}" if ":" not in asked else f"tar://{made_once / 'in'}/{asked[4:]}"
    retraction = retract(bench.ledger.storage, data, uri)
    assert traces(place, {*ids, *words}) == {}
    assert retraction.counts["sources"] == len(gone)

    again = Bench(data)
    left = {name: outcome for name, outcome in before.items() if not name.endswith(gone)}
    assert again.outcomes() == left
    assert again.run().rows.total() == 0
    assert again.outcomes() == left
    assert not [source.uri for source in list_inputs(again.config).sources if source.uri.endswith(gone)]
    assert traces(place, ids) == {}


def test_shards_of_every_name_are_those_of_a_run_without_the_source(
    made_once: Path, place: Path, vocabulary: Path, tmp_path: Path
) -> None:
    media = made_once / "in"
    before = contents(place / "shards")
    retract(open_storage(str(place)), data_of(media, place, vocabulary), f"{media}/a.mp4")
    after = contents(place / "shards")
    changed = {name for name in before if after.get(name) != before[name]}
    holding = {name for name, text in everything(place / "shards").items() if "a.mp4" in text}
    assert not holding
    assert after.keys() == before.keys()
    assert {name.partition("/")[0] for name in changed} == {"small", "older"}
    assert len([name for name in before if name.startswith("older/train")]) > len(
        [name for name in changed if name.startswith("older/train")]
    )
    for name in ("small", "older"):
        assert verify(open_storage(str(place / "shards" / name)), "").problems == []

    (media / "a.mp4").rename(tmp_path / "a.mp4")
    try:
        made(data_of(media, tmp_path / "without", vocabulary))
    finally:
        (tmp_path / "a.mp4").rename(media / "a.mp4")
    without = contents(tmp_path / "without/shards")
    manifests = [json.loads(found.pop("small/manifest.json")) for found in (after, without)]
    selections = {manifest.pop("selection") for manifest in manifests}
    # Else a run to which the source came back would take these shards for its own.
    assert selections.isdisjoint({json.loads(before["small/manifest.json"])["selection"]})
    assert manifests[0] == manifests[1]
    assert manifests[0]["shards"]
    shards = [
        {name: data for name, data in found.items() if name.startswith("small/train")}
        for found in (after, without)
    ]
    assert shards[0] == shards[1]


def test_retracting_everything_leaves_empty_shards_that_are_sound(
    made_once: Path, place: Path, vocabulary: Path
) -> None:
    data, bench = data_of(made_once / "in", place, vocabulary), bench_of(made_once, place, vocabulary)
    names = {path.name for path in (place / "shards/older").glob("*.parquet")}
    uris = [source.uri for unit in bench.ledger.units() for source in bench.ledger.sources(unit)]
    retract(bench.ledger.storage, data, *uris)
    assert not list(place.rglob("unit-*.parquet"))
    found = verify(open_storage(str(place / "shards/older")), "")
    assert (found.problems, found.num_samples) == ([], 0)
    assert {path.name for path in (place / "shards/older").glob("*.parquet")} == names
    again = Bench(data)
    assert again.run().rows.total() == 0
    assert again.outcomes() == {}


def test_retracted_source_stays_out_with_other_bytes_and_its_bytes_are_named(
    made_once: Path, place: Path, vocabulary: Path, tmp_path: Path
) -> None:
    media = tmp_path / "in"
    shutil.copytree(made_once / "in", media)
    data = data_of(media, tmp_path / "fresh", vocabulary)
    bench = Bench(data)
    bench.run()
    asked = find_asked(bench.ledger.storage, [f"{media}/photo1.jpg"])
    assert asked.same_bytes == [f"{media}/same_as_1.jpg"]
    retract(bench.ledger.storage, data, f"{media}/photo1.jpg")
    write_photo(media / "photo1.jpg", 99)
    # A container with another date is listed again, and would bring back what it says of a member.
    retract(bench.ledger.storage, data, f"tar://{media}/some.tar#member6.jpg")
    os.utime(media / "some.tar", ns=(1, 1))
    assert Bench(data).run().rows["images.color"] == 0
    both = find_asked(bench.ledger.storage, [f"{media}/photo1.jpg", f"{media}/photo4.jpg"], copies=True)
    assert f"{media}/photo4.jpg" in both.targets
    list_inputs(bench.config)
    assert traces(tmp_path / "fresh", {"member6", f"{PRIVATE} 6"}) == {}
    assert list_inputs(bench.config).leftovers.num_retracted == 1


class Killed(BaseException):
    """The process is gone."""


class Dying(LocalStorage):
    """A storage whose process dies in the place of its n-th change."""

    def __init__(self, inner: Storage, dies_at: int) -> None:
        super().__init__(inner.root)
        self._inner, self._left = inner, dies_at
        self.num_changes = 0

    def __getattribute__(self, name: str) -> Any:
        if name in ("_inner", "_left", "num_changes", "_change", "__class__"):
            return object.__getattribute__(self, name)
        if name in ("write", "delete"):
            return lambda *args, **named: self._change(name, *args, **named)
        return getattr(object.__getattribute__(self, "_inner"), name)

    def _change(self, name: str, *args: Any, **named: Any) -> None:
        if self._left == self.num_changes:
            raise Killed
        self.num_changes += 1
        getattr(self._inner, name)(*args, **named)


def objects(storage: Storage) -> dict[str, bytes | None]:
    return {item.key: storage.read(item.key) for item in storage.list("")}


def put(storage: Storage, found: dict[str, bytes | None]) -> None:
    for key, data in found.items():
        storage.write(key, data or b"")


def check_every_kill(start: dict[str, bytes | None], data: dict[str, Any], new: Any, *texts: str) -> int:
    """Die at each change, look, and finish; how many changes there are.

    `new` gives an empty storage at every call, of which the first one is undisturbed.
    """
    undisturbed, windows = new(), windows_of(parse_config(data))
    put(undisturbed, start)
    retraction = planned(undisturbed, data, *texts)
    carry_out(undisturbed, retraction, windows=windows)
    expected, number = objects(undisturbed), 0
    while True:
        storage = new()
        put(storage, start)
        try:
            carry_out(Dying(storage, number), retraction, windows=windows)
        except Killed:
            finish_killed(storage, retraction, data, number, *texts)
        else:
            return number
        assert objects(storage) == expected, f"killed at change {number}"
        number += 1


def finish_killed(
    storage: Storage, retraction: Retraction, data: dict[str, Any], number: int, *texts: str
) -> None:
    windows = windows_of(parse_config(data))
    if number == 0:
        assert pending_retraction(storage) is None
        carry_out(storage, retraction, windows=windows)
        return
    assert all(read_tombstones(storage).covers(text) for text in texts)
    with pytest.raises(LedgerError, match="retraction was begun"):
        open_pipeline(parse_config({**data, "output": storage.root}))
    finished = finish_pending(storage, windows)
    assert finished is not None
    assert finished.to_json() == retraction.to_json()


@pytest.fixture
def no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kills are of processes here: what a disk does when the power fails is no matter."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.mark.parametrize("is_compact", [False, True], ids=["unit files", "compact files"])
def test_kill_at_every_change_leaves_what_no_kill_leaves(
    made_once: Path, place: Path, vocabulary: Path, tmp_path: Path, no_sync: None, is_compact: bool
) -> None:
    data = data_of(made_once / "in", place, vocabulary)
    bench = Bench(data)
    if is_compact:
        bench.ledger.compact(bench.ledger.known_steps)
    numbers = iter(range(1000))
    media = made_once / "in"
    texts = (f"{media}/a.mp4", f"{media}/photo2.jpg", f"tar://{media}/some.tar#member6.jpg")
    new = lambda: open_storage(str(tmp_path / f"killed-{next(numbers)}"))  # noqa: E731
    start = objects(open_storage(str(place)))
    assert check_every_kill(start, data, new, *texts) > 20


def test_kill_at_every_change_in_a_bucket(
    made_once: Path, place: Path, vocabulary: Path, bucket: str
) -> None:
    data = data_of(made_once / "in", place, vocabulary)
    numbers = iter(range(1000))
    start = objects(open_storage(str(place)))
    new = lambda: open_storage(f"{bucket}/killed-{next(numbers)}")  # noqa: E731
    assert check_every_kill(start, data, new, f"{made_once / 'in'}/photo0.jpg") > 8


def test_command_tells_what_goes_asks_and_finishes(
    made_once: Path,
    place: Path,
    vocabulary: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    media, data = made_once / "in", data_of(made_once / "in", place, vocabulary)
    config, before = write_config(tmp_path / "c.yaml", data), contents(place)
    uri = f"{media}/photo0.jpg"
    code, said = said_by(capsys, "retract", "--source", uri, "-c", config, "--dry-run")
    assert (code, contents(place)) == (0, before)
    assert "1  sources" in said
    assert "1  shards/small samples" in said
    assert "dry run" in said
    code, said = said_by(capsys, "retract", "--source", uri, "-c", config)
    assert (code, contents(place)) == (0, before)
    assert "--yes removes it" in said

    dying = Dying(open_storage(str(place)), 4)
    with pytest.raises(Killed):
        carry_out(dying, planned(dying, data, uri))
    for command in (("status",), ("report",), ("table", "--to", tmp_path / "t.csv"), ("gc", "--damaged")):
        code, said = said_by(capsys, *command, "-c", config)
        assert code == LedgerError.exit_code
        assert "`curation retract --output" in said
    monkeypatch.chdir(place / "shards")
    for spelled in (place / "shards/small", "small", f"{place}/shards/../shards/./small/"):
        code, said = said_by(capsys, "verify", spelled)
        assert code == LedgerError.exit_code
        assert "photo0" not in said

    code, said = said_by(capsys, "retract", "--output", place)
    assert code == 0
    assert "finished the retraction of 2026-05-04T03:02:01+00:00" in said
    assert not (place / PENDING).exists()
    assert "photo0" not in (place / "report/index.html").read_text()
    assert "nice" not in (place / "shards/small/README.md").read_text()
    (record,) = [json.loads(line) for line in (place / RECORDS).read_text().splitlines()]
    assert record["counts"]["sources"] == 1
    assert record["counts"]["shards/small samples"] == 1
    assert record["command"] == "test"
    assert uri not in (place / RECORDS).read_text() + (place / TOMBSTONES).read_text()
    code, said = said_by(capsys, "status", "-c", config)
    assert "retracted: 1 source" in said
    code, said = said_by(capsys, "retract", "--source", uri, "--output", place, "--yes")
    assert (code, "was retracted before" in said) == (0, True)


def test_what_is_not_there_is_named_with_what_is_like_it(
    made_once: Path, place: Path, vocabulary: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    media, before = made_once / "in", contents(place)
    code, said = said_by(capsys, "retract", "--source", f"{media}/foto0.jpg", "--output", place, "--yes")
    assert code == ConfigError.exit_code
    assert f"did you mean {media}/photo0.jpg" in said
    code, said = said_by(capsys, "retract", "--source", "elsewhere/photo1.jpg", "--output", place, "--yes")
    assert f"did you mean {media}/photo1.jpg?" in said
    names = tmp_path / "names.txt"
    names.write_text(f"{media}/photo1.jpg\n\n{media}/new.jpg\nnothing.png\n")
    code, said = said_by(capsys, "retract", "--list", names, "--output", place, "--yes")
    assert code == ConfigError.exit_code
    assert "new.jpg" in said
    assert "nothing.png" in said
    assert contents(place) == before
    code, said = said_by(capsys, "retract", "--output", place)
    assert code == ConfigError.exit_code
    assert "--source or --list" in said
    code, said = said_by(capsys, "retract", "--source", "a", "--output", tmp_path / "nowhere")
    assert code == ConfigError.exit_code
    code, said = said_by(capsys, "retract", "--list", names, "--output", place, "--yes", "--allow-missing")
    assert code == 0
    tombstones = read_tombstones(open_storage(str(place)))
    assert all(tombstones.covers(f"{media}/{name}") for name in ("photo1.jpg", "new.jpg"))


def test_list_as_an_editor_on_windows_writes_it(
    made_once: Path, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A byte order mark and CRLF are no part of a name; other separators of lines may be."""
    names, odd = tmp_path / "names.txt", "new\u2028page.jpg"
    names.write_bytes(f"\ufeff{made_once / 'in'}/photo1.jpg\r\n{odd}\r\n".encode())
    code, said = said_by(capsys, "retract", "--list", names, "--output", place, "--yes", "--allow-missing")
    assert (code, "1  sources" in said) == (0, True)
    tombstones = read_tombstones(open_storage(str(place)))
    assert len(tombstones) == 2
    assert all(tombstones.covers(uri) for uri in (f"{made_once / 'in'}/photo1.jpg", odd))


def test_id_of_a_source_stands_for_it_and_exports_are_looked_through(
    made_once: Path, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = f"{made_once / 'in'}/photo0.jpg"
    for layout in ("webdataset", "packed"):
        more = ("--set", "context=4096") if layout == "packed" else ()
        said_by(capsys, "export", layout, place / "shards/small", "--to", tmp_path / layout, *more)
    exports = [f"--export={tmp_path / layout}" for layout in ("webdataset", "packed")]
    code, said = said_by(
        capsys, "retract", "--source", stable_id(uri), "--output", place, "--dry-run", *exports
    )
    assert code == 0
    assert uri in said
    sample_id = stable_id(stable_id(uri), 0, 0)
    (tar,) = [
        path.name
        for path in (tmp_path / "webdataset").glob("*.tar")
        if sample_id.encode() in path.read_bytes()
    ]
    assert f"webdataset: these hold samples that go: {tar};" in said
    assert "packed: these hold samples that go: train-00000" in said


def test_exports_in_the_output_are_named_also_of_samples_that_have_left_the_shards(
    made_once: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Packs among the shards look like shards, and have no column of sources."""
    uri = f"{made_once / 'in'}/photo1.jpg"
    sample_id = stable_id(stable_id(uri), 0, 0)
    for layout, to in (
        ("packed", "shards/packed"),
        ("jsonl", "exports/lines"),
        ("datasets", "exports/tables"),
    ):
        more = ("--set", "context=4096") if layout == "packed" else ()
        assert said_by(capsys, "export", layout, place / "shards/small", "--to", place / to, *more)[0] == 0
    for name in ("small", "older"):
        shutil.rmtree(place / f"shards/{name}")
    code, said = said_by(capsys, "retract", "--source", uri, "--output", place, "--yes")
    assert code == 0
    (named,) = (line for line in said.splitlines() if "files which are none of a run" in line)
    holds = {
        path.relative_to(place).as_posix()
        for path in place.glob("exports/lines/*")
        if sample_id in path.read_text()
    }
    holds |= {
        path.relative_to(place).as_posix()
        for path in [*place.glob("exports/tables/**/*.parquet"), *place.glob("shards/packed/*.parquet")]
        if sample_id in str(pq.read_table(path).to_pylist())
    }
    assert len(holds) == 3
    assert all(key in named for key in holds)
    record = json.loads((place / RECORDS).read_text())
    assert set(record["exports"][str(place)]) == holds


def test_damaged_shard_is_not_written_anew_as_if_it_were_sound(made_once: Path, place: Path) -> None:
    """Its new digest would be that of the damage. The ids in it can be read: it is its codes that changed."""
    storage = LocalStorage(str(place))
    for shard in (place / "shards/small").glob("train-*"):
        group = pq.read_metadata(shard).row_group(0)
        columns = [group.column(index) for index in range(group.num_columns)]
        (codes,) = (column for column in columns if column.path_in_schema == "codes")
        data = bytearray(shard.read_bytes())
        data[codes.data_page_offset + codes.total_compressed_size - 8] ^= 1
        shard.write_bytes(data)
    asked = find_asked(storage, [f"{made_once / 'in'}/photo1.jpg"])
    with pytest.raises(LedgerError, match=r"shards/small: train-.* damaged"):
        plan_retraction(storage, asked, command="curation retract")


@pytest.mark.parametrize("content", [b"no json\n", b"", b"[" * 20_000])
def test_damaged_tombstones_stop_everything(
    made_once: Path, place: Path, vocabulary: Path, content: bytes
) -> None:
    bench = bench_of(made_once, place, vocabulary)
    bench.ledger.storage.write(TOMBSTONES, content)
    with pytest.raises(LedgerError, match="retracted sources would come back"):
        list_inputs(bench.config)


def test_rows_of_unknown_windows_go_with_their_video_and_others_stay(
    made_once: Path, place: Path, vocabulary: Path
) -> None:
    """A caption that failed does not say of which clip its window is."""
    bench = bench_of(made_once, place, vocabulary)
    (step,) = (step for step in bench.pipeline.steps() if step.key == "captions")
    sources = {
        source.uri.rpartition("/")[2]: (unit, source)
        for unit in bench.ledger.units()
        for source in bench.ledger.sources(unit)
    }
    unit, mine = sources["a.mp4"]
    other_unit, other = sources["b.mp4"]
    assert unit == other_unit
    ids = {source.source_id: [*ids_of_clips(bench, unit, source)] for source in (mine, other)}
    rows = bench.ledger.rows(step.name, step.fingerprint, unit)
    failed = [row.sample_id for row in rows if row.values.get("parent_id")]
    data = [type(rows[0])(name, {}, "CaptionError", "why") for name in failed]
    bench.ledger.commit(step.name, step.fingerprint, unit, data, step.stage.columns, replaces=failed)
    for stage, fingerprint in bench.ledger.known_steps:
        if stage == "captions" and fingerprint != step.fingerprint:
            shutil.rmtree(place / "ledger" / stage / fingerprint)
    assert set(ids[mine.source_id]) & set(failed)
    kept = set(ids[other.source_id]) & set(failed)
    windows = windows_of(bench.config)
    lineage = Lineage(Ledger(bench.ledger.storage), [mine.source_id], windows)
    assert lineage.units == [unit]
    retract(bench.ledger.storage, data_of(made_once / "in", place, vocabulary), mine.uri)
    left = {row.sample_id for row in bench.ledger.rows(step.name, step.fingerprint, unit)}
    assert left & set(failed) == kept
    assert kept
    assert traces(place, set(ids[mine.source_id])) == {}
