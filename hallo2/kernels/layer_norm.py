"""Layer normalisation of tokens, with the residual additions before it and the frame positions after it."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_TILE = 4096
"""Elements that a program holds: 32 a thread."""


@triton.jit
def _add_layer_norm(
    x_ptr: tl.tensor,  # (rows, c)
    everywhere_ptr: tl.tensor,  # (hw, c)
    added_ptr: tl.tensor,  # (rows - first_added, c)
    weight_ptr: tl.tensor,  # (c,)
    bias_ptr: tl.tensor,  # (c,)
    position_ptr: tl.tensor,  # (frames, c)
    total_ptr: tl.tensor,  # (rows, c), rows total_stride apart
    out_ptr: tl.tensor,  # (rows, c)
    rows: int,
    hw: int,
    c: int,
    first_added: int,
    frames: int,
    total_stride: int,
    eps: float,
    has_everywhere: tl.constexpr,
    has_added: tl.constexpr,
    has_position: tl.constexpr,
    writes_total: tl.constexpr,
    block_rows: tl.constexpr,
    block_c: tl.constexpr,
) -> None:
    """A few whole rows."""
    row = tl.program_id(0) * block_rows + tl.arange(0, block_rows)
    channels = tl.arange(0, block_c)
    inside = channels < c
    valid = (row < rows)[:, None] & inside[None, :]
    at = row.to(tl.int64)[:, None] * c + channels[None, :]
    x = tl.load(x_ptr + at, mask=valid, other=0.0).to(tl.float32)
    if has_everywhere:
        x += tl.load(everywhere_ptr + (row % hw)[:, None] * c + channels[None, :], mask=valid, other=0.0).to(tl.float32)
    if has_added:
        concerned = valid & (row >= first_added)[:, None]
        from_added = (row - first_added).to(tl.int64)[:, None] * c + channels[None, :]
        x += tl.load(added_ptr + from_added, mask=concerned, other=0.0).to(tl.float32)
    if writes_total:
        in_total = row.to(tl.int64)[:, None] * total_stride + channels[None, :]
        tl.store(total_ptr + in_total, x.to(total_ptr.dtype.element_ty), mask=valid)

    mean = tl.sum(x, axis=1) / c
    deviation = tl.where(valid, x - mean[:, None], 0.0)
    variance = tl.sum(deviation * deviation, axis=1) / c
    weight = tl.load(weight_ptr + channels, mask=inside, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + channels, mask=inside, other=0.0).to(tl.float32)
    y = deviation * tl.rsqrt(variance + eps)[:, None] * weight[None, :] + bias[None, :]
    if has_position:
        frame = (row // hw) % frames
        y += tl.load(position_ptr + frame[:, None] * c + channels[None, :], mask=valid, other=0.0).to(tl.float32)
    tl.store(out_ptr + at, y.to(out_ptr.dtype.element_ty), mask=valid)


def add_layer_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    eps: float = 1e-5,
    everywhere: Tensor | None = None,
    added: Tensor | None = None,
    position: Tensor | None = None,
    total_out: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """total = x + everywhere + added and layer_norm(total) + position, in one pass over memory.

    The sum is normalised as it is in float32, before it is rounded to be stored; mean and variance are taken one after
    the other from registers.

    Args:
        x: (n, hw, c), contiguous.
        weight: (c,), contiguous.
        bias: (c,), contiguous.
        eps: added to the variance.
        everywhere: (hw, c), contiguous; added to every row of n.
        added: (m, hw, c), contiguous, m up to n; added to the last m rows of n.
        position: (frames, c), contiguous; added to what is normalised. Row i of n is frame i % frames.
        total_out: (n, hw, c) to write the sum to, in x's dtype; None for new memory. Its rows may be part of wider
            ones, all at the same distance.

    Returns:
        The sum (`total_out` where it is given, otherwise x itself where nothing is added) and the normalised sum, each
        (n, hw, c) in x's dtype.
    """
    n, hw, c = x.shape
    rows = n * hw
    block_c = triton.next_power_of_2(c)
    block_rows = max(1, _TILE // block_c)
    out = torch.empty_like(x)
    adds = everywhere is not None or added is not None
    total = total_out if total_out is not None else torch.empty_like(x) if adds else x
    optional = [x if given is None else given for given in (everywhere, added, position)]
    first_added = 0 if added is None else (n - len(added)) * hw
    frames = 1 if position is None else len(position)
    _add_layer_norm[(triton.cdiv(rows, block_rows),)](
        *(x, optional[0], optional[1], weight, bias, optional[2], total, out),
        *(rows, hw, c, first_added, frames, total.view(rows, c).stride(0), eps),
        has_everywhere=everywhere is not None,
        has_added=added is not None,
        has_position=position is not None,
        writes_total=adds or total_out is not None,
        block_rows=block_rows,
        block_c=block_c,
        num_warps=4,
    )
    return total, out
