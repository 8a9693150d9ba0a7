"""Residual blocks and the normalisation before every convolution and transformer."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class GroupNorm(nn.GroupNorm):
    """Group normalisation in 32 groups, each frame by itself, that keeps the channels-last layout."""

    def __init__(self, channels: int, eps: float) -> None:
        super().__init__(32, channels, eps)

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) -> the same shape.

        torch's own kernels either go through the other layout (CUDA), or take the variance as the difference of two
        large numbers where the layout is channels-last (CPU): half of float32's digits are lost in groups of few.
        """
        # Flattened, because a picture of one pixel passes for channels-last however it is laid out.
        rows = x.contiguous().flatten(2)
        normed = functional.group_norm(rows, self.num_groups, self.weight, self.bias, self.eps)
        return normed.view(x.shape).contiguous(memory_format=torch.channels_last)


def in_float32(linear: nn.Linear, x: Tensor) -> Tensor:
    """A linear map in float32: of the time, because what rounding does to it is the same for all pixels."""
    return functional.linear(x.float(), linear.weight.float(), linear.bias.float())


class ResidualBlock(nn.Module):
    """Two convolutions, shifted by the time embedding in between, on top of the input (key part `resnets`)."""

    def __init__(self, in_channels: int, out_channels: int, time_channels: int) -> None:
        super().__init__()
        self.norm1 = GroupNorm(in_channels, eps=1e-5)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.time_emb_proj = nn.Linear(time_channels, out_channels)
        self.norm2 = GroupNorm(out_channels, eps=1e-5)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """(n, in_channels, h, w) and the time embedding (1, time_channels) in float32 -> (n, out_channels, h, w)."""
        shift = in_float32(self.time_emb_proj, functional.silu(time))[:, :, None, None]
        hidden = self.conv1(functional.silu(self.norm1(x))) + shift.to(x.dtype)
        hidden = self.conv2(functional.silu(self.norm2(hidden)))
        out: Tensor = self.conv_shortcut(x) + hidden
        return out
