"""How the channels of channels-last memory are cut into tiles."""

from __future__ import annotations

import triton


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
