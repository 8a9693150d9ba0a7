"""The denoising UNet for a GPU: what `hallo2.unet.DenoisingUNet` computes, in fewer and larger kernels.

It reads like that module and shares its weights. What it does differently is exact but for rounding:

- Hidden states are tokens (n, h * w, c) from end to end; convolutions see the same memory as channels-last pictures.
- Queries, keys and values come from one product, and so do the time shifts of all residual blocks.
- A convolution's bias is added where its output is read next: with the time shift in the group norm, or with the sum.
- Norms take residual, SiLU and positions along, linear maps the gate of GEGLU and the residual (`hallo2.kernels`).
- The four face tokens never change: their keys and values are folded into the projections before and after them.
- Of the attention to the speech, output projection and convolution are one matrix, since the mask between them is a
  number per token; what is left of it in silence, the biases, is the same in both halves.
- What the motion frames are in the temporal transformers before they have seen the others is computed once a clip.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from diffusers.models.attention import FeedForward
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from hallo2.kernels import add_bias, add_layer_norm, geglu, group_norm, linear, temporal_attention, token_attention
from hallo2.resnet import GroupNorm, ResidualBlock
from hallo2.transformers import (
    CLIP_FRAMES,
    MOTION_FRAMES,
    AudioTransformer,
    SpatialTransformer,
    TemporalBlock,
    TemporalTransformer,
    to_tokens,
)
from hallo2.unet import DenoisingBlock, DenoisingUNet, Regions

BACKENDS = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
"""The first that can is used; on Hopper cuDNN's is twice as fast as the next."""


def attend(queries: Tensor, keys: Tensor, values: Tensor, *, heads: int) -> Tensor:
    """Attention of (n, length, c) to (n, other length, c), whose rows may be strided: (n, length, c)."""
    q, k, v = (rearrange(x, "n l (heads d) -> n heads l d", heads=heads) for x in (queries, keys, values))
    with sdpa_kernel(BACKENDS, set_priority=True):
        out = functional.scaled_dot_product_attention(q, k, v)
    return rearrange(out, "n heads l d -> n l (heads d)")


def packed(*maps: nn.Linear) -> Tensor:
    """The weights of linear maps of the same input as one, (sum of outs, in); theirs become views of it."""
    weight = torch.cat([part.weight for part in maps])
    for part, view in zip(maps, torch.split(weight, [part.out_features for part in maps]), strict=True):
        part.weight = nn.Parameter(view, requires_grad=False)
    return weight


def bias_of(conv: nn.Conv2d) -> Tensor:
    """The bias, which all convolutions here have."""
    assert conv.bias is not None  # noqa: S101
    return conv.bias


def convolved(conv: nn.Conv2d, tokens: Tensor, height: int) -> Tensor:
    """A convolution of tokens (n, h * w, in), without its bias: (n, h' * w', out)."""
    x = rearrange(tokens, "n (h w) c -> n c h w", h=height)
    return to_tokens(functional.conv2d(x, conv.weight, None, conv.stride, conv.padding))


def normed(norm: nn.LayerNorm, tokens: Tensor, **more: Tensor) -> tuple[Tensor, Tensor]:
    """The tokens (n, h * w, c) with what is added, and what the norm makes of them; see `add_layer_norm`."""
    return add_layer_norm(tokens, norm.weight, norm.bias, eps=norm.eps, **more)


def grouped(norm: GroupNorm, tokens: Tensor, *, silu: bool = False, shift: Tensor | None = None) -> Tensor:
    """Group norm of tokens (n, h * w, c)."""
    return group_norm(tokens, norm.weight, norm.bias, eps=norm.eps, silu=silu, shift=shift)


