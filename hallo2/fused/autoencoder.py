"""The autoencoder, with its residual blocks, its last norms and its enlargements replaced."""

from __future__ import annotations

from diffusers import AutoencoderKL
from diffusers.models.resnet import ResnetBlock2D
from einops import rearrange
from torch import Tensor, nn

from hallo2.fused.operations import bias_of, grouped
from hallo2.fused.residual import FusedResidual
from hallo2.transformers import to_tokens
from hallo2.upsample import PhasedUpsample


class FusedResnet(nn.Module):
    """As diffusers' `ResnetBlock2D` without a time embedding."""

    def __init__(self, block: ResnetBlock2D) -> None:
        super().__init__()
        self.block = block
        self.residual = FusedResidual(block)
        self.shift = bias_of(block.conv1)

    def forward(self, x: Tensor, temb: None = None) -> Tensor:  # noqa: ARG002 - what diffusers calls it with
        """(n, in, h, w) -> (n, out, h, w), both in channels-last layout."""
        out = self.residual(to_tokens(x).contiguous(), x.shape[-2], self.shift)
        return rearrange(out, "n (h w) c -> n c h w", h=x.shape[-2])


class FusedGroupNorm(nn.Module):
    """Group norm and the SiLU behind it."""

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) -> the same shape, both in channels-last layout."""
        return rearrange(
            grouped(self.norm, to_tokens(x).contiguous(), silu=True), "n (h w) c -> n c h w", h=x.shape[-2]
        )


def fuse_autoencoder(vae: AutoencoderKL) -> None:
    """Have the autoencoder's own modules replaced; what it computes is the same but for rounding."""
    for half in (vae.encoder, vae.decoder):
        half.conv_norm_out, half.conv_act = FusedGroupNorm(half.conv_norm_out), nn.Identity()
    for block in (*vae.encoder.down_blocks, vae.encoder.mid_block, vae.decoder.mid_block, *vae.decoder.up_blocks):
        block.resnets = nn.ModuleList(FusedResnet(resnet) for resnet in block.resnets)
    for block in vae.decoder.up_blocks:
        if block.upsamplers:
            block.upsamplers = nn.ModuleList(PhasedUpsample(upsampler.conv) for upsampler in block.upsamplers)
