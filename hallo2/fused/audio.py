"""The transformer over the speech."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional

from hallo2.fused.operations import attend, bias_of, grouped, let_go, normed, packed
from hallo2.fused.tail import FusedTail
from hallo2.kernels import speech_weights
from hallo2.transformers import CLIP_FRAMES, AudioTransformer


@dataclass(frozen=True)
class FusedRegionContext:
    """As `RegionContext`.

    Attributes:
        weights: mask times motion scale of each region, (h * w, regions).
        silence: see `RegionContext`, (h * w, c) in float32.
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
        # What silence adds: of each region mask * Z b + z, for the bias b of the projection out and the convolution's.
        self.through_mask = torch.stack([conv.matrix.float() @ attn.out_bias.float() for attn, conv in regions])
        self.past_mask = torch.stack([bias_of(conv).float() for _, conv in regions])
        let_go(*(module for attn, conv in regions for module in (attn.to_q, attn.to_out[0], conv)))
        self.tail = FusedTail(self.block.norm3, self.block.ff, transformer.proj_out)
        self.shift: Tensor | None = None

    def region(self, masks: Sequence[Tensor], motion_scale: Sequence[float]) -> FusedRegionContext:
        """See `AudioTransformer.region`."""
        scale = self.past_mask.new_tensor(motion_scale)
        weights = torch.cat(list(masks), dim=2)[0].float() * scale
        return FusedRegionContext(weights.to(self.qkv.dtype), weights @ self.through_mask + scale @ self.past_mask)

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

    def __call__(self, x: Tensor, speech: FusedSpeechContext | None, region: FusedRegionContext) -> Tensor:
        """(halves * frames, h * w, c) -> the same shape; without speech for the unconditional half by itself."""
        tokens, spoken = self._spoken(x, speech, region)
        return self.tail(x, tokens, everywhere=region.silence, added=spoken)

    def _spoken(
        self, x: Tensor, speech: FusedSpeechContext | None, region: FusedRegionContext
    ) -> tuple[Tensor, Tensor | None]:
        """The tokens after self-attention, and what the speech adds to those of the conditional half."""
        transformer, block = self.transformer, self.block
        tokens = transformer.proj_in(grouped(transformer.norm, x, shift=self.shift))
        heads = block.attn1.heads
        qkv = functional.linear(normed(block.norm1, tokens)[1], self.qkv)
        attended, _ = attend(*qkv.chunk(3, dim=-1), heads=heads)
        del qkv
        attended = block.attn1.project(attended.flatten(2))
        if speech is None:
            return tokens.add_(attended), None
        tokens, hidden = normed(block.norm2, tokens, added=attended)
        del attended
        weights = speech_weights(
            hidden[-CLIP_FRAMES:],
            speech.keys,
            region.weights,
            heads,
            tokens=len(speech.keys[0]) // len(self.queries),
            used=speech.tokens,
        )
        return tokens, torch.bmm(weights, speech.values)
