"""The PyTorch loader: workers, ranks, restarts, and that a model learns from what it gives."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from curation.errors import ConfigError
from curation.storage import open_storage
from curation.tokenize_shards.shards.loader import ShardDataset, collate_examples
from curation.tokenize_shards.shards.rows import document_of
from curation.tokenize_shards.shards.writer import ShardConfig, ShardWriter
from shard_samples import FakeLedger, Kept, kept_sample

CODES = 12
SETTINGS: dict[str, Any] = {"context": 256, "shuffle_bytes": 12_000}


class Stripes(FakeLedger):
    """Pictures that can be learned: a row of codes goes on where the caption says, one further each."""

    def codes_of(self, item: Kept) -> bytes:
        first, shape = int(item.columns["caption"]), (1, item.columns["grid_h"], item.columns["grid_w"])
        return ((np.arange(np.prod(shape)) + first) % CODES).astype("<u2").tobytes()


def stripes(number: int) -> Kept:
    shape = {"grid_t": 1, "grid_h": 2 + number % 3, "grid_w": 4 + number % 4}
    return kept_sample(2 * number, caption=str(number % CODES), **shape)


@pytest.fixture(scope="module")
def shards(small_vocabulary: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    config = ShardConfig(
        vocabulary=str(small_vocabulary), shard_bytes=8000, row_group_bytes=2000, validation_fraction=0.2
    )
    kept = [stripes(number) for number in range(400)]
    ShardWriter(config).write(open_storage(str(folder)), "", Stripes(kept))
    return folder


def batches(dataset: ShardDataset, workers: int = 0) -> DataLoader[Any]:
    return DataLoader(
        dataset,
        batch_size=2,
        num_workers=workers,
        collate_fn=collate_examples,
        multiprocessing_context="fork" if workers else None,  # no new interpreter: tests start many
    )


def ids_of(loader: Any) -> list[list[list[int]]]:
    return [batch["input_ids"].tolist() for batch in loader]


def documents_of(batch: dict[str, Any]) -> Iterator[tuple[int, ...]]:
    """The documents of a batch; 151,849 begins one, 151,643 is padding."""
    for start, end in itertools.pairwise(batch["cu_seqlens"].tolist()):
        ids = tuple(batch["input_ids"].reshape(-1)[start:end].tolist())
        if ids[0] == 151_849:
            yield ids
        else:
            assert set(ids) == {151_643}


def test_batch(shards: Path) -> None:
    batch = next(iter(batches(ShardDataset(str(shards), **SETTINGS))))
    assert {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in batch.items()} == {
        "input_ids": (torch.int64, (2, 256)),
        "loss_weight": (torch.float32, (2, 256)),
        "position_ids": (torch.int64, (2, 256)),
        "cu_seqlens": (torch.int32, tuple(batch["cu_seqlens"].shape)),
        "positions": (torch.int64, (2, 4)),
    }


@pytest.mark.slow
def test_ranks_and_workers_see_each_sample_once(shards: Path) -> None:
    alone = Counter(
        doc for batch in batches(ShardDataset(str(shards), **SETTINGS)) for doc in documents_of(batch)
    )
    rows = [row for path in shards.glob("train-*") for row in pq.read_table(path).to_pylist()]
    assert alone == Counter(tuple(document_of(row).tolist()) for row in rows)
    for workers in (0, 2):
        found: Counter[tuple[int, ...]] = Counter()
        for rank in range(2):
            dataset = ShardDataset(str(shards), rank=rank, world_size=2, **SETTINGS)
            found.update(doc for batch in batches(dataset, workers) for doc in documents_of(batch))
        assert found == alone


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "stops"), [(0, (1, 4)), (2, (3, 6))])
def test_restart_goes_on_with_the_next_batch(shards: Path, workers: int, stops: tuple[int, ...]) -> None:
    whole = ids_of(batches(ShardDataset(str(shards), **SETTINGS), workers))
    for stop in stops:
        assert stop < len(whole)
        dataset = ShardDataset(str(shards), **SETTINGS)
        for batch in itertools.islice(batches(dataset, workers), stop):
            dataset.note(batch)
        resumed = ShardDataset(str(shards), **SETTINGS)
        resumed.load_state_dict(dataset.state_dict())
        assert ids_of(batches(resumed, workers)) == whole[stop:]


def test_restart_in_the_process_itself(shards: Path) -> None:
    """As torchdata's loader takes states: of the dataset, without being told what was trained on."""
    dataset = ShardDataset(str(shards), **SETTINGS)
    iterator = iter(dataset)
    next(iterator), next(iterator)
    resumed = ShardDataset(str(shards), **SETTINGS)
    resumed.load_state_dict(dataset.state_dict())
    assert [example.sample_ids for example in resumed] == [example.sample_ids for example in iterator]


