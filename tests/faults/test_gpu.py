"""What torch and Triton raise when a GPU fails: told in a sentence, tried again, and by another process."""

from __future__ import annotations

import pytest

from atenea.executor import Task
from atenea.failures import failure_event

TASK = Task(kind="stage", needs=frozenset({"gpu"}), stage="render", plugin="hallo2")


def made(name: str, module: str = "torch") -> type[RuntimeError]:
    """An exception as torch has it; torch itself raises it only where there is a GPU."""
    return type(name, (RuntimeError,), {"__module__": module})


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            made("AcceleratorError")("CUDA error: an illegal memory access was encountered\nCUDA kernel errors might"),
            "CUDA error: an illegal memory access was encountered",
        ),
        (
            RuntimeError("CUDA error: no CUDA-capable device is detected\nCompile with"),
            "CUDA error: no CUDA-capable device is detected",
        ),
        (
            made("AcceleratorError")("CUDA error: CUDA-capable device(s) is/are busy or unavailable\n"),
            "CUDA error: CUDA-capable device(s) is/are busy or unavailable",
        ),
        (RuntimeError("No CUDA GPUs are available"), "No CUDA GPUs are available"),
        (
            RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"),
            "Triton Error [CUDA]: an illegal memory access was encountered",
        ),
        (
            RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
            "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED",
        ),
        (RuntimeError("CUDA driver error: unknown error"), "CUDA driver error: unknown error"),
    ],
)
def test_a_gpu_that_fails(error: RuntimeError, said: str) -> None:
    event = failure_event(error, TASK)
    assert event["error"] == (
        f"render plugin 'hallo2': the GPU failed ({said}); a new process goes on;"
        " if it fails again, look at nvidia-smi and dmesg"
    )
    assert (event["transient"], event["poisoned"]) == (True, True)


def test_memory_that_is_used_up_is_no_broken_gpu() -> None:
    event = failure_event(made("OutOfMemoryError")("CUDA out of memory. Tried to allocate 2 GiB"), TASK)
    assert event["error"].startswith("render plugin 'hallo2' failed: OutOfMemoryError: CUDA out of memory.")
    assert (event["transient"], event["poisoned"]) == (True, True)


def test_other_errors_are_for_good_and_keep_the_process() -> None:
    for error in (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ValueError("CUDA error: no")):
        event = failure_event(error, TASK)
        assert (event["transient"], event["poisoned"]) == (False, False)