class FusedResidual:
    """As `ResidualBlock`."""

    def __init__(self, block: ResidualBlock) -> None:
        self.block = block
        self.shortcut = block.conv_shortcut if isinstance(block.conv_shortcut, nn.Conv2d) else None
        self.bias = bias_of(block.conv2) + (bias_of(self.shortcut) if self.shortcut else 0)

    def __call__(self, x: Tensor, height: int, shift: Tensor) -> Tensor:
        """(n, h * w, in), and the time shift with the first convolution's bias, (1, out) -> (n, h * w, out)."""
        block = self.block
        hidden = convolved(block.conv1, grouped(block.norm1, x, silu=True), height)
        hidden = convolved(block.conv2, grouped(block.norm2, hidden, silu=True, shift=shift), height)
        if self.shortcut is None:
            return add_bias(x, hidden, self.bias)
        return linear(x, self.shortcut.weight.flatten(1), self.bias, residual=hidden)


class FusedFeedForward:
    """As the feed-forward of a transformer block, with the residual."""

    def __init__(self, block: FeedForward) -> None:
        self.gated, self.out = block.net[0].proj, block.net[2]

    def __call__(self, tokens: Tensor, normed: Tensor) -> Tensor:
        """The tokens and what the norm made of them, (n, l, c) -> (n, l, c)."""
        hidden = geglu(normed, self.gated.weight, self.gated.bias)
        return linear(hidden, self.out.weight, self.out.bias, residual=tokens)


@dataclass(frozen=True)
class FusedSpatialContext:
    """As `SpatialContext`.

    Attributes:
        reference: keys and values of the reference image without and with identity, (2, h * w, 2 * c).
        face_keys: for each half what a normed token is multiplied with to get its scores, (halves, c, heads * tokens).
        face_values: for each half what the weights are multiplied with, (halves, heads * tokens, c).
    """

    reference: Tensor
    face_keys: Tensor
    face_values: Tensor


class FusedSpatial:
    """As `SpatialTransformer`."""

    def __init__(self, transformer: SpatialTransformer) -> None:
        self.transformer, self.block = transformer, transformer.block
        self.qkv = packed(self.block.attn1.to_q, self.block.attn1.to_k, self.block.attn1.to_v)
        self.feed_forward = FusedFeedForward(self.block.ff)

    def context(self, reference: Tensor, face_tokens: Tensor) -> FusedSpatialContext:
        """See `SpatialTransformer.context`."""
        attn, heads = self.block.attn2, self.block.attn2.heads
        keys, values = (x.float() for x in attn.keys_values(face_tokens))
        to_q = rearrange(attn.to_q.weight.float(), "(heads d) c -> heads d c", heads=heads) / keys.shape[-1] ** 0.5
        to_out = rearrange(attn.to_out[0].weight.float(), "c (heads d) -> heads d c", heads=heads)
        folded_keys = torch.einsum("nhtd,hdc->ncht", keys, to_q).flatten(2)
        folded_values = torch.einsum("nhtd,hdc->nhtc", values, to_out).flatten(1, 2)
        return FusedSpatialContext(
            functional.linear(reference, self.qkv[self.qkv.shape[1] :]),
            folded_keys.to(reference.dtype).contiguous(),
            folded_values.to(reference.dtype).contiguous(),
        )

    def __call__(self, x: Tensor, context: FusedSpatialContext) -> Tensor:
        """(halves * frames, h * w, c) -> the same shape."""
        transformer, block = self.transformer, self.block
        tokens = functional.linear(grouped(transformer.norm, x), transformer.proj_in.matrix, transformer.proj_in.bias)
        _, hidden = normed(block.norm1, tokens)
        attended = self._self_attention(functional.linear(hidden, self.qkv), context.reference)
        tokens = linear(attended, block.attn1.to_out[0].weight, block.attn1.out_bias, residual=tokens)
        tokens = token_attention(
            tokens,
            block.norm2.weight,
            block.norm2.bias,
            context.face_keys,
            context.face_values,
            block.attn2.out_bias,
            heads=block.attn2.heads,
            tokens=context.face_keys.shape[-1] // block.attn2.heads,
        )
        tokens = self.feed_forward(tokens, normed(block.norm3, tokens)[1])
        return linear(tokens, transformer.proj_out.matrix, transformer.proj_out.bias, residual=x)

    def _self_attention(self, qkv: Tensor, reference: Tensor) -> Tensor:
        heads, length = self.block.attn1.heads, qkv.shape[-1] // 3
        conditional = qkv[-CLIP_FRAMES:]
        # The frames attend in turn to the reference image seen without and with identity.
        own = rearrange(conditional[..., length:], "(frames two) hw c -> frames two hw c", two=len(reference))
        both = torch.cat([own, reference.expand_as(own)], dim=2).flatten(0, 1)
        attended = attend(conditional[..., :length], *both.chunk(2, dim=-1), heads=heads)
        if len(qkv) == CLIP_FRAMES:
            return attended
        unconditional = qkv[:-CLIP_FRAMES]
        return torch.cat([attend(*unconditional.chunk(3, dim=-1), heads=heads), attended])


