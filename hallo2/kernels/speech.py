"""How much each token listens to each audio token: the first half of the attention to the speech, without queries.

The audio tokens of a clip do not change from step to step, so query and output projections are folded into them once,
as `hallo2.kernels.cross` does for the face. What is left is a product with the folded keys, a softmax over the few
tokens of each head and the mask, here in one, and a batched product with the folded values, which any library can do.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from hallo2.kernels.tiles import FLOAT32_TILE, MULTIPROCESSORS, Tile

SPEECH_TILES = (Tile(128, 256, 64, 8, 3, 132), Tile(64, 128, 64, 4, 3, 264))
"""For half precision: the fastest of six on an H200, and one for few tokens."""

_LOG2_E = math.log2(math.e)


@triton.jit
def _speech_weights(
    normed: tl.tensor_descriptor,  # (frames, hw, c)
    keys: tl.tensor_descriptor,  # (frames, columns, c)
    region_ptr: tl.tensor,  # (hw, regions)
    out: tl.tensor_descriptor,  # (frames, hw, columns)
    frames: int,
    hw: int,
    columns: int,
    c: int,
    regions: int,
    log2_e: float,
    heads: tl.constexpr,
    tokens: tl.constexpr,
    used: tl.constexpr,
    block_m: tl.constexpr,
    block_n: tl.constexpr,
    block_k: tl.constexpr,
) -> None:
    """Tiles of one frame each, those of the same rows one after the other. What lies beyond a frame is not written."""
    groups: tl.constexpr = block_n // tokens  # heads in a tile
    tiles_n = tl.cdiv(columns, block_n)
    in_frame = tl.cdiv(hw, block_m) * tiles_n
    for index in tl.range(tl.program_id(0), frames * in_frame, tl.num_programs(0), flatten=True):
        frame = index // in_frame
        row = index % in_frame // tiles_n * block_m
        column = index % tiles_n * block_n  # in_frame is a multiple of tiles_n
        scores = tl.zeros([block_m, block_n], tl.float32)
        for step in range(tl.cdiv(c, block_k)):
            a = tl.reshape(normed.load([frame, row, step * block_k]), (block_m, block_k))
            b = tl.reshape(keys.load([frame, column, step * block_k]), (block_n, block_k))
            scores = tl.dot(a, b.T, scores, input_precision="ieee")
        rows = (row + tl.arange(0, block_m))[:, None]
        region = ((column // tokens + tl.arange(0, groups)) // heads)[None, :]
        valid = (rows < hw) & (region < regions)
        weights = tl.load(region_ptr + rows * regions + region, mask=valid, other=0.0).to(tl.float32)
        apart = tl.reshape(scores, (block_m, groups, tokens))
        if used < tokens:
            apart = tl.where(tl.arange(0, tokens)[None, None, :] < used, apart, float("-inf"))
        apart = tl.exp2(apart * log2_e - (tl.max(apart, axis=2) * log2_e)[:, :, None])
        apart *= (weights / tl.sum(apart, axis=2))[:, :, None]
        out.store([frame, row, column], tl.reshape(apart, (1, block_m, block_n)).to(out.dtype))


def _speech_tile(rows: int, columns: int, hw: int, dtype: torch.dtype) -> Tile:
    if dtype == torch.float32:
        return FLOAT32_TILE
    large, small = SPEECH_TILES
    few = triton.cdiv(rows, large.m) * triton.cdiv(columns, large.n) < 2 * MULTIPROCESSORS
    return small if few or hw < large.m else large


def speech_weights(
    normed: Tensor,
    keys: Tensor,
    weights: Tensor,
    heads: int,
    *,
    tokens: int = 32,
    used: int | None = None,
    tile: Tile | None = None,
) -> Tensor:
    """softmax(normed @ keys^T) over the tokens of each head by itself, times the weight of the head's region.

    What attention does before and after its softmax is linear. With tokens that do not change for a while, query
    projection, keys and scale are one matrix, values, output projection and what follows it another: for head h of a
    region with rows W_q[h] of its query projection, columns W_o[h] of its output matrix and the head's own keys k[h]
    and values v[h] (tokens, d),

        keys[h] = k[h] W_q[h] / sqrt(d)        values[h] = v[h] W_o[h]^T

    and the batched product of the result with the values, (frames, regions * heads * tokens, c), is what all regions
    add. Scores, softmax and weights are float32; their product is rounded once.

    Args:
        normed: (frames, hw, c), contiguous; c a multiple of 16 bytes.
        keys: (frames, regions * heads * tokens, c), contiguous: each head's tokens are neighbours.
        weights: (hw, regions), contiguous: mask times motion scale.
        heads: of each region.
        tokens: of each head, a power of two from 8 to 64.
        used: how many of these are no padding, the first; None for all. Padding has the weight 0.
        tile: how the product is cut; None to have it chosen by shape.

    Returns:
        (frames, hw, regions * heads * tokens) in normed's dtype.
    """
    (frames, hw, c), columns = normed.shape, keys.shape[1]
    tile = tile or _speech_tile(frames * hw, columns, hw, normed.dtype)
    out = normed.new_empty(frames, hw, columns)
    tiles = frames * triton.cdiv(hw, tile.m) * triton.cdiv(columns, tile.n)
    _speech_weights[(min(tiles, tile.programs),)](
        TensorDescriptor.from_tensor(normed, [1, tile.m, tile.k]),
        TensorDescriptor.from_tensor(keys, [1, tile.n, tile.k]),
        weights,
        TensorDescriptor.from_tensor(out, [1, tile.m, tile.n]),
        *(frames, hw, columns, c, weights.shape[1], _LOG2_E),
        heads=heads,
        tokens=tokens,
        used=used or tokens,
        block_m=tile.m,
        block_n=tile.n,
        block_k=tile.k,
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
    )
    return out
