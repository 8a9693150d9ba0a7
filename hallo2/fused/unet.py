"""The denoising UNet in fused modules."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from hallo2.fused.audio import FusedAudio, FusedRegionContext, FusedSpeechContext
from hallo2.fused.operations import PARITIES, apart, bias_of, by_parity, grouped, let_go, packed
from hallo2.fused.residual import FusedResidual
from hallo2.fused.spatial import FusedSpatial, FusedSpatialContext
from hallo2.fused.temporal import FusedTemporal
from hallo2.transformers import CLIP_FRAMES, MOTION_FRAMES, to_tokens
from hallo2.unet import DenoisingBlock, DenoisingUNet, Regions
from hallo2.upsample import PhasedUpsample


@dataclass(frozen=True)
class FusedPortraitContext:
    """As `PortraitContext`."""

    spatial: FusedSpatialContext
    region: FusedRegionContext


@dataclass(frozen=True)
class FusedClipContext(FusedPortraitContext):
    """As `ClipContext`.

    Attributes:
        speech: the clip's audio tokens.
        motion: the motion frames' tokens, (halves * MOTION_FRAMES, h * w, c).
    """

    speech: FusedSpeechContext | None
    motion: Tensor

    def halves(self) -> list[FusedClipContext]:
        """Each half by itself; the last one is the conditional one, and the only one that hears the speech."""
        spatial, motion = self.spatial.halves(), torch.split(self.motion, MOTION_FRAMES)
        speech = [*(None for _ in spatial[1:]), self.speech]
        parts = zip(spatial, speech, motion, strict=True)
        return [FusedClipContext(seen, self.region, heard, moved) for seen, heard, moved in parts]


class FusedLayer:
    """A residual block and, where there are any, the transformers behind it."""

    def __init__(self, block: DenoisingBlock, i: int) -> None:
        self.residual = FusedResidual(block.resnets[i])
        self.level = block.level
        self.has_transformers = i < len(block.attentions)
        if self.has_transformers:
            self.spatial = FusedSpatial(block.attentions[i])
            self.audio = FusedAudio(block.audio_modules[i])
            self.temporal = FusedTemporal(block.motion_modules[i].temporal_transformer)
            self._add_biases_ahead()

    def _add_biases_ahead(self) -> None:
        ahead = torch.zeros_like(self.temporal.tail.bias)
        for transformer in (self.temporal, self.audio, self.spatial):
            ahead = ahead + transformer.tail.bias
            transformer.shift = -ahead
        self.residual.bias = (self.residual.bias + ahead).to(self.residual.bias.dtype)

    def transformed(self, x: Tensor, contexts: Iterator[FusedClipContext]) -> Tensor:
        """Change (halves * frames, h * w, c) in place; takes the next context where there are transformers."""
        if not self.has_transformers:
            return x
        context, parts = next(contexts), apart(x)
        for rows, part in zip(parts, context.halves() if len(parts) > 1 else [context], strict=True):
            self.spatial(x[rows], part.spatial)
            self.audio(x[rows], part.speech, part.region)
            self.temporal(x[rows], part.motion)
        return x


class FusedDenoisingUNet:
    """As `DenoisingUNet`, whose weights it takes over: some of them are no longer there for that module to run."""

    def __init__(self, unet: DenoisingUNet) -> None:
        self.unet = unet
        self.down = [[FusedLayer(block, i) for i in range(len(block.resnets))] for block in unet.down_blocks]
        self.middle = [FusedLayer(unet.mid_block, i) for i in range(len(unet.mid_block.resnets))]
        self.up = [[FusedLayer(block, i) for i in range(len(block.resnets))] for block in unet.up_blocks]
        layers = [layer for layers in (*self.down, self.middle, *self.up) for layer in layers]
        self.conditioned = [layer for layer in layers if layer.has_transformers]
        self.upsamples = [[PhasedUpsample(upsample.conv) for upsample in block.upsamplers] for block in unet.up_blocks]
        for block in (*unet.down_blocks, *unet.up_blocks):
            let_go(*(upsample.conv for upsample in block.upsamplers))
            if not block.attentions:
                block.motion_modules.to("meta")  # they are never run
        blocks = [layer.residual.block for layer in layers]
        self.shift_weight = packed(*(block.time_emb_proj for block in blocks))
        self.shift_bias = torch.cat([block.time_emb_proj.bias + bias_of(block.conv1) for block in blocks])
        self.shift_sizes = [block.time_emb_proj.out_features for block in blocks]

    def portrait_contexts(
        self, features: Sequence[Tensor], face_tokens: Tensor, regions: Regions
    ) -> list[FusedPortraitContext]:
        """See `DenoisingUNet.portrait_contexts`."""
        contexts = []
        for layer, reference in zip(self.conditioned, features, strict=True):
            contexts.append(
                FusedPortraitContext(
                    layer.spatial.context(to_tokens(reference), face_tokens),
                    layer.audio.region(regions.at(layer.level), regions.motion_scale),
                )
            )
        return contexts

    def clip_contexts(
        self, portrait: Sequence[FusedPortraitContext], motion: Sequence[Tensor], audio_tokens: Tensor
    ) -> list[FusedClipContext]:
        """See `DenoisingUNet.clip_contexts`."""
        return [
            FusedClipContext(
                video.spatial,
                video.region,
                layer.audio.speech(by_parity(audio_tokens)),
                layer.temporal.motion(to_tokens(frames).contiguous()),
            )
            for layer, video, frames in zip(self.conditioned, portrait, motion, strict=True)
        ]

    def times(self, timesteps: Tensor) -> list[tuple[Tensor, ...]]:
        """For each timestep the shifts of all residual blocks, with the biases of their first convolutions, (c,)."""
        time = functional.silu(self.unet.time(timesteps))
        shifts = functional.linear(time, self.shift_weight.float(), self.shift_bias.float())
        return [torch.split(row, self.shift_sizes) for row in shifts]

    def __call__(
        self, latents: Tensor, time: Sequence[Tensor], contexts: Sequence[FusedClipContext], face_features: Tensor
    ) -> Tensor:
        """See `DenoisingUNet.forward`; `time` is one of what `times` gave."""
        unet, remaining, shifts = self.unet, iter(contexts), iter(time)
        height, frames = latents.shape[-2], CLIP_FRAMES // PARITIES
        rows = rearrange(latents, "(half f parity) c h w -> (half parity f) c h w", parity=PARITIES, f=frames)
        x = to_tokens(unet.conv_in(rows.contiguous(memory_format=torch.channels_last)))
        x[-CLIP_FRAMES:] += to_tokens(face_features)
        skips = [x]
        for layers, block in zip(self.down, unet.down_blocks, strict=True):
            for layer in layers:
                x = layer.residual(x, height, next(shifts))
                x = layer.transformed(x, remaining)
                skips.append(x)
            for downsample in block.downsamplers:
                x = resampled(downsample, x, height)
                height //= 2
                skips.append(x)
        for layer in self.middle:
            x = layer.residual(x, height, next(shifts))
            x = layer.transformed(x, remaining)
        for layers, upsamples in zip(self.up, self.upsamples, strict=True):
            for layer in layers:
                x = layer.residual(x, height, next(shifts), skips.pop())
                x = layer.transformed(x, remaining)
            for upsample in upsamples:
                x = resampled(upsample, x, height)
                height *= 2
        x = grouped(unet.conv_norm_out, x, silu=True)
        out: Tensor = unet.conv_out(rearrange(x, "n (h w) c -> n c h w", h=height))
        return rearrange(out, "(half parity f) c h w -> (half f parity) c h w", parity=PARITIES, f=frames)


def resampled(module: nn.Module, tokens: Tensor, height: int) -> Tensor:
    """Half or twice the height and width, of tokens (n, h * w, c)."""
    return to_tokens(module(rearrange(tokens, "n (h w) c -> n c h w", h=height)))
