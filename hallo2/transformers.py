"""The three transformers that follow a residual block: over the picture, over the speech, over time.

Hidden states are (n, channels, height, width) in channels-last layout, so that the tokens (n, height * width, channels)
are the same memory. The rows n are frames; with guidance the frames of the unconditional half, then those of the
conditional half. All dimensions called `halves` are therefore 2 with guidance and 1 (the conditional half) without.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from diffusers.models.attention import FeedForward
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from hallo2.attention import Attention, KeysValues
from hallo2.modules import Modules
from hallo2.resnet import GroupNorm

CLIP_FRAMES = 16
MOTION_FRAMES = 2


def to_tokens(x: Tensor) -> Tensor:
    """(n, c, h, w) -> (n, h * w, c); a view in channels-last layout."""
    return rearrange(x, "n c h w -> n (h w) c")


def to_picture(tokens: Tensor, like: Tensor) -> Tensor:
    """(n, h * w, c) -> (n, c, h, w) with the height and width of `like`; always a view."""
    return rearrange(tokens, "n (h w) c -> n c h w", h=like.shape[-2])


class PointwiseConv(nn.Conv2d):
    """A 1x1 convolution, stored as one and computed as the linear map of tokens that it is."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size=1)

    @property
    def matrix(self) -> Tensor:
        """The weight as a linear map's, (out_channels, in_channels)."""
        return self.weight.flatten(1)

    def forward(self, tokens: Tensor) -> Tensor:
        """(n, length, in_channels) -> (n, length, out_channels)."""
        return functional.linear(tokens, self.matrix, self.bias)


@dataclass(frozen=True)
class SpatialContext:
    """What the picture's tokens attend to besides each other.

    Attributes:
        reference: the reference image's tokens, seen without and with the face's identity; only the conditional half
            attends to them, its frames in turn to the one and the other.
        face: the face tokens, one row for each half.
    """

    reference: KeysValues
    face: KeysValues


