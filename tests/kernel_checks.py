"""What the tests of the Triton kernels share: random inputs where the kernels run, and how near a result must be."""

from __future__ import annotations

import torch
from golden import relative_error
from torch import Tensor

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

# Relative errors ||out - expected|| / ||expected||. Rounding the result alone costs 2.1e-4 in float16 and 1.7e-3 in
# bfloat16; what is multiplied and rounded before, as softmax weights are, as much again.
BOUNDS = {torch.float32: 1e-6, torch.float16: 4e-4, torch.bfloat16: 4e-3}


def normal(*shape: int, dtype: torch.dtype = torch.float32, mean: float = 0.0, std: float = 1.0) -> Tensor:
    """Random numbers, where the kernels run."""
    return (torch.randn(shape) * std + mean).to(DEVICE, dtype)


def assert_close(out: Tensor, expected: Tensor, dtype: torch.dtype | None = None) -> None:
    """`out` is within the bound of its dtype, and has the one that is named."""
    assert out.dtype == (dtype or out.dtype)
    assert relative_error(out, expected) < BOUNDS[out.dtype]
