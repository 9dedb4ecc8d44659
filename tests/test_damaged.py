"""Damaged files of an output: named in one sentence by whoever reads them, and made anew."""

from __future__ import annotations

import copy
import io
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from buckets import S3Server, upload
from curation.errors import DamagedFileError, LedgerError
from curation.execution.record.run_record import read_run
from curation.ledger import Ledger
from curation.records import Row, Source
from curation.stage import Column
from curation.storage import open_storage, parquet
from datasets_media import Bench, config_data, contents, curation, said_by, write_config, write_photo

COLUMNS = {"score": Column(pa.float32(), "A score.")}
Said = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, vocabulary: Path) -> Path:
    """A folder with six photos, the configuration of their run, and its output."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "in").mkdir()
    for seed in range(6):
        write_photo(folder / f"in/{seed}.jpg", seed)
    changes = {"images": {"filters": ["resolution"], "resolution": {"min_width": 64, "min_height": 64}}}
    data = config_data(folder / "in", folder / "out", vocabulary, **changes)
    del data["videos"]
    data["run"]["unit_images"] = 2
    curation("run", "-c", write_config(folder / "c.yaml", data))
    return folder


@pytest.fixture
def output(finished: Path, tmp_path: Path) -> Path:
    """A copy of the output, to be damaged."""
    return Path(shutil.copytree(finished / "out", tmp_path / "out"))


def page_flipped(data: bytes, column: int = 0) -> bytes:
    """One bit in the data of a column; the first is one that every command reads."""
    chunk = pq.read_metadata(io.BytesIO(data)).row_group(0).column(column)
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    return flipped(data, start + chunk.total_compressed_size - 1)


def footer_flipped(data: bytes) -> bytes:
    """One bit in the name of a column: the file can be read, and the column is another one."""
    return flipped(data, max(data.rfind(b"status"), data.rfind(b"etag")))


def flipped(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


def of_another_version(_: bytes) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table({"name": ["a"], "uri": [b"b"], "sample_id": [7]}), sink)
    return sink.getvalue()


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "cut off": lambda data: data[: len(data) // 2],
    "a bit of a page": page_flipped,
    "a bit of the footer": footer_flipped,
    "garbage": lambda data: bytes(range(256)) * 8,
    "other JSON": lambda data: b"[1, 2]\n",
    "of another version": of_another_version,
}
FILES = {
    "sources": "sources/unit-000001.parquet",
    "rows": "ledger/resolution/*/unit-000001.parquet",
    "merged": "ledger/resolution/*/compact/000001-00000.parquet",
    "merged sources": "sources/compact/000001-00000.parquet",
    "listing": "listing/present.parquet",
}


def damage(output: Path, pattern: str, how: Callable[[bytes], bytes]) -> Path:
    (path,) = output.glob(pattern)
    path.write_bytes(how(path.read_bytes()))
    return path


def names_it(code: int, said: str, path: Path | str) -> bool:
    """Whether a command ended with one sentence about a file, and what to do."""
    sentence = (
        rf"DamagedFileError: {re.escape(str(path))} is damaged: [^\n]+; `curation gc --damaged`[^\n]+\n"
    )
    return code == 1 and re.fullmatch(sentence, said) is not None


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("what", FILES)
def test_damage_is_named_and_found(finished: Path, output: Path, capsys: Said, what: str, how: str) -> None:
    place = ("-c", finished / "c.yaml", "--output", output)
    if what.startswith("merged"):
        assert said_by(capsys, "compact", *place)[0] == 0
    path = damage(output, FILES[what], DAMAGES[how])
    code, said = said_by(capsys, "status", *place)
    assert names_it(code, said, path), said
    code, said = said_by(capsys, "gc", "--damaged", *place)
    assert (code, said.partition(": ")[0], said.count("\n")) == (1, path.relative_to(output).as_posix(), 2), (
        said
    )


READERS = {
    "status": (),
    "report": (),
    "table": ("--to", "TMP/t.csv"),
    "explain": ("0.jpg",),
    "preview": ("0.jpg", "--to", "TMP/p.html"),
    "compact": (),
    "gc": ("--yes",),
}


@pytest.mark.parametrize("what", ["sources", "rows", "listing"])
@pytest.mark.parametrize("command", READERS)
def test_every_command_names_it(
    finished: Path, output: Path, capsys: Said, tmp_path: Path, command: str, what: str
) -> None:
    """`gc` reads no rows, `explain` and `preview` those of one unit: the one that is asked for is damaged."""
    path = damage(output, FILES[what].replace("000001", "000000"), DAMAGES["a bit of a page"])
    before = {key: data for key, data in contents(output).items() if not key.startswith("report/")}
    words = [word.replace("TMP", str(tmp_path)) for word in READERS[command]]
    code, said = said_by(capsys, command, *words, "-c", finished / "c.yaml", "--output", output)
    is_read = (command, what) not in {("gc", "rows"), ("gc", "sources"), ("compact", "listing")}
    assert names_it(code, said, path) if is_read else code == 0, said
    after = {key: data for key, data in contents(output).items() if not key.startswith("report/")}
    assert after == before or command == "compact"


@pytest.mark.parametrize("how", ["empty", "cut off", "garbage", "other JSON"])
def test_damaged_manifest(finished: Path, output: Path, capsys: Said, tmp_path: Path, how: str) -> None:
    path = damage(output, "shards/small/manifest.json", DAMAGES[how])
    place = ("-c", finished / "c.yaml", "--output", output)
    code, said = said_by(capsys, "export", "webdataset", *place, "--to", tmp_path / "to")
    assert names_it(code, said, path), said
    code, said = said_by(capsys, "verify", *place)
    assert (code, said.startswith(f"{path} is damaged: ")) == (1, True), said
    code, said = said_by(capsys, "gc", "--damaged", "--yes", *place)
    assert (code, said.startswith("shards/small/manifest.json: "), path.exists()) == (0, True, False), said


@pytest.mark.parametrize(
    "name",
    ["run.json", "sources/unit-000001.parquet", "listing/present.parquet", "shards/small/manifest.json"],
)
def test_folder_where_a_file_should_be(finished: Path, output: Path, capsys: Said, name: str) -> None:
    (output / name).unlink()
    (output / name).mkdir()
    place = ("-c", finished / "c.yaml", "--output", output)
    for words in (("verify",) if "shards" in name else ("status",)), ("gc", "--damaged"):
        code, said = said_by(capsys, *words, *place)
        assert (code, said) == (
            3,
            f"StorageError: {output / name} is a folder where a file should be; move it away\n",
        )


def test_all_damaged_files_of_a_scan_are_named_at_once(finished: Path, output: Path, capsys: Said) -> None:
    for name in ("sources/unit-000000.parquet", "sources/unit-000002.parquet"):
        damage(output, name, DAMAGES["cut off"])
    _, said = said_by(capsys, "status", "-c", finished / "c.yaml", "--output", output)
    assert "unit-000000.parquet is damaged" in said
    assert "unit-000002.parquet is damaged" in said


def test_damage_in_a_bucket(
    finished: Path, output: Path, capsys: Said, s3_server: S3Server, bucket: str
) -> None:
    damage(output, FILES["sources"], DAMAGES["a bit of a page"])
    damage(output, "run.json", DAMAGES["cut off"])
    upload(s3_server, output, bucket)
    place = ("-c", finished / "c.yaml", "--output", bucket)
    code, said = said_by(capsys, "status", *place)
    assert names_it(code, said, f"{bucket}/run.json"), said
    code, said = said_by(capsys, "gc", "--damaged", "--yes", *place)
    assert (code, [line.partition(": ")[0] for line in said.splitlines()[:2]]) == (
        0,
        ["run.json", FILES["sources"]],
    )
    assert said_by(capsys, "status", *place)[0] == 0


def test_run_says_so_and_makes_anew_what_was_removed(finished: Path, capsys: Said) -> None:
    """All kinds at once; afterwards all is there again, the unit that was lost under another number."""
    output = finished / "out"
    before, place = contents(output), ("-c", finished / "c.yaml")
    (codes,) = output.glob("ledger/tokens/*/unit-000000.parquet")
    place_of_codes = pq.read_schema(codes).get_field_index("codes")
    codes.write_bytes(page_flipped(codes.read_bytes(), place_of_codes))
    (output / "shards/small/manifest.json").unlink()
    said = curation("run", *place, code=1)  # whoever writes the shards is the first to read them
    assert f"DamagedFileError: {codes} is damaged" in said
    assert "Traceback" not in said
    rows = damage(output, FILES["rows"].replace("000001", "000000"), DAMAGES["a bit of a page"])
    sources = damage(output, FILES["sources"], DAMAGES["cut off"])
    (output / "shards/small/manifest.json").write_text("{}")
    damage(output, "run.json", DAMAGES["garbage"])
    assert said_by(capsys, "gc", "--damaged", "--yes", *place)[0] == 0
    assert [path.exists() for path in (codes, rows, sources)] == [False, False, False]
    curation("run", *place)
    after = contents(output)
    assert after[rows.relative_to(output).as_posix()].startswith(b"PAR1")
    assert "sources/unit-000003.parquet" in after
    assert {key for key in after if key.startswith("shards/")} == {
        key for key in before if key.startswith("shards/")
    }
    assert json.loads(after["run.json"])["models"] == json.loads(before["run.json"])["models"]
    assert said_by(capsys, "verify", *place)[0] == 0
    assert said_by(capsys, "gc", "--damaged", *place) == (0, "nothing is damaged\n")


class TestFiles:
    """The files by themselves."""

    @pytest.fixture
    def ledger(self, tmp_path: Path) -> Ledger:
        ledger = Ledger(open_storage(str(tmp_path)))
        for unit in range(3):
            rows = [Row(f"{unit}-{number}", {"score": number / 7}) for number in range(3)]
            ledger.commit("text", "f00d", unit, rows, COLUMNS)
            source = Source(source_id=f"s{unit}", uri=f"{unit}.jpg", kind="image", size_bytes=1, etag="e")
            ledger.commit_sources(unit, [source])
        return ledger

    def test_no_bit_can_change_what_is_read(self, tmp_path: Path) -> None:
        table = pa.table({"name": ["a", "b", None], "score": [0.5, 1.5, None], "codes": [b"12", b"", b"3"]})
        data = parquet.to_bytes(table)
        num_refused = 0
        for place in range(8 * len(data)):
            changed = bytearray(data)
            changed[place // 8] ^= 1 << place % 8
            try:
                assert parquet.from_bytes(bytes(changed), "x").equals(table), place
            except DamagedFileError:
                num_refused += 1
        assert num_refused > 6 * len(data)

    def test_no_end_can_be_missing(self) -> None:
        data = parquet.to_bytes(pa.table({"name": ["a", "b"]}))
        for size in range(len(data)):
            with pytest.raises(DamagedFileError):
                parquet.from_bytes(data[:size], "x")

    def test_other_readers_read_them(self) -> None:
        table = pa.table({"name": ["a", "b"]})
        assert pq.read_table(io.BytesIO(parquet.to_bytes(table)), page_checksum_verification=True).equals(
            table
        )

    def test_files_of_older_versions_are_read(self, ledger: Ledger, tmp_path: Path) -> None:
        """As Arrow writes them: without checksums, and without the name of their place."""
        path = tmp_path / "ledger/text/f00d/unit-000001.parquet"
        rows = ledger.rows("text", "f00d", 1)
        pq.write_table(pq.read_table(path).replace_schema_metadata(None), path, compression="zstd")
        assert ledger.rows("text", "f00d", 1) == rows
        ledger.commit("text", "f00d", 1, [Row("new", {"score": 1.0})], COLUMNS)
        assert len(ledger.rows("text", "f00d", 1)) == len(rows) + 1

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            ("ledger/text/f00d/unit-000001.parquet", "ledger/text/f00d/unit-000000.parquet"),
            ("ledger/text/f00d/unit-000001.parquet", "ledger/text/beef/unit-000001.parquet"),
            ("ledger/text/f00d/unit-000001.parquet", "ledger/text/beef/compact/000001-00000.parquet"),
        ],
    )
    def test_file_of_another_place_is_noticed(
        self, ledger: Ledger, tmp_path: Path, one: str, other: str
    ) -> None:
        ledger.commit("text", "beef", 1, [Row("1-0", {"score": 9.0})], COLUMNS)
        if "compact" in other:
            ledger.compact([("text", "beef")])
        shutil.copy(tmp_path / other, tmp_path / one)
        with pytest.raises(
            DamagedFileError, match=r"unit-000001.parquet is damaged: it is the file of another"
        ):
            ledger.rows("text", "f00d", 1)

    def test_file_of_a_newer_version_is_not_damaged(self, ledger: Ledger, tmp_path: Path) -> None:
        path = tmp_path / "ledger/text/f00d/unit-000001.parquet"
        table = pq.read_table(path)
        place = json.dumps({"format": 2, "what": "ever"}).encode()
        path.write_bytes(parquet.to_bytes(table.replace_schema_metadata({b"curation.place": place})))
        with pytest.raises(LedgerError, match="written by a newer version of curation") as raised:
            ledger.rows("text", "f00d", 1)
        assert not isinstance(raised.value, DamagedFileError)

    def test_whole_units_of_a_damaged_compact_file_are_kept(self, ledger: Ledger, tmp_path: Path) -> None:
        before = {unit: ledger.rows("text", "f00d", unit) for unit in range(3)}
        ledger.compact([("text", "f00d")])
        path = tmp_path / "ledger/text/f00d/compact/000001-00000.parquet"
        path.write_bytes(page_flipped(path.read_bytes()))
        (found,) = ledger.damaged()
        ledger.remove_damaged(found)
        again = Ledger(open_storage(str(tmp_path)))
        assert again.damaged() == {}
        assert again.measured_units("text", "f00d") == [1, 2]
        assert {unit: again.rows("text", "f00d", unit) for unit in (1, 2)} == {1: before[1], 2: before[2]}


@pytest.mark.parametrize("is_merged", [False, True])
def test_rows_of_lost_sources_are_not_taken_for_those_of_new_ones(tmp_path: Path, is_merged: bool) -> None:
    """An id is that of a file's name, so the rows that are there may be of what the file held before."""
    (tmp_path / "in").mkdir()
    write_photo(tmp_path / "in/a.jpg", 1, size=(96, 80))
    data = {
        "name": "small",
        "input": [str(tmp_path / "in")],
        "output": str(tmp_path / "out"),
        "images": {"filters": ["resolution"], "resolution": {"min_width": 64, "min_height": 64}},
    }
    bench = Bench(data)
    bench.run()
    if is_merged:
        (step,) = bench.pipeline.steps()
        bench.ledger.compact([(step.name, step.fingerprint)])
    shutil.rmtree(tmp_path / "out/sources")
    write_photo(tmp_path / "in/a.jpg", 1, size=(32, 80))
    again = Bench(data)
    again.run()
    assert again.outcomes() == {"a.jpg": "rejected width_below_min"}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        b"[" * 20_000,
        b'{"a": 5}',
        b'{"a": {"asked": 4, "use": {}, "samples": [{"sample_id": "a", "title": "b", "other": 1}]}}',
    ],
)
def test_a_damaged_cache_of_the_report_is_made_anew(
    output: Path, finished: Path, content: bytes, capsys: Said
) -> None:
    cache = output / "report/tokens.json"
    before = cache.read_bytes()
    cache.write_bytes(content)
    code, _ = said_by(capsys, "report", "-c", finished / "c.yaml", "--output", output)
    assert code == 0
    assert cache.read_bytes() == before


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"[]",
        b"{}",
        b"\xff",
        b"[" * 20_000,
        b'{"shards": [5]}',
        b'{"shards": [], "num_samples": "x"}',
        b'{"shards": 5, "num_tokens": 1}',
    ],
)
def test_a_damaged_manifest_is_named_by_the_report(
    output: Path, finished: Path, content: bytes, capsys: Said
) -> None:
    manifest = output / "shards/small/manifest.json"
    manifest.write_bytes(content)
    code, said = said_by(capsys, "report", "-c", finished / "c.yaml", "--output", output)
    assert code == 1
    assert said.startswith(f"DamagedFileError: {manifest} is damaged: it is no manifest of this version: ")


