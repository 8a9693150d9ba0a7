"""GEGLU: a linear map to values and gates, of which only the products are ever written.

Values and gates are columns of one product, next to each other in blocks of 8. So one matrix instruction makes both,
and each thread ends up with values and gates of the same columns in its registers: nothing is exchanged.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from hallo2.kernels.tiles import FLOAT32_TILE, MULTIPROCESSORS, Tile, place

_GROUP = 8
"""Values, then gates, that are neighbours: as many columns as a thread's registers are apart in the accumulator."""

GEGLU_TILES = (Tile(128, 256, 64, 8, 4, 132), Tile(64, 128, 64, 4, 3, 264))
"""For half precision: the fastest of 13 on an H200, and one for few tokens. Columns count values and gates."""

_NEIGHBOURS = 8


@triton.jit
def _gelu(x: tl.tensor, exact: tl.constexpr) -> tl.tensor:
    """x * P(normal <= x) = x * (1 + erf(x / sqrt(2))) / 2, for every x within 4e-7, or if not `exact` within 2e-5.

    That is max(x, 0) - |x| * P(normal <= -|x|), and the probability is exp2(p(|x|)): its logarithm is nearly a parabola
    and here a polynomial fitted on [0, 5], which falls for ever beyond. It takes less than half the instructions of a
    library's erf and loses no digits where 1 + erf cancels: the relative error is below 4e-6, or 9e-5, down to results
    of 6e-5, the smallest normal number of float16.
    """
    a = tl.abs(x)
    if exact:
        p = -1.17328048e-06 * a + 5.14839742e-05
        p = p * a - 0.000870511547
        p = p * a + 0.00833401638
        p = p * a - 0.0537065203
        p = p * a - 0.458635977
        p = p * a - 1.151209
        p = p * a - 0.999996878
    else:
        p = -0.000320157043 * a + 0.00582370289
        p = p * a - 0.0482245365
        p = p * a - 0.464139575
        p = p * a - 1.14916566
        p = p * a - 1.00012207
    return tl.maximum(x, 0.0) - a * tl.exp2(p)


@triton.jit
def _geglu(
    x: tl.tensor_descriptor,  # (m, k)
    weight: tl.tensor_descriptor,  # (2 * n, k), interleaved
    bias_ptr: tl.tensor,  # (2 * n,), interleaved
    out: tl.tensor_descriptor,  # (m, n)
    m: int,
    n: int,
    k: int,
    group: tl.constexpr,
    block_m: tl.constexpr,
    block_n: tl.constexpr,
    block_k: tl.constexpr,
    neighbours: tl.constexpr,
) -> None:
    """Tiles of value * gelu(gate), half as wide as the tiles of the product."""
    exact: tl.constexpr = out.dtype == tl.float32
    tiles = tl.cdiv(m, block_m) * tl.cdiv(2 * n, block_n)
    for index in tl.range(tl.program_id(0), tiles, tl.num_programs(0), flatten=True):
        row, column = place(index, m, 2 * n, block_m, block_n, neighbours)
        total = tl.zeros([block_m, block_n], tl.float32)
        for step in range(tl.cdiv(k, block_k)):
            a = x.load([row, step * block_k])
            b = weight.load([column, step * block_k])
            total = tl.dot(a, b.T, total, input_precision="ieee")
        columns = column + tl.arange(0, block_n)
        total += tl.load(bias_ptr + columns, mask=columns < 2 * n, other=0.0).to(tl.float32)[None, :]
        apart = tl.permute(tl.reshape(total, (block_m, block_n // (2 * group), 2, group)), (0, 1, 3, 2))
        value, gate = tl.split(tl.reshape(apart, (block_m, block_n // 2, 2)))
        out.store([row, column // 2], (value * _gelu(gate, exact)).to(out.dtype))


def interleaved(x: Tensor) -> Tensor:
    """The weight or the bias of a GEGLU as `geglu` takes it.

    Args:
        x: (2 * n, ...), the rows of the values and then those of the gates; n a multiple of 8.

    Returns:
        The same rows, contiguous: 8 of the values, 8 of their gates, the next 8 of the values and so on.
    """
    return x.reshape(2, -1, _GROUP, *x.shape[1:]).transpose(0, 1).reshape(x.shape)


def _geglu_tile(m: int, n: int, dtype: torch.dtype) -> Tile:
    if dtype == torch.float32:
        return FLOAT32_TILE
    wide, small = GEGLU_TILES
    few = triton.cdiv(m, wide.m) * triton.cdiv(2 * n, wide.n) < 2 * MULTIPROCESSORS
    return small if few else wide


def geglu(x: Tensor, weight: Tensor, bias: Tensor, *, out: Tensor | None = None, tile: Tile | None = None) -> Tensor:
    """(x @ values^T + value bias) * gelu(x @ gates^T + gate bias), rounded once (Shazeer, arXiv 2002.05202).

    The result is half as wide as what a linear map would write, and nothing wider is ever in memory. The GELU is the
    one with the error function, as torch's default.

    Args:
        x: (..., k), contiguous; k a multiple of 16 bytes.
        weight: (2 * n, k), contiguous, `interleaved`; n a multiple of 8.
        bias: (2 * n,), contiguous, `interleaved`; in any dtype.
        out: (..., n) to write to, in x's dtype; None for new memory. Its rows may be part of wider ones, all at the
            same distance, that and the first address multiples of 16 bytes.
        tile: how the product is cut; None to have it chosen by shape.

    Returns:
        (..., n) in x's dtype: `out` where it is given.
    """
    n, k = len(weight) // 2, x.shape[-1]
    out = x.new_empty(*x.shape[:-1], n) if out is None else out
    x, rows = x.view(-1, k), out.view(-1, n)
    m = len(x)
    tile = tile or _geglu_tile(m, n, x.dtype)
    tiles = triton.cdiv(m, tile.m) * triton.cdiv(2 * n, tile.n)
    _geglu[(min(tiles, tile.programs),)](
        TensorDescriptor.from_tensor(x, [tile.m, tile.k]),
        TensorDescriptor.from_tensor(weight, [tile.n, tile.k]),
        bias,
        TensorDescriptor.from_tensor(rows, [tile.m, tile.n // 2]),
        *(m, n, k),
        group=_GROUP,
        block_m=tile.m,
        block_n=tile.n,
        block_k=tile.k,
        neighbours=_NEIGHBOURS,
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
    )
    return out
