"""The transformer over the picture."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional

from hallo2.fused.operations import attend, grouped, normed, packed
from hallo2.fused.tail import FusedTail
from hallo2.kernels import merge_attention, token_attention
from hallo2.transformers import CLIP_FRAMES, SpatialTransformer


@dataclass(frozen=True)
class FusedSpatialContext:
    """As `SpatialContext`.

    Attributes:
        reference: keys and values of the reference image without and with identity, (2, h * w, 2 * c); None for the
            unconditional half by itself.
        face_keys: for each half what a normed token is multiplied with to get its scores, (halves, c, heads * tokens).
        face_values: for each half what the weights are multiplied with, (halves, heads * tokens, c).
    """

    reference: Tensor | None
    face_keys: Tensor
    face_values: Tensor

    def halves(self) -> list[FusedSpatialContext]:
        """Each half by itself; the last one is the conditional one."""
        keys, values = torch.split(self.face_keys, 1), torch.split(self.face_values, 1)
        references = [*(None for _ in keys[1:]), self.reference]
        return [FusedSpatialContext(*half) for half in zip(references, keys, values, strict=True)]


class FusedSpatial:
    """As `SpatialTransformer`."""

    def __init__(self, transformer: SpatialTransformer) -> None:
        self.transformer, self.block = transformer, transformer.block
        self.qkv = packed(self.block.attn1.to_q, self.block.attn1.to_k, self.block.attn1.to_v)
        self.tail = FusedTail(self.block.norm3, self.block.ff, transformer.proj_out)
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
        attended = self._self_attention(normed(block.norm1, tokens)[1], context.reference)
        tokens.flatten(0, 1).addmm_(attended.flatten(0, 1), block.attn1.to_out[0].weight.t())
        del attended
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

    def _self_attention(self, hidden: Tensor, reference: Tensor | None) -> Tensor:
        heads = self.block.attn1.heads
        queries, keys, values = functional.linear(hidden, self.qkv).chunk(3, dim=-1)
        del hidden
        attended, lse = attend(queries, keys, values, heads=heads)
        if reference is None:
            return attended.flatten(2)
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
