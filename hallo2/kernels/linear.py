"""Linear maps of tokens with what follows them done before anything is written, and the same for convolutions.

The products are tiles of x (m, k) times tiles of a weight (n, k), transposed, fetched by Hopper's copy engine (tensor
descriptors) several steps ahead and added up in float32. Programs stay and take one tile after the other, those of the
same rows of x one after the other, so that these come from the L2 cache.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from hallo2.kernels.tiles import channel_block


class Tile(NamedTuple):
    """How a product is cut.

    Attributes:
        m: rows of a tile of the result, a power of two from 64.
        n: columns of it, a power of two from 16.
        k: columns of x and weight that are multiplied in one step, a power of two from 16.
        num_warps: of a program.
        num_stages: steps that are fetched ahead.
        programs: at most so many; a multiple of the 132 multiprocessors of an H100 or H200 where several fit on one.
    """

    m: int
    n: int
    k: int
    num_warps: int
    num_stages: int
    programs: int


LINEAR_TILES = (
    Tile(128, 256, 64, 8, 3, 132),
    Tile(128, 128, 64, 8, 4, 132),
    Tile(256, 64, 64, 8, 3, 132),
    Tile(128, 64, 64, 4, 3, 264),
    Tile(128, 128, 32, 4, 4, 264),
)
"""Worth timing for `linear` in half precision. The first has no room for a residual."""

GEGLU_TILES = (
    Tile(128, 128, 64, 8, 3, 132),
    Tile(128, 128, 64, 8, 4, 132),
    Tile(128, 64, 64, 4, 3, 264),
    Tile(256, 64, 64, 8, 3, 132),
)
"""Worth timing for `geglu` in half precision, where two tiles of the weight belong to one tile of the result."""

_FLOAT32_TILE = Tile(64, 64, 16, 8, 2, 264)
_MULTIPROCESSORS = 132
_NEIGHBOURS = 8


@triton.jit
def _place(
    index: int, m: int, n: int, block_m: tl.constexpr, block_n: tl.constexpr, neighbours: tl.constexpr
) -> tuple[int, int]:
    """First row and column of a tile. Tiles are numbered down, `neighbours` rows of tiles at a time, then across."""
    tiles_m = tl.cdiv(m, block_m)
    in_band = neighbours * tl.cdiv(n, block_n)
    first = (index // in_band) * neighbours
    height = tl.minimum(tiles_m - first, neighbours)
    return (first + index % in_band % height) * block_m, (index % in_band // height) * block_n


@triton.jit
def _linear(
    x: tl.tensor_descriptor,  # (m, k)
    weight: tl.tensor_descriptor,  # (n, k)
    bias_ptr: tl.tensor,  # (n,)
    residual: tl.tensor_descriptor,  # (m, n)
    out: tl.tensor_descriptor,  # (m, n)
    m: int,
    n: int,
    k: int,
    has_bias: tl.constexpr,
    has_residual: tl.constexpr,
    block_m: tl.constexpr,
    block_n: tl.constexpr,
    block_k: tl.constexpr,
    neighbours: tl.constexpr,
) -> None:
    """Tiles of x @ weight^T + bias + residual."""
    tiles = tl.cdiv(m, block_m) * tl.cdiv(n, block_n)
    for index in tl.range(tl.program_id(0), tiles, tl.num_programs(0), flatten=True):
        row, column = _place(index, m, n, block_m, block_n, neighbours)
        total = tl.zeros([block_m, block_n], tl.float32)
        for step in range(tl.cdiv(k, block_k)):
            a = x.load([row, step * block_k])
            b = weight.load([column, step * block_k])
            total = tl.dot(a, b.T, total, input_precision="ieee")
        if has_bias:
            columns = column + tl.arange(0, block_n)
            total += tl.load(bias_ptr + columns, mask=columns < n, other=0.0).to(tl.float32)[None, :]
        if has_residual:
            total += residual.load([row, column]).to(tl.float32)
        out.store([row, column], total.to(out.dtype))


@triton.jit
def _gelu(x: tl.tensor) -> tl.tensor:
    """x * P(normal <= x) = x * (1 + erf(x / sqrt(2))) / 2, within 3e-7 for every x.

    That is max(x, 0) - |x| * P(normal <= -|x|). The probability is exp2(-x^2 log2(e) / 2 + p(|x|)); p, the logarithm of
    the scaled complementary error function, is nearly straight and here a polynomial fitted on [0, 6]. It takes half
    the instructions of a library's erf and loses no digits where 1 + erf cancels.
    """
    a = tl.abs(x)
    u = tl.minimum(a, 6.0)
    p = 3.30864275e-05 * u - 0.000769161364
    p = p * u + 0.00808051751
    p = p * u - 0.0534117881
    p = p * u + 0.262576307
    p = p * u - 1.15120162
    p = p * u - 0.99999307
    return tl.maximum(x, 0.0) - a * tl.exp2(p - 0.721347520 * a * a)


@triton.jit
def _geglu(
    x: tl.tensor_descriptor,  # (m, k)
    weight: tl.tensor_descriptor,  # (2 * n, k)
    bias_ptr: tl.tensor,  # (2 * n,)
    out: tl.tensor_descriptor,  # (m, n)
    m: int,
    n: int,
    k: int,
    block_m: tl.constexpr,
    block_n: tl.constexpr,
    block_k: tl.constexpr,
    neighbours: tl.constexpr,
) -> None:
    """Tiles of value * gelu(gate), where the value is of the weight's first n rows and the gate of its last n."""
    tiles = tl.cdiv(m, block_m) * tl.cdiv(n, block_n)
    for index in tl.range(tl.program_id(0), tiles, tl.num_programs(0), flatten=True):
        row, column = _place(index, m, n, block_m, block_n, neighbours)
        value = tl.zeros([block_m, block_n], tl.float32)
        gate = tl.zeros([block_m, block_n], tl.float32)
        for step in range(tl.cdiv(k, block_k)):
            a = x.load([row, step * block_k])
            of_value = weight.load([column, step * block_k])
            of_gate = weight.load([n + column, step * block_k])
            value = tl.dot(a, of_value.T, value, input_precision="ieee")
            gate = tl.dot(a, of_gate.T, gate, input_precision="ieee")
        columns = column + tl.arange(0, block_n)
        inside = columns < n
        value += tl.load(bias_ptr + columns, mask=inside, other=0.0).to(tl.float32)[None, :]
        gate += tl.load(bias_ptr + n + columns, mask=inside, other=0.0).to(tl.float32)[None, :]
        out.store([row, column], (value * _gelu(gate)).to(out.dtype))


