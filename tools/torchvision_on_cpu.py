"""Lets torchvision's CUDA wheel be imported beside a CPU build of torch, for tests.

The wheel's native library cannot be loaded there, and `import torchvision` then fails at the first
operator that it wants to describe ("operator torchvision::nms does not exist"). Image processors need
only its Python half, so it is enough that the two names exist: they are declared just before
torchvision is first imported. Nothing is imported until then.
"""

from __future__ import annotations

import importlib.abc
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

_OPERATORS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_libraries: list[Any] = []


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> None:
        """Finds nothing; declares the operators when torchvision is looked for."""
        if name == "torchvision":
            sys.meta_path.remove(self)
            _declare()


def _declare() -> None:
    import torch

    if torch.version.cuda is not None or _libraries:
        return
    library = torch.library.Library("torchvision", "FRAGMENT")
    for operator in _OPERATORS:
        library.define(operator)
    _libraries.append(library)


def install() -> None:
    """Called by a .pth file at the start of Python, which may read such files twice."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
