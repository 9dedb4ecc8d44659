"""Memory of the GPU that this process uses, as torch knows it."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

CONTEXT_BYTES = 2**29
"""What CUDA and the libraries' handles take of a GPU, which torch does not count. Estimated from above."""


@dataclass(frozen=True)
class DeviceMemory:
    """How much of a GPU is used.

    Attributes:
        peak_bytes: The most that this process has held so far, its context included.
        free_bytes: What nobody uses.
        total_bytes: What the card has.
    """

    peak_bytes: int
    free_bytes: int
    total_bytes: int

    def __str__(self) -> str:
        sizes = (self.peak_bytes, self.free_bytes, self.total_bytes)
        return "at most {:.1f} GB held here, {:.1f} GB free of {:.1f} GB".format(*(s / 1e9 for s in sizes))


def device_memory() -> DeviceMemory | None:
    """The memory of the current GPU; None where torch uses none, or the GPU is lost to this process."""
    cuda = _cuda()
    if cuda is None:
        return None
    try:
        free_bytes, total_bytes = cuda.mem_get_info()
    except RuntimeError:
        return None
    return DeviceMemory(cuda.max_memory_reserved() + CONTEXT_BYTES, free_bytes, total_bytes)


def release_memory() -> None:
    """Give back to the GPU what torch keeps for later."""
    cuda = _cuda()
    if cuda is not None:
        cuda.empty_cache()


def _cuda() -> Any:
    """`torch.cuda`, if a stage has used it; importing torch here would cost those that have not."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_initialized() else None