class SpatialBlock(nn.Module):
    """Self-attention (with the reference image's tokens), attention to the face tokens, feed-forward."""

    def __init__(self, dim: int, heads: int, face_dim: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn1 = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.attn2 = Attention(dim, heads, face_dim)
        self.norm3 = nn.LayerNorm(dim)
        self.ff = FeedForward(dim)

    def forward(self, tokens: Tensor, face: KeysValues, reference: KeysValues | None = None) -> Tensor:
        """(n, length, dim) -> (n, length, dim); `face` has n rows."""
        tokens = tokens + self._self_attention(self.norm1(tokens), reference)
        tokens = tokens + self.attn2(self.norm2(tokens), face)
        out: Tensor = tokens + self.ff(self.norm3(tokens))
        return out

    def _self_attention(self, tokens: Tensor, reference: KeysValues | None) -> Tensor:
        if reference is None:
            out: Tensor = self.attn1(tokens)
            return out
        # The published code lets the unconditional rows attend to the reference image too, and throws that away.
        attn = self.attn1
        queries, own = attn.queries(tokens), attn.keys_values(tokens)
        conditional = len(tokens) - CLIP_FRAMES
        attended = attn.attend(queries[conditional:], own.rows(conditional).followed_by(reference))
        if conditional:
            unconditional = attn.attend(queries[:conditional], own.rows(0, conditional))
            attended = torch.cat([unconditional, attended])
        return attn.project(attended)


class SpatialTransformer(nn.Module):
    """The transformer of Stable Diffusion 1.5 over the tokens of a picture (key part `attentions`)."""

    def __init__(self, channels: int, heads: int, face_dim: int) -> None:
        super().__init__()
        self.norm = GroupNorm(channels, eps=1e-6)
        self.proj_in = PointwiseConv(channels, channels)
        self.transformer_blocks = Modules[SpatialBlock]([SpatialBlock(channels, heads, face_dim)])
        self.proj_out = PointwiseConv(channels, channels)

    @property
    def block(self) -> SpatialBlock:
        """The only transformer block."""
        return self.transformer_blocks[0]

    def tokens(self, x: Tensor) -> Tensor:
        """(n, c, h, w) -> (n, h * w, c), what the transformer block sees."""
        out: Tensor = self.proj_in(to_tokens(self.norm(x)))
        return out

    def context(self, reference: Tensor, face_tokens: Tensor) -> SpatialContext:
        """What does not change during a video.

        Args:
            reference: features of the reference image at this layer, without and with identity, (2, h * w, c).
            face_tokens: (halves, face_tokens, cross_attention_dim).
        """
        return SpatialContext(self.block.attn1.keys_values(reference), self.block.attn2.keys_values(face_tokens))

    def forward(self, x: Tensor, context: SpatialContext) -> Tensor:
        """(halves * frames, c, h, w) -> the same shape."""
        face = context.face.repeat_rows(CLIP_FRAMES)
        tokens = self.block(self.tokens(x), face, context.reference)
        return x + to_picture(self.proj_out(tokens), like=x)

    def with_features(self, x: Tensor, face_tokens: Tensor) -> tuple[Tensor, Tensor]:
        """The reference UNet's pass: the output, and the features that it hands to the denoising UNet.

        Args:
            x: (n, c, h, w).
            face_tokens: (n, face_tokens, cross_attention_dim).

        Returns:
            (n, c, h, w), and the input of the self-attention, (n, h * w, c).
        """
        tokens = self.tokens(x)
        features = self.block.norm1(tokens)
        tokens = self.block(tokens, self.block.attn2.keys_values(face_tokens))
        return x + to_picture(self.proj_out(tokens), like=x), features


@dataclass(frozen=True)
class RegionContext:
    """How strongly the speech moves what, the same for a whole video.

    Attributes:
        masks: for each region (full, face, lip) its mask, (1, h * w, 1).
        motion_scale: for each region its weight.
        silence: what the unconditional half's audio tokens, all zeros, add: a constant, (1, h * w, dim).
    """

    masks: tuple[Tensor, ...]
    motion_scale: tuple[float, ...]
    silence: Tensor


class AudioBlock(nn.Module):
    """Self-attention; attention to the speech, apart for the whole picture, the face and the lips; feed-forward."""

    def __init__(self, dim: int, heads: int, audio_dim: int) -> None:
        super().__init__()
        self.zero_conv_full = PointwiseConv(dim, dim)
        self.zero_conv_face = PointwiseConv(dim, dim)
        self.zero_conv_lip = PointwiseConv(dim, dim)
        self.norm1 = nn.LayerNorm(dim)
        self.attn1 = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.attn2_0 = Attention(dim, heads, audio_dim)
        self.attn2_1 = Attention(dim, heads, audio_dim)
        self.attn2_2 = Attention(dim, heads, audio_dim)
        self.norm3 = nn.LayerNorm(dim)
        self.ff = FeedForward(dim)

    @property
    def regions(self) -> tuple[tuple[Attention, PointwiseConv], ...]:
        """The attention and the output convolution of each region: full, face, lip."""
        return (
            (self.attn2_0, self.zero_conv_full),
            (self.attn2_1, self.zero_conv_face),
            (self.attn2_2, self.zero_conv_lip),
        )

    def forward(self, tokens: Tensor, speech: Sequence[KeysValues], region: RegionContext) -> Tensor:
        """(n, length, dim) -> (n, length, dim); `speech` has for each region a row for each frame."""
        tokens = tokens + self.attn1(self.norm1(tokens))
        tokens = tokens + self._spoken(self.norm2(tokens), speech, region)
        out: Tensor = tokens + self.ff(self.norm3(tokens))
        return out

    def silence(self, masks: Sequence[Tensor], motion_scale: Sequence[float]) -> Tensor:
        """What audio tokens of zeros add, (1, length, dim).

        Their keys and values are zeros, as these have no bias, and so is the attention to them: what remains are the
        biases of the projections after it.
        """
        added = [
            scale * zero_conv(mask * attention.out_bias)
            for (attention, zero_conv), mask, scale in zip(self.regions, masks, motion_scale, strict=True)
        ]
        return torch.stack(added).sum(dim=0)

    def _spoken(self, tokens: Tensor, speech: Sequence[KeysValues], region: RegionContext) -> Tensor:
        conditional = len(tokens) - CLIP_FRAMES
        added: Tensor = sum(
            scale * zero_conv(mask * attention(tokens[conditional:], context))
            for (attention, zero_conv), context, mask, scale in zip(
                self.regions, speech, region.masks, region.motion_scale, strict=True
            )
        )
        if conditional:
            added = torch.cat([region.silence.expand(conditional, -1, -1), added])
        return added


class AudioTransformer(nn.Module):
    """What the speech does to the picture (key part `audio_modules`).

    Its inner width `dim` is not always the block's: see `hallo2.unet.plan`.
    """

    def __init__(self, channels: int, dim: int, heads: int, audio_dim: int) -> None:
        super().__init__()
        self.norm = GroupNorm(channels, eps=1e-6)
        self.proj_in = PointwiseConv(channels, dim)
        self.transformer_blocks = Modules[AudioBlock]([AudioBlock(dim, heads, audio_dim)])
        self.proj_out = PointwiseConv(dim, channels)

    @property
    def block(self) -> AudioBlock:
        """The only transformer block."""
        return self.transformer_blocks[0]

    def region(self, masks: Sequence[Tensor], motion_scale: Sequence[float]) -> RegionContext:
        """What does not change during a video, from the masks (1, h * w, 1) and weights of full, face and lip."""
        return RegionContext(tuple(masks), tuple(motion_scale), self.block.silence(masks, motion_scale))

    def speech(self, audio_tokens: Tensor) -> tuple[KeysValues, ...]:
        """What does not change during a clip, from its audio tokens (frames, audio_tokens, audio_attention_dim)."""
        return tuple(attention.keys_values(audio_tokens) for attention, _ in self.block.regions)

    def forward(self, x: Tensor, speech: Sequence[KeysValues], region: RegionContext) -> Tensor:
        """(halves * frames, c, h, w) -> the same shape."""
        tokens = self.block(self.proj_in(to_tokens(self.norm(x))), speech, region)
        return x + to_picture(self.proj_out(tokens), like=x)


class PositionTable(nn.Module):
    """Sinusoidal positions, learnt by nobody but stored with the weights, (1, 32, dim)."""

    def __init__(self, dim: int, length: int = 32) -> None:
        super().__init__()
        position = torch.arange(length).unsqueeze(1)
        frequency = torch.exp(torch.arange(0, dim, 2) * (-math.log(10000.0) / dim))
        table = torch.stack([torch.sin(position * frequency), torch.cos(position * frequency)], dim=-1)
        self.pe: Tensor
        self.register_buffer("pe", table.flatten(1)[None])


class TemporalAttention(Attention):
    """Attention over frames, each position of the picture by itself."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__(dim, heads)
        self.pos_encoder = PositionTable(dim)

    def over_frames(self, tokens: Tensor, answered: int) -> Tensor:
        """What the last `answered` of the frames learn from all: (..., frames, dim) -> (..., answered, dim)."""
        tokens = tokens + self.pos_encoder.pe[0, : tokens.shape[-2]]
        out: Tensor = self(tokens[..., -answered:, :], self.keys_values(tokens))
        return out


class TemporalBlock(nn.Module):
    """Two attentions over frames and a feed-forward."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.attention_blocks = Modules[TemporalAttention](TemporalAttention(dim, heads) for _ in range(2))
        self.norms = Modules[nn.LayerNorm](nn.LayerNorm(dim) for _ in range(2))
        self.ff = FeedForward(dim)
        self.ff_norm = nn.LayerNorm(dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """(n, MOTION_FRAMES + CLIP_FRAMES, dim) -> (n, CLIP_FRAMES, dim).

        The motion frames come first; nobody asks for them after the second attention has seen them.
        """
        for attention, norm, answered in zip(
            self.attention_blocks, self.norms, (tokens.shape[1], CLIP_FRAMES), strict=True
        ):
            tokens = tokens[:, -answered:] + attention.over_frames(norm(tokens), answered)
        out: Tensor = tokens + self.ff(self.ff_norm(tokens))
        return out


class TemporalTransformer(nn.Module):
    """AnimateDiff's motion module, version 2 (Guo et al., arXiv 2307.04725) over motion frames and clip."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.norm = GroupNorm(channels, eps=1e-6)
        self.proj_in = nn.Linear(channels, channels)
        self.transformer_blocks = Modules[TemporalBlock]([TemporalBlock(channels, heads)])
        self.proj_out = nn.Linear(channels, channels)

    def forward(self, x: Tensor, motion: Tensor) -> Tensor:
        """(halves * CLIP_FRAMES, c, h, w), with motion (halves * MOTION_FRAMES, c, h, w) before each half."""
        tokens, motion_tokens = (self.proj_in(to_tokens(self.norm(rows))) for rows in (x, motion))
        frames = torch.cat(
            [
                rearrange(motion_tokens, "(half f) hw c -> half f hw c", f=MOTION_FRAMES),
                rearrange(tokens, "(half f) hw c -> half f hw c", f=CLIP_FRAMES),
            ],
            dim=1,
        )
        out = self.transformer_blocks[0](rearrange(frames, "half f hw c -> (half hw) f c"))
        out = rearrange(self.proj_out(out), "(half hw) f c -> (half f) hw c", hw=tokens.shape[1])
        return x + to_picture(out, like=x)


class MotionModule(nn.Module):
    """Holds the temporal transformer under the name that the weights have (key part `motion_modules`)."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.temporal_transformer = TemporalTransformer(channels, heads)

    def forward(self, x: Tensor, motion: Tensor) -> Tensor:
        """See `TemporalTransformer`."""
        out: Tensor = self.temporal_transformer(x, motion)
        return out
