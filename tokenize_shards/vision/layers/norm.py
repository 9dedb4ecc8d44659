"""Group norm that is as exact for pictures whose channels lie together in memory as for others.

torch's own is not on a CPU (5.9e-3 relative against 5e-7, 64 channels), and on a GPU it copies such pictures.
"""

from __future__ import annotations

import torch


class MomentNorm(torch.nn.Module):
    """What `torch.nn.GroupNorm` computes, up to rounding, in float32; the layout in memory stays."""

    def __init__(self, norm: torch.nn.GroupNorm) -> None:
        super().__init__()
        self.weight, self.bias = norm.weight, norm.bias
        self._num_groups, self._eps = norm.num_groups, norm.eps

    def forward(self, pictures: torch.Tensor, _: None = None) -> torch.Tensor:
        """[N, C, H, W] float32 of [N, C, H, W]; transformers gives some norms a second argument."""
        groups = torch.unflatten(pictures.float(), 1, (self._num_groups, -1))
        variance, mean = torch.var_mean(groups, dim=(2, 3, 4), correction=0, keepdim=True)
        normalized = ((groups - mean) * torch.rsqrt(variance + self._eps)).flatten(1, 2)
        scaled: torch.Tensor = normalized * self.weight[:, None, None] + self.bias[:, None, None]
        return scaled
