"""Self-attention of pictures, some of which also see a reference picture, straight from where the projections wrote.

Flash attention (Dao, arXiv 2307.08691) cut for heads of 40, 80 and 160 channels: neither product is padded to the next
power of two. What bounds it on a Hopper GPU is less the products than the exponentials between them, of which a
multiprocessor's special function units do 16 a cycle: a share of them can be computed as polynomials instead
(FlashAttention-4, arXiv 2603.05451), and the next block's scores are asked for before this block's exponentials.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

_CONDITIONAL_FRAMES = 16


class Variant(NamedTuple):
    """How attention is cut and scheduled.

    Attributes:
        m: queries of a program, a power of two from 64.
        n: keys of one step, a power of two from 64.
        num_warps: of a program.
        num_stages: blocks of keys and values that are fetched ahead.
        ahead: whether the next block's scores are asked for before this block's softmax.
        polynomials: how many of 4 exponentials are polynomials.
        split_values: whether values are cut into two products without padding, too, rather than padded into one.
        max_registers: of a thread; None to leave that to the compiler.
    """

    m: int
    n: int
    num_warps: int
    num_stages: int
    ahead: bool = False
    polynomials: int = 0
    split_values: bool = True
    max_registers: int | None = None


ATTENTION_VARIANTS = (
    Variant(128, 128, 8, 2),
    Variant(128, 128, 8, 2, ahead=True),
    Variant(128, 64, 8, 3, ahead=True),
)
"""Worth timing for `self_attention` in half precision."""


@triton.jit
def _exp2_polynomial(x: tl.tensor) -> tl.tensor:
    """2^x for x <= 0 within 1e-4 of itself, in float32 without the special function unit; about 0 below -126.

    x is split into the nearest integer, which goes to the exponent's bits, and the rest (Cody and Waite), whose
    exponential is a cubic fitted on [-0.5, 0.5].
    """
    x = tl.maximum(x, -126.0)
    rounded = x + 12582912.0  # 1.5 * 2^23: the integer is in the lowest bits of the sum
    rest = x - (rounded - 12582912.0)
    p = 0.0551716685 * rest + 0.240196392
    p = p * rest + 0.693279684
    p = p * rest + 1.0
    return (p.to(tl.int32, bitcast=True) + (rounded.to(tl.int32, bitcast=True) << 23)).to(tl.float32, bitcast=True)


@triton.jit
def _exp2(x: tl.tensor, polynomials: tl.constexpr) -> tl.tensor:
    """2^x of (rows, columns); of each 32 columns the last 8 * polynomials by polynomials.

    Which columns a thread holds of each 8 depends on the thread, which 8 of 32 does not: the compiler drops, register
    by register, the exponential that is not chosen.
    """
    if polynomials == 0:
        return tl.exp2(x)
    column = tl.arange(0, x.shape[1])[None, :]
    return tl.where(column // 8 % 4 >= 4 - polynomials, _exp2_polynomial(x), tl.exp2(x))


@triton.jit
def _scores(
    q_wide: tl.tensor,
    q_rest: tl.tensor,
    keys_wide: tl.tensor_descriptor,
    keys_rest: tl.tensor_descriptor,
    row: tl.tensor,
    first: tl.tensor,
    column: tl.tensor,
    length: tl.constexpr,
    block_n: tl.constexpr,
    wide: tl.constexpr,
    rest: tl.constexpr,
) -> tl.tensor:
    """Of all queries with the keys from `first` on, (block_m, block_n) in float32."""
    keys = keys_wide.load([row, first, column]).reshape(block_n, wide)
    scores = tl.dot(q_wide, keys.T, input_precision="ieee")
    if rest:
        keys = keys_rest.load([row, first, column + wide]).reshape(block_n, rest)
        scores = tl.dot(q_rest, keys.T, scores, input_precision="ieee")
    if length % block_n:
        seen = first + tl.arange(0, block_n) < length
        scores = tl.where(seen[None, :], scores, float("-inf"))
    return scores


@triton.jit
def _add_values(
    weights: tl.tensor,
    total_wide: tl.tensor,
    total_rest: tl.tensor,
    values_wide: tl.tensor_descriptor,
    values_rest: tl.tensor_descriptor,
    row: tl.tensor,
    first: tl.tensor,
    column: tl.tensor,
    block_n: tl.constexpr,
    wide: tl.constexpr,
    rest: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:
    """The totals with the weighted values from `first` on."""
    values = values_wide.load([row, first, column]).reshape(block_n, wide)
    weights = weights.to(values.dtype)
    total_wide = tl.dot(weights, values, total_wide, input_precision="ieee")
    if rest:
        values = values_rest.load([row, first, column + wide]).reshape(block_n, rest)
        total_rest = tl.dot(weights, values, total_rest, input_precision="ieee")
    return total_wide, total_rest


@triton.jit
def _attend(
    q_wide: tl.tensor,
    q_rest: tl.tensor,
    keys_wide: tl.tensor_descriptor,
    keys_rest: tl.tensor_descriptor,
    values_wide: tl.tensor_descriptor,
    values_rest: tl.tensor_descriptor,
    row: tl.tensor,
    key_column: tl.tensor,
    value_column: tl.tensor,
    highest: tl.tensor,
    divisor: tl.tensor,
    total_wide: tl.tensor,
    total_rest: tl.tensor,
    log2_scale: float,
    length: tl.constexpr,
    block_n: tl.constexpr,
    wide: tl.constexpr,
    rest: tl.constexpr,
    value_wide: tl.constexpr,
    value_rest: tl.constexpr,
    ahead: tl.constexpr,
    polynomials: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor, tl.tensor]:
    """One picture more: the highest score, the divisor and the totals of a softmax that goes on (arXiv 1805.02867)."""
    if ahead:
        scores = _scores(q_wide, q_rest, keys_wide, keys_rest, row, 0, key_column, length, block_n, wide, rest)
        higher = tl.maximum(highest, tl.max(scores, axis=1))
        shrink = tl.exp2((highest - higher) * log2_scale)
        highest = higher
        for first in range(0, length - block_n, block_n):
            divisor *= shrink
            total_wide *= shrink[:, None]
            total_rest *= shrink[:, None]
            following = _scores(
                q_wide, q_rest, keys_wide, keys_rest, row, first + block_n, key_column, length, block_n, wide, rest
            )
            weights = _exp2(scores * log2_scale - (highest * log2_scale)[:, None], polynomials)
            divisor += tl.sum(weights, axis=1)
            total_wide, total_rest = _add_values(
                weights,
                *(total_wide, total_rest, values_wide, values_rest, row, first, value_column),
                *(block_n, value_wide, value_rest),
            )
            higher = tl.maximum(highest, tl.max(following, axis=1))
            shrink = tl.exp2((highest - higher) * log2_scale)
            highest = higher
            scores = following
        weights = _exp2(scores * log2_scale - (highest * log2_scale)[:, None], polynomials)
        divisor = divisor * shrink + tl.sum(weights, axis=1)
        total_wide, total_rest = _add_values(
            weights,
            *(total_wide * shrink[:, None], total_rest * shrink[:, None], values_wide, values_rest, row),
            *((length - 1) // block_n * block_n, value_column, block_n, value_wide, value_rest),
        )
    else:
        for first in range(0, length, block_n):
            scores = _scores(q_wide, q_rest, keys_wide, keys_rest, row, first, key_column, length, block_n, wide, rest)
            higher = tl.maximum(highest, tl.max(scores, axis=1))
            shrink = tl.exp2((highest - higher) * log2_scale)
            highest = higher
            weights = _exp2(scores * log2_scale - (highest * log2_scale)[:, None], polynomials)
            divisor = divisor * shrink + tl.sum(weights, axis=1)
            total_wide, total_rest = _add_values(
                weights,
                *(total_wide * shrink[:, None], total_rest * shrink[:, None], values_wide, values_rest, row),
                *(first, value_column, block_n, value_wide, value_rest),
            )
    return highest, divisor, total_wide, total_rest


@triton.jit
def _load_queries(
    queries_ptr: tl.tensor,
    stride: tl.constexpr,
    tokens: tl.tensor,
    first: tl.constexpr,
    columns: tl.constexpr,
    length: tl.constexpr,
    head_dim: tl.constexpr,
) -> tl.tensor:
    """Of one head the channels from `first` on; beyond the head's last they are 0, and so is what keys have there."""
    lane = first + tl.arange(0, columns)
    inside = (tokens < length)[:, None] & (lane < head_dim)[None, :]
    return tl.load(queries_ptr + tokens[:, None] * stride + lane[None, :], mask=inside, other=0.0)


