"""Packs whole documents into sequences of a fixed length.

Emu3 trains on 5,120 ids (text and images) and on 131,072 (with video). A document is never cut: an
image that is torn in two teaches nothing. One that is longer than the context is left out and counted.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from curation.errors import ConfigError
from curation.tokenize_shards.documents.text import FIRST_VISUAL, PAD

VISION_WEIGHT = 0.5
"""Weight of the loss on vision tokens; Emu3, section 2.3."""
CARRIED_FRACTION = 0.1
"""Share of a window's packs, the least filled, whose documents wait for the next window."""

Ints = NDArray[np.int64]
T = TypeVar("T")


@dataclass(frozen=True)
class Pack:
    """A training sequence of whole documents, padded at its end.

    Attributes:
        input_ids: [context] int32; padding is 151,643.
        loss_weight: [context] float32, the weight of predicting the id at this place: 0.5 for visual codes,
            1 for all others, 0 for padding and for the first id of a document, which nothing precedes.
        position_ids: [context] int32, from 0 in each document.
        cu_seqlens: [segments + 1] int32 bounds for attention, from 0 to context. Padding is a segment of
            its own behind the documents.
        num_documents: Documents in it.
    """

    input_ids: NDArray[np.int32]
    loss_weight: NDArray[np.float32]
    position_ids: NDArray[np.int32]
    cu_seqlens: NDArray[np.int32]
    num_documents: int

    @property
    def num_tokens(self) -> int:
        """Ids that are no padding."""
        return int(self.cu_seqlens[self.num_documents])


@dataclass
class Fill:
    """How well packs were filled, and what was left out for its length."""

    context: int
    num_packs: int = 0
    num_documents: int = 0
    num_tokens: int = 0
    num_too_long: int = 0
    num_tokens_too_long: int = 0

    @property
    def fraction(self) -> float:
        """Share of the packs' ids that are no padding, 0..1."""
        return self.num_tokens / (self.num_packs * self.context) if self.num_packs else 0.0


def assemble(
    documents: Sequence[NDArray[np.int32]], context: int, vision_weight: float = VISION_WEIGHT
) -> Pack:
    """Put documents one after the other into a sequence of `context` ids.

    Raises:
        ConfigError: they are longer than that.
    """
    lengths = [len(document) for document in documents]
    total = sum(lengths)
    if total > context:
        raise ConfigError(f"{total} ids do not fit into a context of {context}")
    input_ids = np.full(context, PAD, np.int32)
    if documents:
        np.concatenate(documents, out=input_ids[:total])
    segments = [*lengths, context - total] if total < context else lengths
    cu_seqlens = np.concatenate([[0], np.cumsum(segments)]).astype(np.int32)
    starts = cu_seqlens[:-1]
    loss_weight = np.where(input_ids >= FIRST_VISUAL, np.float32(vision_weight), np.float32(1.0))
    loss_weight[total:] = 0.0
    loss_weight[starts] = 0.0
    position_ids = np.arange(context, dtype=np.int32) - np.repeat(starts, segments)
    return Pack(input_ids, loss_weight, position_ids, cu_seqlens, len(documents))


