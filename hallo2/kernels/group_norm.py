"""Group normalisation of channels-last pictures, with what comes before it and after it."""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from hallo2.kernels.tiles import channel_block

_PROGRAMS = 528
"""About as many programs as keep the 132 multiprocessors of an H100 or H200 busy."""

_CHUNKS = 128
"""At most as many pieces of a picture are summed up apart, so that little is left to combine."""

_COMBINED = 8192
"""Elements that a program combines, at most 8 groups of them."""

_TILE = 4096
"""Elements that a program holds at a time."""

_STAGES = 4
"""Tiles of the statistics that are fetched ahead."""


@triton.jit
def _source(x_ptr: tl.tensor, beside_ptr: tl.tensor, first: int, c: int, own_c: int) -> tuple[tl.tensor, int, int]:
    """Of x and the picture whose channels follow x's, the one with this channel: where, how wide, its first channel."""
    of_x = first < own_c
    return tl.where(of_x, x_ptr, beside_ptr), tl.where(of_x, own_c, c - own_c), tl.where(of_x, 0, own_c)


@triton.jit
def _statistics(
    x_ptr: tl.tensor,  # (n, hw, own_c)
    beside_ptr: tl.tensor,  # (n, hw, c - own_c)
    shift_ptr: tl.tensor,  # (n or 1, c)
    mean_ptr: tl.tensor,  # (n, chunks, c) float32
    m2_ptr: tl.tensor,  # (n, chunks, c) float32, the sum of squared deviations from the mean
    hw: int,
    c: int,
    own_c: int,
    chunk_rows: int,
    shift_stride: int,
    has_shift: tl.constexpr,
    block_rows: tl.constexpr,
    block_c: tl.constexpr,
    num_stages: tl.constexpr,
) -> None:
    """Mean and squared deviations of each channel over one chunk of one picture: grid (channel blocks, chunks, n)."""
    chunk, n = tl.program_id(1), tl.program_id(2)
    channels = tl.program_id(0) * block_c + tl.arange(0, block_c)
    inside = channels < c
    start = chunk * chunk_rows
    stop = tl.minimum(start + chunk_rows, hw)
    source_ptr, width, first_channel = _source(x_ptr, beside_ptr, tl.program_id(0) * block_c, c, own_c)
    source_ptr += n.to(tl.int64) * hw * width
    columns = channels - first_channel
    shift = tl.zeros([block_c], tl.float32)
    if has_shift:
        shift = tl.load(shift_ptr + n * shift_stride + channels, mask=inside, other=0.0).to(tl.float32)

    # Every element of the tile adds up how far its values are from the first that it sees: only differences are ever
    # squared, so nothing cancels however far the mean is from zero (Chan, Golub and LeVeque 1983).
    rows = start + tl.arange(0, block_rows)
    valid = (rows < stop)[:, None] & inside[None, :]
    pilot = tl.load(source_ptr + rows[:, None] * width + columns[None, :], mask=valid, other=0.0).to(tl.float32)
    sums = tl.zeros([block_rows, block_c], tl.float32)
    squares = tl.zeros([block_rows, block_c], tl.float32)
    for first in tl.range(start + block_rows, stop, block_rows, num_stages=num_stages):
        rows = first + tl.arange(0, block_rows)
        valid = (rows < stop)[:, None] & inside[None, :]
        x = tl.load(source_ptr + rows[:, None] * width + columns[None, :], mask=valid, other=0.0).to(tl.float32)
        deviation = tl.where(valid, x - pilot, 0.0)
        sums += deviation
        squares += deviation * deviation

    # Rows of the tile, with the number of values that each has seen, into one.
    count = ((stop - start - tl.arange(0, block_rows) + block_rows - 1) // block_rows).to(tl.float32)[:, None]
    mean_deviation = sums / tl.maximum(count, 1.0)
    mean = pilot + shift[None, :] + mean_deviation
    total_mean = tl.sum(tl.where(count > 0, count * mean, 0.0), axis=0) / (stop - start)
    apart = mean - total_mean[None, :]
    m2 = tl.maximum(squares - sums * mean_deviation, 0.0)
    total_m2 = tl.sum(tl.where(count > 0, m2 + count * apart * apart, 0.0), axis=0)
    at = (n * tl.num_programs(1) + chunk) * c + channels
    tl.store(mean_ptr + at, total_mean, mask=inside)
    tl.store(m2_ptr + at, total_m2, mask=inside)


@triton.jit
def _combine(
    mean_ptr: tl.tensor,  # (n, chunks, c) float32
    m2_ptr: tl.tensor,  # (n, chunks, c) float32
    group_mean_ptr: tl.tensor,  # (n, groups) float32
    group_scale_ptr: tl.tensor,  # (n, groups) float32
    hw: int,
    c: int,
    chunks: int,
    chunk_rows: int,
    eps: float,
    groups: tl.constexpr,
    group_c: tl.constexpr,
    block_chunks: tl.constexpr,
    block_groups: tl.constexpr,
    block_c: tl.constexpr,
) -> None:
    """Mean and reciprocal standard deviation of some groups of one picture: grid (blocks of groups, n)."""
    n = tl.program_id(1)
    group = tl.program_id(0) * block_groups + tl.arange(0, block_groups)
    chunk = tl.arange(0, block_chunks)[:, None, None]
    member = tl.arange(0, block_c)[None, None, :]
    valid = (chunk < chunks) & (group < groups)[None, :, None] & (member < group_c)
    at = (n * chunks + chunk) * c + group[None, :, None] * group_c + member
    means = tl.load(mean_ptr + at, mask=valid, other=0.0)
    m2s = tl.load(m2_ptr + at, mask=valid, other=0.0)
    rows = tl.where(valid, tl.minimum(chunk_rows, hw - chunk * chunk_rows).to(tl.float32), 0.0)
    size = 1.0 * hw * group_c
    mean = tl.sum(tl.sum(means * rows, axis=2), axis=0) / size
    apart = tl.where(valid, means - mean[None, :, None], 0.0)
    m2 = tl.sum(tl.sum(m2s + rows * apart * apart, axis=2), axis=0)
    to = n * groups + group
    tl.store(group_mean_ptr + to, mean, mask=group < groups)
    tl.store(group_scale_ptr + to, tl.rsqrt(m2 / size + eps), mask=group < groups)


@triton.jit
def _normalise(
    x_ptr: tl.tensor,  # (n, hw, own_c)
    beside_ptr: tl.tensor,  # (n, hw, c - own_c)
    out_ptr: tl.tensor,  # (n, hw, c)
    weight_ptr: tl.tensor,  # (c,)
    bias_ptr: tl.tensor,  # (c,)
    shift_ptr: tl.tensor,  # (n or 1, c)
    group_mean_ptr: tl.tensor,  # (n, groups) float32
    group_scale_ptr: tl.tensor,  # (n, groups) float32
    hw: int,
    c: int,
    own_c: int,
    groups: int,
    chunk_rows: int,
    shift_stride: int,
    group_c: tl.constexpr,
    has_shift: tl.constexpr,
    silu: tl.constexpr,
    block_rows: tl.constexpr,
    block_c: tl.constexpr,
) -> None:
    """One chunk of rows of a block of channels: grid as in `_statistics`.

    The programs go backwards through memory: what the first launch read last is still in the L2 cache.
    """
    chunk, n = tl.num_programs(1) - 1 - tl.program_id(1), tl.num_programs(2) - 1 - tl.program_id(2)
    first = (tl.num_programs(0) - 1 - tl.program_id(0)) * block_c
    channels = first + tl.arange(0, block_c)
    inside = channels < c
    group = n * groups + channels // group_c
    mean = tl.load(group_mean_ptr + group, mask=inside, other=0.0)
    scale = tl.load(group_scale_ptr + group, mask=inside, other=0.0)
    scale *= tl.load(weight_ptr + channels, mask=inside, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + channels, mask=inside, other=0.0).to(tl.float32)
    shift = tl.zeros([block_c], tl.float32)
    if has_shift:
        shift = tl.load(shift_ptr + n * shift_stride + channels, mask=inside, other=0.0).to(tl.float32)

    start = chunk * chunk_rows
    stop = tl.minimum(start + chunk_rows, hw)
    source_ptr, width, first_channel = _source(x_ptr, beside_ptr, first, c, own_c)
    source_ptr += n.to(tl.int64) * hw * width
    columns = channels - first_channel
    picture = n.to(tl.int64) * hw * c
    for first_row in range(start, stop, block_rows):
        rows = first_row + tl.arange(0, block_rows)
        valid = (rows < stop)[:, None] & inside[None, :]
        x = tl.load(source_ptr + rows[:, None] * width + columns[None, :], mask=valid, other=0.0).to(tl.float32)
        # In the same order as in the statistics, so that what has no variance comes out as exactly the bias.
        y = (x + shift[None, :] - mean[None, :]) * scale[None, :] + bias[None, :]
        if silu:
            y = y / (1.0 + tl.exp(tl.minimum(-y, 80.0)))  # no infinity, also where lanes are idle
        at = picture + rows[:, None] * c + channels[None, :]
        tl.store(out_ptr + at, y.to(out_ptr.dtype.element_ty), mask=valid)


def group_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    groups: int = 32,
    eps: float,
    silu: bool,
    shift: Tensor | None = None,
    beside: Tensor | None = None,
) -> Tensor:
    """silu(group_norm(x + shift)), each picture by itself, in three launches, of which the second is tiny.

    With `beside`, x has its channels too, behind its own, without being copied together with them. The shift stands for
    the bias and the time embedding that a convolution before would add: it is part of the statistics.

    The first launch reads x and leaves mean and squared deviations of every channel and chunk of rows, a hundredth of
    x; the second combines those of each group; the third reads x again and writes the result. Combining in the third
    launch would save the second, but costs it the registers that keep loads in flight. Statistics come from deviations,
    never from sums of squares, so they are as exact as a two-pass algorithm in float32.

    Args:
        x: (n, hw, c), contiguous, fewer than 2**31 elements a picture; or the first of its channels.
        weight: (c,), contiguous.
        bias: (c,), contiguous.
        groups: a divisor of c.
        eps: added to the variance.
        silu: whether x * sigmoid(x) follows.
        shift: (c,), (1, c) or (n, c), contiguous; added to x before everything else.
        beside: the other channels of x, (n, hw, others), contiguous. No tile may have channels of both: x's own are a
            multiple of the tile's width.

    Returns:
        (n, hw, c) in x's dtype.
    """
    n, hw, own_c = x.shape
    c = own_c if beside is None else own_c + beside.shape[-1]
    block_c = channel_block(math.gcd(own_c, c))
    block_rows = _TILE // block_c
    blocks = triton.cdiv(c, block_c)
    chunks = min(triton.cdiv(_PROGRAMS, n * blocks), triton.cdiv(hw, block_rows), _CHUNKS)
    chunk_rows = triton.cdiv(triton.cdiv(hw, chunks), block_rows) * block_rows
    chunks = triton.cdiv(hw, chunk_rows)

    out = x.new_empty(n, hw, c)
    mean, m2 = torch.empty((2, n, chunks, c), dtype=torch.float32, device=x.device)
    group_mean, group_scale = torch.empty((2, n, groups), dtype=torch.float32, device=x.device)
    shifted = x if shift is None else shift
    shift_stride = c if shift is not None and shift.dim() == 2 and len(shift) == n else 0
    grid = (blocks, chunks, n)
    _statistics[grid](
        *(x, x if beside is None else beside, shifted, mean, m2, hw, c, own_c, chunk_rows, shift_stride),
        has_shift=shift is not None,
        block_rows=block_rows,
        block_c=block_c,
        num_stages=_STAGES,
        num_warps=8,
    )
    block_chunks, block_members = triton.next_power_of_2(chunks), triton.next_power_of_2(c // groups)
    block_groups = min(triton.next_power_of_2(groups), max(1, _COMBINED // (block_chunks * block_members)), 8)
    _combine[(triton.cdiv(groups, block_groups), n)](
        *(mean, m2, group_mean, group_scale, hw, c, chunks, chunk_rows, eps),
        groups=groups,
        group_c=c // groups,
        block_chunks=block_chunks,
        block_groups=block_groups,
        block_c=block_members,
        num_warps=4,
    )
    _normalise[grid](
        *(x, x if beside is None else beside, out, weight, bias, shifted, group_mean, group_scale),
        *(hw, c, own_c, groups, chunk_rows, shift_stride),
        group_c=c // groups,
        has_shift=shift is not None,
        silu=silu,
        block_rows=block_rows,
        block_c=block_c,
        num_warps=4,
    )
    return out