@dataclass(frozen=True)
class FusedRegionContext:
    """As `RegionContext`.

    Attributes:
        weights: mask times motion scale of each region, (h * w, regions, 1).
        silence: see `RegionContext`, (h * w, c).
    """

    weights: Tensor
    silence: Tensor


class FusedAudio:
    """As `AudioTransformer`."""

    def __init__(self, transformer: AudioTransformer) -> None:
        self.transformer, self.block = transformer, transformer.block
        attn = self.block.attn1
        self.qkv = packed(attn.to_q, attn.to_k, attn.to_v)
        attentions = [attention for attention, _ in self.block.regions]
        self.queries = packed(*(attention.to_q for attention in attentions))
        self.keys_values = packed(
            *(attention.to_k for attention in attentions), *(attention.to_v for attention in attentions)
        )
        folded = [conv.matrix.float() @ attn.to_out[0].weight.float() for attn, conv in self.block.regions]
        self.out = torch.cat(folded, dim=1).to(self.queries.dtype)
        self.feed_forward = FusedFeedForward(self.block.ff)

    def region(self, masks: Sequence[Tensor], motion_scale: Sequence[float]) -> FusedRegionContext:
        """See `AudioTransformer.region`."""
        weights = [scale * mask.float() for mask, scale in zip(masks, motion_scale, strict=True)]
        return FusedRegionContext(
            torch.stack(weights, dim=2)[0].to(self.qkv.dtype), self.block.silence(masks, motion_scale)[0].contiguous()
        )

    def speech(self, audio_tokens: Tensor) -> Tensor:
        """Keys, then values, of all regions: (frames, audio_tokens, 2 * regions * c)."""
        return functional.linear(audio_tokens, self.keys_values)

    def __call__(self, x: Tensor, speech: Tensor, region: FusedRegionContext) -> Tensor:
        """(halves * frames, h * w, c) -> the same shape."""
        transformer, block = self.transformer, self.block
        tokens = functional.linear(grouped(transformer.norm, x), transformer.proj_in.matrix, transformer.proj_in.bias)
        _, hidden = normed(block.norm1, tokens)
        heads = block.attn1.heads
        attended = block.attn1.project(attend(*functional.linear(hidden, self.qkv).chunk(3, dim=-1), heads=heads))
        tokens, hidden = normed(block.norm2, tokens, added=attended)

        queries = functional.linear(hidden[-CLIP_FRAMES:], self.queries)
        spoken = attend(queries, *speech.chunk(2, dim=-1), heads=heads * len(block.regions))
        spoken = rearrange(spoken, "n hw (regions c) -> n hw regions c", regions=len(block.regions)) * region.weights
        spoken = rearrange(spoken, "n hw regions c -> n hw (regions c)")
        tokens, hidden = normed(
            block.norm3, tokens, everywhere=region.silence, added=functional.linear(spoken, self.out)
        )
        tokens = self.feed_forward(tokens, hidden)
        return linear(tokens, transformer.proj_out.matrix, transformer.proj_out.bias, residual=x)


