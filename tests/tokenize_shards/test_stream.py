"""Reading shards: each sample once, in an order that follows from seed and epoch, from any position on."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from curation.errors import ConfigError, StorageError
from curation.storage import open_storage
from curation.tokenize_shards.shards.rows import document_of
from curation.tokenize_shards.shards.stream import Example, Position, ShardStream
from curation.tokenize_shards.shards.writer import ShardConfig, ShardWriter
from shard_samples import FakeLedger, kept_sample

NUM_SAMPLES = 120
SETTINGS: dict[str, Any] = {"context": 256, "shuffle_bytes": 12_000}


@pytest.fixture(scope="module")
def shards(small_vocabulary: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 samples in shards of about 10 rows, in row groups of about 3."""
    folder = tmp_path_factory.mktemp("shards")
    config = ShardConfig(vocabulary=str(small_vocabulary), shard_bytes=4000, row_group_bytes=1200)
    kept = [kept_sample(number) for number in range(NUM_SAMPLES)]
    ShardWriter(config).write(open_storage(str(folder)), "", FakeLedger(kept))
    return folder


@pytest.fixture(scope="module")
def documents(shards: Path) -> dict[str, list[int]]:
    rows = [row for path in shards.glob("*.parquet") for row in pq.read_table(path).to_pylist()]
    return {row["sample_id"]: document_of(row).tolist() for row in rows}


def names(examples: list[Example]) -> list[tuple[str, ...]]:
    return [example.sample_ids for example in examples]


def flat(examples: list[Example]) -> list[str]:
    return [name for example in examples for name in example.sample_ids]


@pytest.mark.parametrize("context", [256, None])
def test_packs_hold_each_document_once_and_whole(
    shards: Path, documents: dict[str, list[int]], context: int | None
) -> None:
    stream = ShardStream(str(shards), context=context, shuffle_bytes=12_000)
    found: Counter[str] = Counter()
    for example in stream:
        pack = example.pack
        assert context in (None, len(pack.input_ids))
        assert pack.num_documents == len(example.sample_ids)
        for number, name in enumerate(example.sample_ids):
            ids = pack.input_ids[pack.cu_seqlens[number] : pack.cu_seqlens[number + 1]]
            assert ids.tolist() == documents[name]
            found[name] += 1
    assert found == Counter(dict.fromkeys(documents, 1))
    if context:
        assert stream.fill.num_documents == NUM_SAMPLES


@pytest.mark.parametrize("num_readers", [2, 3, 7, 60])
def test_readers_share_the_samples(shards: Path, num_readers: int) -> None:
    shares = [
        flat(list(ShardStream(str(shards), reader=reader, num_readers=num_readers, **SETTINGS)))
        for reader in range(num_readers)
    ]
    together = Counter(name for share in shares for name in share)
    assert together == Counter({f"sample-{number}": 1 for number in range(NUM_SAMPLES)})
    if num_readers <= 3:
        sizes = [len(share) for share in shares]
        assert max(sizes) < 1.3 * min(sizes)


def test_order_follows_from_seed_and_epoch(shards: Path) -> None:
    stream = ShardStream(str(shards), **SETTINGS)
    first, second = list(stream), list(stream)
    assert stream.position == Position(1, len(second))
    assert names(first) != names(second)
    assert sorted(flat(first)) == sorted(flat(second))
    again = ShardStream(str(shards), **SETTINGS)
    assert names(list(again)) == names(first)
    again.set_epoch(1)
    assert names(list(again)) == names(second)
    other = ShardStream(str(shards), seed=1, **SETTINGS)
    assert names(list(other)) != names(first)
    endless = ShardStream(str(shards), endless=True, **SETTINGS)
    both = [*first, *second]
    assert names(list(itertools.islice(endless, len(both)))) == names(both)


def test_readers_get_another_share_in_the_next_epoch(shards: Path) -> None:
    stream = ShardStream(str(shards), reader=0, num_readers=2, **SETTINGS)
    first, second = set(flat(list(stream))), set(flat(list(stream)))
    # Of two random halves, a half of the one is in the other.
    assert 0.2 < len(first & second) / len(first) < 0.8


def test_neighbors_in_a_shard_are_far_apart(shards: Path) -> None:
    stored = [
        name
        for path in sorted(shards.glob("*.parquet"))
        for name in pq.read_table(path)["sample_id"].to_pylist()
    ]
    place = {name: index for index, name in enumerate(stored)}
    read = [place[name] for name in flat(list(ShardStream(str(shards), **SETTINGS)))]
    # Of a random order, two of 120 that follow each other were 40 apart in the mean.
    assert np.abs(np.diff(read)).mean() > 20