def test_epochs(shards: Path) -> None:
    dataset = ShardDataset(str(shards), **SETTINGS)
    first, second = ids_of(batches(dataset)), ids_of(batches(dataset))
    assert first != second
    dataset.set_epoch(0)
    assert ids_of(batches(dataset)) == first
    endless = iter(batches(ShardDataset(str(shards), endless=True, **SETTINGS)))
    assert len(list(itertools.islice(endless, 3 * len(first)))) == 3 * len(first)


@pytest.mark.slow
def test_state_with_other_workers_or_ranks_is_refused(shards: Path) -> None:
    dataset = ShardDataset(str(shards), **SETTINGS)
    next(iter(dataset))
    with pytest.raises(ConfigError, match="num_readers 1, now it is 2"):
        ShardDataset(str(shards), rank=0, world_size=2, **SETTINGS).load_state_dict(dataset.state_dict())
    resumed = ShardDataset(str(shards), **SETTINGS)
    resumed.load_state_dict(dataset.state_dict())
    with pytest.raises(ConfigError, match="saved with 1 workers, now there are 2"):
        next(iter(batches(resumed, 2)))
    with pytest.raises(ConfigError, match="rank 2 is none of 2 ranks"):
        ShardDataset(str(shards), rank=2, world_size=2, **SETTINGS)


class TinyTransformer(nn.Module):
    """Two layers of attention within documents; ids are numbered anew, from the few that there are."""

    def __init__(self, num_ids: int, width: int = 64) -> None:
        super().__init__()
        self.ids, self.places = nn.Embedding(num_ids, width), nn.Embedding(256, width)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.0, batch_first=True, norm_first=True)
            for _ in range(2)
        )
        self.out = nn.Linear(width, num_ids)

    def forward(self, batch: dict[str, Any], ids: torch.Tensor) -> torch.Tensor:
        bounds = torch.zeros(ids.numel(), dtype=torch.int64)
        bounds[batch["cu_seqlens"][:-1].long()] = 1
        document = bounds.cumsum(0).reshape(ids.shape)
        other = document[:, :, None] != document[:, None, :]
        later = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool).triu(1)
        mask = (other | later).repeat_interleave(4, dim=0)
        hidden = self.ids(ids) + self.places(batch["position_ids"])
        for layer in self.layers:
            hidden = layer(hidden, src_mask=mask)
        logits: torch.Tensor = self.out(hidden)
        return logits


def loss_of(model: nn.Module, batch: dict[str, Any], known: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy per weight, as Emu3 weighs it."""
    ids = torch.searchsorted(known, batch["input_ids"])
    logits = model(batch, ids)[:, :-1]
    loss = nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    weight = batch["loss_weight"][:, 1:].flatten()
    return (loss * weight).sum() / weight.sum()


def unigram_entropy(loader: Any) -> float:
    """What the best model that looks at no other id would lose: the entropy of ids by their weight."""
    weights: Counter[int] = Counter()
    for batch in loader:
        for name, weight in zip(
            batch["input_ids"].flatten().tolist(), batch["loss_weight"].flatten().tolist(), strict=True
        ):
            weights[name] += weight
    shares = np.array([weight for weight in weights.values() if weight]) / sum(weights.values())
    return float(-(shares * np.log(shares)).sum())


@pytest.mark.slow
def test_model_learns_from_the_shards(shards: Path) -> None:
    """The loss on sources that were not trained on falls below the entropy of single ids.

    That bound can't be passed without what came before in the same document, so ids, weights, positions
    and bounds must fit together. A third of it is asked for: stripes follow from caption and meta.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        torch.manual_seed(0)
        validation = list(batches(ShardDataset(str(shards), split="validation", **SETTINGS)))
        train = batches(ShardDataset(str(shards), endless=True, **SETTINGS))
        known = torch.unique(torch.cat([b["input_ids"].flatten() for b in itertools.islice(train, 60)]))
        model = TinyTransformer(len(known))
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        for batch in itertools.islice(train, 200):
            optimizer.zero_grad()
            loss_of(model, batch, known).backward()
            optimizer.step()
        with torch.no_grad():
            losses = [float(loss_of(model.eval(), batch, known)) for batch in validation]
    finally:
        torch.set_num_threads(threads)
    bound = unigram_entropy(validation)
    assert bound > 2  # nats: there is something to learn
    assert np.mean(losses) < bound / 3
