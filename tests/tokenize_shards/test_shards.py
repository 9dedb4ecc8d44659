"""Shards: what is in them, when they are rewritten, and that the usual loaders read them."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import random
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from curation.errors import ConfigError, LedgerError, TokenizeError
from curation.execution.cluster.tasks import Spread, in_process, on_cluster
from curation.stage import Column
from curation.storage import open_storage
from curation.tokenize_shards.documents.document import parse
from curation.tokenize_shards.documents.text import TextTokenizer
from curation.tokenize_shards.shards.layout import FileTask
from curation.tokenize_shards.shards.rows import document_of
from curation.tokenize_shards.shards.verify import verify
from curation.tokenize_shards.shards.writer import ShardConfig, ShardWriter, Written
from datasets_media import environment
from shard_samples import FOLDER, FakeLedger, Kept, grid_of, kept_sample

COLUMNS = (  # DESIGN.md, section 11, and what a document is made of
    "sample_id source_id source_uri kind start_s end_s split caption meta codes grid_t grid_h grid_w fps "
    "task text_ids meta_ids num_tokens aesthetic_score text_coverage flow_score caption_model tokenizer "
    "license alt_text"
)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out" / FOLDER


@pytest.fixture
def write(tmp_path: Path, small_vocabulary: Path) -> Any:
    def _write(samples: list[Kept] | FakeLedger, **settings: Any) -> Written:
        writer = ShardWriter(ShardConfig(vocabulary=str(small_vocabulary), **settings))
        ledger = samples if isinstance(samples, FakeLedger) else FakeLedger(samples)
        return writer.write(open_storage(str(tmp_path / "out")), FOLDER, ledger)

    return _write


def rows_of(out: Path) -> list[dict[str, Any]]:
    return [row for path in sorted(out.glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def contents(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.iterdir())}


def times(out: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in out.iterdir()}


SIX = [kept_sample(number) for number in range(6)]


@pytest.mark.parametrize("understanding_fraction", [0.0, 1.0])
def test_documents_parse_back_to_caption_and_grid(
    write: Any, out: Path, small_vocabulary: Path, understanding_fraction: float
) -> None:
    write(SIX, understanding_fraction=understanding_fraction)
    rows, text = {row["sample_id"]: row for row in rows_of(out)}, TextTokenizer(small_vocabulary)
    assert rows.keys() == {item.sample_id for item in SIX}
    for item in SIX:
        row = rows[item.sample_id]
        ids = document_of(row)
        document = parse(ids)
        np.testing.assert_array_equal(document.grid, grid_of(item))
        assert text.decode(document.caption_ids) == row["caption"] == item.columns["caption"]
        assert text.decode(document.meta_ids) == row["meta"]
        assert row["text_ids"] == document.caption_ids
        assert row["num_tokens"] == len(ids)
        caption_is_first = ids[1 : 1 + len(row["text_ids"])].tolist() == row["text_ids"]
        assert caption_is_first == (understanding_fraction == 0)


def test_caption_that_is_left_out_stays_as_text(write: Any, out: Path) -> None:
    write(SIX, null_caption_fraction=1.0)
    for row in rows_of(out):
        assert row["caption"]
        assert row["text_ids"] == []
        assert parse(document_of(row)).caption_ids == []


def test_columns_of_a_row(write: Any, out: Path) -> None:
    write(SIX)
    assert pq.read_schema(next(out.glob("*.parquet"))).names == COLUMNS.split()
    for row in rows_of(out):
        item = next(item for item in SIX if item.sample_id == row["sample_id"])
        assert {name: row[name] for name in item.columns} == item.columns
        assert row["split"] == "train"
        assert row["codes"] == grid_of(item).tobytes()


def test_meta_by_hand(write: Any, out: Path) -> None:
    write([kept_sample(0), kept_sample(1)])
    # Emu3 gives "rows*columns" for images; a clip of 2 * 4 frames at 4 fps by this project's template.
    assert {row["sample_id"]: row["meta"] for row in rows_of(out)} == {
        "sample-0": "2*3",
        "sample-1": "4*5*2 4fps 2.0s",
    }


def test_meta_templates_are_settings(write: Any, out: Path) -> None:
    write(
        [kept_sample(0), kept_sample(1)],
        image_meta="{cols} by {rows}",
        clip_meta="{frames}@{fps}: {seconds}",
    )
    assert {row["meta"] for row in rows_of(out)} == {"3 by 2", "2@4: 2.0"}


def test_names_and_sizes_of_shards(write: Any, out: Path) -> None:
    written = write(SIX[:5], shard_bytes=800)
    names = [f"train-0000{index}-of-00003.parquet" for index in range(3)]
    assert sorted(path.name for path in out.iterdir()) == ["manifest.json", *names]
    assert [pq.read_metadata(out / name).num_rows for name in names] == [2, 2, 1]
    assert (written.num_shards, written.num_samples, written.changed) == (3, 5, True)


def test_manifest_tells_the_truth(write: Any, out: Path, small_vocabulary: Path) -> None:
    written = write(SIX[:5], shard_bytes=800)
    manifest = json.loads((out / "manifest.json").read_text())
    shards = {shard["name"]: shard for shard in manifest["shards"]}
    assert shards.keys() == {path.name for path in out.glob("*.parquet")}
    for name, shard in shards.items():
        table = pq.read_table(out / name)
        assert shard["sha256"] == hashlib.sha256((out / name).read_bytes()).hexdigest()
        assert shard["size_bytes"] == (out / name).stat().st_size
        assert shard["num_samples"] == table.num_rows
        assert shard["num_tokens"] == sum(len(document_of(row)) for row in table.to_pylist())
        # By hand: clips are of 12.5 s.
        assert shard["media_s"] == 12.5 * table["kind"].to_pylist().count("clip")
        assert shard["split"] == "train"
    # By hand: vision ids are 2 * (3 + 1) + 1 and 2 * (4 * (5 + 1) + 1); no merge shortens the metas.
    texts = sum(len(row["text_ids"]) + len(row["meta"]) for row in rows_of(out))
    assert manifest["num_tokens"] == written.num_tokens == texts + 3 * (9 + 5) + 2 * (50 + 5)
    assert manifest["num_samples"] == 5
    assert manifest["vocabulary_sha256"] == hashlib.sha256(small_vocabulary.read_bytes()).hexdigest()


def test_same_samples_in_any_order_give_the_same_bytes(write: Any, out: Path) -> None:
    kept = [kept_sample(number) for number in range(12)]
    found = []
    for seed in range(3):
        shuffled = random.Random(seed).sample(kept, len(kept))
        assert write(shuffled, shard_bytes=1000).changed
        found.append(contents(out))
        (out / "manifest.json").unlink()
    assert found[0] == found[1] == found[2]


def test_seed_changes_the_order_alone(write: Any, out: Path) -> None:
    orders = []
    for seed in (0, 1):
        write([kept_sample(number) for number in range(12)], seed=seed)
        orders.append([row["sample_id"] for row in rows_of(out)])
    assert orders[0] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1])
    assert orders[0] != sorted(orders[0])


def test_groups_of_units_follow_each_other_and_each_unit_is_read_once(write: Any, out: Path) -> None:
    # Four samples of 350 to 420 bytes in a unit: two units fit into 3500 bytes, three do not.
    ledger = FakeLedger([kept_sample(number) for number in range(16)], per_unit=4)
    write(ledger, shuffle_bytes=3500)
    units = [int(row["sample_id"].removeprefix("sample-")) // 4 for row in rows_of(out)]
    assert set(units[:8]) == {0, 1}
    assert set(units[8:]) == {2, 3}
    assert units[:8] != sorted(units[:8])
    assert ledger.asked == [0, 1, 2, 3]


def test_files_belong_to_runs_of_groups(write: Any, out: Path) -> None:
    # Groups of one unit of four samples, about 1,540 bytes; two of them fill a file of 2,000.
    ledger = FakeLedger([kept_sample(number) for number in range(16)], per_unit=4)
    write(ledger, shuffle_bytes=1, shard_bytes=2000)
    units = [
        {int(name.removeprefix("sample-")) // 4 for name in pq.read_table(path)["sample_id"].to_pylist()}
        for path in sorted(out.glob("*.parquet"))
    ]
    # Of each run of 3,080 bytes two files are made, of equal size; no file holds samples of two runs.
    assert [unit <= {0, 1} for unit in units] == [True, True, False, False]
    assert [unit <= {2, 3} for unit in units] == [False, False, True, True]
    one_by_one = [
        name
        for path in sorted(out.glob("*.parquet"))
        for name in pq.read_table(path)["sample_id"].to_pylist()
    ]
    write(ledger, shuffle_bytes=1, shard_bytes=100_000)
    assert [row["sample_id"] for row in rows_of(out)] == one_by_one


def both_splits() -> FakeLedger:
    kept = [kept_sample(number, source_id=f"source-{number // 3}") for number in range(60)]
    return FakeLedger(kept, per_unit=6)


SEVERAL_TASKS: dict[str, Any] = {
    "shuffle_bytes": 3000,
    "shard_bytes": 4000,
    "row_group_bytes": 1500,
    "validation_fraction": 0.3,
}


def test_who_writes_changes_nothing(tmp_path: Path, small_vocabulary: Path) -> None:
    """In this process in any order, each task twice, and by one and two workers of a cluster: same bytes."""
    writer = ShardWriter(ShardConfig(vocabulary=str(small_vocabulary), **SEVERAL_TASKS))
    tasks: list[FileTask] = []

    def in_odd_order(function: Any, arguments: Any) -> Iterator[Any]:
        tasks.extend(arguments)
        for task in reversed(arguments):
            function(task)  # a worker that was lost, or is slow
        return iter([function(task) for task in arguments])

    def on_workers(number: int) -> Spread:
        limits = {"limit": lambda: number, "check": lambda: None, "timeout_s": 60.0}
        return lambda function, arguments: on_cluster(function, arguments, **limits)

    ways: list[Spread] = [in_process, in_odd_order]
    found = []
    ray.init(num_cpus=2, include_dashboard=False, runtime_env={"env_vars": environment()})
    try:
        for number, spread in enumerate([*ways, on_workers(1), on_workers(2)]):
            writer.write(open_storage(str(tmp_path / str(number))), "", both_splits(), spread)
            found.append(contents(tmp_path / str(number)))
    finally:
        ray.shutdown()
    assert len(tasks) > 4
    assert {task.split for task in tasks} == {"train", "validation"}
    assert found[1:] == found[:1] * 3


def test_samples_that_change_meanwhile_are_noticed(write: Any, out: Path) -> None:
    class Shrinking(FakeLedger):
        """Once all have been counted, a unit has one less."""

        def kept(self, units: Iterable[int]) -> Iterator[pa.Table]:
            yield from super().kept(units)
            self._units[-1] = self._units[-1][:3]

    with pytest.raises(LedgerError, match="changed while"):
        write(Shrinking([kept_sample(number) for number in range(16)], per_unit=4), shuffle_bytes=1)
    assert not (out / "manifest.json").exists()


@pytest.mark.parametrize(
    ("codes", "words"),
    [
        (b"\0" * 10, "sample-2: 10 bytes are no grid of 1 x 2 x 3"),
        (b"", "sample-2: 0 bytes are no grid"),
        (np.array([1, 2, 3, 4, 5, 40_000], "<u2").tobytes(), "sample-2: code 40000 is beyond the codebook"),
    ],
)
def test_codes_that_are_no_grid_stop_the_run(write: Any, out: Path, codes: bytes, words: str) -> None:
    class Odd(FakeLedger):
        def codes_of(self, item: Kept) -> bytes:
            return codes if item.sample_id == "sample-2" else super().codes_of(item)

    with pytest.raises(TokenizeError, match=words):
        write(Odd(SIX))
    assert not (out / "manifest.json").exists()


def test_sample_without_codes_stops_the_run(write: Any) -> None:
    class Lacking(FakeLedger):
        def codes(self, units: Iterable[int]) -> Iterator[pa.Table]:
            return (table.slice(1) for table in super().codes(units))

    with pytest.raises(LedgerError, match="sample-0 is kept and has no codes"):
        write(Lacking(SIX))


def test_columns_that_stages_export(write: Any, out: Path) -> None:
    """They stand behind the scores that all shards have, and take the place of those of the same name."""
    exported = {
        "rank": Column(pa.int16(), "A rank.", exported=True),
        "flow_score": Column(pa.float64(), "Finer.", exported=True),
    }
    kept = [kept_sample(number, rank=number, flow_score=0.1) for number in range(3)]
    written = write(FakeLedger(kept, exported=exported))
    schema = pq.read_schema(next(out.glob("*.parquet")))
    assert schema.names == COLUMNS.replace("flow_score", "flow_score rank").split()
    assert (schema.field("rank").type, schema.field("flow_score").type) == (pa.int16(), pa.float64())
    assert {row["sample_id"]: (row["rank"], row["flow_score"]) for row in rows_of(out)} == {
        item.sample_id: (number, 0.1) for number, item in enumerate(kept)
    }
    assert list(written.columns) == schema.names
    assert written.columns["rank"].meaning == "A rank."
    assert not verify(open_storage(str(out)), "").problems


def test_column_with_a_name_of_the_shards_is_refused(small_vocabulary: Path) -> None:
    writer = ShardWriter(ShardConfig(vocabulary=str(small_vocabulary)))
    with pytest.raises(ConfigError, match="exports license"):
        writer.check({"license": Column(pa.string(), "Mine.", exported=True)})


def test_recipe_that_measures_no_score_has_their_columns(write: Any, out: Path) -> None:
    ledger = FakeLedger(SIX)
    ledger.exported = {}
    write(ledger)
    assert pq.read_schema(next(out.glob("*.parquet"))).names == COLUMNS.split()
    assert {row["aesthetic_score"] for row in rows_of(out)} == {None}


def test_manifest_tells_how_much_of_the_codebook_is_used(write: Any, out: Path) -> None:
    write(SIX, shard_bytes=1200)
    for shard in json.loads((out / "manifest.json").read_text())["shards"]:
        codes = pq.read_table(out / shard["name"])["codes"].to_pylist()
        counts = Counter(itertools.chain.from_iterable(np.frombuffer(code, "<u2").tolist() for code in codes))
        shares = [number / counts.total() for number in counts.values()]
        assert shard["codebook_use"]["num_codes"] == counts.total()
        assert shard["codebook_use"]["used_fraction"] == pytest.approx(len(counts) / 32_768, abs=1e-6)
        bits = -sum(share * math.log2(share) for share in shares)
        assert shard["codebook_use"]["entropy_bits"] == pytest.approx(bits, abs=1e-6)


def test_unit_larger_than_a_group_and_units_of_nothing(write: Any, out: Path) -> None:
    ledger = FakeLedger([kept_sample(number) for number in range(8)], per_unit=4)
    ledger._units = [[], *ledger._units, []]
    write(ledger, shuffle_bytes=1)
    units = [int(row["sample_id"].removeprefix("sample-")) // 4 for row in rows_of(out)]
    assert units == [0] * 4 + [1] * 4


def test_sizes_come_near_the_target(write: Any, out: Path) -> None:
    """The target is in bytes of the file: random codes can't be made smaller than 15 of 16 bits."""
    kept = [kept_sample(number, grid_t=1, grid_h=64, grid_w=64) for number in range(300)]
    write(kept, shard_bytes=900_000, row_group_bytes=300_000)
    paths = sorted(out.glob("*.parquet"))
    assert len(paths) == 3  # 300 * 8.5 kB
    for path in paths:
        assert 0.9 * 850_000 <= path.stat().st_size <= 900_000
        file = pq.ParquetFile(path)
        rows = [file.metadata.row_group(index).num_rows for index in range(file.num_row_groups)]
        assert rows[:2] == [35, 35]  # 35 * 8.53 kB are 299 kB
        assert sum(rows) == file.metadata.num_rows