@pytest.mark.parametrize("reader", [0, 1])
def test_every_position_can_be_resumed(shards: Path, reader: int) -> None:
    def stream() -> ShardStream:
        return ShardStream(str(shards), reader=reader, num_readers=2, endless=True, **SETTINGS)

    one = stream()
    number = 30  # more than an epoch
    states, seen = [one.state_dict()], []
    for example in itertools.islice(one, number):
        seen.append(example)
        states.append(one.state_dict())
    assert one.position.epoch > 0
    for index, state in enumerate(states[:-1]):
        resumed = stream()
        resumed.load_state_dict(json.loads(json.dumps(state)))
        rest = list(itertools.islice(resumed, min(number - index, 6)))
        assert names(rest) == names(seen[index : index + 6])
        assert [example.position for example in rest] == [
            example.position for example in seen[index : index + 6]
        ]
        assert np.array_equal(rest[0].pack.input_ids, seen[index].pack.input_ids)


def test_resuming_reads_no_codes_of_what_was_read(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from curation.tokenize_shards.shards import blocks

    read: list[tuple[str, ...]] = []
    real = blocks._read_part

    def counted(storage: Any, part: Any, columns: tuple[str, ...]) -> Any:
        read.append(columns)
        return real(storage, part, columns)

    monkeypatch.setattr(blocks, "_read_part", counted)
    whole = list(ShardStream(str(shards), **SETTINGS))
    num_groups = read.count(("num_tokens",))
    assert sum("codes" in columns for columns in read) == num_groups  # each row group once
    read.clear()
    resumed = ShardStream(str(shards), **SETTINGS)
    resumed.position = Position(0, len(whole) - 1)
    assert len(list(resumed)) == 1
    assert read.count(("num_tokens",)) == num_groups
    assert 0 < sum("codes" in columns for columns in read) < num_groups / 2


def test_state_of_something_else_is_refused(shards: Path) -> None:
    state = ShardStream(str(shards), **SETTINGS).state_dict()
    for changed in ({"context": 300}, {"seed": 5}, {"num_readers": 2}, {"shuffle_bytes": 1}):
        other = ShardStream(str(shards), **{**SETTINGS, **changed})
        with pytest.raises(ConfigError, match=f"the state was saved with {next(iter(changed))}"):
            other.load_state_dict(state)


def test_documents_that_are_too_long_are_left_out_and_counted(
    shards: Path, documents: dict[str, list[int]]
) -> None:
    stream = ShardStream(str(shards), context=80)
    fitting = {name for name, ids in documents.items() if len(ids) <= 80}
    assert 0 < len(fitting) < NUM_SAMPLES
    assert set(flat(list(stream))) == fitting
    assert stream.fill.num_too_long == NUM_SAMPLES - len(fitting)


def test_reader_without_anything(shards: Path) -> None:
    assert list(ShardStream(str(shards), context=8)) == []
    with pytest.raises(ConfigError, match="reader 0 of 1 has nothing to read"):
        next(iter(ShardStream(str(shards), context=8, endless=True)))


def test_shards_that_are_not_there(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no finished shards"):
        ShardStream(str(tmp_path))
    with pytest.raises(ConfigError, match="no validation shards; it has train"):
        ShardStream(str(shards), split="validation")


def test_damaged_shard_stops_the_reader(shards: Path, tmp_path: Path) -> None:
    for path in shards.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    shard = sorted(tmp_path.glob("*.parquet"))[2]
    whole = bytearray(shard.read_bytes())
    group = pq.read_metadata(shard).row_group(0)
    columns = [group.column(index) for index in range(group.num_columns)]
    (codes,) = (column for column in columns if column.path_in_schema == "codes")
    whole[codes.data_page_offset + codes.total_compressed_size - 8] ^= 1  # one code, still a grid
    shard.write_bytes(whole)
    with pytest.raises(StorageError, match=f"{shard.name} can't be read: .*CRC"):
        list(ShardStream(str(tmp_path)))
    shard.write_bytes(whole[:100])
    with pytest.raises(StorageError, match=shard.name):
        list(ShardStream(str(tmp_path)))
    shard.unlink()
    with pytest.raises(StorageError, match=shard.name):
        list(ShardStream(str(tmp_path)))
