"""CPU time of eight 256 x 256 frames tokenized by transformers' modules in full size, over ours."""

from __future__ import annotations

from benchmarks.tokenizing import compare


def ratio() -> float:
    found = compare(8, "reference", "ours")
    return found["reference"]["seconds"] / found["ours"]["seconds"]
