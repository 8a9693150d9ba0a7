"""Renders with the hallo2 plugin and nothing around it, in a process that a proof can kill."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import structlog

from atenea import Context, Job, StageSettings
from atenea.plugin_manager import PluginManager

PLUGINS = Path(__file__).parents[2] / "plugins"

OPTIONS = {
    "device": "cpu",
    "width": 64,
    "height": 64,
    "num_inference_steps": 1,
    "guidance_scale": 1.0,
    "decode_batch_size": 16,
}


def render_alone(sources: Path, workdir: Path, log: Path) -> None:
    """Render, or go on with what an earlier process has left in the work folder.

    The process becomes a process group of its own, and what it says goes to a file: log events as lines of JSON.

    Args:
        sources: the folder that has `voice.wav`, `ana.png` and `models/`.
        workdir: of the render; nothing else uses it.
        log: replaced.
    """
    os.setsid()
    with log.open("wb") as file:
        os.dup2(file.fileno(), sys.stdout.fileno())
        os.dup2(file.fileno(), sys.stderr.fileno())
    structlog.configure(
        processors=[structlog.processors.JSONRenderer()], logger_factory=structlog.PrintLoggerFactory(sys.stderr)
    )
    plugins = PluginManager(PLUGINS)
    settings = StageSettings(plugin="hallo2")
    voice, avatar = sources / "voice.wav", sources / "ana.png"
    job = Job(id="1", name="soak", avatar=avatar, audio_file=voice, audio=settings, render=settings)
    ctx = Context(
        workdir=workdir,
        cache=workdir,
        models=sources / "models",
        options=plugins.options("hallo2", OPTIONS),
        log=structlog.get_logger(),
        on_progress=lambda fraction, text: None,
    )
    plugins.call("render", "hallo2", job=job, ctx=ctx, wav=voice)
