"""One denoising step at full size computes and moves no more than it did when it was made fast."""

from __future__ import annotations

import pytest
from operation_counter import Counted, count_step

MOST = {
    "readable": Counted(tflop=46.37, operations=2177, gigabytes=259.6, peak_gib=2.1),
    "fused": Counted(tflop=44.0, operations=910, gigabytes=109.6, peak_gib=0.705),
}


@pytest.mark.parametrize("path", MOST)
def test_one_step(path: str) -> None:
    counted, most = count_step(fused=path == "fused"), MOST[path]
    assert counted.tflop <= most.tflop
    assert counted.operations <= most.operations
    assert counted.gigabytes <= most.gigabytes
    assert counted.peak_gib <= most.peak_gib
