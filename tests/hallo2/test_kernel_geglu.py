"""GEGLU against the same mathematics in torch, in float64.

Without a GPU it runs in Triton's interpreter: every line of it, on numpy instead of tensor cores.
"""

from __future__ import annotations

import pytest
import torch
from kernel_checks import DEVICE, assert_close, normal
from torch import Tensor
from torch.nn import functional

from hallo2.kernels import geglu, interleaved
from hallo2.kernels.geglu import GEGLU_TILES
from hallo2.kernels.tiles import Tile


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def gated(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """GEGLU in torch."""
    value, gate = (x.double() @ weight.double().T + bias.double()).chunk(2, dim=-1)
    return value * functional.gelu(gate)


def arguments(m: int, k: int, n: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """x, weight and bias."""
    return normal(m, k, dtype=dtype), normal(2 * n, k, dtype=dtype, std=2 * k**-0.5), normal(2 * n, dtype=dtype)


@pytest.mark.parametrize(
    ("dtype", "tile"),
    [(torch.float32, None), *((torch.float16, tile) for tile in (None, *GEGLU_TILES))],
)
@pytest.mark.parametrize(("m", "k", "n"), [(70, 32, 32), (300, 104, 264), (1, 320, 8)])
def test_geglu(m: int, k: int, n: int, tile: Tile | None, dtype: torch.dtype) -> None:
    x, weight, bias = arguments(m, k, n, dtype)
    out = geglu(x, interleaved(weight), interleaved(bias), tile=tile)
    assert out.dtype == dtype
    assert_close(out, gated(x, weight, bias))


def test_bias_may_be_more_precise_than_the_rest() -> None:
    x, weight, _ = arguments(10, 32, 40, torch.float16)
    bias = normal(80)
    assert_close(geglu(x, interleaved(weight), interleaved(bias)), gated(x, weight, bias))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_geglu_beside_what_is_already_there(dtype: torch.dtype) -> None:
    x, weight, bias = arguments(3 * 25, 32, 72, dtype)
    wide = normal(3, 25, 96, dtype=dtype)
    before = wide[..., :24].clone()
    place = wide[..., 24:]
    out = geglu(x.view(3, 25, 32), interleaved(weight), interleaved(bias), out=place)
    assert out is place
    assert_close(wide[..., 24:], gated(x, weight, bias).view(3, 25, 72))
    assert torch.equal(wide[..., :24], before)


@pytest.mark.parametrize("n", [8, 24])
def test_values_are_interleaved_with_their_gates(n: int) -> None:
    rows = interleaved(torch.arange(2 * n))
    assert rows[:16].tolist() == [*range(8), *range(n, n + 8)]
    assert rows[-16:].tolist() == [*range(n - 8, n), *range(2 * n - 8, 2 * n)]
    weight = interleaved(torch.arange(4 * n).view(2 * n, 2))
    assert weight.is_contiguous()
    assert torch.equal(weight[:, 0], 2 * rows)


@pytest.mark.parametrize(
    ("dtype", "bound", "relative_bound"), [(torch.float32, 4e-7, 4e-6), (torch.float16, 2e-5, 9e-5)]
)
def test_gelu_where_it_bends_and_where_it_does_not(dtype: torch.dtype, bound: float, relative_bound: float) -> None:
    # Values of 1 show the gate's activation itself, gates from -60 to 60 and, finer, where it is small.
    gate = torch.cat([torch.linspace(-60, 60, 2048), torch.linspace(-6, 0, 2048)]).reshape(-1, 8)
    gate[0, :3] = torch.tensor([0.0, -5.0, 5.0])
    gate = gate.to(DEVICE, dtype)
    weight, bias = torch.cat([torch.zeros(8, 8), torch.eye(8)]), torch.cat([torch.ones(8), torch.zeros(8)])
    out = geglu(gate, interleaved(weight).to(DEVICE, dtype), interleaved(bias).to(DEVICE, dtype))
    expected = functional.gelu(gate.double())
    rounding = torch.finfo(dtype).eps / 2
    assert bool(((out.double() - expected).abs() <= bound + expected.abs() * rounding).all())
    small = expected < -torch.finfo(torch.float16).tiny
    relative = ((out.double() - expected) / expected)[small].abs().max()
    assert float(relative) < rounding + relative_bound
