"""Plugins that stop at a gate: each call of a hook is written down, and waits until the test opens the stage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from system.instance import RENDER_STUB, Instance, wait_until

STAGES = ("check", "tts", "audio", "render", "post")

CONFIG = """
[tts]
plugin = "gated"
[audio]
plugin = "gated"
[render]
plugin = "gated"
[post]
plugins = ["gated"]
"""

DRAW = RENDER_STUB.replace("@hookimpl\ndef render", "def draw")
"""The stub as a function for plugins that do something else first."""

_PLUGIN = """
import json, os, shutil, time, wave
{draw}
HERE = Path({folder!r})

def lives(pid):
    try:
        return Path(f"/proc/{{pid}}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False

def enter(stage, job, progress):
    calls = HERE / "calls"
    before = [json.loads(line)["pid"] for line in calls.read_text().splitlines()] if calls.exists() else []
    call = {{"stage": stage, "name": job.name, "text": job.text, "pid": os.getpid(),
            "alive": [pid for pid in before if pid != os.getpid() and lives(pid)]}}
    with calls.open("a") as file:
        file.write(json.dumps(call) + "\\n")
    while not (HERE / f"open-{{stage}}").exists():
        progress(0.25, "at the gate")
        time.sleep(0.01)

@hookimpl
def check(job, ctx):
    enter("check", job, ctx.progress)

@hookimpl
def tts(job, ctx):
    enter("tts", job, ctx.progress)
    path = ctx.workdir / "speech.wav"
    with wave.open(str(path), "wb") as wav:
        wav.setparams((1, 2, 16000, 0, "NONE", ""))
        wav.writeframes(bytes(6400))
    return path

@hookimpl
def audio(job, speech, ctx):
    enter("audio", job, ctx.progress)
    return shutil.copy(speech, ctx.workdir / "copy.wav")

@hookimpl
def render(job, wav, ctx):
    enter("render", job, ctx.progress)
    return draw(job, wav, ctx)

@hookimpl
def post(job, video, ctx):
    enter("post", job, ctx.progress)
    note = ctx.workdir / "note"
    note.write_text(job.text)
    ctx.attach(note, ".note.txt")
"""


class Gates:
    """The gates of one instance, all closed but `check`; the plugin that has them is called "gated"."""

    def __init__(self, instance: Instance) -> None:
        self._folder = instance.folder
        instance.plugin("gated", _PLUGIN.format(folder=str(instance.folder), draw=DRAW))
        self.open("check")

    def open(self, *stages: str) -> None:
        """Let calls of these stages pass from now on."""
        for stage in stages:
            (self._folder / f"open-{stage}").touch()

    def close(self, stage: str) -> None:
        """Stop calls of this stage from now on."""
        (self._folder / f"open-{stage}").unlink()

    def calls(self, stage: str | None = None, name: str | None = None) -> list[dict[str, Any]]:
        """The calls so far, of all stages or one of them."""
        path: Path = self._folder / "calls"
        lines = path.read_text().split("\n")[:-1] if path.exists() else []  # the last one may be half written
        calls = [json.loads(line) for line in lines]
        return [call for call in calls if stage in {None, call["stage"]} and name in {None, call["name"]}]

    def wait(self, stage: str, number: int = 1) -> dict[str, Any]:
        """Wait for the call with this number of a stage."""
        wait_until(lambda: len(self.calls(stage)) >= number, f"call {number} of {stage}")
        return self.calls(stage)[number - 1]
