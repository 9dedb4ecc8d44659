"""In which precision a model computes, set for as long as it does.

    with computing("tf32", "cuda"):
        embeddings = tower(pixels)

torch's own flags belong to a process, and several models share one: each says here what it wants, and leaves
the flags as they were.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

Precision = Literal["fp32", "tf32", "bf16"]
"""`fp32`: IEEE. `tf32`: products of float32 with 10 bits of mantissa, on GPUs; a CPU computes fp32.
`bf16`: torch's autocast, with 7 bits of mantissa, on either."""

DEFAULT: Precision = "tf32"
"""What a model computes in unless told otherwise: on a CPU the numbers of fp32, on a GPU close to them."""


def stated(precision: Precision) -> str:
    """What the dataset card says of a precision."""
    return "tf32 (on a CPU fp32)" if precision == "tf32" else precision


@contextmanager
def computing(precision: Precision, device: str) -> Iterator[None]:
    """Compute without gradients in this precision."""
    import torch

    with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
        if device == "cpu":  # some know TF32, too, and the flags would count there
            yield
            return
        with float32_products(tf32=precision == "tf32"):
            yield


@contextmanager
def float32_products(*, tf32: bool) -> Iterator[None]:
    """Set whether float32 matrix products and convolutions may be computed in TF32.

    The flags are those that torch.compile reads: where they were set by `fp32_precision`, which is newer, it
    refuses to compile (https://github.com/pytorch/pytorch/issues/166387).
    """
    import torch

    cudnn = torch.backends.cudnn
    matmul = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    try:
        with cudnn.flags(
            enabled=cudnn.enabled,
            benchmark=cudnn.benchmark,
            benchmark_limit=cudnn.benchmark_limit,
            deterministic=cudnn.deterministic,
            allow_tf32=tf32,
        ):
            yield
    finally:
        torch.set_float32_matmul_precision(matmul)
