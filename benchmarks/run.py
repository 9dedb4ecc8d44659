"""Runs every benchmark: python -m benchmarks.run"""

from __future__ import annotations

from benchmarks import (
    decode_once,
    filter_pass,
    flat_memory,
    image_filters,
    image_tokens,
    loader,
    packing,
    sampled_scenes,
)


def main() -> None:
    """Print one line per benchmark."""
    modules = (
        decode_once,
        filter_pass,
        image_filters,
        image_tokens,
        sampled_scenes,
        packing,
        loader,
        flat_memory,
    )
    for module in modules:
        print(f"{module.ratio():.2f}  {(module.__doc__ or '').splitlines()[0]}")


if __name__ == "__main__":
    main()
