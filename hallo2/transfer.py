"""Between the host's memory and the device's, without making the device wait.

A copy to or from ordinary memory makes the host wait until the device has done all it was given before, and then the
device waits for the host to think of something new. From and to pinned memory copies are commands like others.
"""

from __future__ import annotations

import torch
from torch import Tensor


def to_device(x: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device; nobody waits for the copy. A tensor in the host's memory must not change any more."""
    if device.type != "cuda" or x.device.type != "cpu":
        return x.to(device)
    return x.pin_memory().to(device, non_blocking=True)


def to_host(x: Tensor) -> Tensor:
    """The tensor in the host's memory; waits until it is computed, while other threads may give the device more."""
    if x.device.type != "cuda":
        return x.cpu()
    copy = torch.empty(x.shape, dtype=x.dtype, pin_memory=True)
    with torch.cuda.device(x.device):
        copy.copy_(x, non_blocking=True)
        # Waiting leaves the processor to the threads that encode.
        done = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]  # torch does not declare it
        done.record()
    done.synchronize()
    return copy
