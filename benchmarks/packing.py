"""Packs that a sequential packer needs for images and text at 5,120 ids, over ours."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from benchmarks.measure import cpu_medians
from curation.tokenize_shards.documents.pack import Packer, assemble

CONTEXT, VIDEO_CONTEXT = 5_120, 131_072
WINDOW = 2_000
ASPECTS = (1, 4 / 3, 3 / 2, 16 / 9, 3 / 4, 2 / 3, 9 / 16)


def ratio() -> float:
    """Fill for several mixes of sizes, the least number of packs that is possible beside it."""
    rng = np.random.default_rng(0)
    image, smaller = _images(rng, 512, 4_000), _images(rng, 256, 4_000)
    text = np.clip(rng.lognormal(5.5, 1.0, 20_000), 16, 5_000).astype(np.int64)
    clips = image * rng.integers(4, 17, 4_000)
    half = text[: int(np.searchsorted(np.cumsum(text), image.sum()))]
    mixes = {
        "images of 512*512": (image, CONTEXT),
        "and of 256*256": (np.concatenate([image, smaller]), CONTEXT),
        "images of 512*512, half text": (np.concatenate([image, half]), CONTEXT),
        "images and clips": (np.concatenate([image, clips]), VIDEO_CONTEXT),
    }
    ratios = {}
    for name, (sizes, context) in mixes.items():
        ratios[name] = _compare(name, rng.permutation(sizes), context)
    _speed(rng.permutation(np.concatenate([image, half])))
    return ratios["images of 512*512, half text"]


def _images(rng: np.random.Generator, side: int, number: int) -> NDArray[np.int64]:
    """Lengths of documents: an area of side * side at usual aspect ratios, about 100 ids of caption."""
    aspect = rng.choice(ASPECTS, number)
    columns = np.round(side * np.sqrt(aspect) / 8).astype(np.int64)
    rows = np.round(side / np.sqrt(aspect) / 8).astype(np.int64)
    caption = np.clip(rng.lognormal(4.6, 0.5, number), 10, 600).astype(np.int64)
    return np.asarray(rows * (columns + 1) + 1 + 5 + 5 + caption, np.int64)


def _compare(name: str, sizes: NDArray[np.int64], context: int) -> float:
    ours, naive = len(_pack(sizes, context)), len(_sequential(sizes, context))
    fills = {"ours": ours, "sequential": naive, "bound": _least(sizes, context)}
    shown = ", ".join(f"{way} {sizes.sum() / (number * context):.1%}" for way, number in fills.items())
    print(f"      {context:,} ids, {name}: {shown}")
    return naive / ours


def _pack(sizes: NDArray[np.int64], context: int) -> list[list[int]]:
    packer = Packer[int](context)
    packs = []
    for start in range(0, len(sizes), WINDOW):
        window = [(start + place, int(size)) for place, size in enumerate(sizes[start : start + WINDOW])]
        packs += packer.plan(window, is_last=start + WINDOW >= len(sizes))
    return packs


def _sequential(sizes: NDArray[np.int64], context: int) -> list[list[int]]:
    """In the order as they come; a document that does not fit opens the next pack."""
    packs: list[list[int]] = [[]]
    room = context
    for index, size in enumerate(sizes.tolist()):
        if size > room:
            packs.append([])
            room = context
        packs[-1].append(index)
        room -= size
    return packs


def _least(sizes: NDArray[np.int64], context: int) -> int:
    """No packer can do with fewer: bound L2 of Martello and Toth (1990)."""
    best = -(-int(sizes.sum()) // context)
    for small in {0, *sizes[sizes <= context // 2].tolist()}:
        middle = sizes[(sizes <= context - small) & (sizes > context // 2)]
        filling = sizes[(sizes >= small) & (sizes <= context // 2)].sum()
        over = max(0, int(filling) - (len(middle) * context - int(middle.sum())))
        best = max(best, int((sizes > context - small).sum()) + len(middle) + -(-over // context))
    return best


def _speed(sizes: NDArray[np.int64]) -> None:
    """Planning packs of real ids, over planning and filling them."""
    documents = [np.full(size, 200_000, np.int32) for size in sizes.tolist()]

    def build(plan: list[list[int]]) -> None:
        for members in plan:
            assemble([documents[index] for index in members], CONTEXT)

    ours_s, naive_s, built_s, naive_built_s = cpu_medians(
        lambda: _pack(sizes, CONTEXT),
        lambda: _sequential(sizes, CONTEXT),
        lambda: build(_pack(sizes, CONTEXT)),
        lambda: build(_sequential(sizes, CONTEXT)),
    )
    ours_us, naive_us = 1e6 * ours_s / len(sizes), 1e6 * naive_s / len(sizes)
    print(
        f"      planning: {ours_us:.1f} us a document, sequential {naive_us:.1f}; "
        f"planned and filled: {built_s / naive_built_s:.2f} of the sequential packer's CPU time"
    )