def _linear_tile(m: int, n: int, dtype: torch.dtype, has_residual: bool) -> Tile:
    if dtype == torch.float32:
        return _FLOAT32_TILE
    wide, square, tall, small, _ = LINEAR_TILES
    if triton.cdiv(m, square.m) * triton.cdiv(n, square.n) < 2 * _MULTIPROCESSORS:
        return small
    if not has_residual and _waste(n, wide) < 0.1:
        return wide
    return square if _waste(n, square) < 0.1 else tall


def _waste(n: int, tile: Tile) -> float:
    """How much of the tiles lies beyond the last of n columns, as a fraction of n."""
    return -n % tile.n / n


def _geglu_tile(m: int, n: int, dtype: torch.dtype) -> Tile:
    if dtype == torch.float32:
        return _FLOAT32_TILE
    wide, _, small, _ = GEGLU_TILES
    few = triton.cdiv(m, wide.m) * triton.cdiv(n, wide.n) < 2 * _MULTIPROCESSORS
    return small if few else wide


def linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, *, residual: Tensor | None = None, tile: Tile | None = None
) -> Tensor:
    """x @ weight^T + bias + residual, rounded once.

    Args:
        x: (..., k), contiguous; k a multiple of 16 bytes.
        weight: (n, k), contiguous; n a multiple of 16 bytes.
        bias: (n,), contiguous; None for no bias.
        residual: (..., n), contiguous.
        tile: how the product is cut; None to have it chosen by shape.

    Returns:
        (..., n) in x's dtype.
    """
    shape, x = x.shape, x.view(-1, x.shape[-1])
    (m, k), n = x.shape, len(weight)
    tile = tile or _linear_tile(m, n, x.dtype, residual is not None)
    out = x.new_empty(m, n)
    result = [tile.m, tile.n]
    tiles = triton.cdiv(m, tile.m) * triton.cdiv(n, tile.n)
    _linear[(min(tiles, tile.programs),)](
        TensorDescriptor.from_tensor(x, [tile.m, tile.k]),
        TensorDescriptor.from_tensor(weight, [tile.n, tile.k]),
        x if bias is None else bias,
        TensorDescriptor.from_tensor(out if residual is None else residual.view(m, n), result),
        TensorDescriptor.from_tensor(out, result),
        *(m, n, k),
        has_bias=bias is not None,
        has_residual=residual is not None,
        block_m=tile.m,
        block_n=tile.n,
        block_k=tile.k,
        neighbours=_NEIGHBOURS,
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
    )
    return out.view(*shape[:-1], n)


def geglu(x: Tensor, weight: Tensor, bias: Tensor, *, tile: Tile | None = None) -> Tensor:
    """(x @ weight[:n]^T + bias[:n]) * gelu(x @ weight[n:]^T + bias[n:]), rounded once (Shazeer, arXiv 2002.05202).

    The result is half as wide as what a linear map would write, and nothing wider is ever in memory. The GELU is the
    one with the error function, as torch's default.

    Args:
        x: (..., k), contiguous; k a multiple of 16 bytes.
        weight: (2 * n, k), contiguous; n a multiple of 16 bytes.
        bias: (2 * n,), contiguous.
        tile: how the product is cut; None to have it chosen by shape.

    Returns:
        (..., n) in x's dtype.
    """
    shape, x = x.shape, x.view(-1, x.shape[-1])
    (m, k), n = x.shape, len(weight) // 2
    tile = tile or _geglu_tile(m, n, x.dtype)
    out = x.new_empty(m, n)
    tiles = triton.cdiv(m, tile.m) * triton.cdiv(n, tile.n)
    _geglu[(min(tiles, tile.programs),)](
        TensorDescriptor.from_tensor(x, [tile.m, tile.k]),
        TensorDescriptor.from_tensor(weight, [tile.n, tile.k]),
        bias,
        TensorDescriptor.from_tensor(out, [tile.m, tile.n]),
        *(m, n, k),
        block_m=tile.m,
        block_n=tile.n,
        block_k=tile.k,
        neighbours=_NEIGHBOURS,
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
    )
    return out.view(*shape[:-1], n)


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
    """One tile: grid (channel blocks, row blocks)."""
    channels = tl.program_id(0) * block_c + tl.arange(0, block_c)
    rows = tl.program_id(1) * block_rows + tl.arange(0, block_rows)
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
    _add_bias[(triton.cdiv(c, block_c), triton.cdiv(m, block_rows))](
        *(x, added, bias, out, m, c), block_rows=block_rows, block_c=block_c, num_warps=4
    )
    return out
