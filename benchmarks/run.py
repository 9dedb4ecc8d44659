"""Runs every benchmark, or those that are named: python -m benchmarks.run [NAME ...]"""

from __future__ import annotations

import importlib
import sys

NAMES = (
    "decode_once",
    "filter_pass",
    "image_filters",
    "text_detectors",
    "image_tokens",
    "clip_tokens",
    "documents",
    "sampled_scenes",
    "packing",
    "loader",
    "clusters",
    "ledger_scale",
    "reports",
    "flat_memory",
    "start_up",
    "nodes",
    "many_workers",
    "listing",
    "captions",
    "estimate",
    "shards",
)


def main(names: list[str]) -> None:
    """Print one line per benchmark."""
    for name in names or NAMES:
        module = importlib.import_module(f"benchmarks.{name}")
        print(f"{module.ratio():.2f}  {(module.__doc__ or '').splitlines()[0]}")


if __name__ == "__main__":
    main(sys.argv[1:])