@given(
    sides=st.lists(st.integers(1, 60), min_size=1, max_size=30),
    shard_bytes=st.integers(1, 20_000),
)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_as_many_shards_as_their_names_say_and_none_empty(
    write: Any, out: Path, sides: list[int], shard_bytes: int
) -> None:
    written = write(
        [kept_sample(number, grid_t=1, grid_h=side, grid_w=side) for number, side in enumerate(sides)],
        shard_bytes=shard_bytes,
    )
    names = sorted(path.name for path in out.glob("*.parquet"))
    number = written.num_shards
    assert names == [f"train-{index:05d}-of-{number:05d}.parquet" for index in range(number)]
    assert all(pq.read_metadata(out / name).num_rows for name in names)
    assert len(rows_of(out)) == len(sides)


def test_sources_are_split_as_a_whole(write: Any, out: Path) -> None:
    kept = [kept_sample(number, source_id=f"source-{number // 5}") for number in range(1000)]
    written = write(kept, validation_fraction=0.3, shard_bytes=50_000)
    assert written.splits == ("train", "validation")
    splits: dict[str, set[str]] = {"train": set(), "validation": set()}
    for path in out.glob("*.parquet"):
        for row in pq.read_table(path).to_pylist():
            assert path.name.startswith(row["split"])
            splits[row["split"]].add(row["source_id"])
    assert not splits["train"] & splits["validation"]
    # 200 draws of probability 0.3: 60 +- 6.5, here within five of that.
    assert 28 <= len(splits["validation"]) <= 92
    before = splits["validation"]
    write(kept[:500], validation_fraction=0.3)
    left = {row["source_id"] for row in rows_of(out) if row["split"] == "validation"}
    assert left == {name for name in before if int(name.removeprefix("source-")) < 100}