def plan_packs(lengths: Sequence[int] | Ints, context: int) -> list[list[int]]:
    """Which documents go together: lists of indices into `lengths`, each list at most `context` ids.

    Two ways are tried and the one with fewer packs is taken: neither is better for all mixes of sizes.

    Raises:
        ConfigError: a document is longer than the context.
    """
    sizes = np.asarray(lengths, np.int64)
    if sizes.size and sizes.max() > context:
        raise ConfigError(f"a document of {sizes.max()} ids does not fit into a context of {context}")
    packs = best_fit_decreasing(sizes, context)
    if len(packs) == -(-int(sizes.sum()) // context):
        return packs  # it can't be done with fewer
    return min(packs, closed_by_pairs(sizes, context), key=len)


def best_fit_decreasing(sizes: Ints, context: int) -> list[list[int]]:
    """From the longest to the shortest, each into the pack that it leaves the least room in."""
    packs: list[list[int]] = []
    rooms: list[tuple[int, int]] = []
    for index in np.argsort(-sizes, kind="stable").tolist():
        size = int(sizes[index])
        place = bisect.bisect_left(rooms, (size, 0))
        if place < len(rooms):
            room, number = rooms.pop(place)
        else:
            room, number = context, len(packs)
            packs.append([])
        packs[number].append(index)
        bisect.insort(rooms, (room - size, number))
    return packs


def closed_by_pairs(sizes: Ints, context: int) -> list[list[int]]:
    """One pack after the other: the longest document that is left opens it, the best pair closes it.

    In between, the longest that fits goes in while another one of its size would still fit. This finds the
    middling ones that fill a gap exactly, where going from long to short has used up one of them.
    """
    stock = _Stock(sizes)
    packs = []
    while len(stock.sizes):
        room = context - int(stock.sizes[-1])
        pack = [stock.take(len(stock.sizes) - 1)]
        while chosen := _next(stock, room):
            room -= sum(int(stock.sizes[place]) for place in chosen)
            # From the highest place down, so that taking one does not move the other.
            pack += [stock.take(place) for place in sorted(chosen, reverse=True)]
        packs.append(pack)
    return packs


class _Stock:
    """Documents that are left, by size.

    Attributes:
        sizes: Sizes that are there, each once, ascending.
        counts: How many there are of each.
    """

    def __init__(self, lengths: Ints) -> None:
        order = np.argsort(lengths, kind="stable")
        self.sizes, starts, self.counts = np.unique(lengths[order], return_index=True, return_counts=True)
        self._members = {
            int(size): order[start : start + count][::-1].tolist()
            for size, start, count in zip(self.sizes, starts, self.counts, strict=True)
        }

    def take(self, place: int) -> int:
        """The index of a document of the size at `place`; the first that is left."""
        index: int = self._members[int(self.sizes[place])].pop()
        self.counts[place] -= 1
        if not self.counts[place]:
            self.sizes, self.counts = np.delete(self.sizes, place), np.delete(self.counts, place)
        return index


def _next(stock: _Stock, room: int) -> list[int]:
    """Places of the sizes to take next; none if nothing fits."""
    longest = int(np.searchsorted(stock.sizes, room, side="right")) - 1
    if longest < 0:
        return []
    size = int(stock.sizes[longest])
    if room >= 2 * size and stock.counts[longest] > 1:
        return [longest]
    pair, total = _best_pair(stock, room, longest)
    return pair if total > size else [longest]


def _best_pair(stock: _Stock, room: int, longest: int) -> tuple[list[int], int]:
    """Two places whose sizes come nearest to `room` from below, and their sum; 0 where there are none."""
    sizes = stock.sizes[: longest + 1]
    own = np.arange(longest + 1)
    partner = np.minimum(np.searchsorted(sizes, room - sizes, side="right") - 1, own)
    partner = np.where((partner == own) & (stock.counts[: longest + 1] < 2), partner - 1, partner)
    totals = np.where(partner >= 0, sizes + sizes[partner], 0)
    best = int(np.argmax(totals))
    return [best, int(partner[best])], int(totals[best])


class Packer(Generic[T]):
    """Packs a stream of documents, a window at a time.

    The least filled packs of a window are taken apart again and their documents get a second chance in the
    next window, so a document waits for one window at most and memory is bounded.
    """

    def __init__(self, context: int) -> None:
        """Items of the stream are anything that stands for a document, such as its address."""
        self.fill = Fill(context)
        self._carried: list[tuple[T, int]] = []

    def plan(self, window: Sequence[tuple[T, int]], *, is_last: bool) -> list[list[T]]:
        """Packs of this window and of what was carried over to it.

        Args:
            window: Documents and their numbers of ids.
            is_last: Nothing may be carried over any more.
        """
        fitting = [item for item in window if item[1] <= self.fill.context]
        items = [*self._carried, *fitting]
        self.fill.num_too_long += len(window) - len(fitting)
        self.fill.num_tokens_too_long += sum(size for _, size in window) - sum(size for _, size in fitting)
        packs = plan_packs([size for _, size in items], self.fill.context)
        totals = [sum(items[index][1] for index in pack) for pack in packs]
        waits = set() if is_last else self._least_filled(packs, totals)
        self._carried = [items[index] for number in sorted(waits) for index in packs[number]]
        done = [number for number in range(len(packs)) if number not in waits]
        self.fill.num_packs += len(done)
        self.fill.num_documents += sum(len(packs[number]) for number in done)
        self.fill.num_tokens += sum(totals[number] for number in done)
        return [[items[index][0] for index in packs[number]] for number in done]

    def _least_filled(self, packs: list[list[int]], totals: list[int]) -> set[int]:
        """Packs to take apart; none that holds a document which has waited already, and no full one."""
        free = [
            number
            for number, pack in enumerate(packs)
            if min(pack) >= len(self._carried) and totals[number] < self.fill.context
        ]
        free.sort(key=lambda number: (totals[number], number))
        return set(free[: int(len(packs) * CARRIED_FRACTION)])


def collate(packs: Sequence[Pack]) -> dict[str, Any]:
    """A batch: arrays of [batch, context], and `cu_seqlens` over the batch laid out as one sequence."""
    context = len(packs[0].input_ids)
    bounds = [pack.cu_seqlens[1:] + index * context for index, pack in enumerate(packs)]
    return {
        "input_ids": np.stack([pack.input_ids for pack in packs]),
        "loss_weight": np.stack([pack.loss_weight for pack in packs]),
        "position_ids": np.stack([pack.position_ids for pack in packs]),
        "cu_seqlens": np.concatenate([[0], *bounds]).astype(np.int32),
    }
