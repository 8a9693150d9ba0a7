"""Opens the networks that come as ONNX files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

# Read when the library is loaded. Otherwise it reports to its makers and keeps a database under ~/.cache.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as failures

CPU = ("CPUExecutionProvider",)

_UNREADABLE = (failures.Fail, failures.InvalidArgument, failures.InvalidGraph, failures.InvalidProtobuf)
_FATAL_ONLY = 4


def open_model(path: Path, providers: Sequence[str]) -> onnxruntime.InferenceSession:
    """A session that logs nothing, and runs on the first of the providers.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no ONNX network, or is damaged; or onnxruntime lacks one of the providers here, or cannot load
            the first.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: download the model bundle again")
    # It would warn and go on without them, on the CPU.
    available = onnxruntime.get_available_providers()
    if missing := [provider for provider in providers if provider not in available]:
        raise ValueError(f"onnxruntime has no {missing[0]} here, only {', '.join(available)}")
    options = onnxruntime.SessionOptions()
    # What goes wrong is raised as an exception besides; the rest is advice on the machine.
    options.log_severity_level = _FATAL_ONLY
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=list(providers))
    except _UNREADABLE as error:
        raise ValueError(f"{path} is no ONNX network, or is damaged: download the model bundle again") from error
    # A provider that is there, but whose libraries are not, it replaces by the CPU just as quietly.
    running = session.get_providers()
    if running[0] != providers[0]:
        raise ValueError(f"onnxruntime cannot load {providers[0]} here: install what it needs, or ask for the CPU")
    return session


def input_size(session: onnxruntime.InferenceSession, default: int) -> tuple[int, int]:
    """Height and width of the pictures that the network takes; `default` where it takes any."""
    height, width = session.get_inputs()[0].shape[2:4]
    return (height if isinstance(height, int) else default, width if isinstance(width, int) else default)
