"""Attention over frames, each position of the picture by itself, straight from where the projections wrote."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple, overload

import triton
import triton.language as tl
from torch import Tensor

_CLIP_FRAMES = 16
_MOTION_FRAMES = 2


class Rows(NamedTuple):
    """How the matrix units see the small problems.

    Attributes:
        rows: tokens that are multiplied at a time, a power of two: those of rows // 18 positions.
        num_warps: of a program.
    """

    rows: int = 64
    num_warps: int = 4


@triton.jit
def _load(
    clip_ptr: tl.tensor,
    motion_ptr: tl.tensor,
    clip_at: tl.tensor,
    motion_at: tl.tensor,
    is_clip: tl.tensor,
    is_motion: tl.tensor,
) -> tl.tensor:
    """Tokens of both kinds of frames as one tile; what is of neither kind is 0."""
    clip = tl.load(clip_ptr + clip_at, mask=is_clip, other=0.0)
    motion = tl.load(motion_ptr + motion_at, mask=is_motion, other=0.0)
    return tl.where(is_clip, clip, motion)


@triton.jit
def _temporal_attention(
    qkv_ptr: tl.tensor,  # (halves, clip_frames, hw, 3 * heads * head_dim)
    motion_ptr: tl.tensor,  # (halves, motion_frames, hw, 3 * heads * head_dim)
    out_ptr: tl.tensor,  # (halves, clip_frames, hw, heads * head_dim)
    motion_out_ptr: tl.tensor,  # (halves, motion_frames, hw, heads * head_dim)
    hw: int,
    log2_scale: float,
    heads: tl.constexpr,
    head_dim: tl.constexpr,
    clip_frames: tl.constexpr,
    motion_frames: tl.constexpr,
    for_motion: tl.constexpr,
    positions: tl.constexpr,
    block_rows: tl.constexpr,
    block_d: tl.constexpr,
) -> None:
    """One head at a few neighbouring positions of one half: grid (heads, position blocks, halves).

    Neighbouring programs are the heads of the same positions, which share lines of memory.
    """
    head, block, half = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    frames: tl.constexpr = motion_frames + clip_frames
    c: tl.constexpr = heads * head_dim
    row = tl.arange(0, block_rows)
    frame = row // positions  # rows that are neighbours in memory are neighbours here
    position = block * positions + row % positions
    lane = tl.arange(0, block_d)[None, :]

    valid = (frame < frames) & (position < hw)
    inside = valid[:, None] & (lane < head_dim)
    is_clip = inside & (frame >= motion_frames)[:, None]
    is_motion = inside & (frame < motion_frames)[:, None]
    clip_row = (half * clip_frames + frame - motion_frames) * hw + position
    motion_row = (half * motion_frames + frame) * hw + position
    clip_at = clip_row.to(tl.int64)[:, None] * (3 * c) + head * head_dim + lane
    motion_at = motion_row.to(tl.int64)[:, None] * (3 * c) + head * head_dim + lane

    q = _load(qkv_ptr, motion_ptr, clip_at, motion_at, is_clip, is_motion & for_motion)
    k = _load(qkv_ptr + c, motion_ptr + c, clip_at, motion_at, is_clip, is_motion)
    v = _load(qkv_ptr + 2 * c, motion_ptr + 2 * c, clip_at, motion_at, is_clip, is_motion)

    # One product for all positions; scores between different positions are dropped. Rows beyond the last one see
    # themselves, so that no softmax is over nothing.
    scores = tl.dot(q, tl.trans(k), input_precision="ieee") * log2_scale
    place = tl.where(valid, row % positions, positions + row)
    scores = tl.where(place[:, None] == place[None, :], scores, float("-inf"))
    weights = tl.exp2(scores - tl.max(scores, axis=1)[:, None])
    attended = tl.dot(weights.to(v.dtype), v, input_precision="ieee") / tl.sum(weights, axis=1)[:, None]

    attended = attended.to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + clip_row.to(tl.int64)[:, None] * c + head * head_dim + lane, attended, mask=is_clip)
    if for_motion:
        tl.store(
            motion_out_ptr + motion_row.to(tl.int64)[:, None] * c + head * head_dim + lane, attended, mask=is_motion
        )


@overload
def temporal_attention(
    qkv: Tensor, motion_qkv: Tensor, heads: int, *, for_motion: Literal[True] = True, rows: Rows | None = None
) -> tuple[Tensor, Tensor]: ...


@overload
def temporal_attention(
    qkv: Tensor, motion_qkv: Tensor, heads: int, *, for_motion: Literal[False], rows: Rows | None = None
) -> tuple[Tensor, None]: ...


def temporal_attention(
    qkv: Tensor, motion_qkv: Tensor, heads: int, *, for_motion: bool = True, rows: Rows | None = None
) -> tuple[Tensor, Tensor | None]:
    """softmax(q k^T / sqrt(d)) v over the 18 frames, for each half, position and head by itself.

    Queries, keys and values are read from where the packed projections wrote them, frames apart from each other as they
    are, and the answers are written the same way: nothing is transposed in memory. 18 x 18 is small for the matrix
    units, so the tokens of several positions are multiplied at once and the scores between positions are thrown
    away. Scores and softmax are float32; the weights are rounded to the tokens' dtype, as flash attention does.

    Args:
        qkv: (halves * 16, hw, 3 * c), contiguous: queries, keys, values of the clip's frames, one after the other.
        motion_qkv: (halves * 2, hw, 3 * c), contiguous: of the motion frames, which come first.
        heads: c is heads * d.
        for_motion: whether the motion frames' queries are asked too.
        rows: how the problems are batched; None for 64 rows, 3 positions at a time.

    Returns:
        For the clip's frames (halves * 16, hw, c), for the motion frames (halves * 2, hw, c) or None, in qkv's dtype.
    """
    rows = rows or Rows()
    n, hw, packed = qkv.shape
    halves = n // _CLIP_FRAMES
    head_dim = packed // 3 // heads
    positions = rows.rows // (_CLIP_FRAMES + _MOTION_FRAMES)
    out = qkv.new_empty(n, hw, packed // 3)
    motion_out = motion_qkv.new_empty(len(motion_qkv), hw, packed // 3) if for_motion else None
    _temporal_attention[(heads, triton.cdiv(hw, positions), halves)](
        *(qkv, motion_qkv, out, out if motion_out is None else motion_out, hw, math.log2(math.e) / math.sqrt(head_dim)),
        heads=heads,
        head_dim=head_dim,
        clip_frames=_CLIP_FRAMES,
        motion_frames=_MOTION_FRAMES,
        for_motion=for_motion,
        positions=positions,
        block_rows=rows.rows,
        block_d=max(16, triton.next_power_of_2(head_dim)),
        num_warps=rows.num_warps,
    )
    return out, motion_out
