"""The denoising UNet for a GPU: what `hallo2.unet.DenoisingUNet` computes, in fewer and larger kernels.

It reads like that module and takes its weights over. What it does differently is exact but for rounding:

- Hidden states are tokens (n, h * w, c) from end to end; convolutions see the same memory as channels-last pictures.
- Queries, keys and values come from one product, and so do the time shifts of all residual blocks.
- A convolution's bias is added where its output is read next: with the time shift in the group norm, or with the sum.
- Norms take residual, SiLU and positions along, and GEGLU's linear map its gate (`hallo2.kernels`).
- A transformer's last two linear maps, out of the feed-forward and out of the transformer, are one, and it is added to
  the picture in place. Its bias is added ahead, by the residual block, and taken off again where a norm reads.
- The four face tokens do not change during a video, the audio tokens not during a clip: the projections of queries and
  of what is attended to are folded into them. Of the attention to the speech, output projection and convolution are one
  matrix, since the mask between them is a number per token; what is left of it in silence, the biases, is the same in
  both halves.
- The even frames come before the odd ones, because those see the reference image alike: they are one row of queries.
- What the motion frames are in the temporal transformers before they have seen the others is computed once a clip.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from diffusers import AutoencoderKL
from diffusers.models.attention import FeedForward
from diffusers.models.resnet import ResnetBlock2D
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from hallo2.kernels import (
    add_bias,
    add_layer_norm,
    geglu,
    group_norm,
    interleaved,
    merge_attention,
    speech_weights,
    temporal_attention,
    token_attention,
)
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


def attend(queries: Tensor, keys: Tensor, values: Tensor, *, heads: int) -> tuple[Tensor, Tensor]:
    """Attention of (n, length, c) to (n, other length, c), whose rows may be strided.

    By the library's kernel that is the fastest on Hopper: for head sizes 40, 80 and 160 cuDNN's takes half the time of
    the next.

    Returns:
        What is attended to, (n, length, heads, head_dim), contiguous; and of each softmax the logarithm of the sum of
        exponentials, (n, heads, length), float32.
    """
    q, k, v = (rearrange(x, "n l (heads d) -> n heads l d", heads=heads) for x in (queries, keys, values))
    aten = torch.ops.aten
    if q.device.type == "cpu":
        out, lse = aten._scaled_dot_product_flash_attention_for_cpu(q, k, v)
    elif q.dtype == torch.float32:
        out, lse, *_ = aten._scaled_dot_product_efficient_attention(q, k, v, None, True)
    else:
        out, lse, *_ = aten._scaled_dot_product_cudnn_attention(q, k, v, None, True)
    length = q.shape[2]
    return out.transpose(1, 2).contiguous(), lse.reshape(*lse.shape[:2], -1)[..., :length].contiguous()


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


PARITIES = 2
"""In the rows the even frames come before the odd ones, in each half by itself. The even ones of the conditional half
attend to the reference image as seen without identity, the odd ones to it as seen with identity."""


def by_parity(frames: Tensor) -> Tensor:
    """A clip's frames, (frames, ...), in the order of the rows."""
    return rearrange(frames, "(f parity) ... -> (parity f) ...", parity=PARITIES)


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
        out: Tensor = hidden.add_(functional.linear(x, self.shortcut.weight.flatten(1), self.bias))
        return out


