"""The two UNets: one looks at the pictures, once; the other denoises, at every step, and remembers what the first saw.

Both have the shape of Stable Diffusion 1.5's: four resolutions down, a middle, four up, with skip connections. What
follows a residual block differs, so `UNet.walk` is told by its caller.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Generic, Protocol, TypeVar

import torch
from diffusers.models.downsampling import Downsample2D
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn
from torch.nn import functional

from hallo2.attention import KeysValues
from hallo2.config import Hallo2Config
from hallo2.modules import Modules
from hallo2.resnet import GroupNorm, ResidualBlock, in_float32
from hallo2.transformers import (
    CLIP_FRAMES,
    AudioTransformer,
    MotionModule,
    RegionContext,
    SpatialContext,
    SpatialTransformer,
    to_picture,
    to_tokens,
)


@dataclass(frozen=True)
class BlockPlan:
    """What one block of a UNet is made of.

    Attributes:
        in_channels: of each residual block, skip connections included.
        channels: of every residual block's output.
        level: 0 for the latents' resolution, 1 for half of it, up to 3.
        audio_dims: inner width of the audio transformer behind each residual block with transformers; empty in blocks
            without attention.
    """

    in_channels: tuple[int, ...]
    channels: int
    level: int
    audio_dims: tuple[int, ...]


def plan(config: Hallo2Config) -> tuple[list[BlockPlan], BlockPlan, list[BlockPlan]]:
    """The blocks down, in the middle and up.

    The widths of the audio transformers follow the published weights: on the way down the first one has the width of
    the block before; on the way up all have the width of the next block.
    """
    widths = config.block_out_channels
    down = []
    for level, (before, width) in enumerate(pairwise((widths[0], *widths))):
        audio_dims = (before, width) if level < 3 else ()
        down.append(BlockPlan((before, width), width, level, audio_dims))
    middle = BlockPlan((widths[3], widths[3]), widths[3], 3, (widths[3],))
    up = []
    for level in (3, 2, 1, 0):
        below, width, above = widths[min(level + 1, 3)], widths[level], widths[max(level - 1, 0)]
        in_channels = (below + width, width + width, width + above)
        up.append(BlockPlan(in_channels, width, level, (above,) * 3 if level < 3 else ()))
    return down, middle, up


class UNetBlock(nn.Module):
    """The residual blocks of one resolution, the spatial transformers behind them, and the change of resolution."""

    def __init__(self, plan: BlockPlan, config: Hallo2Config, resample: str | None = None) -> None:
        super().__init__()
        time_dim = 4 * config.block_out_channels[0]
        self.resnets = Modules[ResidualBlock](ResidualBlock(c, plan.channels, time_dim) for c in plan.in_channels)
        self.attentions = Modules[SpatialTransformer](
            SpatialTransformer(plan.channels, config.attention_heads, config.cross_attention_dim)
            for _ in plan.audio_dims
        )
        self.downsamplers = Modules[Downsample2D]()
        self.upsamplers = Modules[Upsample2D]()
        if resample == "down":
            self.downsamplers.append(Downsample2D(plan.channels, use_conv=True, name="op"))
        elif resample == "up":
            self.upsamplers.append(Upsample2D(plan.channels, use_conv=True))


class DenoisingBlock(UNetBlock):
    """A block that also has audio and temporal transformers behind its residual blocks."""

    def __init__(self, plan: BlockPlan, config: Hallo2Config, resample: str | None = None) -> None:
        super().__init__(plan, config, resample)
        heads = config.attention_heads
        self.level = plan.level
        self.audio_modules = Modules[AudioTransformer](
            AudioTransformer(plan.channels, dim, heads, config.audio_attention_dim) for dim in plan.audio_dims
        )
        # In blocks without attention the published weights have motion modules that the published code never runs. The
        # block in the middle has one less than residual blocks.
        modules = len(plan.audio_dims) or len(plan.in_channels)
        self.motion_modules = Modules[MotionModule](MotionModule(plan.channels, heads) for _ in range(modules))


Block = TypeVar("Block", bound=UNetBlock)


class UNet(nn.Module, Generic[Block]):
    """What both UNets share: everything but what follows the residual blocks and the output."""

    def __init__(self, config: Hallo2Config, block: type[Block]) -> None:
        super().__init__()
        width = config.block_out_channels[0]
        down, middle, up = plan(config)
        self.conv_in = nn.Conv2d(4, width, 3, padding=1)
        self.time_proj = Timesteps(width, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_embedding = TimestepEmbedding(width, 4 * width)
        self.down_blocks = Modules[Block](block(p, config, "down" if p.level < 3 else None) for p in down)
        self.mid_block = block(middle, config)
        self.up_blocks = Modules[Block](block(p, config, "up" if p.level > 0 else None) for p in up)

    def time(self, timestep: Tensor) -> Tensor:
        """The embeddings of timesteps in float32, (n,) -> (n, 4 * block_out_channels[0])."""
        hidden = in_float32(self.time_embedding.linear_1, self.time_proj(timestep))
        return in_float32(self.time_embedding.linear_2, functional.silu(hidden))

    def walk(self, x: Tensor, time: Tensor, transform: Callable[[Block, int, Tensor], Tensor]) -> Tensor:
        """Down, through the middle and up.

        Args:
            x: what `conv_in` gave, (n, c, h, w).
            time: the time embedding, (1, 4 * c).
            transform: called as transform(block, i, x) behind the i-th residual block of each block that has
                transformers; returns x, transformed.
        """
        skips = [x]
        for block in self.down_blocks:
            for i, resnet in enumerate(block.resnets):
                x = resnet(x, time)
                if block.attentions:
                    x = transform(block, i, x)
                skips.append(x)
            for downsample in block.downsamplers:
                x = downsample(x)
                skips.append(x)

        x = self.mid_block.resnets[0](x, time)
        x = transform(self.mid_block, 0, x)
        x = self.mid_block.resnets[1](x, time)

        for block in self.up_blocks:
            for i, resnet in enumerate(block.resnets):
                x = resnet(torch.cat([x, skips.pop()], dim=1), time)
                if block.attentions:
                    x = transform(block, i, x)
            for upsample in block.upsamplers:
                x = upsample(x)
        return x


class ReferenceUNet(UNet[UNetBlock]):
    """Looks at the reference image and the motion frames and hands over what its spatial transformers see."""

    def __init__(self, config: Hallo2Config) -> None:
        super().__init__(config, UNetBlock)

    def forward(self, latents: Tensor, face_tokens: Tensor) -> list[Tensor]:
        """The features of every layer that has transformers, in the order in which a pass reaches them.

        Args:
            latents: (n, 4, h, w), as the VAE scales them.
            face_tokens: (n, face_tokens, cross_attention_dim).

        Returns:
            A list of (n, h_l, w_l, c_l) pictures as (n, c_l, h_l, w_l), l over the layers.
        """
        features: list[Tensor] = []

        def transform(block: UNetBlock, i: int, x: Tensor) -> Tensor:
            out, seen = block.attentions[i].with_features(x, face_tokens)
            features.append(to_picture(seen, like=x))
            return out

        timestep = torch.zeros(1, device=latents.device)
        self.walk(self.conv_in(latents), self.time(timestep), transform)
        return features


@dataclass(frozen=True)
class PortraitContext:
    """What one layer (the transformers behind one residual block) is conditioned on during a whole video."""

    spatial: SpatialContext
    region: RegionContext


@dataclass(frozen=True)
class ClipContext(PortraitContext):
    """What one layer is conditioned on during one clip.

    Attributes:
        speech: for each region keys and values of the audio tokens, one row for each frame.
        motion: features of the motion frames, (halves * MOTION_FRAMES, c, h, w).
    """

    speech: tuple[KeysValues, ...]
    motion: Tensor


@dataclass(frozen=True)
class Regions:
    """Where the speech moves the picture, and how strongly.

    Attributes:
        masks: full, face, lip; of each the masks of the four resolutions, (1, h * w).
        motion_scale: the weight of each.
    """

    masks: tuple[tuple[Tensor, ...], ...]
    motion_scale: tuple[float, ...]

    def at(self, level: int) -> list[Tensor]:
        """The masks of one resolution, as a factor of its tokens: full, face, lip, each (1, h * w, 1)."""
        return [pyramid[level].unsqueeze(-1) for pyramid in self.masks]


class Denoiser(Protocol):
    """Predicts the velocity of 16 frames' latents; see `DenoisingUNet`, which is the readable one."""

    def portrait_contexts(self, features: Sequence[Tensor], face_tokens: Tensor, regions: Regions) -> list[Any]:
        """What stays the same during a video."""

    def clip_contexts(self, portrait: Sequence[Any], motion: Sequence[Tensor], audio_tokens: Tensor) -> list[Any]:
        """What stays the same during a clip."""

    def times(self, timesteps: Tensor) -> Sequence[Any]:
        """What it makes of each time, which stays the same for all videos."""

    def __call__(self, latents: Tensor, time: Any, contexts: Sequence[Any], face_features: Tensor) -> Tensor:
        """The predicted velocity."""


