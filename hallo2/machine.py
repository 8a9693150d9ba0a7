"""What this machine has for the engine: the GPU as torch sees it, onnxruntime, and what kernels are compiled with."""

from __future__ import annotations

import os
import shutil
import sysconfig
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch

from hallo2.onnx_model import CPU

_DRIVER = Path("/sys/module/nvidia/version")
_HOPPER = 9


@dataclass(frozen=True)
class Gpu:
    """One NVIDIA GPU.

    Attributes:
        name: as the driver says it.
        capability: the compute capability, major and minor.
        free_bytes: of its memory, now.
        total_bytes: of its memory.
    """

    name: str
    capability: tuple[int, int]
    free_bytes: int
    total_bytes: int


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What was found.

    Attributes:
        driver: the version of NVIDIA's kernel driver; None if it is not loaded, or does not say.
        cuda: the version of CUDA that torch was built with; None if it was built without.
        architectures: what torch has kernels for, such as "sm_90", or "compute_90" for everything from there on.
        gpus: how many torch sees.
        gpu: the one that was asked for; None if there is none, or it cannot be used.
        fault: why it cannot, in torch's words.
        providers: what onnxruntime can run networks on.
        triton: whether Triton is there.
        compiler: whether a C compiler is there.
        headers: whether Python's headers are there.
    """

    driver: str | None
    cuda: str | None
    architectures: tuple[str, ...]
    gpus: int
    gpu: Gpu | None
    fault: str | None
    providers: tuple[str, ...]
    triton: bool
    compiler: bool
    headers: bool

    @property
    def has_kernels(self) -> bool:
        """Whether torch has kernels for the GPU."""
        if self.gpu is None:
            return False
        major, minor = self.gpu.capability
        binaries = {f"sm_{major}{older}" for older in range(minor + 1)}
        sources = [name.removeprefix("compute_").rstrip("af") for name in self.architectures if "compute_" in name]
        plain = {name.rstrip("af") for name in self.architectures}
        return bool(binaries & plain) or any(int(source) <= 10 * major + minor for source in sources)

    @property
    def can_fuse(self) -> bool:
        """Whether the GPU is one that the fused kernels are made for."""
        return self.gpu is not None and self.gpu.capability[0] == _HOPPER

    @property
    def lacks_for_kernels(self) -> tuple[str, ...]:
        """What is missing to compile the fused kernels: of "Triton", "a C compiler", "Python's headers"."""
        there = {"Triton": self.triton, "a C compiler": self.compiler, "Python's headers": self.headers}
        return tuple(name for name, found in there.items() if not found)

    @property
    def runs_onnx(self) -> bool:
        """Whether onnxruntime can run the networks that look at faces and separate vocals: both ask for the CPU."""
        return set(CPU) <= set(self.providers)


def can_fuse(device: torch.device) -> bool:
    """Whether the fused kernels run there: on the only GPUs that their tiles are cut for, if they can be compiled."""
    hopper = device.type == "cuda" and torch.cuda.get_device_capability(device)[0] == _HOPPER
    return hopper and all(_compiling().values())


def look(device: str) -> Machine:
    """Look at this machine. Takes some memory of the GPU, and keeps it until the process ends.

    Args:
        device: as torch calls it: "cuda", "cuda:1", or "cpu", for which no GPU is looked at.
    """
    import onnxruntime  # noqa: PLC0415 - after onnx_model, which keeps it from reporting to its makers

    wanted = torch.device(device)
    gpu, fault = (None, None) if wanted.type == "cpu" else _gpu(wanted.index or 0)
    return Machine(
        driver=_DRIVER.read_text(encoding="utf-8").strip() if _DRIVER.is_file() else None,
        cuda=torch.version.cuda,
        architectures=tuple(torch.cuda.get_arch_list()),
        gpus=torch.cuda.device_count(),
        gpu=gpu,
        fault=fault,
        providers=tuple(onnxruntime.get_available_providers()),
        **_compiling(),
    )


def _compiling() -> dict[str, bool]:
    """What kernels are compiled with. For what launches them, Triton compiles a little C against Python's headers."""
    compilers = (os.environ.get("CC", "cc"), "gcc", "clang")
    return {
        "triton": find_spec("triton") is not None,
        "compiler": any(shutil.which(compiler) for compiler in compilers),
        "headers": Path(sysconfig.get_path("include"), "Python.h").is_file(),
    }


def _gpu(index: int) -> tuple[Gpu | None, str | None]:
    """The GPU with this number, or why torch cannot use it."""
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]  # torch does not declare it
        if index >= torch.cuda.device_count():
            return None, None
        name, capability = torch.cuda.get_device_name(index), torch.cuda.get_device_capability(index)
        free, total = torch.cuda.mem_get_info(index)
    except (AssertionError, RuntimeError) as error:
        return None, " ".join(str(error).split()).partition(". ")[0]
    return Gpu(name, capability, free, total), None