def test_nothing_new_leaves_the_files_alone(write: Any, out: Path) -> None:
    first = write(SIX, shard_bytes=1200)
    before = times(out)
    ledger = FakeLedger(SIX[::-1])
    second = write(ledger, shard_bytes=1200)
    assert times(out) == before
    assert ledger.asked == []
    assert second == replace(first, changed=False)


def test_fewer_samples_replace_the_shards_and_nothing_else(write: Any, out: Path) -> None:
    write(SIX, shard_bytes=800)
    (out / "README.md").write_text("the card")
    assert write(SIX[:3], shard_bytes=800).changed
    assert sorted(path.name for path in out.iterdir()) == [
        "README.md",
        "manifest.json",
        "train-00000-of-00002.parquet",
        "train-00001-of-00002.parquet",
    ]
    assert {row["sample_id"] for row in rows_of(out)} == {"sample-0", "sample-1", "sample-2"}


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param(lambda: ([*SIX[1:], kept_sample(0, caption="another")], {}), id="caption"),
        pytest.param(lambda: ([*SIX[1:], kept_sample(0, license="MIT")], {}), id="license"),
        pytest.param(
            lambda: ([*SIX[1:], Kept("sample-0", SIX[0].columns, "captions-1 tokens-2")], {}),
            id="other tokens",
        ),
        pytest.param(lambda: (SIX, {"understanding_fraction": 1.0}), id="task"),
        pytest.param(lambda: (SIX, {"image_meta": "{rows}x{cols}"}), id="meta"),
    ],
)
def test_changed_samples_or_settings_are_written_anew(write: Any, out: Path, changed: Any) -> None:
    write(SIX)
    before = contents(out)
    kept, settings = changed()
    assert write(kept, **settings).changed
    assert contents(out)["manifest.json"] != before["manifest.json"]


