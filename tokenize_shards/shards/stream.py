"""Reads shards as packs for training: shuffled, shared out among readers, and resumable anywhere.

The order of an epoch follows from the seed, the epoch and the number of readers alone. Row groups of all
shards are shuffled and dealt out; a reader takes a few of them into memory at a time, shuffles their rows,
and packs them. A position is therefore two numbers, the epoch and the packs read of it. To come back to
it, a reader plans the packs before it again, for which it reads the lengths of documents and no codes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from curation.errors import ConfigError
from curation.storage import open_storage
from curation.tokenize_shards.documents.pack import VISION_WEIGHT, Fill, Pack, Packer, assemble
from curation.tokenize_shards.shards.blocks import Block, RowGroupShare, read_block, read_lengths
from curation.tokenize_shards.shards.manifest import MANIFEST, SPLITS, Manifest, Shard, read_manifest

PARTS_PER_READER = 8
"""Where there are fewer row groups than this for each reader, they are dealt out in parts."""

Address = tuple[int, int, int]
"""Number of the block, place in its shuffled order, row in the block."""


@dataclass(frozen=True)
class Position:
    """How far a reader is: the epoch, and how many packs of it have been read."""

    epoch: int = 0
    index: int = 0


@dataclass(frozen=True)
class Example:
    """A pack, the samples in it in order, and the position behind it."""

    pack: Pack
    sample_ids: tuple[str, ...]
    position: Position
    stream: tuple[int, int] = (0, 1)
    """Number of the stream among those of its rank, and how many these are."""


class ShardStream:
    """The share of one of `num_readers` readers in a split.

    Iterating yields the rest of the epoch that `position` is in; iterating again, the next epoch. Together
    the readers see every sample once in an epoch, but for documents longer than the context, which `fill`
    counts. How many packs a reader gets is not known before, and differs a little between them: with
    `endless` one epoch follows the other, so that no reader ends before another.
    """

    def __init__(
        self,
        folder: str,
        *,
        split: str = "train",
        context: int | None = None,
        reader: int = 0,
        num_readers: int = 1,
        seed: int = 0,
        endless: bool = False,
        shuffle_bytes: int = 64_000_000,
        vision_weight: float = VISION_WEIGHT,
        manifest: Manifest | None = None,
    ) -> None:
        """Read the manifest, unless it is known.

        Args:
            folder: Folder or URL of the shards.
            split: "train" or "validation".
            context: Ids of a pack; None yields documents one by one, or the packs of packed shards.
            reader: Number of this reader, from 0.
            num_readers: Readers that share the split.
            seed: Of the order.
            endless: Go on with the next epoch.
            shuffle_bytes: Bytes of row groups that are held and shuffled together, about.
            vision_weight: Weight of the loss on vision tokens.
            manifest: That of the folder.

        Raises:
            ConfigError: there are no such shards, or they are packed for another context.
        """
        self.position = Position()
        self.fill = Fill(context or 0)
        self._storage, self._seed, self._endless = open_storage(folder), seed, endless
        self._reader, self._num_readers = reader, num_readers
        self._shuffle_bytes, self._vision_weight = shuffle_bytes, vision_weight
        self._at_end = False
        manifest = manifest or read_manifest(self._storage, "")
        if manifest is None:
            raise ConfigError(f"{folder} holds no finished shards: there is no {MANIFEST} in it")
        self._shards = manifest.of_split(split)
        if not self._shards:
            there = [name for name in SPLITS if manifest.of_split(name)]
            raise ConfigError(f"{folder} has no {split} shards; it has {', '.join(there) or 'none at all'}")
        if manifest.context is not None and context not in (None, manifest.context):
            raise ConfigError(f"{folder} is packed for a context of {manifest.context}, not of {context}")
        self._packed = manifest.context is not None
        self._context = manifest.context or context
        self._identity = {
            "shards": manifest.selection,
            "split": split,
            "context": self._context,
            "seed": seed,
            "reader": reader,
            "num_readers": num_readers,
            "shuffle_bytes": shuffle_bytes,
        }

    def state_dict(self) -> dict[str, Any]:
        """The position, and what it is a position in."""
        return {"epoch": self.position.epoch, "index": self.position.index, "of": self._identity}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to a position; the next pack is the one that was next when the state was taken.

        Raises:
            ConfigError: it was taken with other shards or settings, in which it means another place.
        """
        check_identity(state["of"], self._identity)
        self.position, self._at_end = Position(state["epoch"], state["index"]), False

    def set_epoch(self, epoch: int) -> None:
        """Go to the beginning of an epoch."""
        self.position, self._at_end = Position(epoch), False

    def __iter__(self) -> Iterator[Example]:
        """The rest of the epoch, or without end."""
        if self._at_end:
            self.set_epoch(self.position.epoch + 1)
        while True:
            yield from self._epoch()
            self._at_end = True
            if not self._endless:
                return
            if self.position.index == 0:
                raise ConfigError(
                    f"reader {self._reader} of {self._num_readers} has nothing to read: there are fewer "
                    f"samples than readers, or none that fits into {self._context} ids"
                )
            self.set_epoch(self.position.epoch + 1)

    def count_packs(self) -> int:
        """How many packs the present epoch has, from the lengths of documents alone."""
        epoch = self.position.epoch
        return sum(1 for _ in self._packs(_Held(self, self._blocks(epoch)), epoch))

    def _epoch(self) -> Iterator[Example]:
        start = self.position
        blocks = _Held(self, self._blocks(start.epoch))
        for index, members in enumerate(self._packs(blocks, start.epoch), start=1):
            if index > start.index:
                self.position = Position(start.epoch, index)
                yield self._example(blocks, members)

    def _example(self, blocks: _Held, members: list[Address]) -> Example:
        found = [(blocks[number], row) for number, _, row in sorted(members)]
        documents = [ids for block, row in found for ids in block.documents(row)]
        sample_ids = tuple(name for block, row in found for name in block.sample_ids(row))
        context = self._context or sum(map(len, documents))
        return Example(assemble(documents, context, self._vision_weight), sample_ids, self.position)

    def _packs(self, blocks: _Held, epoch: int) -> Iterator[list[Address]]:
        """The packs of an epoch, as the rows that they are made of."""
        packer = Packer[Address](self._context or 0)
        self.fill = packer.fill
        for number in range(len(blocks)):
            lengths = blocks.lengths(number)
            random = np.random.default_rng([self._seed, epoch, self._reader, number])
            order = random.permutation(len(lengths)).tolist()
            window = [((number, place, row), int(lengths[row])) for place, row in enumerate(order)]
            if self._packed or self._context is None:
                packs = [[address] for address, _ in window]
            else:
                planned = packer.plan(window, is_last=number == len(blocks) - 1)
                packs = [planned[index] for index in random.permutation(len(planned))]
            yield from packs

    def _blocks(self, epoch: int) -> list[list[RowGroupShare]]:
        """The parts of row groups that this reader gets in an epoch, as they are held together."""
        order = np.random.default_rng([self._seed, epoch]).permutation(len(self._parts))
        blocks: list[list[RowGroupShare]] = []
        held_bytes = 0.0
        for place in order[self._reader :: self._num_readers]:
            part, size = self._parts[place]
            if not blocks or held_bytes + size > self._shuffle_bytes:
                blocks.append([])
                held_bytes = 0.0
            blocks[-1].append(part)
            held_bytes += size
        return blocks

    @cached_property
    def _parts(self) -> list[tuple[RowGroupShare, float]]:
        """Every part of every row group, and its bytes, about."""
        num_groups = sum(shard.num_row_groups for shard in self._shards)
        num_parts = (
            max(1, -(-PARTS_PER_READER * self._num_readers // num_groups)) if self._num_readers > 1 else 1
        )
        return [
            (RowGroupShare(shard.name, group, part, num_parts), _bytes_of_group(shard) / num_parts)
            for shard in self._shards
            for group in range(shard.num_row_groups)
            for part in range(num_parts)
        ]


def check_identity(saved: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Make sure that a state is one of these shards and settings, in which its numbers mean the same place.

    Raises:
        ConfigError: it is not; the message names the setting.
    """
    for name, value in own.items():
        if saved.get(name) != value:
            raise ConfigError(f"the state was saved with {name} {saved.get(name)!r}, now it is {value!r}")


def _bytes_of_group(shard: Shard) -> float:
    return shard.size_bytes / shard.num_row_groups


class _Held:
    """The blocks of an epoch. The present one is held, and the one before, of which documents may wait."""

    def __init__(self, stream: ShardStream, blocks: list[list[RowGroupShare]]) -> None:
        self._storage, self._packed = stream._storage, stream._packed
        self._parts = blocks
        self._held: dict[int, Block] = {}

    def __len__(self) -> int:
        return len(self._parts)

    def lengths(self, number: int) -> Any:
        """Numbers of ids of a block's rows."""
        return read_lengths(self._storage, self._parts[number])

    def __getitem__(self, number: int) -> Block:
        if number not in self._held:
            self._held = {other: block for other, block in self._held.items() if other >= number - 1}
            self._held[number] = read_block(self._storage, self._parts[number], packed=self._packed)
        return self._held[number]