@dataclass(frozen=True)
class FusedMotionContext:
    """The motion frames at a temporal transformer.

    Attributes:
        tokens: (halves * MOTION_FRAMES, h * w, c).
        qkv: of the first attention, (halves * MOTION_FRAMES, h * w, 3 * c).
    """

    tokens: Tensor
    qkv: Tensor


class FusedTemporal:
    """As `TemporalTransformer`."""

    def __init__(self, transformer: TemporalTransformer) -> None:
        self.transformer = transformer
        block = transformer.transformer_blocks[0]
        assert isinstance(block, TemporalBlock)  # noqa: S101
        self.block, (self.first, self.second) = block, block.attention_blocks
        self.qkv = [packed(attn.to_q, attn.to_k, attn.to_v) for attn in block.attention_blocks]
        positions = [attn.pos_encoder.pe[0] for attn in block.attention_blocks]
        self.motion_positions = [table[:MOTION_FRAMES].contiguous() for table in positions]
        self.positions = [table[MOTION_FRAMES : MOTION_FRAMES + CLIP_FRAMES].contiguous() for table in positions]
        self.feed_forward = FusedFeedForward(block.ff)

    def motion(self, features: Tensor) -> FusedMotionContext:
        """From the motion frames' features, (halves * MOTION_FRAMES, h * w, c)."""
        tokens = self._tokens(features)
        _, hidden = normed(self.block.norms[0], tokens, position=self.motion_positions[0])
        return FusedMotionContext(tokens, functional.linear(hidden, self.qkv[0]))

    def __call__(self, x: Tensor, motion: FusedMotionContext) -> Tensor:
        """(halves * frames, h * w, c) -> the same shape."""
        block, heads = self.block, self.first.heads
        tokens = self._tokens(x)
        _, hidden = normed(block.norms[0], tokens, position=self.positions[0])
        attended, motion_attended = temporal_attention(functional.linear(hidden, self.qkv[0]), motion.qkv, heads)
        tokens, hidden = normed(block.norms[1], tokens, added=self.first.project(attended), position=self.positions[1])
        _, motion_hidden = normed(
            block.norms[1],
            motion.tokens,
            added=self.first.project(motion_attended),
            position=self.motion_positions[1],
        )
        qkv, motion_qkv = (functional.linear(rows, self.qkv[1]) for rows in (hidden, motion_hidden))
        attended, _ = temporal_attention(qkv, motion_qkv, heads, for_motion=False)
        tokens, hidden = normed(block.ff_norm, tokens, added=self.second.project(attended))
        tokens = self.feed_forward(tokens, hidden)
        return linear(tokens, self.transformer.proj_out.weight, self.transformer.proj_out.bias, residual=x)

    def _tokens(self, x: Tensor) -> Tensor:
        proj_in = self.transformer.proj_in
        return functional.linear(grouped(self.transformer.norm, x), proj_in.weight, proj_in.bias)


@dataclass(frozen=True)
class FusedPortraitContext:
    """As `PortraitContext`."""

    spatial: FusedSpatialContext
    region: FusedRegionContext


@dataclass(frozen=True)
class FusedClipContext(FusedPortraitContext):
    """As `ClipContext`."""

    speech: Tensor
    motion: FusedMotionContext


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

    def transformed(self, x: Tensor, context: FusedClipContext) -> Tensor:
        """(halves * frames, h * w, c) -> the same shape."""
        x = self.spatial(x, context.spatial)
        x = self.audio(x, context.speech, context.region)
        return self.temporal(x, context.motion)


