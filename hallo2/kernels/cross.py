"""Attention to a few constant tokens, with all linear maps around it folded into the tokens."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from hallo2.kernels.tiles import MULTIPROCESSORS, channel_block


@triton.jit
def _softmax_over_tokens(scores: tl.tensor, seen: tl.tensor, heads: tl.constexpr, tokens: tl.constexpr) -> tl.tensor:
    """Softmax of (rows, heads * tokens) over each head's tokens; weights of what is not `seen` are 0."""
    apart = tl.reshape(tl.where(seen, scores, -1e30), (scores.shape[0], heads, tokens))
    weights = tl.exp(apart - tl.max(apart, axis=2)[:, :, None])
    weights = tl.reshape(weights / tl.sum(weights, axis=2)[:, :, None], (scores.shape[0], heads * tokens))
    return tl.where(seen, weights, 0.0)


@triton.jit
def _token_attention(
    x_ptr: tl.tensor,  # (halves, rows, c)
    normed_weight_ptr: tl.tensor,  # (c,)
    normed_bias_ptr: tl.tensor,  # (c,)
    keys_ptr: tl.tensor,  # (halves, c, heads * tokens)
    values_ptr: tl.tensor,  # (halves, heads * tokens, c)
    bias_ptr: tl.tensor,  # (c,)
    shift_ptr: tl.tensor,  # (c,)
    out_ptr: tl.tensor,  # (halves, rows, c)
    rows: int,
    c: int,
    eps: float,
    heads: tl.constexpr,
    tokens: tl.constexpr,
    block_heads: tl.constexpr,
    block_tokens: tl.constexpr,
    block_rows: tl.constexpr,
    block_c: tl.constexpr,
) -> None:
    """A few whole rows of one half: grid (row blocks, halves).

    The row is passed three times, in blocks of channels: for mean and variance, for the scores, for the sum. Only the
    first time does it come from memory, then from the caches.
    """
    half = tl.program_id(1)
    row = tl.program_id(0) * block_rows + tl.arange(0, block_rows)
    channel = tl.arange(0, block_c)
    own = half.to(tl.int64) * rows * c
    x_ptr += own
    out_ptr += own
    at = row.to(tl.int64)[:, None] * c + channel[None, :]
    in_rows = (row < rows)[:, None]

    mean = tl.zeros([block_rows], tl.float32)
    m2 = tl.zeros([block_rows], tl.float32)
    for first in range(0, c, block_c):
        inside = in_rows & (first + channel < c)[None, :]
        x = tl.load(x_ptr + at + first, mask=inside, other=0.0).to(tl.float32)
        x += tl.load(shift_ptr + first + channel, mask=first + channel < c, other=0.0).to(tl.float32)[None, :]
        count = 1.0 * tl.minimum(c - first, block_c)
        block_mean = tl.sum(x, axis=1) / count
        apart = tl.where(inside, x - block_mean[:, None], 0.0)
        # Blocks of channels into one (Chan, Golub and LeVeque 1979).
        delta = block_mean - mean
        share = count / (first + count)
        m2 += tl.sum(apart * apart, axis=1) + delta * delta * (first * share)
        mean += delta * share
    scale = tl.rsqrt(m2 / c + eps)

    # Heads and tokens are padded to powers of two each, so that lane j belongs to head j // block_tokens.
    lane = tl.arange(0, block_heads * block_tokens)
    seen = (lane // block_tokens < heads) & (lane % block_tokens < tokens)
    column = lane // block_tokens * tokens + lane % block_tokens
    of_half = half * c * heads * tokens
    scores = tl.zeros([block_rows, block_heads * block_tokens], tl.float32)
    for first in range(0, c, block_c):
        channels = first + channel
        valid = channels < c
        x = tl.load(x_ptr + at + first, mask=in_rows & valid[None, :], other=0.0).to(tl.float32)
        x += tl.load(shift_ptr + channels, mask=valid, other=0.0).to(tl.float32)[None, :]
        weight = tl.load(normed_weight_ptr + channels, mask=valid, other=0.0).to(tl.float32)
        bias = tl.load(normed_bias_ptr + channels, mask=valid, other=0.0).to(tl.float32)
        normed = (x - mean[:, None]) * scale[:, None] * weight[None, :] + bias[None, :]
        keys = tl.load(
            keys_ptr + of_half + channels[:, None] * (heads * tokens) + column[None, :],
            mask=valid[:, None] & seen[None, :],
            other=0.0,
        )
        scores = tl.dot(normed.to(keys.dtype), keys, scores, input_precision="ieee")
    weights = _softmax_over_tokens(scores, seen[None, :], block_heads, block_tokens)

    for first in range(0, c, block_c):
        channels = first + channel
        valid = channels < c
        values = tl.load(
            values_ptr + of_half + column[:, None] * c + channels[None, :],
            mask=seen[:, None] & valid[None, :],
            other=0.0,
        )
        attended = tl.dot(weights.to(values.dtype), values, input_precision="ieee")
        x = tl.load(x_ptr + at + first, mask=in_rows & valid[None, :], other=0.0).to(tl.float32)
        bias = tl.load(bias_ptr + channels, mask=valid, other=0.0).to(tl.float32)
        shift = tl.load(shift_ptr + channels, mask=valid, other=0.0).to(tl.float32)
        y = x + attended + (bias + shift)[None, :]
        tl.store(out_ptr + at + first, y.to(out_ptr.dtype.element_ty), mask=in_rows & valid[None, :])


def token_attention(
    x: Tensor,
    normed_weight: Tensor,
    normed_bias: Tensor,
    keys: Tensor,
    values: Tensor,
    bias: Tensor,
    shift: Tensor,
    *,
    heads: int,
    tokens: int,
    eps: float = 1e-5,
) -> Tensor:
    """y + softmax(layer_norm(y) @ keys) @ values + bias, of y = x + shift, with a softmax over the tokens of each head.

    What attention does before and after its softmax is linear. With few tokens that do not change, query projection,
    keys and scale are one matrix, values and output projection another, and both are small: for head h with rows W_q[h]
    of the query projection, columns W_o[h] of the output projection and its own keys k[h] and values v[h] (tokens, d),

        keys[:, h] = W_q[h]^T k[h]^T / sqrt(d)        values[h] = v[h] W_o[h]^T

    Args:
        x: (n, hw, c), contiguous; its rows are the frames of the first half, then those of the next.
        normed_weight: (c,), contiguous, of the layer norm.
        normed_bias: (c,), contiguous, of the layer norm.
        keys: (halves, c, heads * tokens), contiguous.
        values: (halves, heads * tokens, c), contiguous.
        bias: (c,), contiguous, of the output projection.
        shift: (c,), contiguous: the bias that what was added to x last still lacks.
        heads: at least 1.
        tokens: of each head, at least 1.
        eps: added to the variance.

    Returns:
        (n, hw, c) in x's dtype.
    """
    (n, hw, c), halves = x.shape, len(keys)
    rows = n // halves * hw
    # Tall tiles read keys and values less often; flat ones keep all multiprocessors busy where there are few rows.
    block_rows = next((size for size in (64, 32) if halves * rows >= 4 * MULTIPROCESSORS * size), 16)
    block_tokens = triton.next_power_of_2(tokens)
    block_heads = max(triton.next_power_of_2(heads), 16 // block_tokens)
    out = torch.empty_like(x)
    _token_attention[(triton.cdiv(rows, block_rows), halves)](
        *(x, normed_weight, normed_bias, keys, values, bias, shift, out, rows, c, eps),
        heads=heads,
        tokens=tokens,
        block_heads=block_heads,
        block_tokens=block_tokens,
        block_rows=block_rows,
        block_c=max(channel_block(c, most=64), 16),
        num_warps=4,
        num_stages=1,  # asynchronous copies would go past the L1 cache, which holds the rows from the first time on
    )
    return out