class DenoisingUNet(UNet[DenoisingBlock]):
    """Predicts the velocity of 16 frames' latents."""

    def __init__(self, config: Hallo2Config) -> None:
        super().__init__(config, DenoisingBlock)
        self.conv_norm_out = GroupNorm(config.block_out_channels[0], eps=1e-5)
        self.conv_out = nn.Conv2d(config.block_out_channels[0], 4, 3, padding=1)

    def layers(self) -> Iterator[tuple[DenoisingBlock, int]]:
        """The blocks that have transformers, with the index of each, in the order in which a pass reaches them."""
        for block in (*self.down_blocks, self.mid_block, *self.up_blocks):
            for i in range(len(block.attentions)):
                yield block, i

    def portrait_contexts(
        self, features: Sequence[Tensor], face_tokens: Tensor, regions: Regions
    ) -> list[PortraitContext]:
        """What stays the same during a video, for every layer.

        Args:
            features: of the reference image, without and with identity, (2, c, h, w) of every layer.
            face_tokens: (halves, face_tokens, cross_attention_dim).
            regions: where the speech moves the picture.
        """
        contexts = []
        for (block, i), reference in zip(self.layers(), features, strict=True):
            contexts.append(
                PortraitContext(
                    block.attentions[i].context(to_tokens(reference), face_tokens),
                    block.audio_modules[i].region(regions.at(block.level), regions.motion_scale),
                )
            )
        return contexts

    def clip_contexts(
        self, portrait: Sequence[PortraitContext], motion: Sequence[Tensor], audio_tokens: Tensor
    ) -> list[ClipContext]:
        """What stays the same during a clip, for every layer.

        Args:
            portrait: what stays the same during the video.
            motion: features of the motion frames, (halves * MOTION_FRAMES, c, h, w) of every layer.
            audio_tokens: (CLIP_FRAMES, audio_tokens, audio_attention_dim).
        """
        return [
            ClipContext(video.spatial, video.region, block.audio_modules[i].speech(audio_tokens), frames)
            for (block, i), video, frames in zip(self.layers(), portrait, motion, strict=True)
        ]

    def times(self, timesteps: Tensor) -> tuple[Tensor, ...]:
        """The embedding of each of some timesteps (n,), n of (1, 4 * block_out_channels[0])."""
        return torch.split(self.time(timesteps), 1)

    def forward(self, latents: Tensor, time: Tensor, contexts: Sequence[ClipContext], face_features: Tensor) -> Tensor:
        """The predicted velocity.

        Args:
            latents: (halves * CLIP_FRAMES, 4, h, w), the unconditional half first.
            time: the embedding of the time.
            contexts: of every layer.
            face_features: what the face locator gave, (1, c, h, w); only the conditional half sees it.

        Returns:
            (halves * CLIP_FRAMES, 4, h, w).
        """
        remaining = iter(contexts)

        def transform(block: DenoisingBlock, i: int, x: Tensor) -> Tensor:
            context = next(remaining)
            x = block.attentions[i](x, context.spatial)
            x = block.audio_modules[i](x, context.speech, context.region)
            out: Tensor = block.motion_modules[i](x, context.motion)
            return out

        x = self.conv_in(latents)
        unconditional, conditional = x[:-CLIP_FRAMES], x[-CLIP_FRAMES:] + face_features
        x = self.walk(torch.cat([unconditional, conditional]), time, transform)
        out: Tensor = self.conv_out(functional.silu(self.conv_norm_out(x)))
        return out
