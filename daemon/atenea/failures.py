"""What an exception in a worker means for the job: whether trying again may help, and what a person is told."""

from __future__ import annotations

import errno
import traceback
from collections.abc import Iterator
from typing import Any

from atenea.errors import AteneaError, MistakesError, TransientError
from atenea.executor import Task
from atenea.job import STAGES
from atenea.plugin_manager import HookError, PluginError, describe

_DETAILS = 16_384
_SENTENCE = 2_000

_PASSING = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""Errors of the system that go away when others let go of disk, memory or descriptors."""

_GPU_FAILED = (
    "CUDA error",
    "CUDA driver error",
    "CUDA driver initialization failed",
    "CUDA unknown error",
    "No CUDA GPUs are available",
    "Triton Error [CUDA]",
    "cuDNN error",
)
"""How torch and Triton begin to say that the GPU is lost, or of no more use to this process."""


def failure_event(error: BaseException, task: Task) -> dict[str, Any]:
    """The event that tells the daemon how the task failed."""
    reason = _reason(error)
    return {
        "event": "failed",
        "error": _sentence(error, task)[:_SENTENCE],
        "details": _details(reason)[-_DETAILS:],
        "transient": is_transient(reason) or is_corrupted(error),
        "retry_after": reason.retry_after if isinstance(reason, TransientError) else None,
        "poisoned": is_poisoned(error),
    }


def _details(reason: BaseException) -> str:
    """What stands below the sentence: a file's mistakes one by one, or where in its code a plugin broke."""
    if isinstance(reason, MistakesError):
        return "\n".join(reason.mistakes) if len(reason.mistakes) > 1 else ""
    return "" if isinstance(reason, AteneaError) else "".join(traceback.format_exception(reason))


def is_transient(error: BaseException) -> bool:
    """Whether the same work may succeed later."""
    if isinstance(error, AteneaError):
        return isinstance(error, TransientError)
    if isinstance(error, OSError) and error.errno in _PASSING:
        return True
    return isinstance(error, ConnectionError | TimeoutError | MemoryError) or _is_torch(error, "OutOfMemoryError")


def is_poisoned(error: BaseException) -> bool:
    """Whether the process must not be used again.

    One that used up the GPU's memory would not fail again, but only its end gives all of that memory back.
    """
    return is_corrupted(error) or any(_is_torch(link, "OutOfMemoryError") for link in _chain(error))


def is_corrupted(error: BaseException) -> bool:
    """Whether every later use of the GPU fails in this process, as after most CUDA errors."""
    return any(
        _is_torch(link, "AcceleratorError")
        or (isinstance(link, RuntimeError) and any(words in str(link) for words in _GPU_FAILED))
        for link in _chain(error)
        if not _is_torch(link, "OutOfMemoryError")
    )


def _sentence(error: BaseException, task: Task) -> str:
    reason = _reason(error)
    if task.kind == "stage" and is_corrupted(reason) and not isinstance(reason, AteneaError):
        said = str(reason).partition("\n")[0]  # what follows is for those who debug CUDA
        return (
            f"{task.stage} plugin {task.plugin!r}: the GPU failed ({said}); a new process goes on;"
            " if it fails again, look at nvidia-smi and dmesg"
        )
    if isinstance(error, PluginError) and task.stage in STAGES:
        return f"{task.stage} stage: {error}"
    if isinstance(error, AteneaError):
        return str(error)
    what = {
        "catalogue": "listing the plugins",
        "configuration": "checking the configuration",
        "diagnosis": f"the diagnosis of plugin {task.plugin!r}",
        "intake": "reading the job",
        "mux": "adding the speech to the video",
    }
    return f"{what.get(task.kind) or f'{task.stage} plugin {task.plugin!r}'} failed: {describe(error)}"


def _reason(error: BaseException) -> BaseException:
    """What a plugin raised, beneath the error that names the plugin."""
    while isinstance(error, HookError | PluginError) and error.__cause__:
        error = error.__cause__
    return error


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _is_torch(error: BaseException, name: str) -> bool:
    """Whether the exception is torch's; this process may not have torch."""
    return any(kind.__name__ == name and kind.__module__.split(".")[0] == "torch" for kind in type(error).__mro__)