class FusedDenoisingUNet:
    """As `DenoisingUNet`, from whose weights it is made."""

    def __init__(self, unet: DenoisingUNet) -> None:
        self.unet = unet
        self.down = [[FusedLayer(block, i) for i in range(len(block.resnets))] for block in unet.down_blocks]
        self.middle = [FusedLayer(unet.mid_block, i) for i in range(len(unet.mid_block.resnets))]
        self.up = [[FusedLayer(block, i) for i in range(len(block.resnets))] for block in unet.up_blocks]
        self.layers = [layer for layers in (*self.down, self.middle, *self.up) for layer in layers]
        blocks = [layer.residual.block for layer in self.layers]
        self.shift_weight = packed(*(block.time_emb_proj for block in blocks))
        self.shift_bias = torch.cat([block.time_emb_proj.bias + bias_of(block.conv1) for block in blocks])
        self.shift_sizes = [block.time_emb_proj.out_features for block in blocks]

    def portrait_contexts(
        self, features: Sequence[Tensor], face_tokens: Tensor, regions: Regions
    ) -> list[FusedPortraitContext]:
        """See `DenoisingUNet.portrait_contexts`."""
        contexts = []
        layers = [layer for layer in self.layers if layer.has_transformers]
        for layer, reference in zip(layers, features, strict=True):
            masks = [pyramid[layer.level].unsqueeze(-1) for pyramid in regions.masks]
            contexts.append(
                FusedPortraitContext(
                    layer.spatial.context(to_tokens(reference), face_tokens),
                    layer.audio.region(masks, regions.motion_scale),
                )
            )
        return contexts

    def clip_contexts(
        self, portrait: Sequence[FusedPortraitContext], motion: Sequence[Tensor], audio_tokens: Tensor
    ) -> list[FusedClipContext]:
        """See `DenoisingUNet.clip_contexts`."""
        layers = [layer for layer in self.layers if layer.has_transformers]
        return [
            FusedClipContext(
                video.spatial,
                video.region,
                layer.audio.speech(audio_tokens),
                layer.temporal.motion(to_tokens(frames).contiguous()),
            )
            for layer, video, frames in zip(layers, portrait, motion, strict=True)
        ]

    def __call__(
        self, latents: Tensor, timestep: Tensor, contexts: Sequence[FusedClipContext], face_features: Tensor
    ) -> Tensor:
        """See `DenoisingUNet.forward`."""
        unet, remaining = self.unet, iter(contexts)
        shifts = iter(self._shifts(timestep))

        def run(layer: FusedLayer, x: Tensor) -> Tensor:
            x = layer.residual(x, height, next(shifts))
            return layer.transformed(x, next(remaining)) if layer.has_transformers else x

        height = latents.shape[-2]
        x = to_tokens(unet.conv_in(latents))
        x[-CLIP_FRAMES:] += to_tokens(face_features)
        skips = [x]
        for layers, block in zip(self.down, unet.down_blocks, strict=True):
            for layer in layers:
                x = run(layer, x)
                skips.append(x)
            for downsample in block.downsamplers:
                x = resampled(downsample, x, height)
                height //= 2
                skips.append(x)
        for layer in self.middle:
            x = run(layer, x)
        for layers, block in zip(self.up, unet.up_blocks, strict=True):
            for layer in layers:
                x = run(layer, torch.cat([x, skips.pop()], dim=-1))
            for upsample in block.upsamplers:
                x = resampled(upsample, x, height)
                height *= 2
        x = grouped(unet.conv_norm_out, x, silu=True)
        out: Tensor = unet.conv_out(rearrange(x, "n (h w) c -> n c h w", h=height))
        return out

    def _shifts(self, timestep: Tensor) -> tuple[Tensor, ...]:
        """The time shifts of all residual blocks, with the biases of their first convolutions, each (1, c)."""
        time = functional.silu(self.unet.time(timestep))
        shifts = functional.linear(time, self.shift_weight, self.shift_bias)
        return torch.split(shifts, self.shift_sizes, dim=-1)


def resampled(module: nn.Module, tokens: Tensor, height: int) -> Tensor:
    """Half or twice the height and width, of tokens (n, h * w, c)."""
    return to_tokens(module(rearrange(tokens, "n (h w) c -> n c h w", h=height)))
