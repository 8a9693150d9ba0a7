"""The hooks that a plugin can implement. Each runs in a worker process, one call at a time."""

from __future__ import annotations

from pathlib import Path

import pluggy

from atenea.context import Context
from atenea.finding import Finding
from atenea.job import Job

PROJECT = "atenea"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec(firstresult=True)
def check(job: Job, ctx: Context) -> str | list[str] | None:
    """What this plugin would refuse about a job: sentences, or None.

    Called at intake for each plugin that the job names, before any paid or slow work; look, and start nothing.
    """


@hookspec(firstresult=True)
def diagnose(ctx: Context) -> list[Finding]:
    """What this plugin needs and finds on this machine, for `atenea doctor`.

    Called for each plugin that the configuration uses, with the options that plain jobs get. It may ask a server, but
    buys and changes nothing, and takes less than a minute.
    """
    raise NotImplementedError


@hookspec(firstresult=True)
def tts(job: Job, ctx: Context) -> Path:
    """Speak `job.text`; the path of an audio file inside `ctx.workdir`."""
    raise NotImplementedError


@hookspec(firstresult=True)
def audio(job: Job, speech: Path, ctx: Context) -> Path:
    """Turn the speech into a WAV file, 16 kHz, mono, 16 bit; its path inside `ctx.workdir`."""
    raise NotImplementedError


@hookspec(firstresult=True)
def render(job: Job, wav: Path, ctx: Context) -> Path:
    """Show `job.avatar` speaking: the path of an H.264 (yuv420p) video inside `ctx.workdir`.

    It has exactly ceil(samples x fps / 16000) frames for the samples of `wav`. Without sound in it, the speech is
    added afterwards.
    """
    raise NotImplementedError


@hookspec(firstresult=True)
def post(job: Job, video: Path, ctx: Context) -> Path | None:
    """Change the finished video: the path of the new one inside `ctx.workdir`, or None to leave it as it is."""
