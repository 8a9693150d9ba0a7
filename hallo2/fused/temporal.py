"""The transformer over time."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from hallo2.fused.operations import by_parity, grouped, normed, packed
from hallo2.fused.tail import FusedTail
from hallo2.kernels import temporal_attention
from hallo2.transformers import CLIP_FRAMES, MOTION_FRAMES, TemporalBlock, TemporalTransformer


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
        self.tail = FusedTail(block.ff_norm, block.ff, transformer.proj_out)
        self.shift: Tensor | None = None

    def motion(self, features: Tensor) -> Tensor:
        """The tokens of the motion frames from their features, both (halves * MOTION_FRAMES, h * w, c)."""
        return self._tokens(features)

    def __call__(self, x: Tensor, motion: Tensor) -> Tensor:
        """(halves * frames, h * w, c) -> the same shape; `motion` is what the method of that name gave."""
        tokens, attended = self._attended(x, motion)
        return self.tail(x, tokens, added=attended)

    def _attended(self, x: Tensor, motion: Tensor) -> tuple[Tensor, Tensor]:
        """The tokens after the first attention, and what the second adds."""
        block, heads = self.block, self.first.heads
        tokens = self._tokens(x, self.shift)
        qkv = functional.linear(normed(block.norms[0], tokens, position=self.positions[0])[1], self.qkv[0])
        # The same in each step, but kept for all layers it would take 264 MiB.
        motion_hidden = normed(block.norms[0], motion, position=self.motion_positions[0])[1]
        attended, motion_attended = temporal_attention(qkv, functional.linear(motion_hidden, self.qkv[0]), heads)
        del qkv
        tokens, hidden = normed(block.norms[1], tokens, added=self.first.project(attended), position=self.positions[1])
        del attended
        _, motion_hidden = normed(
            block.norms[1],
            motion,
            added=self.first.project(motion_attended),
            position=self.motion_positions[1],
        )
        qkv, motion_qkv = functional.linear(hidden, self.qkv[1]), functional.linear(motion_hidden, self.qkv[1])
        del hidden
        attended, _ = temporal_attention(qkv, motion_qkv, heads, for_motion=False)
        del qkv
        return tokens, self.second.project(attended)

    def _tokens(self, x: Tensor, shift: Tensor | None = None) -> Tensor:
        tokens: Tensor = self.transformer.proj_in(grouped(self.transformer.norm, x, shift=shift))
        return tokens
