"""Residual blocks, in which every pass over memory does all that can be done in it."""

from __future__ import annotations

from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn
from torch.nn import functional

from hallo2.fused.operations import apart, bias_of, convolved, grouped
from hallo2.kernels import add_bias
from hallo2.resnet import ResidualBlock


class FusedResidual:
    """As `ResidualBlock`, or diffusers' `ResnetBlock2D` without a time embedding."""

    def __init__(self, block: ResidualBlock | ResnetBlock2D) -> None:
        self.block = block
        self.shortcut = block.conv_shortcut if isinstance(block.conv_shortcut, nn.Conv2d) else None
        self.channels: int = block.conv2.out_channels
        self.bias = bias_of(block.conv2) + (bias_of(self.shortcut) if self.shortcut else 0)

    def __call__(self, x: Tensor, height: int, shift: Tensor, skip: Tensor | None = None) -> Tensor:
        """(n, h * w, in) -> (n, h * w, out).

        Args:
            x: the picture.
            height: its height.
            shift: the time shift with the first convolution's bias, (1, out).
            skip: the last of x's channels where it comes by a skip connection; the two are nowhere laid side by side.
        """
        parts = apart(x)
        if len(parts) == 1:
            return self._rows(x, height, shift, skip)
        out = x.new_empty(*x.shape[:-1], self.channels)
        for rows in parts:
            out[rows] = self._rows(x[rows], height, shift, None if skip is None else skip[rows])
        return out

    def _rows(self, x: Tensor, height: int, shift: Tensor, skip: Tensor | None) -> Tensor:
        block = self.block
        hidden = convolved(block.conv1, grouped(block.norm1, x, silu=True, beside=skip), height)
        hidden = convolved(block.conv2, grouped(block.norm2, hidden, silu=True, shift=shift), height)
        if self.shortcut is None:
            return add_bias(x, hidden, self.bias)
        weight = self.shortcut.weight.flatten(1)
        if skip is not None:
            own = x.shape[-1]
            hidden.flatten(0, 1).addmm_(x.flatten(0, 1), weight[:, :own].t())
            x, weight = skip, weight[:, own:]
        out: Tensor = hidden.add_(functional.linear(x, weight, self.bias))
        return out
