"""Attention to two sets of keys that were attended to apart, as if they had been one."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

_TILE = 2048
"""Elements that a program holds."""


@triton.jit
def _merge(
    out_ptr: tl.tensor,  # (n, length, heads, d)
    lse_ptr: tl.tensor,  # (n, heads, length)
    other_ptr: tl.tensor,  # (n, length, heads, d)
    other_lse_ptr: tl.tensor,  # (n, heads, length)
    rows: int,
    length: int,
    heads: int,
    d: int,
    block_rows: tl.constexpr,
    block_d: tl.constexpr,
) -> None:
    """A few rows, each of one head at one place."""
    row = tl.program_id(0) * block_rows + tl.arange(0, block_rows)
    inside = row < rows
    head = row % heads
    place = row // heads
    sums = (place // length * heads + head) * length + place % length
    lse = tl.load(lse_ptr + sums, mask=inside, other=0.0)
    other_lse = tl.load(other_lse_ptr + sums, mask=inside, other=0.0)
    # exp(lse) / (exp(lse) + exp(other_lse)); beyond e^80 to 1 it is 0 or 1 in float32.
    apart = tl.minimum(tl.maximum(other_lse - lse, -80.0), 80.0)
    share = (1.0 / (1.0 + tl.exp(apart)))[:, None]
    lane = tl.arange(0, block_d)[None, :]
    valid = inside[:, None] & (lane < d)
    at = row.to(tl.int64)[:, None] * d + lane
    out = tl.load(out_ptr + at, mask=valid, other=0.0).to(tl.float32)
    other = tl.load(other_ptr + at, mask=valid, other=0.0).to(tl.float32)
    merged = out * share + other * (1.0 - share)
    tl.store(out_ptr + at, merged.to(out_ptr.dtype.element_ty), mask=valid)


def merge_attention(out: Tensor, lse: Tensor, other: Tensor, other_lse: Tensor) -> None:
    """Make of attention to some keys, and to others, the attention to all of them; in place, in `out`.

    A softmax over all is the two softmaxes weighted by their sums of exponentials (as in Dao et al., FlashAttention,
    arXiv 2205.14135, between blocks of keys): nobody has to lay the keys side by side.

    Args:
        out: (n, length, heads, d), contiguous: attention to the first keys.
        lse: (n, heads, length), contiguous, float32: logarithms of its sums of exponentials.
        other: as `out`, of the other keys.
        other_lse: as `lse`, of the other keys.
    """
    n, length, heads, d = out.shape
    rows = n * length * heads
    block_d = triton.next_power_of_2(d)
    block_rows = max(1, _TILE // block_d)
    _merge[(triton.cdiv(rows, block_rows),)](
        *(out, lse, other, other_lse, rows, length, heads, d), block_rows=block_rows, block_d=block_d, num_warps=4
    )