@triton.jit
def _store(
    out_ptr: tl.tensor,
    stride: tl.constexpr,
    tokens: tl.tensor,
    first: tl.constexpr,
    columns: tl.constexpr,
    attended: tl.tensor,
    length: tl.constexpr,
    head_dim: tl.constexpr,
) -> None:
    """The channels of one head from `first` on."""
    lane = first + tl.arange(0, columns)
    inside = (tokens < length)[:, None] & (lane < head_dim)[None, :]
    at = tokens[:, None] * stride + lane[None, :]
    tl.store(out_ptr + at, attended.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _self_attention(
    qkv_ptr: tl.tensor,  # (n, length, 3 * heads * head_dim)
    out_ptr: tl.tensor,  # (n, length, heads * head_dim)
    keys_wide: tl.tensor_descriptor,  # of qkv, blocks (1, block_n, wide)
    keys_rest: tl.tensor_descriptor,  # of qkv, blocks (1, block_n, rest)
    values_wide: tl.tensor_descriptor,
    values_rest: tl.tensor_descriptor,
    other_keys_wide: tl.tensor_descriptor,  # of the reference (pictures, length, 2 * heads * head_dim)
    other_keys_rest: tl.tensor_descriptor,
    other_values_wide: tl.tensor_descriptor,
    other_values_rest: tl.tensor_descriptor,
    n: int,
    first_conditional: int,
    pictures: int,
    log2_scale: float,
    length: tl.constexpr,
    heads: tl.constexpr,
    head_dim: tl.constexpr,
    wide: tl.constexpr,
    rest: tl.constexpr,
    value_wide: tl.constexpr,
    value_rest: tl.constexpr,
    block_m: tl.constexpr,
    block_n: tl.constexpr,
    ahead: tl.constexpr,
    polynomials: tl.constexpr,
) -> None:
    """A few queries of one head of one row: grid (query blocks * heads * n,), in this order.

    Neighbouring programs share keys and values, and the last rows, which may see a reference too, start first.
    """
    c: tl.constexpr = heads * head_dim
    blocks: tl.constexpr = (length + block_m - 1) // block_m
    tokens = tl.program_id(0) % blocks * block_m + tl.arange(0, block_m)
    head = tl.program_id(0) // blocks % heads
    row = n - 1 - tl.program_id(0) // (blocks * heads)
    own = row.to(tl.int64) * length
    queries_ptr = qkv_ptr + own * (3 * c) + head * head_dim
    q_wide = _load_queries(queries_ptr, 3 * c, tokens, 0, wide, length, head_dim)
    q_rest = q_wide
    if rest:
        q_rest = _load_queries(queries_ptr, 3 * c, tokens, wide, rest, length, head_dim)

    highest = tl.full([block_m], float("-inf"), tl.float32)
    divisor = tl.zeros([block_m], tl.float32)
    total_wide = tl.zeros([block_m, value_wide], tl.float32)
    total_rest = tl.zeros([block_m, value_rest if value_rest else 16], tl.float32)
    column = head * head_dim
    highest, divisor, total_wide, total_rest = _attend(
        *(q_wide, q_rest, keys_wide, keys_rest, values_wide, values_rest, row, c + column, 2 * c + column),
        *(highest, divisor, total_wide, total_rest, log2_scale),
        *(length, block_n, wide, rest, value_wide, value_rest, ahead, polynomials),
    )
    if row >= first_conditional:
        picture = (row - first_conditional) % pictures
        highest, divisor, total_wide, total_rest = _attend(
            *(q_wide, q_rest, other_keys_wide, other_keys_rest, other_values_wide, other_values_rest),
            *(picture, column, c + column),
            *(highest, divisor, total_wide, total_rest, log2_scale),
            *(length, block_n, wide, rest, value_wide, value_rest, ahead, polynomials),
        )

    out_ptr += own * c + head * head_dim
    share = (1.0 / divisor)[:, None]
    _store(out_ptr, c, tokens, 0, value_wide, total_wide * share, length, head_dim)
    if value_rest:
        _store(out_ptr, c, tokens, value_wide, value_rest, total_rest * share, length, head_dim)
