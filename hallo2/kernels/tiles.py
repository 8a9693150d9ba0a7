"""How work is cut into tiles: the channels of channels-last memory, and the results of products."""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl

MULTIPROCESSORS = 132
"""Of an H100 or H200."""


def channel_block(c: int, most: int = 256) -> int:
    """Channels of one tile: a power of two, so that no lane idles where `c` has a large enough one as divisor.

    The published widths are 5 x 64 and its multiples: cut into 64 or more channels, a row of a tile is whole 128-byte
    lines of memory. Padding 320 to the next power of two would idle 3 lanes in 8.

    Args:
        c: channels, at least 1.
        most: the largest result, a power of two.
    """
    divisor = c & -c
    if divisor >= min(32, most):
        return min(divisor, most)
    return min(int(triton.next_power_of_2(c)), 64, most)


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


FLOAT32_TILE = Tile(64, 64, 16, 8, 2, 264)
"""For float32, in which products are for comparison only."""


@triton.jit
def place(
    index: int, m: int, n: int, block_m: tl.constexpr, block_n: tl.constexpr, neighbours: tl.constexpr
) -> tuple[int, int]:
    """First row and column of a tile. Tiles are numbered down, `neighbours` rows of tiles at a time, then across."""
    tiles_m = tl.cdiv(m, block_m)
    in_band = neighbours * tl.cdiv(n, block_n)
    first = (index // in_band) * neighbours
    height = tl.minimum(tiles_m - first, neighbours)
    return (first + index % in_band % height) * block_m, (index % in_band // height) * block_n