def test_run_record_of_an_older_version_is_not_damaged(finished: Path, output: Path, capsys: Said) -> None:
    record = json.loads((output / "run.json").read_text())
    work = record["last_work"]
    del work["pools"], work["reads_per_byte"], work["bytes_read"]
    (output / "run.json").write_text(json.dumps(record))
    for command in ("status", "report"):
        assert said_by(capsys, command, "-c", finished / "c.yaml", "--output", output)[0] == 0
    work["pools"] = [{"pool": "filter: decode", "num_workers": 2, "busy_s": 1.0}]
    (output / "run.json").write_text(json.dumps(record))
    assert said_by(capsys, "report", "-c", finished / "c.yaml", "--output", output)[0] == 0


FREE = ("config", "settings", "thresholds", "listing")
"""Fields of run.json that hold whatever a configuration may, and that are for other programs."""


def replaced(record: Any, place: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Each field of run.json, and the record with something of another type in its place."""
    inner = record.items() if isinstance(record, dict) else enumerate(record)
    for key, value in inner:
        yield (*place, key), 5 if isinstance(value, dict | list) else [5]
        if isinstance(value, dict | list) and key not in FREE:
            yield from replaced(value, (*place, key))


def with_other(record: Any, place: tuple[str | int, ...], value: Any) -> Any:
    changed = copy.deepcopy(record)
    inner = changed
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return changed


def test_every_field_of_run_json_has_a_type(finished: Path, tmp_path: Path) -> None:
    """Of a run that had one before it."""
    record = json.loads((finished / "out/run.json").read_text())
    record["previous"] = {name: record[name] for name in ("models", "fingerprints", "parts", "outcomes")}
    (tmp_path / "run.json").write_text(json.dumps(record))
    record = json.loads((tmp_path / "run.json").read_text())  # in which nothing is there twice
    storage = open_storage(str(tmp_path))
    assert read_run(storage)["models"] == record["models"]
    places = list(replaced(record))
    assert {place[0] for place, _ in places} == {*record}
    for place, other in places:
        (tmp_path / "run.json").write_text(json.dumps(with_other(record, place, other)))
        with pytest.raises(DamagedFileError) as caught:
            read_run(storage)
        assert str(place[0]) in str(caught.value), place


@pytest.mark.parametrize("name", ["config", "curation", "listing", "models", "versions"])
def test_field_of_run_json_whose_name_is_damaged(
    finished: Path, output: Path, capsys: Said, name: str
) -> None:
    path = output / "run.json"
    path.write_text(path.read_text().replace(f'\n  "{name}": ', f'\n  "{name[:-1]}#": '))
    code, said = said_by(capsys, "report", "-c", finished / "c.yaml", "--output", output)
    assert names_it(code, said, path), said
