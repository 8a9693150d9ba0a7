"""The end of a residual block: a convolution's output, its bias and what it is added to, in one pass."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from hallo2.kernels.tiles import channel_block


@triton.jit
def _add_bias(
    x_ptr: tl.tensor,  # (m, c)
    added_ptr: tl.tensor,  # (m, c)
    bias_ptr: tl.tensor,  # (c,)
    out_ptr: tl.tensor,  # (m, c)
    m: int,
    c: int,
    block_rows: tl.constexpr,
    block_c: tl.constexpr,
) -> None:
    """One tile: grid (row blocks x channel blocks,), the channels of some rows one after another."""
    blocks = tl.cdiv(c, block_c)
    channels = tl.program_id(0) % blocks * block_c + tl.arange(0, block_c)
    rows = tl.program_id(0) // blocks * block_rows + tl.arange(0, block_rows)
    inside = channels < c
    valid = (rows < m)[:, None] & inside[None, :]
    at = rows.to(tl.int64)[:, None] * c + channels[None, :]
    x = tl.load(x_ptr + at, mask=valid, other=0.0).to(tl.float32)
    added = tl.load(added_ptr + at, mask=valid, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + channels, mask=inside, other=0.0).to(tl.float32)
    tl.store(out_ptr + at, (x + added + bias[None, :]).to(out_ptr.dtype.element_ty), mask=valid)


def add_bias(x: Tensor, added: Tensor, bias: Tensor) -> Tensor:
    """x + added + bias, rounded once: a convolution's output, the residual and the convolution's bias.

    Args:
        x: (..., c), contiguous.
        added: (..., c), contiguous.
        bias: (c,), contiguous.

    Returns:
        (..., c) in x's dtype.
    """
    c = x.shape[-1]
    m = x.numel() // c
    block_c = channel_block(c)
    block_rows = 4096 // block_c
    out = torch.empty_like(x)
    _add_bias[(triton.cdiv(m, block_rows) * triton.cdiv(c, block_c),)](
        *(x, added, bias, out, m, c), block_rows=block_rows, block_c=block_c, num_warps=4
    )
    return out
