"""CPU time of a 256 x 256 image tokenized by transformers' encode in full size, over ours."""

from __future__ import annotations

from benchmarks.tokenizing import compare


def ratio() -> float:
    found = compare(1, "reference", "ours")
    return found["reference"]["seconds"] / found["ours"]["seconds"]