def test_missing_manifest_is_written_again(write: Any, out: Path) -> None:
    write(SIX)
    before = contents(out)
    (out / "manifest.json").unlink()
    assert write(SIX).changed
    assert contents(out) == before


@pytest.mark.parametrize("damage", ["truncated", "gone"])
def test_damaged_shard_is_written_again(write: Any, out: Path, damage: str) -> None:
    write(SIX, shard_bytes=1200)
    before = contents(out)
    shard = out / "train-00001-of-00002.parquet"
    if damage == "gone":
        shard.unlink()
    else:
        shard.write_bytes(before[shard.name][:-1])
    assert write(SIX, shard_bytes=1200).changed
    assert contents(out) == before


class BrokenLedger(FakeLedger):
    def codes(self, units: Iterable[int]) -> Iterator[pa.Table]:
        if 1 in units:
            raise ConnectionError("the bucket is gone")
        return super().codes(units)


def test_write_that_breaks_off_leaves_no_manifest(write: Any, out: Path) -> None:
    write(SIX, shard_bytes=800)
    more = [*SIX, kept_sample(6)]
    with pytest.raises(ConnectionError):
        write(BrokenLedger(more, per_unit=6), shard_bytes=800, shuffle_bytes=1)
    assert (out / "train-00000-of-00004.parquet").exists()
    assert not (out / "manifest.json").exists()
    assert write(more, shard_bytes=800).changed
    assert len(rows_of(out)) == 7