class FusedTail:
    """The end of a transformer: the feed-forward of its block, the projection behind it, the sum with the picture."""

    def __init__(self, norm: nn.LayerNorm, feed_forward: FeedForward, weight: Tensor, bias: Tensor) -> None:
        gated, out = feed_forward.net[0].proj, feed_forward.net[2]
        self.norm = norm
        self.gated_weight, self.gated_bias = interleaved(gated.weight), interleaved(gated.bias)
        # P (t + W h + b) + p = [P, P W] [t, h] + (P b + p)
        self.weight = torch.cat([weight, (weight.float() @ out.weight.float()).to(weight.dtype)], dim=1)
        self.bias = weight.float() @ out.bias.float() + bias.float()
        for taken_over in (gated, out):
            taken_over.weight = nn.Parameter(torch.empty_like(taken_over.weight, device="meta"), requires_grad=False)

    def __call__(self, x: Tensor, tokens: Tensor, **added: Tensor) -> Tensor:
        """Add to x (n, h * w, c), in place and without the bias, what comes of the tokens (n, h * w, dim).

        Args:
            x: the picture.
            tokens: the transformer's.
            added: to the tokens; see `add_layer_norm`.
        """
        dim = tokens.shape[-1]
        both = tokens.new_empty(*tokens.shape[:-1], self.weight.shape[1])
        _, hidden = normed(self.norm, tokens, total_out=both[..., :dim], **added)
        geglu(hidden, self.gated_weight, self.gated_bias, out=both[..., dim:])
        x.flatten(0, 1).addmm_(both.flatten(0, 1), self.weight.t())
        return x


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
        self.tail = FusedTail(
            self.block.norm3, self.block.ff, transformer.proj_out.matrix, bias_of(transformer.proj_out)
        )
        self.shift: Tensor | None = None

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
        return self.tail(x, self._tokens(x, context))

    def _tokens(self, x: Tensor, context: FusedSpatialContext) -> Tensor:
        transformer, block = self.transformer, self.block
        tokens = transformer.proj_in(grouped(transformer.norm, x, shift=self.shift))
        _, hidden = normed(block.norm1, tokens)
        attended = self._self_attention(functional.linear(hidden, self.qkv), context.reference)
        tokens.flatten(0, 1).addmm_(attended.flatten(0, 1), block.attn1.to_out[0].weight.t())
        return token_attention(
            tokens,
            block.norm2.weight,
            block.norm2.bias,
            context.face_keys,
            context.face_values,
            block.attn2.out_bias,
            block.attn1.out_bias,
            heads=block.attn2.heads,
            tokens=context.face_keys.shape[-1] // block.attn2.heads,
        )

    def _self_attention(self, qkv: Tensor, reference: Tensor) -> Tensor:
        heads = self.block.attn1.heads
        queries, keys, values = qkv.chunk(3, dim=-1)
        attended, lse = attend(queries, keys, values, heads=heads)
        # All frames of the conditional half that see the reference image alike are one long row of queries.
        alike = rearrange(queries[-CLIP_FRAMES:], "(seen frames) hw c -> seen (frames hw) c", seen=len(reference))
        other, other_lse = attend(alike, *reference.chunk(2, dim=-1), heads=heads)
        by_frame = {"frames": CLIP_FRAMES // len(reference)}
        merge_attention(
            attended[-CLIP_FRAMES:],
            lse[-CLIP_FRAMES:],
            rearrange(other, "seen (frames hw) heads d -> (seen frames) hw heads d", **by_frame),
            rearrange(other_lse, "seen heads (frames hw) -> (seen frames) heads hw", **by_frame).contiguous(),
        )
        return attended.flatten(2)


@dataclass(frozen=True)
class FusedRegionContext:
    """As `RegionContext`.

    Attributes:
        weights: mask times motion scale of each region, (h * w, regions).
        silence: see `RegionContext`, (h * w, c).
    """

    weights: Tensor
    silence: Tensor


@dataclass(frozen=True)
class FusedSpeechContext:
    """The clip's audio tokens at an audio transformer, with the projections around the attention to them folded in.

    Attributes:
        keys: (frames, regions * heads * padded tokens, c).
        values: likewise.
        tokens: how many of a head's tokens are no padding.
    """

    keys: Tensor
    values: Tensor
    tokens: int


class FusedAudio:
    """As `AudioTransformer`."""

    def __init__(self, transformer: AudioTransformer) -> None:
        self.transformer, self.block = transformer, transformer.block
        attn = self.block.attn1
        self.qkv = packed(attn.to_q, attn.to_k, attn.to_v)
        regions = self.block.regions
        self.keys = packed(*(attention.to_k for attention, _ in regions))
        self.values = packed(*(attention.to_v for attention, _ in regions))
        # What a head's keys and values are multiplied with, (regions * heads, head_dim, c).
        queries = torch.cat([attention.to_q.weight for attention, _ in regions]).float()
        queries = rearrange(queries, "(heads d) c -> heads d c", heads=len(regions) * attn.heads)
        outputs = torch.cat(
            [conv.matrix.float() @ attention.to_out[0].weight.float() for attention, conv in regions], 1
        )
        outputs = rearrange(outputs, "c (heads d) -> heads d c", heads=len(queries))
        self.queries = (queries / queries.shape[1] ** 0.5).to(self.qkv.dtype)
        self.outputs = outputs.to(self.qkv.dtype)
        self.tail = FusedTail(
            self.block.norm3, self.block.ff, transformer.proj_out.matrix, bias_of(transformer.proj_out)
        )
        self.shift: Tensor | None = None

    def region(self, masks: Sequence[Tensor], motion_scale: Sequence[float]) -> FusedRegionContext:
        """See `AudioTransformer.region`."""
        weights = [scale * mask.float() for mask, scale in zip(masks, motion_scale, strict=True)]
        return FusedRegionContext(
            torch.cat(weights, dim=2)[0].to(self.qkv.dtype), self.block.silence(masks, motion_scale)[0].contiguous()
        )

    def speech(self, audio_tokens: Tensor) -> FusedSpeechContext:
        """From a clip's audio tokens, (frames, audio_tokens, audio_attention_dim)."""
        tokens = audio_tokens.shape[1]
        padded = functional.pad(audio_tokens, (0, 0, 0, max(8, 1 << (tokens - 1).bit_length()) - tokens))

        def folded(projection: Tensor, into: Tensor) -> Tensor:
            heads = rearrange(
                functional.linear(padded, projection), "frames t (heads d) -> heads (frames t) d", heads=len(into)
            )
            return rearrange(
                torch.bmm(heads, into), "heads (frames t) c -> frames (heads t) c", frames=len(padded)
            ).contiguous()

        return FusedSpeechContext(folded(self.keys, self.queries), folded(self.values, self.outputs), tokens)

    def __call__(self, x: Tensor, speech: FusedSpeechContext, region: FusedRegionContext) -> Tensor:
        """(halves * frames, h * w, c) -> the same shape."""
        tokens, spoken = self._spoken(x, speech, region)
        return self.tail(x, tokens, everywhere=region.silence, added=spoken)

    def _spoken(self, x: Tensor, speech: FusedSpeechContext, region: FusedRegionContext) -> tuple[Tensor, Tensor]:
        """The tokens after self-attention, and what the speech adds to those of the conditional half."""
        transformer, block = self.transformer, self.block
        tokens = transformer.proj_in(grouped(transformer.norm, x, shift=self.shift))
        _, hidden = normed(block.norm1, tokens)
        heads = block.attn1.heads
        attended, _ = attend(*functional.linear(hidden, self.qkv).chunk(3, dim=-1), heads=heads)
        attended = block.attn1.project(attended.flatten(2))
        tokens, hidden = normed(block.norm2, tokens, added=attended)

        weights = speech_weights(
            hidden[-CLIP_FRAMES:],
            speech.keys,
            region.weights,
            heads,
            tokens=len(speech.keys[0]) // len(self.queries),
            used=speech.tokens,
        )
        return tokens, torch.bmm(weights, speech.values)


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
        self.positions = [by_parity(table[MOTION_FRAMES : MOTION_FRAMES + CLIP_FRAMES]) for table in positions]
        self.tail = FusedTail(block.ff_norm, block.ff, transformer.proj_out.weight, transformer.proj_out.bias)
        self.shift: Tensor | None = None

    def motion(self, features: Tensor) -> FusedMotionContext:
        """From the motion frames' features, (halves * MOTION_FRAMES, h * w, c)."""
        tokens = self._tokens(features)
        _, hidden = normed(self.block.norms[0], tokens, position=self.motion_positions[0])
        return FusedMotionContext(tokens, functional.linear(hidden, self.qkv[0]))

    def __call__(self, x: Tensor, motion: FusedMotionContext) -> Tensor:
        """(halves * frames, h * w, c) -> the same shape."""
        tokens, attended = self._attended(x, motion)
        return self.tail(x, tokens, added=attended)

    def _attended(self, x: Tensor, motion: FusedMotionContext) -> tuple[Tensor, Tensor]:
        """The tokens after the first attention, and what the second adds."""
        block, heads = self.block, self.first.heads
        tokens = self._tokens(x, self.shift)
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
        return tokens, self.second.project(attended)

    def _tokens(self, x: Tensor, shift: Tensor | None = None) -> Tensor:
        tokens: Tensor = self.transformer.proj_in(grouped(self.transformer.norm, x, shift=shift))
        return tokens


@dataclass(frozen=True)
class FusedPortraitContext:
    """As `PortraitContext`."""

    spatial: FusedSpatialContext
    region: FusedRegionContext


@dataclass(frozen=True)
class FusedClipContext(FusedPortraitContext):
    """As `ClipContext`."""

    speech: FusedSpeechContext
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
            self._add_biases_ahead()

    def _add_biases_ahead(self) -> None:
        ahead = torch.zeros_like(self.temporal.tail.bias)
        for transformer in (self.temporal, self.audio, self.spatial):
            ahead = ahead + transformer.tail.bias
            transformer.shift = -ahead.to(self.residual.bias.dtype)
        self.residual.bias = (self.residual.bias + ahead).to(self.residual.bias.dtype)

    def transformed(self, x: Tensor, context: FusedClipContext) -> Tensor:
        """(halves * frames, h * w, c) -> the same shape."""
        x = self.spatial(x, context.spatial)
        x = self.audio(x, context.speech, context.region)
        return self.temporal(x, context.motion)


class FusedDenoisingUNet:
    """As `DenoisingUNet`, whose weights it takes over: some of them are no longer there for that module to run."""

    def __init__(self, unet: DenoisingUNet) -> None:
        self.unet = unet
        self.down = [[FusedLayer(block, i) for i in range(len(block.resnets))] for block in unet.down_blocks]
        self.middle = [FusedLayer(unet.mid_block, i) for i in range(len(unet.mid_block.resnets))]
        self.up = [[FusedLayer(block, i) for i in range(len(block.resnets))] for block in unet.up_blocks]
        layers = [layer for layers in (*self.down, self.middle, *self.up) for layer in layers]
        self.conditioned = [layer for layer in layers if layer.has_transformers]
        for block in (*unet.down_blocks, *unet.up_blocks):
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

    def __call__(
        self, latents: Tensor, timestep: Tensor, contexts: Sequence[FusedClipContext], face_features: Tensor
    ) -> Tensor:
        """See `DenoisingUNet.forward`."""
        unet, remaining = self.unet, iter(contexts)
        shifts = iter(self._shifts(timestep))

        def run(layer: FusedLayer, x: Tensor) -> Tensor:
            x = layer.residual(x, height, next(shifts))
            return layer.transformed(x, next(remaining)) if layer.has_transformers else x

        height, frames = latents.shape[-2], CLIP_FRAMES // PARITIES
        rows = rearrange(latents, "(half f parity) c h w -> (half parity f) c h w", parity=PARITIES, f=frames)
        x = to_tokens(unet.conv_in(rows.contiguous(memory_format=torch.channels_last)))
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
        return rearrange(out, "(half parity f) c h w -> (half f parity) c h w", parity=PARITIES, f=frames)

    def _shifts(self, timestep: Tensor) -> tuple[Tensor, ...]:
        """The time shifts of all residual blocks, with the biases of their first convolutions, each (1, c)."""
        time = functional.silu(self.unet.time(timestep))
        shifts = functional.linear(time, self.shift_weight, self.shift_bias)
        return torch.split(shifts, self.shift_sizes, dim=-1)


def resampled(module: nn.Module, tokens: Tensor, height: int) -> Tensor:
    """Half or twice the height and width, of tokens (n, h * w, c)."""
    return to_tokens(module(rearrange(tokens, "n (h w) c -> n c h w", h=height)))


class FusedGroupNorm(nn.GroupNorm):
    """Group norm and the SiLU behind it, with another norm's weights."""

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__(norm.num_groups, norm.num_channels, norm.eps)
        self.weight, self.bias = norm.weight, norm.bias

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) in channels-last layout -> the same."""
        tokens = to_tokens(x).contiguous()
        out = group_norm(tokens, self.weight, self.bias, groups=self.num_groups, eps=self.eps, silu=True)
        return rearrange(out, "n (h w) c -> n c h w", h=x.shape[-2])


def fuse_autoencoder(vae: AutoencoderKL) -> None:
    """Have the norms of the autoencoder's residual blocks do the SiLU behind them too."""
    for module in vae.modules():
        if isinstance(module, ResnetBlock2D):
            module.norm1, module.norm2 = FusedGroupNorm(module.norm1), FusedGroupNorm(module.norm2)
            module.nonlinearity = nn.Identity()
    for half in (vae.encoder, vae.decoder):
        half.conv_norm_out, half.conv_act = FusedGroupNorm(half.conv_norm_out), nn.Identity()
