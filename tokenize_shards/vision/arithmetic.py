"""The arithmetic of the vision tokenizer: torch's flags for a precision, and whether a machine has it."""

from __future__ import annotations

import os
import shutil
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from curation.errors import ConfigError, MissingDependencyError
from curation.pipeline.precision import float32_products
from curation.tokenize_shards.vision.tokenizer import Precision

_HAS_TF32 = (8, 0)
"""Compute capability of NVIDIA's Ampere; older GPUs would silently compute in float32."""


def check_precision(precision: Precision, device: str) -> None:
    """Make sure that a machine computes in this precision, and not in another under its name.

    Raises:
        ConfigError: it has no TF32.
        MissingDependencyError: it has a GPU, but not what kernels are built with.
    """
    if precision in ("tf32", "tf32x3") and not _has_tf32(device):
        raise ConfigError(
            f"tokens.precision: {precision} is computed by NVIDIA GPUs from Ampere on, and here is none; "
            "fp32 is computed everywhere"
        )
    if device == "cuda":
        _check_compiler()


def _has_tf32(device: str) -> bool:
    if device != "cuda":
        return False
    import torch

    return torch.cuda.get_device_capability() >= _HAS_TF32


def _check_compiler() -> None:
    """Triton, which torch.compile builds kernels with, calls a C compiler and includes Python's header."""
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    header = Path(sysconfig.get_path("include")) / "Python.h"
    if not compiler or not header.exists():
        raise MissingDependencyError(
            "tokens on a GPU need a C compiler and Python's header, with which torch builds kernels; "
            "fetch them by: apt-get install gcc python3-dev"
        )


@contextmanager
def computing(precision: Precision, device: str) -> Iterator[None]:
    """Set all flags that the numbers of this device depend on, and leave them as they were.

    On a GPU cuDNN takes the first algorithm of its list, which depends on shapes, card and version alone.
    With `benchmark` it would be the quickest of those for which there is memory at that moment. In fp32 cuDNN
    is not used: its first choices take up to 140 GB there, and the next one follows where they don't fit.
    """
    import torch

    with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
        if device == "cpu":
            yield
            return
        tf32 = precision in ("tf32", "tf32x3")
        with (
            float32_products(tf32=tf32),
            torch.backends.cudnn.flags(
                enabled=precision != "fp32", benchmark=False, deterministic=True, allow_tf32=tf32
            ),
        ):
            yield
