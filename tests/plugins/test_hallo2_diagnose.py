"""What the hallo2 plugin makes of a machine, and what the engine finds out about this one."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest
import torch

from hallo2.machine import Gpu, Machine, look

GIB = 1 << 30
H200 = Gpu("NVIDIA H200", (9, 0), 130 * GIB, 139 * GIB)
MACHINE = Machine(
    driver="580.159.04",
    cuda="13.0",
    architectures=("sm_75", "sm_80", "sm_90", "sm_100", "compute_120"),
    gpus=1,
    gpu=H200,
    fault=None,
    providers=("CUDAExecutionProvider", "CPUExecutionProvider"),
    triton=True,
    compiler=True,
    headers=True,
)


@pytest.fixture(scope="module")
def hallo2(load_plugin):
    return load_plugin("hallo2")


@pytest.fixture
def judged(hallo2):
    """What the plugin says of a machine; `changes` are those to one where all is well."""

    def judge(options=None, **changes):
        found = hallo2.judged(replace(MACHINE, **changes), hallo2.Options(**(options or {})))
        return {finding.check: (finding.status, finding.text, finding.cure) for finding in found}

    return judge


def test_a_machine_where_all_is_well(judged):
    assert judged() == {
        "faces": ("ok", "onnxruntime looks at faces on the CPU, as it should: once for each video", ""),
        "gpu": ("ok", "NVIDIA H200, compute capability 9.0; driver 580.159.04, torch for CUDA 13.0", ""),
        "memory": (
            "ok",
            "130.0 of the GPU's 139.0 GiB of memory are free, and a render of 512 x 512 takes about 7.0 GiB",
            "",
        ),
        "kernels": ("ok", "the engine's own kernels can be compiled", ""),
    }


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"cuda": None, "gpus": 0, "gpu": None}, "torch is built without CUDA, and can use no GPU"),
        (
            {"driver": None, "gpus": 0, "gpu": None, "fault": "Found no NVIDIA driver on your system"},
            "torch cannot use the GPU: Found no NVIDIA driver on your system (no NVIDIA driver is seen, "
            "torch for CUDA 13.0)",
        ),
        (
            {"gpu": None, "fault": "The NVIDIA driver on your system is too old (found version 11040)"},
            "torch cannot use the GPU: The NVIDIA driver on your system is too old (found version 11040) "
            "(driver 580.159.04, torch for CUDA 13.0)",
        ),
        ({"gpu": None}, "torch sees 1 NVIDIA GPUs here, so 'cuda:1' cannot be used"),
        (
            {"gpu": Gpu("Tesla P100", (6, 0), 15 * GIB, 16 * GIB)},
            "torch has no kernels for Tesla P100, whose compute capability is 6.0",
        ),
    ],
)
def test_a_gpu_that_cannot_be_used(judged, changes, text):
    found = judged({"device": "cuda:1"}, **changes)
    assert found.keys() == {"faces", "gpu"}
    status, said, cure = found["gpu"]
    assert (status, said) == ("problem", text)
    assert cure


@pytest.mark.parametrize(
    ("architectures", "capability", "has_kernels"),
    [
        (("sm_80",), (8, 6), True),
        (("sm_86",), (8, 0), False),
        (("sm_90a",), (9, 0), True),
        (("sm_80", "sm_90"), (12, 0), False),
        (("sm_80", "compute_90"), (12, 0), True),
        (("compute_120",), (9, 0), False),
        (("sm_120",), (12, 1), True),
    ],
)
def test_what_torch_has_kernels_for(architectures, capability, has_kernels):
    gpu = replace(H200, capability=capability)
    assert replace(MACHINE, gpu=gpu, architectures=architectures).has_kernels is has_kernels


def test_memory(judged):
    busy = judged(gpu=replace(H200, free_bytes=3 * GIB))["memory"]
    assert busy[0] == "note"
    assert busy[1] == (
        "3.0 of the GPU's 139.0 GiB of memory are free, and a render of 512 x 512 takes about 7.0 GiB: "
        "it would wait for more"
    )
    small = replace(H200, free_bytes=8 * GIB, total_bytes=8 * GIB)
    assert judged(gpu=small)["memory"][0] == "ok"
    assert judged({"width": 1024, "height": 1024}, gpu=small)["memory"] == (
        "problem",
        "the GPU has 8.0 GiB of memory, and a render of 1024 x 1024 takes about 13.0 GiB",
        "choose a smaller width and height, or a GPU with more memory",
    )


def test_kernels_that_cannot_be_compiled(judged):
    found = judged(compiler=False, headers=False)["kernels"]
    assert found == (
        "note",
        "the engine's own kernels cannot be compiled (a C compiler, Python's headers missing), "
        "so a render takes twice the time",
        f"apt install gcc python3-dev, and {sys.executable} -m pip install 'atenea[hallo2]'",
    )
    status, text, cure = judged(gpu=replace(H200, capability=(8, 0)))["kernels"]
    assert (status, cure) == ("ok", "")
    assert text.startswith("the engine's own kernels are for Hopper GPUs")


def test_faces_and_vocals_are_for_the_cpu_whatever_else_onnxruntime_has(judged):
    found = judged({"separate_vocals": True})
    assert {check: found[check] for check in ("faces", "vocals")} == {
        "faces": ("ok", "onnxruntime looks at faces on the CPU, as it should: once for each video", ""),
        "vocals": (
            "ok",
            "onnxruntime takes music out of recordings on the CPU, as it should: once for each recording",
            "",
        ),
    }
    found = judged({"separate_vocals": True}, providers=("CUDAExecutionProvider",))
    assert {found[check] for check in ("faces", "vocals")} == {
        (
            "problem",
            "onnxruntime cannot run networks on the CPU, only on CUDAExecutionProvider",
            f"{sys.executable} -m pip install --force-reinstall onnxruntime",
        )
    }
    assert "vocals" not in judged(providers=())


def test_the_cpu(judged):
    assert judged({"device": "cpu"}, gpu=None)["gpu"][:2] == (
        "note",
        'device is "cpu": a second of video takes many minutes',
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
def test_this_machine():
    machine = look("cuda")
    assert (machine.gpus, machine.gpu, machine.has_kernels, machine.can_fuse) == (0, None, False, False)
    assert machine.fault
    assert machine.cuda == torch.version.cuda
    assert machine.triton and machine.runs_onnx
    assert look("cpu").fault is None


def test_compilers_are_found_where_triton_looks(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    assert look("cpu").lacks_for_kernels[:1] == ("a C compiler",)
    (tmp_path / "clang").touch(0o755)
    assert "a C compiler" not in look("cpu").lacks_for_kernels


def test_missing_models(hallo2, make_context, tmp_path):
    ctx = make_context(hallo2, device="cpu", separate_vocals=True, models=tmp_path / "none")
    found = {finding.check: (finding.status, finding.text) for finding in hallo2.diagnose(ctx)}
    assert found["packages"][0] == "ok"
    assert "torch 2." in found["packages"][1]
    assert found["models"] == ("problem", f"{tmp_path}/none lacks hallo2/net.pth and 9 more")
    assert found["gpu"][0] == "note"
