"""Puts other layers into a model."""

from __future__ import annotations

from collections.abc import Callable

import torch


def substitute(model: torch.nn.Module, other: Callable[[torch.nn.Module], torch.nn.Module | None]) -> None:
    """Replace, in place, the layers for which `other` gives one; None keeps a layer."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            replacement = other(child)
            if replacement is not None:
                setattr(parent, name, replacement)