def test_no_samples_give_an_empty_manifest(write: Any, out: Path) -> None:
    write(SIX)
    written = write([])
    assert (written.num_shards, written.num_samples, written.num_tokens) == (0, 0, 0)
    assert [path.name for path in out.iterdir()] == ["manifest.json"]
    assert not write([]).changed


def test_vocabulary_is_checked(small_vocabulary: Path) -> None:
    digest = hashlib.sha256(small_vocabulary.read_bytes()).hexdigest()
    assert ShardWriter(ShardConfig(vocabulary=str(small_vocabulary))).check() == digest
    pinned = ShardConfig(vocabulary=str(small_vocabulary), vocabulary_sha256=digest)
    assert ShardWriter(pinned).check() == digest
    with pytest.raises(ConfigError, match="sha256"):
        ShardWriter(ShardConfig(vocabulary=str(small_vocabulary), vocabulary_sha256="0" * 64)).check()
    with pytest.raises(ConfigError, match="nowhere"):
        ShardWriter(ShardConfig(vocabulary="nowhere.tiktoken")).check()


@pytest.mark.parametrize(
    "chosen",
    [{"vocabulary": "v", "shard_bytes": 0}, {"vocabulary": "v", "shuffle": True}, {}],
    ids=["no rows", "unknown key", "no vocabulary"],
)
def test_config_is_refused(chosen: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ShardConfig(**chosen)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


@pytest.mark.usefixtures("offline")
def test_load_dataset_reads_them(write: Any, out: Path, tmp_path: Path) -> None:
    write(SIX, shard_bytes=1200)
    loaded = datasets.load_dataset(
        "parquet", data_files=str(out / "*.parquet"), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert loaded.column_names == COLUMNS.split()
    expected = rows_of(out)
    assert [row["sample_id"] for row in loaded] == [row["sample_id"] for row in expected]
    assert [document_of(row).tolist() for row in loaded] == [document_of(row).tolist() for row in expected]
    assert loaded[0]["codes"] == expected[0]["codes"]


@pytest.mark.usefixtures("offline")
def test_load_dataset_reads_the_folder(write: Any, out: Path, tmp_path: Path) -> None:
    write(SIX, shard_bytes=1200)
    loaded = datasets.load_dataset(str(out), cache_dir=str(tmp_path / "cache"))
    assert list(loaded) == ["train"]
    assert len(loaded["train"]) == 6
