"""Feeds shards to PyTorch: each rank and each of its workers reads a share of its own.

    dataset = ShardDataset("output/shards/NAME", context=5120, endless=True)
    loader = DataLoader(dataset, batch_size=8, num_workers=4, collate_fn=collate_examples, pin_memory=True)
    for batch in loader:
        ...                                  # batch["input_ids"].to(device, non_blocking=True)
        dataset.note(batch)                  # it has been trained on
    torch.save({"data": dataset.state_dict(), ...})

A restart with `load_state_dict`, and as many ranks and workers as before, goes on with the next batch.
Without `endless` an epoch has each sample once, and ranks may end some batches apart; with it none ends.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch.utils.data import IterableDataset, get_worker_info

from curation.errors import ConfigError
from curation.storage import open_storage
from curation.storage.buckets.aside import read_aside
from curation.tokenize_shards.documents.pack import Pack, collate
from curation.tokenize_shards.shards.manifest import MANIFEST, Manifest, parse_manifest
from curation.tokenize_shards.shards.stream import Example, Position, ShardStream, check_identity


class ShardDataset(IterableDataset[Example]):
    """The packs of one rank, for `torch.utils.data.DataLoader` or torchdata's StatefulDataLoader.

    With workers the data are read in other processes, so this object learns from `note` how far training
    is; torchdata's loader asks its workers itself. Unless `endless`, call `set_epoch` before each epoch, as
    with PyTorch's DistributedSampler.
    """

    def __init__(
        self, folder: str, *, rank: int | None = None, world_size: int | None = None, **settings: Any
    ) -> None:
        """Choose the share of a rank.

        Args:
            folder: Folder or URL of the shards.
            rank: This rank; by default torch.distributed's, 0 where that is not in use.
            world_size: Ranks that share the split; likewise.
            settings: As for `ShardStream`.

        Raises:
            ConfigError: there are no such shards, or they are packed for another context.
        """
        in_group = torch.distributed.is_available() and torch.distributed.is_initialized()
        self._rank = rank if rank is not None else torch.distributed.get_rank() if in_group else 0
        self._world_size = (
            world_size if world_size is not None else torch.distributed.get_world_size() if in_group else 1
        )
        if not 0 <= self._rank < self._world_size:
            raise ConfigError(f"rank {self._rank} is none of {self._world_size} ranks")
        self._folder, self._settings = folder, settings | {"manifest": _manifest_of(folder)}
        self._epoch, self._at_end = 0, False
        self._positions: dict[int, Position] = {}
        self._num_streams: int | None = None
        self._first_stream = 0
        # What is wrong with the shards is said now.
        identity = self._stream(0, 1).state_dict()["of"]
        self._identity = identity | {"reader": self._rank, "num_readers": self._world_size}

    def __iter__(self) -> Iterator[Example]:
        """The rest of the epoch, or without end; of this worker's stream."""
        if self._at_end:
            self.set_epoch(self._epoch + 1)
        worker = get_worker_info()
        number = worker.num_workers if worker is not None else 1
        if self._num_streams not in (None, number):
            raise ConfigError(f"the state was saved with {self._num_streams} workers, now there are {number}")
        # A loader asks its first worker first: that one takes the stream whose turn it is.
        index = ((worker.id if worker is not None else 0) + self._first_stream) % number
        stream = self._stream(index, number)
        stream.position = self._positions.get(index, Position(self._epoch))
        for example in stream:
            self._positions[index], self._num_streams = example.position, number
            yield replace(example, stream=(index, number))
        self._at_end = True

    def _stream(self, index: int, number: int) -> ShardStream:
        reader, num_readers = self._rank * number + index, self._world_size * number
        return ShardStream(self._folder, reader=reader, num_readers=num_readers, **self._settings)

    def note(self, batch: Mapping[str, Any]) -> None:
        """Take down how far training is: `batch` is what `collate_examples` gave, and is done."""
        for index, number, epoch, place in batch["positions"].tolist():
            self._positions[index] = Position(epoch, place)
            self._num_streams, self._first_stream = number, (index + 1) % number

    def set_epoch(self, epoch: int) -> None:
        """Begin this epoch when it is iterated next."""
        self._epoch, self._at_end = epoch, False
        self._positions, self._num_streams, self._first_stream = {}, None, 0

    def state_dict(self) -> dict[str, Any]:
        """Where every stream is that this process knows of."""
        positions = {str(index): [place.epoch, place.index] for index, place in self._positions.items()}
        return {
            "positions": positions,
            "num_streams": self._num_streams,
            "first_stream": self._first_stream,
            "epoch": self._epoch,
            "of": self._identity,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken.

        Raises:
            ConfigError: it was taken with other shards, settings, rank or number of ranks.
        """
        check_identity(state["of"], self._identity)
        self._positions = {int(index): Position(*place) for index, place in state["positions"].items()}
        self._num_streams, self._first_stream = state["num_streams"], state["first_stream"]
        self._epoch, self._at_end = state["epoch"], False


def _manifest_of(folder: str) -> Manifest | None:
    """The manifest of shards in a bucket, read so that a loader may fork this process; else None."""
    if open_storage(folder).is_local:
        return None
    url = f"{folder.rstrip('/')}/{MANIFEST}"
    data = read_aside(url)
    return None if data is None else parse_manifest(data, url)


def collate_examples(examples: Sequence[Example]) -> dict[str, Any]:
    """A batch of packs as tensors.

    `input_ids`, `position_ids` int64 and `loss_weight` float32 [batch, context]; `cu_seqlens` int32 over the
    batch as one sequence; `positions` for `ShardDataset.note`.
    """
    packs: list[Pack] = [example.pack for example in examples]
    batch = {name: torch.from_numpy(array) for name, array in collate(packs).items()}
    batch["input_ids"], batch["position_ids"] = batch["input_ids"].long(), batch["position_ids"].long()
    batch["positions"] = torch.tensor(
        [[*example.stream, example.position.epoch, example.position.index] for example in examples]
    )
    return batch
